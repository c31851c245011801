"""Answers and their confidence; which folders are refused as checkpoints."""

import json
import math
import shutil

import pytest
import torch

from mirasol.answer.generation import (
    GeneratedAnswer,
    generate_answers,
    label_log_probabilities,
    load_checkpoint,
    rounds,
    split_inputs,
    up_to_end,
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
    labels = new_ids.masked_fill(~up_to_end(new_ids, 2), -100)
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


def test_a_clip_alone_is_answered_as_in_a_batch(loaded, grid_root):
    model, processor = loaded
    rows = get_task("grid").load(grid_root, "test")[:2]
    clips = [processor.read_clip(row.media) for row in rows]
    texts = ["which color is named?", "what is said?", "when does the letter begin?"]

    def answers(clips):
        media, text = split_inputs(processor(text=texts * len(clips), videos=clips), model.device)
        with torch.no_grad():
            return generate_answers(model, processor, model.get_encoder()(**media), text)

    together, alone = answers(clips), answers(clips[:1]) + answers(clips[1:])
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    for first, second in zip(together, alone, strict=True):
        assert first.confidence == pytest.approx(second.confidence, rel=1e-4)  # float32 sums in another order


def test_the_answers_fed_back_have_the_confidence_they_were_given_with(loaded, grid_root):
    model, processor = loaded
    clip = processor.read_clip(get_task("grid").load(grid_root, "test")[0].media)
    texts = ["what is said?", "which color is named?"]  # of unequal length: the shorter is padded on the left
    media, text = split_inputs(processor(text=texts, videos=[clip]), model.device)
    with torch.no_grad():
        encoder_outputs = model.get_encoder()(**media)
        given = generate_answers(model, processor, encoder_outputs, text, max_new_tokens=5)
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
        ("no json", "found text that is not"),
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
    with pytest.raises(ValueError, match="whole weights"):
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
