"""Answers and their confidence; which folders are refused as checkpoints."""

import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from mirasol.answer.answerer import Answerer
from mirasol.answer.ask import ask
from mirasol.answer.checkpoint import load_checkpoint
from mirasol.answer.generation import (
    GeneratedAnswer,
    end_tokens,
    label_log_probabilities,
    rounds,
    with_answers,
)
from mirasol.tasks import get_task


def test_confidence_is_the_mean_token_probability_in_logs_up_to_the_first_end():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    new_ids = torch.tensor([[3, 2, 4, 0], [1, 1, 3, 4]])  # 2 ends an answer, what follows is filling
    expected = []
    for row, length in ((0, 2), (1, 4)):
        logs = [
            logits[row, t, new_ids[row, t]].item() - math.log(sum(math.exp(v) for v in logits[row, t].tolist()))
            for t in range(length)
        ]
        expected.append(math.exp(sum(logs) / length))
    ends = end_tokens(new_ids, 2)
    assert ends.tolist() == [[False, True, False, False], [False] * 4]
    labels = new_ids.masked_fill(ends.cumsum(1) - ends.long() > 0, -100)
    found = label_log_probabilities(logits, labels).sum(1).tolist()
    answers = [GeneratedAnswer("", value, (3,) * length) for value, length in zip(found, (2, 4), strict=True)]
    assert [answer.confidence for answer in answers] == pytest.approx(expected)


def test_rounds_hold_every_row_of_every_clip_once_and_stay_within_their_size():
    counts, seen = [0, 3, 7, 1, 7], set()
    for clips, places in rounds(counts, rows_at_once=5):
        assert len(clips) * len(places) <= 5 or len(places) == 1
        assert all(counts[clip] > places.start for clip in clips)
        seen |= {(clip, place) for clip in clips for place in places if place < counts[clip]}
    assert seen == {(clip, place) for clip, count in enumerate(counts) for place in range(count)}


@torch.no_grad()
def test_a_long_clip_is_encoded_in_blocks_as_it_is_whole(answerer, grid_root, monkeypatch):
    """Blocks of four of ten chunks, beside a clip that ends in the second block and one without sound."""
    clips = [answerer.processor.read_clip(row.media) for row in get_task("grid").load(grid_root, "test")[:3]]
    clips[1].frames, clips[1].frame_times = clips[1].frames[:43], clips[1].frame_times[:43]
    clips[1].waveform, clips[1].duration = clips[1].waveform[: 43 * 640], 43 / 25
    clips[2].waveform = None
    whole = answerer.watch(*clips).encoder_outputs
    monkeypatch.setattr("mirasol.answer.answerer.CHUNKS_AT_ONCE", 4)
    blocks = answerer.watch(*clips).encoder_outputs
    assert whole.chunk_mask.sum(1).tolist() == [10, 6, 10]
    for name in ("chunk_mask", "chunk_times", "surprise", "combined_features", "predicted_features"):
        real = whole.chunk_mask
        torch.testing.assert_close(blocks[name][real], whole[name][real], rtol=1e-4, atol=1e-5)
    latents = [x.last_hidden_state.unflatten(1, (10, -1))[whole.chunk_mask] for x in (blocks, whole)]
    torch.testing.assert_close(*latents, rtol=1e-4, atol=1e-5)


def test_a_clip_alone_is_answered_as_in_a_batch(answerer, grid_root):
    rows = get_task("grid").load(grid_root, "test")[:2]
    clips = [row.media for row in rows]
    texts = ["which color is named?", "what is said?", "when does the letter begin?"]

    def answers(clips):
        return sum(answerer.answer(answerer.watch(*clips), [texts] * len(clips)), [])

    together, alone = answers(clips), answers(clips[:1]) + answers(clips[1:])
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    for first, second in zip(together, alone, strict=True):
        assert first.confidence == pytest.approx(second.confidence, rel=1e-4)  # float32 sums in another order


