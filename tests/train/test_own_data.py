"""Own data from manifest to answer: clips with sound and without, alone and jointly with another task."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from clips import write_clip
from safetensors.torch import load_file, save_file

from mirasol.answer.ask import ask
from mirasol.train.run import train

TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
TOWERS = [f"model.overrides.{part}_config" for part in ("video", "audio", "combiner", "temporal")]


@pytest.fixture
def options(repository, tmp_path) -> list[str]:
    """Two epochs of a tiny model on one clip with sound, chosen by another clip without."""
    clips = repository / "data" / "clips"
    lines = {
        "train": {"media": str(clips / "toy_frog.mp4"), "question": "what moves?", "answer": "a frog"},
        "val": {"media": str(clips / "helicopter_noaudio.mp4"), "questions": ["what flies?"], "answers": ["a copter"]},
    }
    for split, line in lines.items():
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
    return [
        f"output={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}",
        "data.sources.0.task=jsonl", f"data.sources.0.root={tmp_path}",
        "data.num_workers=0", "device=cpu", "processor.max_chunks=3", "schedule.batch_size=1",
        "schedule.pretrain_epochs=0", "schedule.finetune_epochs=2", "data.augmentation.sound_first_epochs=0",
        "validation.every_epochs=2", "validation.conditions=[both]", "validation.metric=mean_exact_match",
        "model.overrides.text_config.num_hidden_layers=1",
        *(f"{tower}.{name}={value}" for tower in TOWERS for name, value in TINY.items()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("split", "key", "message"),
    [
        ("train", "answer", r"1 of 1 questions .*\n  .*/train.jsonl:2: .*context of 64 tokens together"),
        ("val", "questions", r"1 of 1 questions .*\n  .*/val.jsonl:2: .*context of 64 tokens and leave room"),
    ],
)
def test_texts_longer_than_the_context_are_refused_before_anything_is_decoded(
    repository, tmp_path, options, split, key, message
):
    line = json.loads((tmp_path / f"{split}.jsonl").read_text())
    line[key] = "long " * 70 if key == "answer" else ["long " * 70]
    (tmp_path / f"{split}.jsonl").write_text("\n" + json.dumps(line | {"id": "own"}) + "\n")
    with pytest.raises(ValueError, match=message):
        train(repository / "recipes" / "grid_nano.yaml", options)
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_own_clips_train_and_the_checkpoint_answers(repository, tmp_path, options):
    result = train(repository / "recipes" / "grid_nano.yaml", options)
    assert result.step == result.num_steps == 2 and result.num_bad_clips == 0
    clip = repository / "data" / "clips" / "helicopter_noaudio.mp4"
    answer = ask(clip, "what flies?", checkpoint=tmp_path / "run" / "best")
    assert answer.sound == "not found"

    first, second = tmp_path / "run" / "best", tmp_path / "second"
    shutil.copytree(first, second)
    weights = load_file(first / "model.safetensors")
    save_file(
        {name: 3 * value.float() for name, value in weights.items()}, second / "model.safetensors", {"format": "pt"}
    )
    found = runpy.run_path(str(repository / "recipes" / "average.py"))["average"]([second, first], tmp_path / "mean")
    assert "mean_exact_match" in found
    mean = load_file(tmp_path / "mean" / "model.safetensors")
    assert mean.keys() == weights.keys() and all(torch.equal(mean[name], 2 * weights[name]) for name in weights)
    assert "The weights are the mean of these and of" in (tmp_path / "mean" / "README.md").read_text()


@pytest.mark.slow
def test_tasks_train_jointly_and_each_is_validated(repository, tmp_path, options):
    digits = tmp_path / "digits"
    digits.mkdir()
    for name in ("3_ann_5", "3_ann_10", "7_bob_10"):
        write_clip(digits / f"{name}.wav", seconds=0.4, picture=False)
    also = (
        f"data.sources=[{{task: jsonl, root: {tmp_path}, questions_per_clip: 9}},"
        f"{{task: fsdd, root: {digits}, clips_per_epoch: 4}}]"
    )
    with pytest.raises(ValueError, match="validation gives: fsdd_.*jsonl_.*mean_tasks"):
        train(repository / "recipes" / "grid_nano.yaml", [*options, also])
    result = train(repository / "recipes" / "grid_nano.yaml", [*options, also, "validation.metric=mean_tasks"])
    assert result.num_steps == 2 * (1 + 2 * 2)  # a clip of its own, and four of two digits
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (found,) = [line for line in lines if "eval_mean_tasks" in line]
    mains = [found["eval_jsonl_mean_exact_match"], found["eval_fsdd_mean_exact_match"]]
    assert found["eval_mean_tasks"] == sum(mains) / 2
    card = Path(tmp_path / "run" / "best" / "README.md").read_text()
    assert f"fsdd, train of `{digits}`" in card
