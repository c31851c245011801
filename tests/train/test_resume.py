"""Train, kill, resume equals uninterrupted; a kill leaves nothing half-written that a later run would believe."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mirasol.tasks import Question, Row
from mirasol.train import sharded_trainer
from mirasol.train.recipe_schema import ModelRecipe, ScheduleRecipe
from mirasol.train.record import describe_rows, find_checkpoints, open_run
from mirasol.train.stop import StopRequest
from mirasol.train.tokenizer import build_tokenizer
from tests.train.toy import saved_state, toy_recipe, train_toy

REPOSITORY = Path(__file__).parents[2]
NUM_STEPS = 9  # 3 epochs of 3 batches


def training_lines(output: Path) -> dict[int, dict]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    losses = ("loss", "text_loss", "latent_loss", "video_loss", "grad_norm", "learning_rate")
    found = [line for line in lines if "loss" in line]
    assert len({line["step"] for line in found}) == len(found), "a step was logged twice"
    return {line["step"]: {name: line[name] for name in losses} for line in found}


def validations(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "eval_mean_words" in line]
    assert len({line["step"] for line in found}) == len(found), "a step was validated twice"
    return {line["step"]: line["eval_mean_words"] for line in found}


def train_until_killed(output: Path, step: int) -> None:
    command = [sys.executable, "-m", "tests.train.toy", str(output), f"kill_at_step={step}"]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("uninterrupted")
    train_toy(output)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 6, 7])  # inside an epoch, at its end, a step after a checkpoint
def test_a_killed_run_resumes_with_the_same_losses(uninterrupted, tmp_path, step):
    train_until_killed(tmp_path, step)
    *_, checkpoint = find_checkpoints(tmp_path / "checkpoints")
    assert 2 <= int(checkpoint.name.split("-")[1]) <= step
    result = train_toy(tmp_path)
    assert result.step == NUM_STEPS
    assert training_lines(tmp_path) == training_lines(uninterrupted)
    assert validations(tmp_path) == validations(uninterrupted)  # sums of averaged weights, bit for bit


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_costs_only_that_checkpoint(uninterrupted, tmp_path):
    train_until_killed(tmp_path, 6)
    half = tmp_path / "checkpoints.partial" / "checkpoint-7"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 7, "lo')
    train_toy(tmp_path)
    assert not half.parent.exists()
    assert training_lines(tmp_path) == training_lines(uninterrupted)


def test_a_finished_run_is_left_as_it_is(uninterrupted):
    before = training_lines(uninterrupted)
    assert train_toy(uninterrupted).step == NUM_STEPS
    assert training_lines(uninterrupted) == before


def test_each_step_is_saved_validated_and_shown_once(tmp_path, monkeypatch):
    saved, shown = [], []
    save = sharded_trainer.save_state
    monkeypatch.setattr(
        sharded_trainer, "save_state", lambda folder, *rest: (saved.append(folder.name), save(folder, *rest))
    )
    train_toy(tmp_path, report=lambda folder: shown.append([*validations(folder)]))
    assert saved == [f"checkpoint-{step}" for step in (2, 3, 4, 6, 8, 9)]
    assert shown == [[], [3], [3], [3, 6], [3, 6], [3, 6, 9]]
    found = find_checkpoints(tmp_path / "checkpoints")[-1]
    history = json.loads((found / "trainer_state.json").read_text())["log_history"]
    assert [line["step"] for line in history if "eval_mean_words" in line] == [3, 6, 9]


@pytest.mark.parametrize("number", [2, 3])
def test_a_run_stopped_again_and_again_in_its_validations_equals_the_uninterrupted_one(
    uninterrupted, tmp_path, number
):
    """Also in the validation with which a resumed run begins, because the stopped one left it out."""
    step = 3 * number
    stopped = train_toy(tmp_path, stop_in_validation=number)
    for _ in range(2):
        assert f"stopped by SIGTERM: the same command resumes from step {step}" in str(stopped)
        assert list(validations(tmp_path)) == list(range(3, step, 3))
        stopped = train_toy(tmp_path, stop_in_validation=1)
    assert train_toy(tmp_path).step == NUM_STEPS
    assert train_toy(tmp_path).step == NUM_STEPS, "ended runs are left as they are"
    assert training_lines(tmp_path) == training_lines(uninterrupted)
    assert validations(tmp_path) == validations(uninterrupted)
    ends = [find_checkpoints(run / "checkpoints")[-1] for run in (uninterrupted, tmp_path)]
    whole, ours = map(saved_state, ends)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in whole.items())
    bests = [json.loads((end / "trainer_state.json").read_text())["best_metric"] for end in ends]
    assert bests[0] == bests[1]


def test_another_recipe_in_the_same_folder_is_refused(uninterrupted):
    with pytest.raises(ValueError, match=r"another recipe; it differs in seed \(0 there, 1 now\)"):
        train_toy(uninterrupted, seed=1)
    longer = ScheduleRecipe(pretrain_epochs=1, finetune_epochs=4, batch_size=4)
    with pytest.raises(ValueError, match=rf"\(2 there, 4 now\).*longer.* model.checkpoint={uninterrupted}/best "):
        train_toy(uninterrupted, schedule=longer)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 4, 6])  # before the first checkpoint was due, inside an epoch, at its end
def test_a_stopped_run_saves_its_step_and_resumes_to_the_same_losses_and_validations(
    uninterrupted, tmp_path, stop, step
):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    says = f"the same command resumes from step {step}"
    with pytest.raises(KeyboardInterrupt, match=says) if stop == signal.SIGINT else contextlib.nullcontext():
        result = train_toy(tmp_path, kill_at_step=step, kill_by=stop)
        assert f"stopped by SIGTERM: {says}" in str(result)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    state = json.loads((tmp_path / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] is None, "resuming would warn that it does not exist any more"
    assert train_toy(tmp_path).step == NUM_STEPS
    assert training_lines(tmp_path) == training_lines(uninterrupted)
    assert validations(tmp_path) == validations(uninterrupted)


def test_only_a_later_second_interrupt_ends_the_process_at_once():
    request = StopRequest()
    request(signal.SIGINT)
    request(signal.SIGINT)  # torchrun passes on what the terminal sent already
    request(signal.SIGTERM)
    assert request.signal == signal.SIGINT
    request._received -= 60
    request(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="stopped at once"):
        request(signal.SIGINT)


def test_another_number_of_processes_is_refused_with_both_numbers(uninterrupted, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    expected = r"share the 4 clips of a step evenly, found 3: the run began with 1 .* Start one of 1, 2, 4 "
    with pytest.raises(ValueError, match=expected):
        train_toy(uninterrupted)


def test_a_run_without_a_checkpoint_may_be_begun_by_other_processes(tmp_path, monkeypatch):
    recipe = toy_recipe(tmp_path)
    open_run(recipe)
    monkeypatch.setenv("WORLD_SIZE", "2")
    open_run(recipe)
    assert [launch["num_processes"] for launch in json.loads((tmp_path / "environment.json").read_text())] == [1, 2]


def test_other_data_is_refused_with_both_counts_only_when_the_run_has_a_checkpoint(tmp_path):
    def rows(*answers, crop=None):
        questions = tuple(Question(str(i), "what?", answer, "open") for i, answer in enumerate(answers))
        return {"train of jsonl below mine": describe_rows([Row("a", Path("a.mp4"), questions, crop=crop)])}

    open_run(toy_recipe(tmp_path), data=rows("a frog"))
    no_time = ScheduleRecipe(pretrain_epochs=1, finetune_epochs=2, batch_size=4, time_limit_minutes=0.0)
    train_toy(tmp_path, data=rows("a dog"), schedule=no_time)
    for changed in (rows("a cat"), rows("a dog", "a dog"), rows("a dog", crop=(0.5, 0.5, 0.5)), {}):
        with pytest.raises(ValueError, match="train of jsonl below mine had 1 clips with 1 questions when it began"):
            train_toy(tmp_path, data=changed)
    assert train_toy(tmp_path, data=rows("a dog")).step == NUM_STEPS


def test_a_run_keeps_the_processor_it_began_with(tmp_path):
    train_toy(tmp_path)
    kept = (tmp_path / "processor" / "tokenizer.json").read_bytes()
    assert kept == (tmp_path / "best" / "tokenizer.json").read_bytes()
    open_run(toy_recipe(tmp_path), processor=build_tokenizer(["quite other words, other words"], vocab_size=300))
    assert (tmp_path / "processor" / "tokenizer.json").read_bytes() == kept


def test_a_run_older_than_a_key_of_the_recipe_resumes(tmp_path):
    recipe = toy_recipe(tmp_path)
    written = open_run(recipe) / "recipe.yaml"
    younger = written.read_text()
    written.write_text(younger.replace("  freeze: []\n", ""))
    assert written.read_text() != younger
    open_run(recipe)
    with pytest.raises(ValueError, match=r"differs in model.freeze \(\(\) there, \('combiner',\) now\)"):
        open_run(recipe.model_copy(update={"model": ModelRecipe(freeze=("combiner",))}))


def test_a_time_limit_is_in_minutes_and_counts_those_of_earlier_launches(tmp_path):
    def limited(minutes: float) -> ScheduleRecipe:
        return ScheduleRecipe(pretrain_epochs=1, finetune_epochs=2, batch_size=4, time_limit_minutes=minutes)

    train_toy(tmp_path, kill_at_step=4, kill_by=signal.SIGTERM)
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) | {"minutes": 600.0} for line in metrics.read_text().splitlines()]
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    stopped = train_toy(tmp_path, schedule=limited(599.0))
    assert stopped.step == 5 and 600 < stopped.minutes < 700
    assert train_toy(tmp_path, schedule=limited(800.0)).step == NUM_STEPS


@pytest.mark.parametrize("changed", [
    {"id": "b"}, {"media": Path("b.mp4")}, {"segment": (0.0, 1.0)}, {"parts": (Row("a", Path("a.mp4")),)},
    *({"questions": (Question("0", *texts, "open"),)} for texts in (("who?", "x"), ("what?", "y"))),
])  # fmt: skip
def test_rows_that_differ_in_anything_that_is_trained_on_are_other_data(changed):
    row = Row("a", Path("a.mp4"), (Question("0", "what?", "x", "open"),))
    before, now = (describe_rows([each])["sha256"] for each in (row, replace(row, **changed)))
    assert before != now and describe_rows([row])["sha256"] == before


def test_a_time_limit_stops_cleanly_and_a_longer_one_resumes(uninterrupted, tmp_path):
    no_time = ScheduleRecipe(pretrain_epochs=1, finetune_epochs=2, batch_size=4, time_limit_minutes=0.0)
    stopped = train_toy(tmp_path, schedule=no_time)
    assert stopped.step == 1 and stopped.export is not None and find_checkpoints(tmp_path / "checkpoints")
    assert train_toy(tmp_path).step == NUM_STEPS
    assert training_lines(tmp_path) == training_lines(uninterrupted)
