"""Replicas and shards: every layout computes the step of one process, and any number of processes resumes a run."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mirasol.data.sampler import EpochSampler
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.train.parallel import Layout, choose_layout, shard_weights, share_of_step
from mirasol.train.recipe_schema import ParallelRecipe
from mirasol.train.record import find_checkpoints, step_of
from tests.model.tiny import tiny_model
from tests.train.ranks import LACKING, NUM_STEPS, RESUMED, RUNS, STEP, lines_of
from tests.train.toy import saved_state

LOSSES = ("loss", "text_loss", "latent_loss", "video_loss", "audio_loss", "grad_norm")
# Float32 sums in another order differ by about 1e-7 of their size; six steps of training carry that on.
CLOSE = 2e-5
# A bias that all entries of a softmax share changes nothing: its gradient is rounding, of which AdamW makes a step.
FREE = ("kv_proj.bias", "score.2.bias")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": f"{repository / 'src'}:{repository}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.ranks", str(folder)]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return folder


def losses(run):
    lines = lines_of(run)
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    return torch.tensor([[line[name] for name in LOSSES] for line in lines], dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith("one")])
def test_losses_gradient_norms_and_final_state_are_those_of_one_process(runs, name):
    """Also where some processes have no sound, no picture, no real chunk or no answer in a step."""
    _, _, kind = name.partition(", ")
    one = runs / ("one, " + kind if kind else "one")
    torch.testing.assert_close(losses(runs / name), losses(one), rtol=CLOSE, atol=CLOSE)
    expected, found = (saved_state(find_checkpoints(run / "checkpoints")[-1]) for run in (one, runs / name))
    assert expected.keys() == found.keys()
    assert {"model", "average", "optimizer"} == {key.partition("/")[0] for key in found}
    # The running mean of features is moved once by each micro-batch; it enters no loss.
    free = (*FREE, "feature_mean") if "accumulated" in name else FREE
    for key in [key for key in expected if not any(part in key for part in free)]:
        difference = (found[key].double() - expected[key].double()).norm()
        assert difference <= 50 * CLOSE * expected[key].double().norm() + 1e-7, key


@pytest.mark.slow
def test_every_kind_of_lack_is_met_and_matters(runs):
    assert set(LACKING) == {"nothing", "sound", "picture", "chunks", "answers"}
    found = losses(runs / "one")
    assert (found[:, :4] > 0.1).all() and len({round(loss, 3) for loss in found[:, 0].tolist()}) == NUM_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_of_two_shards_is_resumed_by_any_number_with_the_same_losses(runs, name):
    assert [line["step"] for line in lines_of(runs / "stopped")] == [1, 2, 3], "SIGTERM to one process stops both"
    torch.testing.assert_close(losses(runs / name), losses(runs / "fsdp"), rtol=CLOSE, atol=CLOSE)
    (found,) = lines_of(runs / name, "eval_weights")
    (expected,) = lines_of(runs / "one", "eval_weights")
    assert found["eval_weights"] == pytest.approx(expected["eval_weights"], rel=CLOSE)


@pytest.mark.slow
def test_a_run_that_is_killed_at_a_random_moment_ends_with_the_same_weights(runs):
    """The comparison, bit for bit, is made by tests/train/kills.py; docs/log.md has a run of 50 kills."""
    assert json.loads((runs / "kills.json").read_text())["kills"] == 1


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_process_ends_all_and_its_clips_are_saved(runs):
    run = runs / "not finite"
    errors = [(run / f"error_{rank}.txt").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    told = json.loads((run / "not_finite.json").read_text())
    order = list(EpochSampler([STEP * NUM_STEPS], STEP, seed=0))[STEP : 2 * STEP]
    clips = [[f"clip_{row}" for row in half] for half in (order[: STEP // 2], order[STEP // 2 :])]
    assert told["step"] == 2 and [batch["clips"] for batch in told["batches"]] == clips
    assert [batch["loss"] == "NaN" for batch in told["batches"]] == [False, True]
    assert ", ".join(clips[1]) in errors[0] and clips[0][0] not in errors[0].replace(", ", " ").split()
    assert [step_of(found) for found in find_checkpoints(run / "checkpoints")] == [1]


@pytest.mark.slow
def test_the_export_of_a_sharded_run_loads_like_any_other(runs):
    load = MirasolForConditionalGeneration.from_pretrained
    one, sharded = (load(runs / name / "best", dtype="float32") for name in ("one", "fsdp"))
    assert type(sharded) is MirasolForConditionalGeneration
    for (name, mine), theirs in zip(sharded.named_parameters(), one.parameters(), strict=True):
        if not name.endswith(FREE):
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)  # both rounded to bfloat16


def test_a_declared_layer_that_the_model_does_not_have_is_refused():
    model = tiny_model()
    model._no_split_modules = ["MirasolEncoderLayer", "MirasolDecodeLayer"]
    with pytest.raises(ValueError, match=r"layers of class MirasolDecodeLayer, which .* declares, found none"):
        shard_weights(model, Layout(shard=2), torch.device("cpu"))
    model._no_split_modules = None
    with pytest.raises(ValueError, match="_no_split_modules to name the classes of its layers, found None"):
        shard_weights(model, Layout(shard=2), torch.device("cpu"))


@pytest.mark.parametrize(
    ("data", "shard", "world", "expected"),
    [(None, None, 1, (1, 1)), (None, None, 4, (4, 1)), (None, 2, 4, (2, 2)), (2, None, 4, (2, 2)), (1, 4, 4, (1, 4))],
)
def test_what_a_layout_leaves_open_is_filled_in(monkeypatch, data, shard, world, expected):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    layout = choose_layout(ParallelRecipe(data=data, shard=shard), num_parameters=1000)
    assert (layout.data, layout.shard) == expected


def test_weights_are_sharded_within_a_machine_if_their_state_fills_half_of_a_gpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    layouts = [choose_layout(ParallelRecipe(), size, memory=80 * 10**9) for size in (1_900_000_000, 2_100_000_000)]
    assert layouts == [Layout(16, 1), Layout(2, 8)]


@pytest.mark.parametrize(("data", "shard"), [(2, 3), (3, None), (None, 8), (None, 3)])
def test_a_layout_of_another_number_of_processes_is_refused(monkeypatch, data, shard):
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = f"found {data or 'auto'} x {shard or 'auto'} for 4 process"
    with pytest.raises(ValueError, match=f"{found}.*: start .*torchrun"):
        choose_layout(ParallelRecipe(data=data, shard=shard), num_parameters=1000)


@pytest.mark.parametrize("begun", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("now", [1, 2, 3, 4, 6, 8, 12])
def test_a_step_keeps_its_clips_whatever_the_number_of_processes(begun, now):
    for batch_size in (1, 2, 6, 7, 16):
        for accumulation in (1, 2, 3):
            clips = batch_size * accumulation * begun
            if clips % now:
                with pytest.raises(ValueError, match=f"share the {clips} clips of a step evenly, found {now}"):
                    share_of_step(batch_size, accumulation, begun, now)
                continue
            size, accumulated = share_of_step(batch_size, accumulation, begun, now)
            assert size * accumulated * now == clips and batch_size % size == 0
            assert begun != now or (size, accumulated) == (batch_size, accumulation)
