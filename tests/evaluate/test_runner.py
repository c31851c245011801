"""Evaluation: batches change nothing, bad clips are counted, shares are right by hand, nothing is half written."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mirasol.evaluate import robustness
from mirasol.evaluate.batches import Job, answer_batches, comparable
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.runner import evaluate, evaluate_rows, load_rows, score
from mirasol.evaluate.summary import Prediction, describe, finite, follows, paired_difference, share, summarise
from mirasol.tasks import Question, Row, get_task


@pytest.fixture(scope="module")
def rows(grid_root):
    """Three clips with questions of every kind, fewer of them, so that the test is quick."""
    return [replace(row, questions=row.questions[3:9]) for row in get_task("grid").load(grid_root, "test")[:3]]


def answers(answerer, rows, condition, batch_size=3):
    job = Job(rows, "grid", (condition,), batch_size)
    clips = [clip for _, batch in answer_batches(answerer, job, range(job.num_batches), workers=0) for clip in batch]
    assert [clip.id for clip in clips] == [row.id for row in rows]
    return [(p.question_id, p.generated) for clip in clips for p in clip.predictions[condition.name]]


def test_batch_size_changes_no_answer(answerer, rows):
    condition = Condition("both", -5.0, 1)
    assert answers(answerer, rows, condition=condition) == answers(answerer, rows, condition=condition, batch_size=1)


def test_clips_with_different_numbers_of_questions_are_answered_as_alone(answerer, rows):
    ragged = [replace(row, questions=row.questions[: 1 + i]) for i, row in enumerate(rows)]
    found = answers(answerer, ragged, condition=Condition())
    assert [name for name, _ in found] == [question.id for row in ragged for question in row.questions]
    assert found == answers(answerer, ragged, condition=Condition(), batch_size=1)


def test_an_unreadable_clip_is_counted_and_the_rest_is_answered(answerer, rows, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("this is no clip")
    mixed = [rows[0], replace(rows[1], media=broken), replace(rows[2], media=tmp_path / "missing.mp4")]
    with pytest.warns(UserWarning, match="1 of 3 clips could not be read"):
        result = evaluate_rows(answerer, mixed, Condition(), progress=False)
    clips, metrics = result.metrics["clips"], result.metrics
    assert (clips["answered"], clips["missing"], list(clips["unreadable"])) == (1, [rows[2].id], [rows[1].id])
    assert {p.clip for p in result.predictions} == {rows[0].id}
    there, all_asked = metrics["scores"], metrics["scores_missing_wrong"]
    assert all_asked["num_questions"] == 3 * there["num_questions"]
    for kind in ("digit", "adverb", "said_at"):
        assert all_asked[kind] <= there[kind]


def test_missing_clips_count_as_wrong(answerer, rows, tmp_path):
    """The score of clips that are there, scaled by their share; a model that knows all answers shows it."""
    right = [
        Prediction(row.id, q.id, q.kind, q.text, q.answer, q.answer, True, 1.0)
        for row in rows[:2]
        for q in row.questions
    ]
    metrics = summarise(right, rows, "grid", lost={rows[2].id})
    assert metrics["scores"]["digit"] == 1.0
    assert metrics["scores_missing_wrong"]["digit"] == pytest.approx(2 / 3)


def test_no_clip_at_all_is_refused_with_a_path(answerer, rows, tmp_path):
    gone = [replace(row, media=tmp_path / "gone" / row.media.name) for row in rows]
    with pytest.raises(ValueError, match="found none of 3, such as .*gone"):
        evaluate_rows(answerer, gone, Condition(), progress=False)


def test_the_command_writes_whole_files_with_all_predictions(untrained, grid_root, tmp_path):
    result = evaluate(untrained, "grid", grid_root, "test", "swapped", output=tmp_path / "run", max_clips=2)
    assert {"metrics.json", "predictions.jsonl", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    lines = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(result.predictions) == result.metrics["scores"]["num_questions"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert set(metrics["follows"]["slots"]) == {"picture", "sound", "neither"}
    assert "follows" in str(result)


def test_validation_gives_flat_numbers_and_leaves_the_model_training(answerer, rows):
    model, processor = answerer.model, answerer.processor
    model.train()
    flat = score(model, processor, rows, conditions=("both", "picture"))
    assert model.training
    model.eval()
    assert {"slots_both", "slots_picture", "mean_slots"} <= set(flat)
    assert all(isinstance(value, float) for value in flat.values())


def test_joined_splits_are_asked_together(grid_root):
    assert len(load_rows("grid", grid_root, "val+test")) == 180


def test_swapped_clips_are_asked_only_where_their_answers_differ(grid_root):
    row, partner = get_task("grid").load(grid_root, "test")[:2]
    for question, sound_answer in comparable(row, partner):
        assert question.answer != sound_answer
    assert [question for question, _ in comparable(row, None)] == list(row.questions)
    same = {a.text for a in row.questions for b in partner.questions if (a.text, a.answer) == (b.text, b.answer)}
    assert same.isdisjoint({question.text for question, _ in comparable(row, partner)})


def prediction(clip, kind, answer, said, sound_answer=None):
    right = said == answer
    return Prediction(clip, f"{clip}/{kind}", kind, f"{kind}?", answer, said, right, 0.5, (1.0, 1.2), sound_answer)


def test_follows_counts_picture_sound_and_neither():
    found = [
        prediction("a", "color", "red", "red", "blue"),
        prediction("a", "letter", "f", "g", "g"),
        prediction("b", "color", "red", "green", "blue"),
        prediction("b", "letter", "f", "G.", "g"),
    ]
    shares = follows(found, {"slots": ["color", "letter"]}, get_task("grid").normalise)["slots"]
    assert {part: entry["value"] for part, entry in shares.items()} == {"picture": 0.25, "sound": 0.5, "neither": 0.25}


def test_paired_difference_pools_seeds_and_keeps_clips_together():
    names = [f"clip{i}" for i in range(31)]
    better = [[prediction(name, "color", "red", "red") for name in names] for _ in range(3)]
    worse = [
        [prediction(n, "color", "red", "red" if i % 2 else "blue") for i, n in enumerate(names)] for _ in range(3)
    ]
    difference = paired_difference(better, worse, ["color"])
    assert difference.value == pytest.approx(16 / 31)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.num_clips == 31
    with pytest.raises(ValueError, match="as many runs"):
        paired_difference(better, worse[:2], ["color"])


def test_intervals_are_over_files_and_not_over_clips_cut_from_them():
    found = [prediction(str(c), "color", "red", "red" if c < 5 else "blue") for c in range(10)]
    of_files = [replace(p, file=f"{int(p.clip) // 5}.wav") for p in found]
    clips, files = (share(predictions, lambda p: p.right, ["color"]) for predictions in (found, of_files))
    assert (clips.value, files.value) == (0.5, 0.5) and (clips.num_clips, files.num_clips) == (10, 2)
    assert clips.low > files.low == 0.0 and clips.high < files.high == 1.0


def test_summary_of_a_model_that_names_no_time_is_valid_json():
    found = [prediction(str(i), "when_letter", "1.0", "soon" if i % 2 else "1.1") for i in range(5)]
    rows = [
        Row(p.clip, Path(p.clip), (Question(p.question_id, p.question, p.answer, p.kind, p.seconds),)) for p in found
    ]
    metrics = summarise(found, rows, "grid")
    json.loads(json.dumps(finite(metrics)), parse_constant=pytest.fail)
    assert metrics["intervals_95"]["when_letter"]["value"] == pytest.approx(0.1)
    clips, about = {"answered": 5, "asked": 5}, {"task": "grid", "condition": "both"}
    about |= {"noise_db": None, "noise_seed": None}
    text = describe(about | {"clips": clips, **metrics})
    assert "median error 0.100 s" in text
    assert np.isfinite(metrics["scores"]["when_letter"]["median_error_seconds"])


def test_a_missing_task_or_split_is_named(grid_root):
    with pytest.raises(ValueError, match="Did you mean 'grid'"):
        load_rows("gird", grid_root, "test")
    with pytest.raises(ValueError, match="labels.csv"):
        load_rows("grid", Path("nowhere"), "test")


def test_robustness_compares_the_same_clips_with_and_without_picture(untrained, grid_root, tmp_path, capsys):
    options = ["--split", "test", "--noise-db", "-5", "--seeds", "0", "1", "--max-clips", "2"]
    robustness.main([str(untrained), "--root", str(grid_root), *options, "--json", str(tmp_path / "table.json")])
    numbers = json.loads((tmp_path / "table.json").read_text())
    assert list(numbers) == ["clean", "-5 dB"]
    assert set(numbers["clean"]) - set(numbers["-5 dB"]) == {"picture"}
    assert numbers["-5 dB"]["gain"]["clips"] == 2
    assert "| -5 dB |" in capsys.readouterr().out


def test_robustness_refuses_what_it_does_not_know_without_a_traceback(capsys):
    for options in (["--splits", "test"], ["nowhere"]):
        with pytest.raises(SystemExit) as stopped:
            robustness.main(options)
        assert stopped.value.code == 2
    assert "Expected a checkpoint folder" in capsys.readouterr().err