def test_the_answers_fed_back_have_the_confidence_they_were_given_with(answerer, grid_root):
    model, processor = answerer.model, answerer.processor
    clip = processor.read_clip(get_task("grid").load(grid_root, "test")[0].media)
    texts = ["what is said?", "which color is named?"]  # of unequal length: the shorter is padded on the left
    watched, text = answerer.watch(clip), processor(text=texts)
    encoder_outputs = watched.encoder_outputs
    (given,) = Answerer(model, processor, max_new_tokens=5).answer(watched, [texts])
    with torch.no_grad():
        fed_back = with_answers(text, given)
        labels = fed_back.pop("labels")
        logits = model(encoder_outputs=encoder_outputs, **fed_back, use_cache=False).logits
    found = [
        math.exp(-torch.nn.functional.cross_entropy(row, ids).item()) for row, ids in zip(logits, labels, strict=True)
    ]
    assert found == pytest.approx([answer.confidence for answer in given], rel=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "found nothing"),
        ("no json", "Expected JSON in .*config.json, found other text"),
        (json.dumps({"model_type": "llama"}), "found 'llama'"),
        ("[1]", "found None"),
    ],
)
def test_a_folder_that_is_no_mirasol_checkpoint_is_refused_by_name(tmp_path, content, message):
    folder = tmp_path / "checkpoint"
    if content is not None:
        folder.mkdir()
        (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(folder)


def test_weights_that_are_cut_off_are_refused(untrained, tmp_path):
    folder = shutil.copytree(untrained, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="complete weights"):
        load_checkpoint(folder)


@pytest.mark.parametrize("more_layers", [1, -1])
def test_weights_that_do_not_fit_their_config_are_refused(untrained, tmp_path, more_layers):
    shutil.copytree(untrained, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["temporal_config"]["num_hidden_layers"] += more_layers
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="missing, unknown or of another shape, such as model.encoder.temporal_model"):
        load_checkpoint(tmp_path / "other")


def test_weights_without_their_processor_are_refused(untrained, tmp_path):
    shutil.copytree(untrained, tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="found no tokenizer_config.json"):
        load_checkpoint(tmp_path / "bare")


@pytest.fixture
def babbler(answerer, monkeypatch):
    """A checkpoint without a limit of its own, whose decoder never closes an answer and has room for 40 tokens."""
    monkeypatch.setattr(answerer.model.generation_config, "max_new_tokens", None)
    monkeypatch.setattr(answerer.processor.tokenizer, "model_max_length", 40)
    monkeypatch.setattr(answerer.model.config, "eos_token_id", -1)
    monkeypatch.setattr(answerer.model.generation_config, "eos_token_id", None)
    return answerer


def test_an_answer_may_fill_the_context_and_says_where_it_was_cut(babbler, grid_root):
    clip = get_task("grid").load(grid_root, "test")[0].media
    watched = babbler.watch(clip)
    prompt = len(babbler.prompts(["what is said?"]).rows["decoder_input_ids"][0])
    ((given,),) = babbler.answer(watched, [["what is said?"]])
    assert given.is_cut and len(given.token_ids) == 40 - prompt
    limited = Answerer(babbler.model, babbler.processor, max_new_tokens=3)
    ((given,),) = limited.answer(watched, [["what is said?"]])
    assert given.is_cut and len(given.token_ids) == 3
    (warning,) = ask(clip, "what is said?", answerer=limited).warnings
    assert warning.startswith("The answer was cut at 3 tokens, before an end token: raise --max-new-tokens")


def test_an_answer_cut_by_a_longer_question_of_its_batch_is_given_again_alone(babbler, grid_root):
    clips = [row.media for row in get_task("grid").load(grid_root, "test")[:2]]
    short, long = "what is said?", "what is said, and which color and which letter are named in it?"
    watched = babbler.watch(*clips)
    (first, _), (second,) = babbler.answer(watched, [[short, long], [short]])
    ((alone,),) = babbler.answer(watched[0], [[short]])
    ((other,),) = babbler.answer(watched[1], [[short]])
    assert (first, second) == (alone, other)
    sizes: list[int] = []
    streamer = SimpleNamespace(put=lambda ids: sizes.append(ids.numel()), end=lambda: None)
    assert babbler.answer(watched, [[short], [long]], streamer=streamer)[0] == [alone]
    assert {*sizes[1:]} == {2}, "after the prompts each call has a token of both; what is given again is not streamed"
    few = Answerer(babbler.model, babbler.processor, max_new_tokens=3)
    assert [len(given.token_ids) for (given, *_) in few.answer(watched, [[short, long], [short]])] == [3, 3]


def test_an_answer_that_the_model_closed_is_not_cut(answerer, grid_root, monkeypatch):
    watched = answerer.watch(get_task("grid").load(grid_root, "test")[0].media)
    ((free,),) = answerer.answer(watched, [["what is said?"]])
    monkeypatch.setattr(answerer.model.config, "eos_token_id", free.token_ids[0])
    monkeypatch.setattr(answerer.model.generation_config, "eos_token_id", free.token_ids[0])
    ((closed,),) = answerer.answer(watched, [["what is said?"]])
    assert not closed.is_cut and closed.token_ids == free.token_ids[:1]


def test_threads_that_share_an_answerer_get_what_one_alone_gets(answerer, grid_root):
    clips = [row.media for row in get_task("grid").load(grid_root, "test")[:4]]

    def work(clip):
        return ask(clip, "what is said?", answerer=answerer).as_dict()

    alone = [work(clip) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, clips)) == alone


def test_an_answer_without_a_finite_probability_is_refused(answerer, grid_root, monkeypatch):
    clip = answerer.processor.read_clip(get_task("grid").load(grid_root, "test")[0].media)
    clip.frames, clip.frame_times = None, None
    monkeypatch.setattr(answerer.processor, "read_clip", lambda *_, **__: clip)
    gate = answerer.model.model.decoder.norm.weight
    before = gate.detach().clone()
    try:
        gate.data.fill_(float("nan"))
        with pytest.raises(ValueError, match="found 1 of 1 that are not: check clip and weights"):
            ask("clip.mp4", "what is said?", answerer=answerer)
    finally:
        gate.data.copy_(before)
