"""Many clips: every clip has its rows, whatever is broken or killed, and they say what `ask` says."""

import csv
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from clips import write_clip

from mirasol.answer.answer_files import AnswerFile, json_lines
from mirasol.answer.answerer import Answerer
from mirasol.answer.ask import ask
from mirasol.answer.clip_lists import Asked, read_clips
from mirasol.answer.generation import GeneratedAnswer
from mirasol.answer.predict import Predicted, pieces, predict, within
from mirasol.answer.ranking import Ranking
from mirasol.answer.reading import WHOLE_FILE, Reading
from mirasol.cli import main
from tests.waiting import wait_for

QUESTIONS = ["which color is named?", "what is said?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips with sound, one without, below each other, a broken one, and a file that is no clip."""
    root = tmp_path_factory.mktemp("clips")
    (root / "deep").mkdir()
    write_clip(root / "a.mp4", seconds=1.0)
    write_clip(root / "deep" / "b.mp4", seconds=0.7, sound=False)
    write_clip(root / "c.wav", seconds=2.3, picture=False)
    (root / "broken.mp4").write_bytes(b"nothing")
    (root / "notes.txt").write_text("no clip")
    return root


def rows_of(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_every_clip_of_a_folder_has_a_row_for_each_question_and_a_broken_one_its_error(
    folder, untrained, tmp_path, suffix
):
    output = tmp_path / f"out{suffix}"
    result = predict([str(folder)], QUESTIONS, untrained, output=str(output), workers=0, progress=False)
    rows = rows_of(output)
    names = ["a.mp4", "broken.mp4", "c.wav", "deep/b.mp4"]
    assert [(row["clip"], row["question"]) for row in rows] == [(str(folder / n), q) for n in names for q in QUESTIONS]
    assert (result.clips, result.answers, result.exit_code) == (4, 6, 1)
    assert list(result.failed) == [str(folder / "broken.mp4")] and "cannot be opened" in str(result)
    for row in rows:
        if "broken" in row["clip"]:
            assert "7 bytes" in row["error"] and not row["answer"]
        else:
            alone = ask(row["clip"], row["question"], untrained)
            assert row["answer"] == alone.answer and not row.get("error")
            assert float(row["confidence"]) == pytest.approx(alone.confidence, abs=1e-4)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("cut", [1, 400])
def test_a_file_that_a_kill_cut_short_is_completed_without_a_doubled_or_broken_row(
    folder, untrained, tmp_path, suffix, cut
):
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    options = {"questions": QUESTIONS, "checkpoint": untrained, "workers": 0, "progress": False, "batch_size": 1}
    predict([str(folder)], output=str(whole), **options)
    shutil.copy(f"{whole}.run.json", f"{output}.run.json")
    output.write_bytes(whole.read_bytes()[:-cut])
    result = predict([str(folder)], output=str(output), **options)
    key = lambda row: (row["clip"], row["question"])  # noqa: E731
    assert sorted(map(key, rows_of(output))) == sorted(map(key, rows_of(whole)))
    assert result.done_before > 0 and result.exit_code == 1, "an error from before still counts"
    again = predict([str(folder)], output=str(output), **options)
    assert (again.answers, again.done_before, again.exit_code) == (0, 6, 1)


def test_a_file_of_other_weights_or_options_is_refused_and_new_questions_are_added(folder, untrained, tmp_path):
    output = tmp_path / "out.jsonl"
    options = {"checkpoint": untrained, "output": str(output), "workers": 0, "progress": False}
    predict([str(folder / "a.mp4")], QUESTIONS[:1], **options)
    result = predict([str(folder / "a.mp4")], QUESTIONS, **options)
    assert (result.answers, result.done_before) == (1, 1) and len(rows_of(output)) == 2
    with pytest.raises(ValueError, match="found others .*reading .*Name another --output"):
        predict([str(folder / "a.mp4")], QUESTIONS, reading=Reading(start=0.1), **options)
    with pytest.raises(ValueError, match="ends with .jsonl or .csv"):
        AnswerFile(tmp_path / "out.txt", {})


def test_each_setting_that_changes_answers_is_refused_for_the_same_file(folder, untrained, tmp_path):
    clip, output = [str(folder / "a.mp4")], str(tmp_path / "out.jsonl")
    begun = {"checkpoint": untrained, "options": ["red", "blue"], "output": output, "workers": 0, "progress": False}
    predict(clip, QUESTIONS[:1], **begun)
    for name, changed in {
        "weights": {"checkpoint": None}, "options": {"options": ["red", "blue", "green"]},
        "segment_seconds": {"segment_seconds": 0.5}, "max_chunks": {"max_chunks": 2}, "dtype": {"dtype": "bfloat16"},
        "sampling": {"sampling": "dense"}, "reading": {"reading": Reading(use_audio=False)},
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"found others .{name} .*Name another --output"):
            predict(clip, QUESTIONS[:1], **begun | changed)
    assert predict(clip, QUESTIONS[:1], **begun, device="cpu", batch_size=3).done_before == 1


def test_rows_hold_the_faults_of_their_clip_and_answer(untrained, tmp_path, monkeypatch):
    answers = [
        GeneratedAnswer("red", -1.0, (7, 8), is_cut=True), GeneratedAnswer("blue", -1.0, (7, 8)),
        GeneratedAnswer("x", float("nan"), (7, 8)),
    ]  # fmt: skip
    clips = [write_clip(tmp_path / f"{n}.mp4", seconds=0.7, silent=not n) for n in range(3)]
    monkeypatch.setattr(Answerer, "answer", lambda *_: [[answer] for answer in answers])
    rows: list = []
    found = predict(list(map(str, clips)), QUESTIONS[:1], untrained, workers=0, progress=False, write=rows.extend)
    silent, cut = rows[0]["warnings"]
    assert "it is silent" in silent and cut.startswith("The answer was cut at 2 tokens")
    assert not rows[1]["warnings"] and rows[1]["answer"] == "blue" and rows[1]["error"] is None
    assert rows[2]["answer"] is None and "finite log-probabilities" in rows[2]["error"]
    assert (found.answers, list(found.failed), found.exit_code) == (2, [str(clips[2])], 1)


def test_the_confidence_of_an_option_is_its_share_of_the_likelihoods(untrained, folder, monkeypatch):
    ranking = Ranking(("red", "blue", "dark green"), (-3.0, -1.0, -2.0), (2, 2, 3))
    monkeypatch.setattr(Answerer, "rank", lambda *_: [[ranking]])
    rows: list = []
    predict([str(folder / "a.mp4")], QUESTIONS[:1], untrained, options=ranking.options, progress=False,
            workers=0, write=rows.extend)  # fmt: skip
    total = sum(math.exp(value) for value in ranking.log_probabilities)
    assert rows[0]["answer"] == "blue" and list(rows[0]["ranked"]) == ["blue", "dark green", "red"]
    assert rows[0]["confidence"] == rows[0]["ranked"]["blue"] == pytest.approx(math.exp(-1) / total, abs=1e-6)


def test_a_row_whose_texts_hold_commas_quotes_and_line_breaks_is_read_back(tmp_path):
    row = {"clip": 'a, "b"\nc.mp4', "start": 0.0, "end": None, "question": "what,\n?", "answer": "x", "error": None}
    for name in ("out.csv", "out.jsonl"):
        AnswerFile(tmp_path / name, {}).append([row, row | {"clip": "other"}])
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-2])
        read = AnswerFile(tmp_path / name, {})
        keys = [(clip, 0.0, None, "what,\n?") for clip in ('a, "b"\nc.mp4', "other")]
        assert [read.error_of(key, None, ()) for key in keys] == ["", None]
    assert json.loads(json_lines([row]))["answer"] == "x"


