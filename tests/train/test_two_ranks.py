"""Two processes on real clips equal one: a batch of blanks alone, a clip that one cannot decode, a stop of one.

`python -m tests.train.test_two_ranks FOLDER` makes the runs, in processes that are forked after all imports.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from clips import write_clip

from mirasol.data.sampler import EpochSampler
from mirasol.evaluate import runner
from mirasol.train.run import train
from tests.train.ranks import in_processes, lines_of

NUM_CLIPS = 6  # of two clips a process and step: in the last step of an epoch, the second process has blanks alone
LOSSES = ("loss", "text_loss", "latent_loss", "video_loss", "grad_norm")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # four steps of float32 sums in another order

TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 1}
# Statistics of a part of a batch, and what is random, differ.
OFF = {"variance_weight": 0.0, "covariance_weight": 0.0, "combined_mask_probability": 0.0}
RECIPE = {
    "device": "cpu", "bf16": False,
    "model": {"overrides": {
        **{f"{part}_config": TINY for part in ("video", "audio", "combiner")},
        "temporal_config": TINY | OFF, "text_config": {"num_hidden_layers": 1},
    }},
    "processor": {"max_chunks": 3, "vocab_size": 300},
    "data": {"cache": None, "num_workers": 0, "augmentation": "none", "max_skipped_share": 0.5},
    "schedule": {"pretrain_epochs": 1, "finetune_epochs": 1, "batch_size": 2},
    "validation": {"every_epochs": 1, "batch_size": 1, "conditions": ["both"]},
}  # fmt: skip


def train_here(folder: Path, name: str, *overrides: str, stops: bool = False) -> None:
    """Train, and write what this process ended with and what it warned of.

    With `stops`, the second process gets SIGTERM in its first validation, before its last batch.
    """
    rank = os.environ.get("RANK", "0")
    answer = runner.answer_batches

    def stopping(*arguments, **options):
        for batch in answer(*arguments, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    if stops and rank == "1":
        runner.answer_batches = stopping
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            ended = str(train(folder / "recipe.yaml", [f"output={folder / name}", *overrides]))
        except ValueError as error:
            ended = str(error)
    told = {"ended": ended, "warned": [str(warning.message) for warning in caught]}
    (folder / name / f"process_{rank}.json").write_text(json.dumps(told))


def main(folder: Path) -> None:
    in_processes(1, train_here, folder, "one", "schedule.batch_size=4")
    in_processes(2, train_here, folder, "two")
    in_processes(2, train_here, folder, "refused", "data.max_skipped_share=0.1")
    in_processes(2, train_here, folder, "stopped", stops=True)
    for count in (1, 2):
        shutil.copytree(folder / "stopped", folder / f"resumed by {count}")
        in_processes(count, train_here, folder, f"resumed by {count}")


def bad_clip() -> int:
    """Return a clip that the second process gets in the first epoch and the first process in the second."""
    orders = []
    for epoch in range(2):
        sampler = EpochSampler([NUM_CLIPS], 2, seed=0, num_ranks=2)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert all(order[6:] == [-1, -1] for order in orders), "blanks alone"
    return next(row for row in orders[0][2:4] if row not in orders[1][2:4])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("two ranks")
    for split, count in (("train", NUM_CLIPS), ("val", 4)):
        lines = []
        for number in range(count):
            name = f"{split}{number}.mp4"
            write_clip(folder / name, seconds=0.8 + 0.3 * (number % 3), size=(32, 32), at=(0.1 + number / 20,))
            lines.append({"media": name, "question": f"what is {split}?", "answer": "a dog" if number % 2 else "cats"})
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / f"train{bad_clip()}.mp4").write_bytes(b"no clip" * 100)
    recipe = RECIPE | {"data": {**RECIPE["data"], "sources": [{"task": "jsonl", "root": str(folder)}]}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    environment = os.environ | {"PYTHONPATH": f"{repository / 'src'}:{repository}:{repository / 'tests'}"}
    command = [sys.executable, "-m", "tests.train.test_two_ranks", str(folder)]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def losses(run: Path) -> torch.Tensor:
    lines = lines_of(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    return torch.tensor([[line[name] for name in LOSSES] for line in lines])


def answers(run: Path) -> list[tuple[int, list]]:
    """Return the step of each validation, and the answers that were generated in it."""
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    return [(line["step"], line["samples"]) for line in lines]


def outcome(run: Path, rank: int) -> dict:
    return json.loads((run / f"process_{rank}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "resumed by 1", "resumed by 2"])
def test_losses_and_generated_answers_are_those_of_one_process(runs, name):
    torch.testing.assert_close(losses(runs / name), losses(runs / "one"), **CLOSE)
    expected = answers(runs / "one")
    assert [step for step, _ in expected] == [2, 4]
    assert answers(runs / name) == expected
    assert "trained 4 of 4 steps" in outcome(runs / name, 0)["ended"]


@pytest.mark.slow
def test_a_signal_to_one_process_in_validation_stops_both_and_leaves_the_validation_to_the_resumed_run(runs):
    run = runs / "stopped"
    assert [line["step"] for line in lines_of(run)] == [1, 2] and not (run / "samples.jsonl").exists()
    assert "stopped by SIGTERM: the same command resumes from step 2" in outcome(run, 0)["ended"]


@pytest.mark.slow
def test_a_clip_that_one_process_cannot_decode_is_told_by_it_and_counted_by_both(runs):
    for name, ranks in (("one", (0,)), ("two", (0, 1))):
        counts = [line["skipped_clips"] for line in lines_of(runs / name, "skipped_clips")]
        warned = [[text for text in outcome(runs / name, rank)["warned"] if "were skipped" in text] for rank in ranks]
        assert counts == [1, 1] and all(text.startswith("1 of 6 clips") for texts in warned for text in texts)
        naming = [[f"train{bad_clip()}" in text for text in texts] for texts in warned]
        assert naming == ([[True, True]] if name == "one" else [[False, True], [True, False]])


@pytest.mark.slow
def test_too_many_such_clips_end_both_processes_with_one_count(runs):
    ended = [outcome(runs / "refused", rank)["ended"] for rank in (0, 1)]
    assert all("at most 10.00% of the 6 clips" in text and "found 1 in this one" in text for text in ended)
    assert [f"train{bad_clip()}" in text for text in ended] == [False, True]
    assert "Another process" in ended[0]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
