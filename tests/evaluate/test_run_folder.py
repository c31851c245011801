"""A run's folder: going on after a kill answers nothing twice, and processes that share a run write the same bytes."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest

from mirasol.answer.checkpoint import digest_of_weights
from mirasol.cli import main
from mirasol.evaluate import batches, runner
from mirasol.evaluate.conditions import AUDIT, Condition
from mirasol.evaluate.processes import Processes
from mirasol.evaluate.run_folder import RunFolder, digest_of_rows
from mirasol.evaluate.runner import evaluate, evaluate_rows
from mirasol.tasks import get_task

RESULTS = ("predictions.jsonl", "metrics.json")


@pytest.fixture(scope="module")
def rows(grid_root):
    """Five clips, each asked two things."""
    return [replace(row, questions=row.questions[:2]) for row in get_task("grid").load(grid_root, "test")[:5]]


def run(answerer, rows, folder, **options):
    defaults = {"output": folder, "batch_size": 2, "progress": False, "about": {"task": "grid", "split": "test"}}
    conditions = options.pop("conditions", [options.pop("condition", Condition())])
    return evaluate_rows(answerer, rows, *conditions, **defaults | options)


def results(folder) -> list[bytes]:
    return [(folder / name).read_bytes() for name in RESULTS]


def test_a_killed_run_goes_on_without_answering_anything_twice(answerer, rows, tmp_path, monkeypatch):
    whole = run(answerer, rows, tmp_path / "whole")
    real, answered = batches._answer_batch, []

    def killed_in_the_third_batch(answerer, job, rows, clips):
        if len(answered) == 4:
            raise KeyboardInterrupt
        answered.extend(row.id for row in rows)
        return real(answerer, job, rows, clips)

    monkeypatch.setattr(batches, "_answer_batch", killed_in_the_third_batch)
    with pytest.raises(KeyboardInterrupt):
        run(answerer, rows, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()
    with (tmp_path / "run" / "parts" / "0.jsonl").open("a") as part:
        part.write('{"batch": 2, "clips": [{"id": "cut o')  # what a kill in the middle of writing leaves

    def counted(answerer, job, rows, clips):
        answered.extend(row.id for row in rows)
        return real(answerer, job, rows, clips)

    monkeypatch.setattr(batches, "_answer_batch", counted)
    resumed = run(answerer, rows, tmp_path / "run")
    assert answered == [row.id for row in rows]
    assert results(tmp_path / "run") == results(tmp_path / "whole")
    assert resumed.predictions == whole.predictions
    assert not (tmp_path / "run" / "parts").exists()

    again = run(answerer, rows, tmp_path / "run")  # a finished run is read, not answered again
    assert answered == [row.id for row in rows]
    assert [p.generated for p in again.predictions] == [p.generated for p in whole.predictions]


def test_a_line_says_what_was_asked_said_seen_and_heard(answerer, rows, tmp_path):
    run(answerer, rows[:2], tmp_path)
    line = json.loads((tmp_path / "predictions.jsonl").read_text().splitlines()[0])
    wanted = {"question_id", "answer", "generated", "log_likelihood", "seconds_covered", "sound_used"}
    assert wanted <= set(line)
    assert line["sound_used"] is True and line["seconds_covered"] == pytest.approx(3.0, abs=0.02)
    assert line["log_likelihood"] < 0 and "ranked" not in line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"condition": Condition("sound")}, "condition 'both', not 'sound'"),
        ({"about": {"task": "grid", "split": "val"}}, "split 'test', not 'val'"),
        ({"batch_size": 3}, "batch_size 2, not 3"),
        ({"conditions": [Condition(name) for name in AUDIT]}, "conditions .*swapped"),
    ],
)
def test_a_folder_of_another_measurement_is_refused_by_name(answerer, rows, tmp_path, monkeypatch, options, named):
    monkeypatch.setattr(runner, "answer_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(answerer, rows, tmp_path / "run")
    with pytest.raises(ValueError, match=named):
        run(answerer, rows, tmp_path / "run", **options)


def interrupted(answerer, job, folder, *_):
    folder.begin()
    raise KeyboardInterrupt


def test_another_checkpoint_and_other_clips_are_refused(answerer, untrained, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "answer_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(answerer, rows, tmp_path / "run", checkpoint=untrained)
    with pytest.raises(ValueError, match="clips_and_questions .* not"):
        run(answerer, rows[:4], tmp_path / "run", checkpoint=untrained)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="other weights, of "):
        run(answerer, rows, tmp_path / "run", checkpoint=other)


def test_the_digests_follow_contents_and_not_places(rows, tmp_path):
    def folder(name, weights):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
        return digest_of_weights(tmp_path / name)

    assert folder("a", b"1") == folder("b", b"1") != folder("c", b"2")
    row = rows[0]
    changes = {"segment": (0.0, 1.0), "crop": (0.5, 0.5, 0.5), "questions": row.questions[:1]}
    others = [digest_of_rows([replace(row, **{name: value})]) for name, value in changes.items()]
    assert len({digest_of_rows([row]), *others}) == 4
    assert digest_of_rows([replace(row, media=tmp_path / row.media.name)]) == digest_of_rows([row])


def test_a_folder_with_other_files_is_left_alone(answerer, rows, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(ValueError, match="found files but no run.json"):
        run(answerer, rows, tmp_path)


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(untrained, grid_root, tmp_path):
    arguments = ["--checkpoint", untrained, "--root", grid_root, "--max-clips", "3", "--condition", "swapped"]
    options = {"condition": "swapped", "max_clips": 3, "batch_size": 1, "workers": 0}
    evaluate(untrained, "grid", grid_root, output=tmp_path / "one", **options)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mirasol.cli", "evaluate"]
    command += ["--batch-size", "1", "--output", tmp_path / "two"]
    run = subprocess.run(
        [str(part) for part in (*command, *arguments)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("clips answered") == 1
    names = sorted(path.name for path in (tmp_path / "one").glob("*.json*"))
    assert "predictions.jsonl" in names
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


@dataclass(frozen=True)
class Thread(Processes):
    """A process of several, as a thread of this one."""

    barrier: threading.Barrier | None = None

    def wait(self) -> None:
        self.barrier.wait(timeout=60)


@pytest.mark.parametrize(("late", "too_late"), [("_check", "parts"), ("answered", "parts/0.jsonl")])
def test_a_process_that_looks_late_finds_the_folder_as_the_first_one_did(
    answerer, rows, tmp_path, monkeypatch, late, too_late
):
    barrier, has_looked = threading.Barrier(2), threading.Event()
    look, begin = getattr(RunFolder, late), RunFolder.begin

    def look_late(folder):
        second = threading.current_thread().name == "process_1"
        while second and not (barrier.n_waiting or barrier.broken or (folder.folder / too_late).exists()):
            time.sleep(0.01)  # until the first process waits for this one, or has gone on without
        found = look(folder)
        if second:
            has_looked.set()
        return found

    def begin_slowly(folder):  # there are files, and not yet the one that says whose
        (folder.folder / "parts").mkdir(parents=True)
        if late == "_check":
            has_looked.wait(60)
        begin(folder)

    monkeypatch.setattr(RunFolder, late, look_late)
    monkeypatch.setattr(RunFolder, "begin", begin_slowly)
    with ThreadPoolExecutor(2, thread_name_prefix="process") as pool:
        both = [pool.submit(answered_by, answerer, rows, tmp_path / "two", Thread(n, 2, barrier)) for n in range(2)]
        first, second = (one.result(timeout=120) for one in both)
    assert len(first.predictions) == 2 * len(rows) and second is None
    run(answerer, rows, tmp_path / "one", batch_size=1, workers=0)
    assert results(tmp_path / "two") == results(tmp_path / "one")


def answered_by(answerer, rows, folder, process):
    try:
        return run(answerer, rows, folder, batch_size=1, workers=0, processes=process)
    except BaseException:
        process.barrier.abort()  # the other one waits in vain
        raise


def test_several_processes_need_a_folder(untrained, grid_root, monkeypatch):
    monkeypatch.setattr(runner, "started_processes", lambda: contextlib.nullcontext(Processes(0, 2)))
    with pytest.raises(ValueError, match="found none for 2 processes"):
        evaluate(untrained, "grid", grid_root, max_clips=1)


def test_a_clip_repaired_after_a_kill_is_answered_by_the_resumed_run(answerer, rows, tmp_path, monkeypatch):
    broken = tmp_path / rows[0].media.name
    broken.write_text("half copied")
    asked = [replace(rows[0], media=broken), *rows[1:3]]
    real = RunFolder.finish
    monkeypatch.setattr(RunFolder, "finish", interrupted_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        run(answerer, asked, tmp_path / "run")
    broken.write_bytes(rows[0].media.read_bytes())
    monkeypatch.setattr(RunFolder, "finish", real)
    resumed = run(answerer, asked, tmp_path / "run")
    assert resumed.metrics.clips.unreadable == {} and resumed.metrics.clips.answered == 3
    assert {p.clip for p in resumed.predictions} == {row.id for row in asked}


def interrupted_at_the_end(folder, metrics, predictions):
    assert metrics.clips.unreadable
    raise KeyboardInterrupt


def test_two_evaluations_do_not_write_into_one_folder(answerer, rows, tmp_path):
    first = RunFolder(tmp_path / "run", {})
    with first.locked(), pytest.raises(ValueError, match="found one that is writing there"):
        run(answerer, rows, tmp_path / "run")
    run(answerer, rows[:1], tmp_path / "run")  # the lock is gone with the one that held it


def test_numbers_are_written_before_any_page_is_drawn(untrained, grid_root, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise ValueError("no page today")

    monkeypatch.setattr("mirasol.report.run.choose_fails", broken)
    options = ["--checkpoint", untrained, "--root", grid_root, "--max-clips", "1", "--output", tmp_path / "run"]
    assert main(["evaluate", *map(str, options)]) == 2
    assert "no page today" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["clips"]["answered"] == 1
    monkeypatch.undo()
    assert main(["evaluate", *map(str, options)]) == 0  # read again, with its page
    assert (tmp_path / "run" / "report.html").is_file()