def test_a_manifest_that_was_trained_on_can_be_asked_about_with_its_crops(folder, untrained, tmp_path):
    asked = {"media": "a.mp4", "question": QUESTIONS[0], "answer": "red"}
    manifest = folder / "crops.jsonl"
    manifest.write_text(json.dumps(asked | {"crop": [0.3, 0.2, 0.8]}) + "\n", encoding="utf-8")
    rows: list = []
    predict([str(manifest)], (), untrained, workers=0, progress=False, write=rows.extend)
    cropped = ask(folder / "a.mp4", QUESTIONS[0], untrained, reading=Reading(crop=(0.3, 0.2, 0.8)))
    assert rows[0]["confidence"] == pytest.approx(cropped.confidence, abs=1e-4)
    assert cropped.confidence != pytest.approx(ask(folder / "a.mp4", QUESTIONS[0], untrained).confidence, abs=1e-4)
    output = str(manifest.with_suffix(".csv"))
    predict([str(manifest)], (), untrained, workers=0, progress=False, output=output)
    for changed in (asked, asked | {"crop": [0.4, 0.2, 0.8]}):
        manifest.write_text(json.dumps(changed) + "\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"others \(crop \(0.3, 0.2, 0.8\), now .* for 'which color .*a.mp4"):
            predict([str(manifest)], (), untrained, output=output)
    lines = [asked | {"crop": [0.3, 0.2, 0.8]}, asked | {"crop": [0.4, 0.2, 0.8], "question": QUESTIONS[1]}]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    added = predict([str(manifest)], (), untrained, workers=0, progress=False, output=output)
    assert (added.answers, added.done_before) == (1, 1), "a line with another crop is new"
    manifest.write_text(f"{json.dumps(asked)}\n{json.dumps(asked | {'crop': [1, 0.5, 0.5]})}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="one crop per question and clip, found two .*a.mp4: remove one"):
        predict([str(manifest)], (), untrained)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_whose_answers_rank_other_options_of_a_line_is_refused(folder, untrained, tmp_path, suffix):
    manifest, output = folder / "options.jsonl", str(tmp_path / f"out{suffix}")

    def run(*options, media="a.mp4"):
        line = {"media": media, "question": QUESTIONS[0], "options": options}
        manifest.write_text(json.dumps(line) + "\n", encoding="utf-8")
        return predict([str(manifest)], (), untrained, rank=True, output=output, workers=0, progress=False)

    run("red", "blue")
    run("red", "blue", media="broken.mp4")
    assert run("blue", "red").done_before == 1, "their order changes no answer"
    assert run("a", "b", media="broken.mp4").failed, "an error holds for any options"
    with pytest.raises(ValueError, match=r"options \('blue', 'red'\), now \('blue', 'green'\), for .*a.mp4"):
        run("blue", "green")


def test_options_are_ranked_by_shares_that_add_up_to_one(folder, untrained, tmp_path):
    output = tmp_path / "out.jsonl"
    predict([str(folder / "a.mp4")], QUESTIONS, untrained, options=["red", "blue", "red"], output=str(output),
            progress=False)  # fmt: skip
    for row in rows_of(output):
        assert row["answer"] in ("red", "blue") and row["confidence"] == max(row["ranked"].values())
        assert sum(row["ranked"].values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="at least two options to rank, found 0"):
        predict([str(folder / "a.mp4")], QUESTIONS, untrained, rank=True, progress=False)


def test_pieces_cover_a_clip_without_gaps_and_a_short_rest_belongs_to_the_last(folder):
    clip = str(folder / "c.wav")  # 2.3 s

    def cuts(seconds, reading=WHOLE_FILE):
        return [(piece.start, piece.end) for piece in pieces(Asked(clip, ("what?",)), reading, seconds)]

    assert cuts(1.0) == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.3)]
    assert cuts(2.2) == [(0.0, 2.3)] and cuts(9.0) == [(0.0, 2.3)]
    assert cuts(1.0, Reading(start=0.5, end=2.0)) == [(0.5, 1.5), (1.5, 2.0)]
    assert [(p.start, p.end) for p in pieces(Asked("gone.wav", ("what?",)), WHOLE_FILE, 1.0)] == [(0.0, None)]


def test_seconds_to_watch_count_from_the_start_of_the_clips_own_segment():
    clip = Asked("a.mp4", ("what?",), 2.0, 9.0)
    assert within(clip, Reading(start=1.0, end=3.0)) == replace(clip, start=3.0, end=5.0)
    assert within(clip, Reading(end=30.0)) == clip and within(replace(clip, end=None), WHOLE_FILE).end is None


def test_a_file_with_an_answered_segment_did_not_fail_as_a_whole():
    """Its broken segment is named, and its other answers are there: 1, not 2."""
    found = Predicted(clips=1, answers=3, done_before=0, failed={"a.mp4": "broken"})
    assert found.exit_code == 1 and found.model_copy(update={"answers": 0, "done_before": 3}).exit_code == 1
    assert found.model_copy(update={"answers": 0}).exit_code == 2


def test_an_answer_and_an_error_about_one_clip_are_both_counted_once(monkeypatch):
    answerer = SimpleNamespace(prompts=lambda *_: None, warnings=lambda _: [], processor=None)
    monkeypatch.setattr(Answerer, "load", lambda *_, **__: answerer)
    row = {"confidence": 0.5, "warnings": [], "error": None}
    rows = [{**row, "question": "a?"}, {**row, "question": "b?", "error": "not finite"}]
    for order in (1, -1):
        answered = rows[::order]
        monkeypatch.setattr("mirasol.answer.predict._answer", lambda _, batch, *__: [(batch[0][0], answered)])  # noqa: B023
        found = predict(["x.mp4"], ["a?", "b?"], workers=0, progress=False)
        assert (found.answers, found.failed, found.exit_code) == (1, {"x.mp4": "not finite"}, 1)


def test_a_piece_is_answered_as_its_seconds_alone(folder, untrained, tmp_path):
    output = tmp_path / "out.jsonl"
    clip = str(folder / "c.wav")
    predict([clip], QUESTIONS[1:], untrained, segment_seconds=1.0, output=str(output), progress=False)
    for row in rows_of(output):
        alone = ask(clip, QUESTIONS[1], untrained, start=row["start"], end=row["end"])
        assert row["confidence"] == pytest.approx(alone.confidence, abs=1e-4)


def test_clips_come_from_folders_globs_manifests_and_standard_input_each_once(folder, monkeypatch, tmp_path):
    lines = [
        {"media": "a.mp4", "question": "who?", "answer": "not used"}, {"media": "a.mp4", "question": "where?"},
        {"media": "a.mp4", "segment": [0.1, 0.5]},
    ]  # fmt: skip
    manifest = folder / "list.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    a = str(folder / "a.mp4")
    assert read_clips([str(manifest)], ["what?"]) == [
        Asked(a, ("who?", "where?")), Asked(a, ("what?",), 0.1, 0.5)
    ]  # fmt: skip
    assert [asked.clip for asked in read_clips([str(folder / "**" / "*.mp4"), a], ["what?"])] == [
        a, str(folder / "broken.mp4"), str(folder / "deep" / "b.mp4")
    ]  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{a}\n\ngone.mp4\n"))
    assert [asked.clip for asked in read_clips(["-"], ["what?"])] == [a, "gone.mp4"]
    (tmp_path / "bad.jsonl").write_text('{"media": 3}\nnot json\n{"media": "a", "video": "b"}\n{"media": "a"}')
    with pytest.raises(ValueError, match=r"bad.jsonl:1: .*'media', found 3(.|\n)*:2: (.|\n)*:3: .*'video'(.|\n)*:4: "):
        read_clips([str(tmp_path / "bad.jsonl")], [])
    for sources, message in (([str(tmp_path / "*.mp4")], "found none"), ([a], "Expected a question, found none")):
        with pytest.raises(ValueError, match=message):
            read_clips(sources, [])


def test_the_exit_code_tells_all_some_and_none(folder, untrained, capsys):
    asked = ["--ask", QUESTIONS[0], "--checkpoint", str(untrained), "--workers", "0"]
    assert main(["predict", str(folder / "a.mp4"), *asked]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["clip"] == str(folder / "a.mp4") and "1 answers about 1 clips" in err
    assert main(["predict", str(folder / "a.mp4"), str(folder / "gone.mp4"), *asked]) == 1
    assert main(["predict", str(folder / "gone.mp4"), *asked]) == 2
    assert main(["predict", str(folder / "gone.mp4"), "--checkpoint", str(untrained)]) == 2
    assert "no such file" in capsys.readouterr().out


STOPS = """
import sys, time
from mirasol.answer.answer_files import AnswerFile
from mirasol.cli import main
real, appended = AnswerFile.append, []
def append(self, rows):
    if len(appended) == 3:
        time.sleep(3600)  # until it is killed
    appended.append(rows)
    real(self, rows)
AnswerFile.append = append
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_and_two_processes_give_each_row_once(folder, untrained, tmp_path):
    output = tmp_path / "out.jsonl"
    many = tmp_path / "many"
    many.mkdir()
    for number in range(12):
        shutil.copy(folder / "a.mp4", many / f"{number}.mp4")
    words = ["predict", str(many), "--ask", QUESTIONS[0], "--output", str(output), "--checkpoint", str(untrained),
             "--batch-size", "1", "--workers", "0"]  # fmt: skip
    command = [sys.executable, "-m", "mirasol.cli", *words]
    first = subprocess.Popen([sys.executable, "-c", STOPS, *words], stderr=subprocess.DEVNULL)
    wait_for(lambda: first.poll() is not None or (output.is_file() and output.read_bytes().count(b"\n") >= 3))
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL and output.read_bytes().count(b"\n") == 3
    ranks = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}, stdout=subprocess.DEVNULL)
        for rank in (0, 1)
    ]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert sorted(row["clip"] for row in rows_of(output)) == sorted(map(str, many.iterdir()))


def test_unsure_answers_and_questions_unlike_training_are_marked_in_their_rows(folder, tmp_path):
    output, asked = tmp_path / "out.csv", ["which color is named?", "what animal is it?"]
    options = {"output": str(output), "workers": 0, "progress": False}
    clips = [str(folder / "a.mp4"), str(folder / "broken.mp4")]
    plain: list = []
    predict(clips[:1], asked, write=plain.extend, workers=0, progress=False)
    below = max(row["confidence"] for row in plain)  # withholds the less sure one of two
    result = predict(clips, asked, abstain_below=below, **options)
    rows = rows_of(output)
    assert [row["abstained"] for row in rows[:2]] == ["True" if row["confidence"] < below else "" for row in plain]
    assert result.abstained == 1 and ", 1 withheld -> " in str(result)
    assert [row["answer"] for row in rows[:2]] == [row["answer"] for row in plain], "the likeliest stays"
    assert not rows[0]["warnings"] and "'animal' is in none of its questions" in rows[1]["warnings"]
    assert rows[2]["error"] and not rows[2]["abstained"]
    with pytest.raises(ValueError, match="abstain_below .*, now 0.5"):
        predict(clips, asked, abstain_below=0.5, **options)


@pytest.mark.parametrize("line", ['{"clip": "b.mp4",\n', "[]\n", '{"answer": "red"}\n', "b.mp4,1\n"])
def test_an_edited_row_that_is_none_is_refused_and_those_after_it_are_kept(tmp_path, line):
    path = tmp_path / ("out.csv" if "," in line[:6] else "out.jsonl")
    row = {"clip": "a.mp4", "start": 0.0, "end": None, "question": "what?", "answer": "red"}
    for _ in range(2):
        AnswerFile(path, {}).append([row])
    *before, last = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*before, line, last]))
    with pytest.raises(ValueError, match=r"Expected in .*out\.\w+ rows .* found another"):
        AnswerFile(path, {})
    assert path.read_text() == "".join([*before, line, last])


def test_a_table_of_an_older_version_is_kept_as_it_is(tmp_path):
    old = "clip,start,end,question,answer,confidence,ranked,warnings,error\na.mp4,0.0,,what?,red,0.5,,,\n"
    (tmp_path / "out.csv").write_text(old)
    (tmp_path / "out.csv.run.json").write_text("{}")
    with pytest.raises(ValueError, match="Expected the columns clip,.*,abstained,.* found others: name another"):
        AnswerFile(tmp_path / "out.csv", {})
    assert (tmp_path / "out.csv").read_text() == old
