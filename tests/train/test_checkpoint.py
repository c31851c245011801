"""A checkpoint is whole or not believed: torn files and full disks cost one checkpoint, not the run."""

import json
import resource
import signal

import pytest

from mirasol.train import sharded_trainer as trainer_module
from mirasol.train.checkpoint import MANIFEST, fault_of, newest_whole
from mirasol.train.record import find_checkpoints, step_of
from tests.train.test_resume import NUM_STEPS, training_lines, validations
from tests.train.toy import train_toy


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    train_toy(output)
    return output


@pytest.fixture
def stopped(tmp_path):
    """A run with checkpoints of steps 4 and 5."""
    train_toy(tmp_path, kill_at_step=5, kill_by=signal.SIGTERM)
    assert [step_of(found) for found in find_checkpoints(tmp_path / "checkpoints")] == [4, 5]
    return tmp_path


def shorten(file):
    file.write_bytes(file.read_bytes()[:-7])


def zero(file):
    """The size is kept, as by a file system that lost what it had not written."""
    file.write_bytes(file.read_bytes()[:100] + bytes(file.stat().st_size - 100))


@pytest.mark.parametrize(
    ("damage", "name", "says"),
    [
        (shorten, "state/__0_0.distcp", "bytes instead of"),
        (zero, "state/__0_0.distcp", "has other bytes than were written"),
        (zero, "rng_state.pth", "has other bytes than were written"),
        (lambda file: file.unlink(), "trainer_state.json", "trainer_state.json is missing"),
        (lambda file: file.unlink(), MANIFEST, "manifest or a file cannot be read"),
        (shorten, MANIFEST, "manifest or a file cannot be read"),
    ],
)
def test_a_torn_checkpoint_is_left_out_for_the_one_before(uninterrupted, stopped, damage, name, says):
    damage(stopped / "checkpoints" / "checkpoint-5" / name)
    with pytest.warns(UserWarning, match=f"checkpoint-5 is torn: .*{says}.*Resuming from step 4 instead"):
        assert train_toy(stopped).step == NUM_STEPS
    assert training_lines(stopped) == training_lines(uninterrupted)
    assert validations(stopped) == validations(uninterrupted)


def test_a_run_of_torn_checkpoints_alone_is_refused_with_the_ways_out(stopped):
    for checkpoint in find_checkpoints(stopped / "checkpoints"):
        shorten(checkpoint / "state" / ".metadata")
    says = r"found 2 torn: .*checkpoint-5.*checkpoint-4.*model.checkpoint=.*/best, or delete"
    with pytest.raises(ValueError, match=says):
        train_toy(stopped)


def test_the_two_newest_checkpoints_are_kept_and_whole(uninterrupted):
    found = find_checkpoints(uninterrupted / "checkpoints")
    assert [step_of(checkpoint) for checkpoint in found] == [8, 9]
    assert not [fault for checkpoint in found if (fault := fault_of(checkpoint))]
    assert set(json.loads((found[0] / MANIFEST).read_text())) >= {"trainer_state.json", "state/.metadata"}
    assert newest_whole(uninterrupted / "nothing") is None


@pytest.mark.parametrize("when", ["state", "manifest"])
def test_a_full_disk_costs_a_checkpoint_and_says_which_one_stays(uninterrupted, tmp_path, monkeypatch, when):
    """Files may not grow beyond 1 kB while the checkpoint of step 4 is written."""
    name = {"state": "save_state", "manifest": "seal"}[when]
    write, calls = getattr(trainer_module, name), []

    def write_on_full_disk(*arguments):
        calls.append(arguments)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = 100 if when == "manifest" else 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if len(calls) == 3 else limits[0], limits[1]))
        try:
            write(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(trainer_module, name, write_on_full_disk)
    says = r"checkpoint-4 could not be written \(.*File too large.*step 3 stays the last"
    with pytest.warns(UserWarning, match=says):
        result = train_toy(tmp_path, kill_at_step=4, kill_by=signal.SIGTERM)
    assert "stopped by SIGTERM: the same command resumes from step 3" in str(result)
    assert [step_of(found) for found in find_checkpoints(tmp_path / "checkpoints")] == [2, 3]
    assert not (tmp_path / "checkpoints.partial").exists()
    assert train_toy(tmp_path).step == NUM_STEPS
    assert training_lines(tmp_path) == training_lines(uninterrupted)
