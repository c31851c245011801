"""What users of transformers expect of any model works here: outputs, streamers, sampling, checkpointing, LoRA."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from tests.model.test_generation import CLOSE, answer, prompts, short_clips
from tests.model.tiny import BATCH, CHUNKS, LATENTS, PAD, TOKENS, VOCAB, media, questions, select, tiny_model

HEADS, TEMPORAL_HEADS, KEYS = 4, 2, CHUNKS * LATENTS


class Words(BaseStreamer):
    """Keeps what a streamer is given, word by word."""

    def __init__(self):
        self.ids, self.ended = [], False

    def put(self, value):
        self.ids += value.flatten().tolist()

    def end(self):
        self.ended = True


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_hidden_states_and_attentions_of_every_layer_are_given():
    model = tiny_model(attention="eager")
    with torch.no_grad():
        output = model(**media(), **questions(), output_hidden_states=True, output_attentions=True)
        plain = model(**media(), **questions())

    assert [x.shape for x in output.decoder_hidden_states] == [(BATCH, TOKENS, 16)] * 3
    assert [x.shape for x in output.encoder_hidden_states] == [(BATCH, KEYS, 20)] * 3
    assert [x.shape for x in output.decoder_attentions] == [(BATCH, HEADS, TOKENS, TOKENS)] * 2
    assert [x.shape for x in output.cross_attentions] == [(BATCH, HEADS, TOKENS, KEYS)] * 2
    assert [x.shape for x in output.encoder_attentions] == [(BATCH, TEMPORAL_HEADS, KEYS, KEYS)] * 2
    assert torch.equal(output.decoder_hidden_states[-1], output.last_hidden_state)
    assert torch.equal(output.encoder_hidden_states[-1], output.encoder_outputs.last_hidden_state)
    for weights in (*output.decoder_attentions, *output.encoder_attentions):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert torch.equal(output.logits, plain.logits)
    assert plain.decoder_hidden_states is plain.encoder_hidden_states is plain.decoder_attentions is None


def test_outputs_come_as_tuples_when_asked_for(model):
    with torch.no_grad():
        output = model(**media(), **questions())
        values = model(**media(), **questions(), return_dict=False)

    assert isinstance(values, tuple)
    for value, (name, expected) in zip(values, output.items(), strict=True):
        if torch.is_tensor(expected):
            assert torch.equal(value, expected), name


def test_generation_gives_scores_attentions_and_hidden_states():
    model = tiny_model(attention="eager")
    options = {"output_scores": True, "output_attentions": True, "output_hidden_states": True}
    result = answer(
        model, **media(), **prompts(), eos_token_id=None, return_dict_in_generate=True, do_sample=False, **options
    )

    assert len(result.scores) == len(result.cross_attentions) == len(result.decoder_hidden_states) == 9
    assert result.cross_attentions[1][0].shape == (BATCH, HEADS, 1, KEYS)
    assert torch.equal(torch.stack(result.scores, dim=1).argmax(dim=-1), result.sequences[:, -9:])
    assert result.encoder_attentions[0].shape == (BATCH, TEMPORAL_HEADS, KEYS, KEYS)


def test_generation_computes_the_logits_of_the_last_token_alone():
    model, lengths = tiny_model(), []
    model.lm_head.register_forward_hook(lambda head, inputs, logits: lengths.append(logits.shape[1]))
    answer(model, **media(), **prompts(), eos_token_id=None)
    assert lengths == [1] * 9

    text = {name: value for name, value in questions().items() if name != "labels"}
    kept = model(**media(), **text, logits_to_keep=2).logits
    assert torch.equal(kept, model(**media(), **text).logits[:, -2:])


def test_streamer_gets_every_word_in_order(model):
    clip, words = select(media(), 0), Words()
    ids = answer(model, **clip, decoder_input_ids=questions(rows=1, tokens=4)["decoder_input_ids"], streamer=words)

    assert words.ids == ids.flatten().tolist()
    assert words.ended


def test_text_streamer_gives_the_answer_without_the_question(model):
    class Letters:
        def decode(self, ids, **_):
            return "".join(chr(97 + int(i)) for i in ids)

    clip, prompt = select(media(), 0), questions(rows=1, tokens=4)["decoder_input_ids"]
    streamer = TextIteratorStreamer(Letters(), skip_prompt=True)
    ids = answer(model, **clip, decoder_input_ids=prompt, streamer=streamer, eos_token_id=None)

    assert "".join(streamer) == Letters().decode(ids[0, 4:])


@pytest.mark.parametrize("options", [{"num_beams": 4}, {"do_sample": True, "top_k": 0}], ids=["beams", "sampling"])
def test_several_answers_lie_beside_their_question(model, options):
    text = prompts()
    ids = answer(model, **short_clips(), **text, num_return_sequences=3, eos_token_id=None, **options)

    length = text["decoder_input_ids"].shape[1]
    assert ids.shape == (3 * BATCH, length + 9)
    assert torch.equal(ids[:, :length], text["decoder_input_ids"].repeat_interleave(3, dim=0))
    assert len({tuple(row) for row in ids[:3].tolist()}) == 3


def test_as_many_beams_as_words_find_the_best_answer_of_all(model):
    clip, prompt = select(short_clips(), 0), questions(rows=1, tokens=4)["decoder_input_ids"]
    found = model.generate(
        **clip, decoder_input_ids=prompt, num_beams=VOCAB, max_new_tokens=2, eos_token_id=None, pad_token_id=PAD
    )

    every_first_word = torch.cat([prompt.repeat(VOCAB, 1), torch.arange(VOCAB)[:, None]], dim=1)
    with torch.no_grad():
        scores = model(**clip, decoder_input_ids=every_first_word).logits.log_softmax(dim=-1)
    both = scores[0, 3][:, None] + scores[:, 4]
    assert found[0, 4:].tolist() == [both.argmax().item() // VOCAB, both.argmax().item() % VOCAB]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
def test_mixed_modalities_in_a_batch_answer_as_alone(model, options):
    clips = media(batch=3)
    clips["video_chunk_mask"][0] = clips["audio_chunk_mask"][1] = False  # sound only, picture only, both
    clips["video_chunk_mask"][2, 4:] = clips["audio_chunk_mask"][2, 3:] = False
    prompt = questions(rows=3, tokens=4)["decoder_input_ids"]

    together = answer(model, **clips, decoder_input_ids=prompt, eos_token_id=None, **options)

    for row in range(3):
        alone = answer(
            model, **select(clips, row), decoder_input_ids=prompt[row : row + 1], eos_token_id=None, **options
        )
        assert torch.equal(alone[0], together[row])


def test_checkpointed_outputs_are_equal():
    outputs = []
    for checkpointing in (False, True):
        model = tiny_model(text_config={"dropout": 0.2}).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)
        outputs.append(model(**short_clips(), **questions()))

    for name in ("loss", "logits", "latent_loss", "video_loss", "audio_loss"):
        assert torch.equal(outputs[0][name], outputs[1][name]), name


@pytest.mark.parametrize(
    ("kind", "words"), [("flash_attention_2", "Flash Attention 2"), ("flex_attention", "flex_attention")]
)
def test_attention_that_takes_no_masks_of_ours_is_refused(kind, words):
    """Because the model does not support it, not because a package for it is missing here."""
    with pytest.raises(ValueError, match=f"MirasolForConditionalGeneration does not support .*{words}"):
        tiny_model(attention=kind)


def test_attention_is_chosen_by_part():
    model = tiny_model(attention={"": "sdpa", "text_config": "eager"})

    assert model.config.text_config._attn_implementation == "eager"
    assert model.config.video_config._attn_implementation == "sdpa"
    with torch.no_grad():
        output = model(**media(), **questions(), output_attentions=True)
        expected = tiny_model()(**media(), **questions())
    assert output.cross_attentions[0] is not None
    torch.testing.assert_close(output.logits, expected.logits, **CLOSE)


def test_lora_trains_the_decoder_alone_and_merges(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the package peft (the extra `train`)")
    model = tiny_model()
    names = r".*decoder\.layers\..*(self|cross)_attention\.(q|k|v|o)_proj"
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=names, r=2, lora_alpha=8)
    tuned = peft.get_peft_model(model, config)
    trained = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    assert trained and all("decoder.layers" in name and "lora_" in name for name in trained)

    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        tuned(**short_clips(), **questions()).loss.backward()
        optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in trained.items())

    tuned.eval()
    ids = answer(tuned, **short_clips(), **prompts())
    tuned.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    assert torch.equal(answer(again, **short_clips(), **prompts()), ids)
    with torch.no_grad():
        expected = tuned(**short_clips(), **questions()).logits
        merged = tuned.merge_and_unload()(**short_clips(), **questions()).logits
    torch.testing.assert_close(merged, expected, **CLOSE)
    assert not torch.equal(merged, tiny_model()(**short_clips(), **questions()).logits)


COMPILE = """
import torch
from transformers import CompileConfig
from tests.model.test_generation import answer, prompts, short_clips, tiny_model

graphs = []

def backend(graph, inputs, **options):
    graphs.append(graph)
    return graph

model = tiny_model(text_config={"num_hidden_layers": 1})
inputs = {**short_clips(), **prompts(), "eos_token_id": None}
compiled = CompileConfig(fullgraph=True, backend=backend)
compiled._compile_all_devices = True  # otherwise transformers compiles on accelerators only
found = answer(model, **inputs, cache_implementation="static", compile_config=compiled)
assert torch.equal(found, answer(model, **inputs)), found
assert len(graphs) == 1, len(graphs)
"""


@pytest.mark.slow
def test_decode_step_with_static_cache_is_one_graph_for_all_words(repository):
    """In a process of its own, since the shape checks of the tests cannot be compiled."""
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{repository}"}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=repository, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
