"""Training from shards without a cache: a bad clip is skipped and said, too many end the run, and val is measured."""

import json

import pytest
from clips import write_clip

from mirasol.data.shard import shard
from mirasol.train.run import train

SMALL = [
    "schedule.pretrain_epochs=0", "schedule.finetune_epochs=2", "schedule.batch_size=4", "data.num_workers=0",
    "validation.metric=mean_score", "validation.conditions=[both]", "validation.every_epochs=2", "device=cpu",
    "bf16=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for split, count in (("train", 9), ("val", 2)):
        lines = []
        for number in range(count):
            write_clip(folder / f"{split}{number}.mp4", seconds=0.4, size=(32, 32), at=(0.1 + number / 50,))
            lines.append({"media": f"{split}{number}.mp4", "question": "what?", "answer": "ab"[number % 2]})
        if split == "train":
            (folder / "junk.mp4").write_bytes(b"no clip" * 100)
            lines.append({"media": "junk.mp4", "question": "what?", "answer": "a"})
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        shard(folder / f"{split}.jsonl", folder / split, clips_per_shard=3, processes=1, progress=False)
    return folder


@pytest.fixture
def recipe(tmp_path, shards):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: {{sources: [{{task: shards, root: {shards}}}], cache: {tmp_path / 'cache'}}}\n")
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_from_shards_skips_the_bad_clip_in_every_epoch_and_says_so(recipe, tmp_path):
    output = tmp_path / "run"
    result = train(recipe, [*SMALL, f"output={output}", "data.max_skipped_share=0.1"])
    assert result.step == result.num_steps == 2 * 3  # 10 clips: two whole batches, and one with two clips
    logs = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped_undecodable"] for line in logs if "skipped_clips" in line] == [1, 1]
    assert result.best_metric is not None and (output / "best" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_too_many_bad_clips_end_the_run_with_their_cause(recipe, tmp_path):
    with pytest.raises(ValueError) as refusal:
        train(recipe, [*SMALL, f"output={tmp_path / 'run'}", "data.max_skipped_share=0.05"])
    message = str(refusal.value)
    assert "at most 5.00% of the 10 clips" in message and "found 1 in this one. undecodable (1), first " in message
    assert "data check" in message
