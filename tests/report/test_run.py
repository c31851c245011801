"""The report of a run: one file for any task, with baselines, the paper's number, the audit and wrong answers."""

import re
from dataclasses import replace

import numpy as np
import pytest

from mirasol.evaluate.baselines import baselines
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.conditions import AUDIT, Condition
from mirasol.evaluate.results import Clips, Evaluation, Metrics, Prediction
from mirasol.evaluate.runner import evaluate_rows
from mirasol.evaluate.summary import compare, coverage, summarise
from mirasol.report.run import group_tables, interval_of, write_report
from mirasol.tasks import Question, Row, get_task


@pytest.fixture(scope="module")
def rows(grid_root):
    return [replace(row, questions=row.questions[:2]) for row in get_task("grid").load(grid_root, "test")[:2]]


def test_a_run_with_audit_writes_one_page_that_needs_nothing_else(answerer, rows, tmp_path):
    about = {"checkpoint": "<mine>", "task": "grid", "split": "test"}
    result = evaluate_rows(
        answerer, rows, *map(Condition, AUDIT), output=tmp_path, about=about, progress=False, workers=0
    )
    assert not (tmp_path / "report.html").exists()  # evaluate writes no page
    write_report(result)
    page = (tmp_path / "report.html").read_text()
    sources = re.findall(r'src="([^"]*)"', page)
    assert {source.partition(";")[0] for source in sources} == {"data:image/jpeg", "data:video/mp4"}
    assert 'href="' not in page and "&lt;mine&gt;" in page
    for part in (
        "most common answer of each kind",
        "sound of another clip",
        "against the first",
        "Wrong answers",
        "✗",
        "Results of each question",
        "which color is named?",
        "Confidence",
        "share right against confidence",
    ):
        assert part in page
    found = {entry.condition: entry for entry in result.metrics.comparisons}
    assert list(found) == list(AUDIT) and found["both"].questions == found["silent"].questions == 4
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"predictions_{name}.jsonl" for name in AUDIT[1:]} <= names


def prediction(clip, number, right, sound_used=True, kind="color", **fields):
    said = "red" if right else "blue"
    return Prediction(clip, f"{clip}/{number}", kind, "?", "red", said, right, 0.5, sound_used=sound_used, **fields)


def test_the_audit_compares_the_same_questions_on_clips_with_sound():
    on = [prediction(str(c), 0, right=c < 4, sound_used=c != 5) for c in range(6)]
    off = [prediction(str(c), 0, right=c < 1) for c in range(5)]
    swapped = [prediction(str(c), 0, right=False, sound_answer="blue", sound_right=True) for c in range(2)]
    shown = {Condition("both"): on, Condition("picture"): off, Condition("swapped"): swapped}
    found = {entry.condition: entry for entry in compare(shown, "jsonl")}
    assert {name: entry.questions for name, entry in found.items()} == {"both": 5, "picture": 5, "swapped": 2}
    assert found["both"].right.value == pytest.approx(4 / 5)
    assert found["picture"].minus_first.value == pytest.approx(-3 / 5)
    assert found["swapped"].minus_first.value == -1.0
    assert found["swapped"].follows.sound.value == 1.0


def test_baselines_are_measured_by_the_tasks_own_metric():
    def row(name, *answers):
        return Row(name, None, tuple(Question(f"{name}/{i}", "?", a, k) for i, (a, k) in enumerate(answers)))

    train = [row("t", ("yes", "a"), ("Yes", "a"), ("two", "b"), ("yes", "b"), ("two", "b"))]
    asked = [row("e", ("yes", "a"), ("no", "a"), ("two", "b"), ("two", "b"))]
    found = baselines(get_task("jsonl"), asked, train)
    assert {name: scores["exact_match"] for name, scores in found.items()} == {
        "majority": 0.25, "majority_by_kind": 0.75, "ceiling": 0.75,
    }  # fmt: skip
    options = [
        replace(asked[0], questions=tuple(replace(q, options=("yes", "no", "two")) for q in asked[0].questions))
    ]
    assert baselines(get_task("jsonl"), options, train)["chance"]["exact_match"] == pytest.approx(1 / 3)
    assert "ceiling" not in baselines(get_task("jsonl"), options, train)
    assert "ceiling" not in baselines(get_task("jsonl"), asked, [])


