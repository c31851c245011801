"""Decoding word by word, in any way, gives what one forward gives; watching once serves any number of questions."""

import pytest
import torch
from transformers import EncoderDecoderCache, StaticCache

from tests.model.tiny import BATCH, BOS, CHUNKS, EOS, LATENTS, PAD, TOKENS, VOCAB, media, questions, select, tiny_model

LENGTHS = [7, 4]  # tokens of the prompts
DECODING = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 0},
    "several": {"do_sample": True, "top_k": 0, "num_return_sequences": 3},
}
# reason for tolerances in this file: one row or one token at a time sums in another order
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def prompts(rows: int = BATCH) -> dict[str, torch.Tensor]:
    """Questions of unequal lengths, padded on the left; they and their masks."""
    ids = questions(rows=rows, tokens=max(LENGTHS))["decoder_input_ids"]
    mask = torch.ones_like(ids)
    for row in range(rows):
        padding = max(LENGTHS) - LENGTHS[row % len(LENGTHS)]
        ids[row, :padding], mask[row, :padding] = PAD, 0
        ids[row, padding] = BOS
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask}


def answer(model, seed=0, **inputs):
    torch.manual_seed(seed)
    return model.generate(**inputs, max_new_tokens=9, pad_token_id=PAD)


def short_clips():
    """Two clips of which one is shorter and one has no sound at first."""
    clips = media()
    clips["video_chunk_mask"][0, 3:] = clips["audio_chunk_mask"][0, 3:] = False
    clips["audio_chunk_mask"][1, :2] = False
    return clips


@pytest.mark.parametrize("step", [1, 4])
def test_cached_steps_equal_one_forward(model, step):
    text = questions()["decoder_input_ids"]
    with torch.no_grad():
        expected = model(**short_clips(), decoder_input_ids=text, use_cache=False)
        assert expected.past_key_values is None

        logits, state = [], {"encoder_outputs": expected.encoder_outputs}
        for start in range(0, TOKENS, step):
            output = model(**state, decoder_input_ids=text[:, start : start + step], use_cache=True)
            state["past_key_values"] = output.past_key_values
            logits.append(output.logits)

    torch.testing.assert_close(torch.cat(logits, dim=1), expected.logits, **CLOSE)


def test_keys_of_the_latents_are_projected_once(model):
    """And once more the codes of their times, which a stream adds anew at each question."""
    calls = []
    hook = model.model.decoder.layers[0].cross_attention.k_proj.register_forward_hook(
        lambda module, inputs, output: calls.append(tuple(output.shape[:3]))
    )
    ids = answer(model, **short_clips(), **prompts(), eos_token_id=None)
    hook.remove()

    assert ids.shape[1] == max(LENGTHS) + 9
    assert calls == [(BATCH, CHUNKS, LATENTS), (BATCH, CHUNKS, 1)]


@pytest.mark.parametrize("kind", DECODING)
def test_generation_is_the_same_with_and_without_cache(model, kind):
    inputs = {**short_clips(), **prompts()}

    cached = answer(model, **inputs, **DECODING[kind], use_cache=True)
    uncached = answer(model, **inputs, **DECODING[kind], use_cache=False)

    assert cached.shape[1] > max(LENGTHS)
    assert torch.equal(cached, uncached)


def test_greedy_words_are_the_most_likely_of_one_forward(model):
    clips, prompt = short_clips(), questions(tokens=4)["decoder_input_ids"]

    ids = answer(model, **clips, decoder_input_ids=prompt, eos_token_id=None)
    with torch.no_grad():
        logits = model(**clips, decoder_input_ids=ids).logits

    assert ids.shape == (BATCH, 4 + 9)
    assert torch.equal(logits[:, 3:-1].argmax(dim=-1), ids[:, 4:])


def test_generation_ends_with_eos_and_pads(model):
    free = answer(model, **short_clips(), **prompts(), eos_token_id=None)
    last = int(free[0, max(LENGTHS) + 2])  # whatever the first clip says third now ends an answer
    ids = answer(model, **short_clips(), **prompts(), eos_token_id=last)

    for row, whole in zip(ids[:, max(LENGTHS) :].tolist(), free[:, max(LENGTHS) :].tolist(), strict=True):
        end = whole.index(last) + 1 if last in whole else len(whole)
        assert row[:end] == whole[:end]
        assert set(row[end:]) <= {PAD}


@pytest.mark.parametrize("kind", ["greedy", "beams"])
def test_padded_prompts_equal_prompts_alone(model, kind):
    clips, text = short_clips(), prompts()
    together = answer(model, **clips, **text, **DECODING[kind], eos_token_id=None)

    for row, length in enumerate(LENGTHS):
        prompt = text["decoder_input_ids"][row : row + 1, -length:]
        alone = answer(model, **select(clips, row), decoder_input_ids=prompt, **DECODING[kind], eos_token_id=None)
        assert torch.equal(alone[0], together[row, -alone.shape[1] :])


