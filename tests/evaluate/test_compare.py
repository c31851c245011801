"""`mirasol compare`: paired differences by question, and refusals that say how the rows differ."""

import json
from dataclasses import replace

import pytest

from mirasol.evaluate.compare import compare_runs
from mirasol.evaluate.results import Clips, Metrics, Prediction
from mirasol.evaluate.run_folder import ABOUT, RunFolder
from mirasol.report.compare import compare

QUESTIONS = ("what is heard?", "what color?")


def predictions(right: dict[str, list[int]], clips: int = 20) -> list[Prediction]:
    """Answers about so many clips; `right` holds the clips of each question that are right."""
    return [
        Prediction(f"c{i}", f"c{i}/{text}", text.split()[1], text, "dog", "dog" if i in right[text] else "cat",
                   i in right[text], 0.5)
        for i in range(clips)
        for text in QUESTIONS
    ]  # fmt: skip


def write(folder, found: list[Prediction], **about) -> str:
    told = {"task": "jsonl", "split": "test", "clips_and_questions": "digest"} | about
    run = RunFolder(folder, told)
    run.begin()
    metrics = Metrics(
        checkpoint=folder.name, task=told["task"], split=told["split"], condition="both", scores={},
        clips=Clips(asked=1, answered=1), scores_missing_wrong={}, intervals_95={},
    )  # fmt: skip
    run.finish(metrics, {"both": found})
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    heard, color = QUESTIONS
    before = predictions({heard: [*range(4)], color: [*range(15)]})
    after = predictions({heard: [*range(1, 18)], color: [*range(15)]})
    return write(tmp_path / "before", before), write(tmp_path / "after", after), before


def test_differences_are_paired_and_by_question(runs):
    found = compare_runs(*runs[:2])
    assert found.whole.questions == 40 and found.left_out == 0
    assert found.whole.difference.value == pytest.approx((17 - 4) / 40) and found.whole.is_clear
    heard, color = found.questions
    assert (heard.name, heard.questions, heard.only_first, heard.only_second) == ("what is heard?", 20, 1, 14)
    assert heard.difference.value == pytest.approx(13 / 20) and heard.difference.low > 0.3
    assert color.difference.value == color.difference.low == color.difference.high == 0 and not color.is_clear
    text = str(found)
    assert "+65.0 [" in text and "14 better, 1 worse of 20" in text and text.count("may be chance") == 1
    turned = compare_runs(runs[1], runs[0])
    assert turned.whole.difference.value == -found.whole.difference.value


def test_a_difference_on_a_few_clips_is_not_clear(tmp_path):
    none, every = ({text: [*range(count)] for text in QUESTIONS} for count in (0, 5))
    runs = [write(tmp_path / name, predictions(r, clips=5)) for name, r in (("none", none), ("every", every))]
    found = compare_runs(*runs).whole
    assert found.difference.low == 1 and not found.is_clear


def test_a_run_equals_itself(runs):
    found = compare_runs(runs[0], runs[0])
    assert found.whole.difference.value == 0 and found.whole.only_first == found.whole.only_second == 0


def test_a_page_is_written_where_asked(runs, tmp_path):
    assert compare(*runs[:2]).page is None
    found = compare(*runs[:2], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "what is heard?" in page and "+65.0 points" in page and 'src="http' not in page
    assert json.loads(found.as_json())["questions"][0]["difference"]["value"] == pytest.approx(0.65)


def test_questions_that_one_run_did_not_answer_are_left_out_and_counted(runs, tmp_path):
    some = write(tmp_path / "some", [p for p in runs[2] if p.clip != "c0"])
    assert (compare_runs(runs[0], some).left_out, compare_runs(runs[0], some).whole.questions) == (2, 38)


@pytest.mark.parametrize(
    ("change", "about", "message"),
    [
        (lambda found: found, {"task": "esc10"}, "task 'jsonl' against 'esc10'"),
        (lambda found: found, {"split": "val"}, "split 'test' against 'val'"),
        (lambda found: found[:10], {}, "30 of 40 questions only in the first, such as c5/what is heard"),
        (lambda found: [replace(p, answer="Dog!") for p in found], {}, "40 questions with another right answer, "
         "such as c0/what is heard.: 'dog' against 'Dog!'"),
        (lambda found: [replace(p, question="who?") for p in found], {}, "40 questions with another text"),
        (lambda found: found, {}, "other options, metrics or segments"),
    ],
)  # fmt: skip
def test_runs_of_other_rows_are_refused_and_the_difference_is_named(runs, tmp_path, change, about, message):
    other = write(tmp_path / "other", change(runs[2]), clips_and_questions="another", **about)
    with pytest.raises(ValueError, match=f"two runs of the same rows, found .*{message}"):
        compare_runs(runs[0], other)


def test_what_is_no_finished_run_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="finished .*found no such folder"):
        compare_runs(runs[0], tmp_path / "gone")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ABOUT).write_text("{}")
    with pytest.raises(ValueError, match="found no metrics.json and no predictions.jsonl there"):
        compare_runs(tmp_path / "begun", runs[0])
    (tmp_path / "before" / "metrics.json").write_text('{"old": 1}')
    with pytest.raises(ValueError, match="results of this version"):
        compare_runs(runs[0], runs[1])


def test_six_clips_are_enough_for_a_clear_difference(tmp_path):
    none, every = ({text: [*range(count)] for text in QUESTIONS} for count in (0, 6))
    runs = [write(tmp_path / name, predictions(r, clips=6)) for name, r in (("none", none), ("every", every))]
    assert compare_runs(*runs).whole.is_clear


def test_the_most_frequent_question_comes_first(tmp_path):
    found = [p for p in predictions({text: [] for text in QUESTIONS}) if p.question == QUESTIONS[1] or p.clip < "c15"]
    run = write(tmp_path / "run", found)
    assert [group.name for group in compare_runs(run, run).questions] == [QUESTIONS[1], QUESTIONS[0]]


def test_questions_that_only_one_of_both_runs_answered_are_counted_on_either_side(runs, tmp_path):
    without = [write(tmp_path / clip, [p for p in runs[2] if p.clip != clip]) for clip in ("c0", "c1")]
    found = compare_runs(*without)
    assert (found.left_out, found.whole.questions) == (4, 36)


def test_the_whole_is_the_mean_of_the_headline_kinds_alone(tmp_path):
    kinds = {"color": 1, "sentence": 0}
    found = [
        Prediction(f"c{i}", f"c{i}/{kind}", kind, f"{kind}?", "red", "red", bool(right), 0.5)
        for i in range(6)
        for kind, right in kinds.items()
    ]
    run = write(tmp_path / "run", found, task="grid")
    whole = compare_runs(run, run).whole
    assert (whole.name, whole.questions, whole.first.value) == ("words", 6, 1.0)