def test_the_most_common_answer_of_a_recurring_question_is_a_baseline():
    def rows(*pairs):
        return [Row(str(i), None, (Question(str(i), text, a, "open"),)) for i, (text, a) in enumerate(pairs)]

    asked = rows(("color?", "red"), ("who?", "ann"), ("who?", "bob"), ("where?", "red"))
    known = rows(*[("color?", "red")] * 3, *[("who?", "ann")] * 2, ("who?", "bob"))
    found = {name: scores["exact_match"] for name, scores in baselines(get_task("jsonl"), asked, known).items()}
    assert found == {"majority": 0.5, "majority_by_kind": 0.5, "majority_by_question": 0.75, "ceiling": 1.0}
    tie = baselines(get_task("jsonl"), rows(("a?", "anna")), rows(("b?", "bo"), ("c?", "anna"), ("d?", "x")))
    assert tie["majority"]["exact_match"] == 1.0  # of equally common answers the first in the alphabet
    once = baselines(get_task("jsonl"), asked, rows(("color?", "blue"), ("who?", "ann")))
    assert "majority_by_question" not in once, "a question asked once would be its own answer"


def test_kinds_are_left_out_where_they_are_the_questions(answerer, rows):
    metrics = evaluate_rows(answerer, rows, progress=False, workers=0).metrics
    assert list(group_tables(metrics)) == ["each question"]
    assert len(metrics.questions) == len(metrics.kinds) == 2 and all(g.questions == 2 for g in metrics.questions)
    none = metrics.model_copy(update={"questions": []})
    assert list(group_tables(none)) == ["each kind of question"]


def test_intervals_stand_only_beside_the_share_they_belong_to():
    intervals = {
        "all": Interval(0.5, 0.4, 0.6, 9),
        "motion": Interval(0.1, 0.0, 1.0, 3),
    }
    assert interval_of(intervals, "exact_match", "exact_match", 0.5).low == 0.4
    assert interval_of(intervals, "motion", "exact_match", 0.1).high == 1
    assert np.isnan(interval_of(intervals, "wups", "wups", 0.7).low)


def test_a_benchmark_without_one_right_answer_still_has_its_page(answerer, rows, tmp_path):
    """With the paper's numbers and the benchmark's facts, for a task with options, ranked, some clips missing."""
    module = get_task("vggsound")
    options = ("dog barking", "hail, heavy", "<b>siren")
    asked = [
        replace(row, questions=(Question(row.id, "which?", options[i], "class", options=options),))
        for i, row in enumerate([*rows, replace(rows[0], id="gone")])
    ]
    found = [
        Prediction(row.id, row.id, "class", "which?", row.questions[0].answer, "hail, heavy", False, 0.1,
                   ranked=list(options), ranked_per_token=list(options), sound_used=True, log_likelihood=-3.0)
        for row in asked[:2]
    ]  # fmt: skip
    metrics = Metrics(
        checkpoint="x", task="vggsound", split="test", condition="both", answers="ranked",
        clips=Clips(asked=3, answered=2, with_sound=2, missing=["gone"]), baselines=baselines(module, asked, []),
        coverage=coverage(found, "vggsound", "test"), **summarise(found, asked, "vggsound", lost={"gone"}),
    )  # fmt: skip
    evaluation = Evaluation(metrics=metrics, predictions=found, rows=asked, output=str(tmp_path))
    page = write_report(evaluation).read_text()
    for part in (
        "69.8 %",
        "VGG-Sound",
        "missing as wrong",
        "1 of 3 clips are missing: gone",
        "&lt;b&gt;siren",
        "top-5",
        "measured on 2 clips of 15,446 published",
    ):
        assert part in page


def test_the_count_of_wrong_answers_leaves_out_answers_in_seconds(tmp_path):
    """Seconds are scored by their error and shown in a table of their own; none of them is right or wrong."""
    asked = Question("a/0", "?", "red", "color"), Question("a/1", "?", "1.5", "when_color", (1.0, 2.0))
    row = Row("a", tmp_path / "a.mp4", asked)
    found = [prediction("a", 0, right=False), prediction("a", 1, right=False, kind="when_color")]
    metrics = Metrics(
        checkpoint="x", task="grid", split="test", condition="both", answers="generated",
        clips=Clips(asked=1, answered=1, with_sound=1), **summarise(found, [row], "grid"),
    )  # fmt: skip
    page = write_report(Evaluation(metrics=metrics, predictions=found, rows=[row], output=str(tmp_path))).read_text()
    assert "<p>1 of 1: the most confident ones" in page