def test_padding_on_the_left_leaves_the_logits(model):
    clips, text = short_clips(), prompts()
    with torch.no_grad():
        padded = model(**clips, **text).logits
        for row, length in enumerate(LENGTHS):
            prompt = text["decoder_input_ids"][row : row + 1, -length:]
            alone = model(**select(clips, row), decoder_input_ids=prompt).logits
            torch.testing.assert_close(padded[row : row + 1, -length:], alone, **CLOSE)
    assert padded.isfinite().all()


@pytest.mark.parametrize("kind", DECODING)
def test_watching_once_serves_many_generations(model, kind):
    clips, text = short_clips(), prompts()
    expected = answer(model, **clips, **text, **DECODING[kind])

    with torch.no_grad():
        watched = model.get_encoder()(**clips)
    before = {key: value.clone() for key, value in watched.items()}

    for _ in range(2):
        found = answer(model, encoder_outputs=watched, **text, **DECODING[kind])
        assert torch.equal(found, expected)
    for key, value in watched.items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("kind", ["greedy", "beams"])
def test_many_questions_of_a_clip_equal_each_asked_alone(model, kind):
    count, clips = 3, short_clips()
    text = prompts(rows=BATCH * count)

    together = answer(model, **clips, **text, **DECODING[kind], eos_token_id=None)

    for row in range(BATCH * count):
        one = {key: value[row : row + 1] for key, value in text.items()}
        alone = answer(model, **select(clips, row // count), **one, **DECODING[kind], eos_token_id=None)
        assert torch.equal(alone[0], together[row])


def test_loss_of_many_questions_is_the_mean_over_each_alone(model):
    count, clips = 3, short_clips()
    text = questions(rows=BATCH * count)

    with torch.no_grad():
        together = model(**clips, **text)
        rows = [
            model(**select(clips, row // count), **{key: value[row : row + 1] for key, value in text.items()})
            for row in range(BATCH * count)
        ]

    torch.testing.assert_close(together.logits, torch.cat([row.logits for row in rows]), **CLOSE)
    torch.testing.assert_close(together.text_loss, torch.stack([row.text_loss for row in rows]).mean(), **CLOSE)


def test_static_cache_equals_dynamic_cache(model):
    inputs = {**short_clips(), **prompts()}

    dynamic = answer(model, **inputs)
    static = answer(model, **inputs, cache_implementation="static", disable_compile=True)

    assert torch.equal(dynamic, static)


def test_static_cache_can_be_passed_in(model):
    text_config = model.config.text_config
    cache = EncoderDecoderCache(
        StaticCache(config=text_config, max_cache_len=TOKENS + 3),
        StaticCache(config=text_config, max_cache_len=CHUNKS * model.config.num_latents),
    )
    text = questions()["decoder_input_ids"]
    with torch.no_grad():
        expected = model(**short_clips(), decoder_input_ids=text, use_cache=False)
        first = model(encoder_outputs=expected.encoder_outputs, decoder_input_ids=text[:, :8], past_key_values=cache)
        rest = model(encoder_outputs=expected.encoder_outputs, decoder_input_ids=text[:, 8:], past_key_values=cache)

    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), expected.logits, **CLOSE)


def test_generation_without_a_question_is_refused_and_a_start_token_alone_is_a_prompt(model):
    """A trainer that drops the question must not get answers to none."""
    with pytest.raises(ValueError, match="Expected decoder_input_ids, found none"):
        answer(model, **media())
    ids = answer(model, **media(), decoder_input_ids=torch.full((BATCH, 1), BOS))

    assert (ids[:, 0] == BOS).all() and ids.shape[1] > 1
    assert ids.max() < VOCAB
    assert model.generation_config.eos_token_id == EOS


def test_positions_do_not_count_padding_on_the_left(model):
    """Distances alone would hide it: both the prompt's and the next words' angles are those of the prompt alone."""
    angles = []
    hook = model.model.decoder.layers[0].register_forward_pre_hook(lambda module, inputs: angles.append(inputs[2]))
    text = prompts()
    length, short = LENGTHS[0], LENGTHS[1]
    answer(model, **short_clips(), **text, eos_token_id=None)
    padded, angles[:] = list(angles), []
    alone = {name: value[1:, -short:] for name, value in text.items()}
    answer(model, **select(short_clips(), 1), **alone, eos_token_id=None)
    hook.remove()

    assert len(padded) == len(angles) == 9
    for step, ((cos, sin), (cos_alone, sin_alone)) in enumerate(zip(padded, angles, strict=True)):
        first = length - short if step == 0 else 0
        assert torch.equal(cos[1:, first:], cos_alone), step
        assert torch.equal(sin[1:, first:], sin_alone), step
    assert (angles[0][0][0, 0] == 1).all() and (angles[0][1][0, 0] == 0).all()  # the first word stands at 0
