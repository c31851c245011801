"""Confidence against being right: bins, expected error, accuracy against coverage, abstention, temperature."""

import json
import math

import numpy as np
import pytest

from mirasol.answer.answerer import Answerer
from mirasol.answer.checkpoint import CALIBRATION, load_temperature
from mirasol.evaluate import temperature
from mirasol.evaluate.calibration import auroc, calibrate
from mirasol.evaluate.results import Prediction
from mirasol.evaluate.summary import abstention, calibration
from mirasol.evaluate.temperature import TEMPERATURES, calibrate_checkpoint, losses
from mirasol.tasks import Question, get_task


def test_the_expected_error_is_the_distance_of_confidence_and_share_right_in_bins():
    found = calibrate([0.95, 0.91, 0.55, 0.51, 1.0, 0.0], [True, False, True, True, True, False])
    by_hand = (3 * abs((0.95 + 0.91 + 1.0) / 3 - 2 / 3) + 2 * abs(0.53 - 1) + 0) / 6
    assert found.ece == pytest.approx(by_hand, abs=1e-6)
    assert [entry.count for entry in found.bins] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 3]
    assert math.isnan(found.bins[1].accuracy) and found.bins[9].accuracy == pytest.approx(2 / 3, abs=1e-6)
    assert found.overconfidence == pytest.approx((0.95 + 0.91 + 0.55 + 0.51 + 1) / 6 - 4 / 6, abs=1e-6)
    assert calibrate([], []) is None


def test_a_confidence_that_is_the_share_right_has_no_error():
    rng = np.random.default_rng(0)
    sure = rng.uniform(size=200_000)
    found = calibrate(sure, rng.uniform(size=len(sure)) < sure)
    assert found.ece < 0.01 and abs(found.overconfidence) < 0.01 and found.auroc == pytest.approx(5 / 6, abs=0.01)


def test_accuracy_against_coverage_never_splits_answers_of_equal_confidence():
    found = calibrate([0.9, 0.5, 0.5, 0.5, 0.2], [True, True, False, True, False])
    assert [(point.coverage, point.confidence) for point in found.curve] == [(0.2, 0.9), (0.8, 0.5), (1.0, 0.2)]
    assert [point.accuracy for point in found.curve] == [1.0, 0.75, 0.6]


def test_auroc_counts_pairs_and_ties_by_half():
    assert auroc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == (1 + 1 + 0.5 + 1) / 4
    assert math.isnan(auroc(np.array([]), np.array([0.5])))


def prediction(number, confidence, right, kind="open", credit=None):
    return Prediction(f"c{number}", f"q{number}", kind, "?", "a", "a", right, confidence, credit=credit)


def test_captions_and_seconds_are_no_matter_of_right_or_wrong():
    found = [prediction(0, 0.5, True), prediction(1, 0.5, False, credit=0.9), prediction(2, 0.5, True, "when_letter")]
    assert calibration(found, get_task("grid")).questions == 1
    assert abstention(found, get_task("grid"), 0.6).abstained == 1


def test_where_no_answer_is_right_no_auroc_is_told():
    assert "AUROC" not in str(calibration([prediction(0, 0.5, False)], get_task("jsonl")))
    assert "AUROC of confidence 1.000" in str(
        calibration([prediction(0, 0.9, True), prediction(1, 0.5, False)], get_task("jsonl"))
    )


def test_abstention_counts_what_is_withheld_and_scores_the_rest():
    found = [prediction(i, sure, right) for i, (sure, right) in enumerate([(0.9, True), (0.6, False), (0.599, False)])]
    withheld = abstention(found, get_task("jsonl"), 0.6)
    assert (withheld.given, withheld.abstained, withheld.right.value) == (2, 1, 0.5)
    assert abstention(found, get_task("jsonl"), None) is None
    assert math.isnan(abstention(found, get_task("jsonl"), 0.95).right.value)


def test_the_likelihood_is_best_where_confidence_is_the_share_right():
    sure = np.tile(np.linspace(0.05, 0.95, 19), (40, 1))
    right = np.arange(40) < 28  # 70 %
    assert np.linspace(0.05, 0.95, 19)[losses(sure, right).argmin()] == pytest.approx(0.7)


def test_the_temperature_changes_the_confidence_and_nothing_else(loaded, grid_root):
    row = get_task("grid").load(grid_root, "test")[0]
    texts = [question.text for question in row.questions]
    plain, hot = Answerer(*loaded), Answerer(*loaded, temperature=3.0)
    watched = plain.watch(row.media)
    (first,), (second,) = plain.answer(watched, [texts]), hot.answer(watched, [texts])
    assert [a.text for a in first] == [a.text for a in second] and [a.log_likelihood for a in first] == [
        a.log_likelihood for a in second
    ]
    assert all(a.confidence > b.confidence for a, b in zip(first, second, strict=True))
    told = [[a.confidence, b.confidence] for a, b in zip(first, second, strict=True)]
    assert np.allclose(plain.confidences(watched, texts, first, [1.0, 3.0]), told, atol=1e-4)
    assert hot.streaming.temperature == 3.0


@pytest.mark.parametrize("text", ["{", "{}", '{"temperature": 0}', '{"temperature": null}', "[]"])
def test_a_stored_temperature_that_is_none_is_refused(tmp_path, text):
    assert load_temperature(tmp_path) == 1.0
    (tmp_path / CALIBRATION).write_text(text)
    with pytest.raises(ValueError, match="temperature in .*calibration.json, found"):
        load_temperature(tmp_path)


def test_what_cannot_be_fitted_is_refused(grid_root, tmp_path):
    with pytest.raises(ValueError, match="a task, a root and a split for each set, found 2, 1 and 2"):
        calibrate_checkpoint(None, ["grid", "fsdd"], [str(grid_root)], output=tmp_path)
    with (
        pytest.warns(UserWarning, match="'test' of grid is the one that is reported"),
        pytest.raises(ValueError, match=r"at least 10 right and 10 wrong answers .* found 2\d and \d.*--noise-db"),
    ):
        calibrate_checkpoint(None, ["grid"], [str(grid_root)], ["test"], max_clips=2, output=tmp_path)
    with pytest.raises(ValueError, match="Expected at least 20 answers .* found 11 questions"):
        calibrate_checkpoint("not loaded", ["grid"], [str(grid_root)], max_clips=1, output=tmp_path)
    assert not (tmp_path / CALIBRATION).exists()


def test_fitting_on_what_was_trained_on_is_warned_of(grid_root, tmp_path):
    with (
        pytest.warns(UserWarning, match="'train' of grid is what checkpoints learn from"),
        pytest.raises(ValueError, match="at least 20 answers"),
    ):
        calibrate_checkpoint(None, ["grid"], [str(grid_root)], ["train+val"], max_clips=1, output=tmp_path)


@pytest.mark.slow
def test_a_fitted_temperature_is_stored_and_lowers_the_error(grid_root, tmp_path):
    noisy = {"condition": ["sound"], "noise_db": [-10.0]}
    found = calibrate_checkpoint(None, ["grid"], [str(grid_root)], **noisy, max_clips=12, output=tmp_path)
    assert found.ece_after < found.ece_before and found.temperature in [round(float(t), 4) for t in TEMPERATURES]
    assert json.loads((tmp_path / CALIBRATION).read_text())["temperature"] == load_temperature(tmp_path)


def test_the_mean_accuracy_takes_the_surest_answers_first_wherever_they_stand():
    found = calibrate([0.2, 0.9, 0.5], [False, True, False])
    assert found.mean_accuracy == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=1e-6)


def test_a_point_of_the_curve_covers_at_least_what_is_wanted():
    found = calibrate([0.9, 0.8, 0.7], [True, True, False])
    assert [point.coverage for point in found.curve] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-6)
    many = calibrate([1 - i / 1000 for i in range(30)], [True] * 30)
    assert [point.coverage for point in many.curve][:3] == pytest.approx([2 / 30, 3 / 30, 5 / 30], abs=1e-6)


def test_a_calibration_answers_clips_together_as_alone_and_judges_them_by_the_given_metric(
    untrained, grid_root, tmp_path, monkeypatch
):
    rows = get_task("grid").load(grid_root, "val")[:3]
    lines = [{"media": str(row.media), "question": "what is said?", "answer": "3"} for row in rows]
    lines.append({**lines[0], "media": "gone.mp4"})
    (tmp_path / "val.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    shown = []
    answer = temperature.answer
    monkeypatch.setattr(temperature, "FEWEST", 1)
    monkeypatch.setattr(temperature, "answer", lambda *given: shown.append(given) or answer(*given))
    with pytest.raises(ValueError, match="found 0 and 3"), pytest.warns(UserWarning, match="missing|left out"):
        calibrate_checkpoint(
            untrained, ["jsonl"], [str(tmp_path)], metric="number", batch_size=2, workers=0, end=0.9, device="cpu",
            max_new_tokens=4,
        )  # fmt: skip
    ((answerer, task, asked, condition, batch_size, workers),) = shown
    assert {q.metric for row in asked for q in row.questions} == {"number"} and (batch_size, workers) == (2, 0)
    assert {row.segment for row in asked} == {(0.0, 0.9)}
    together, alone = (list(answer(answerer, task, asked, condition, size, 0)) for size in (2, 1))
    assert len(together) == 3 and [right for _, right in together] == [right for _, right in alone]
    assert np.allclose([sure for sure, _ in together], [sure for sure, _ in alone], atol=1e-4)


def test_every_set_has_the_same_weight_in_the_temperature_whatever_its_size(tmp_path, monkeypatch):
    """A large set that wants a low temperature, and a small one that wants a high one more strongly."""
    told = np.linspace(0.98, 0.02, len(TEMPERATURES)).tolist()
    answers = {"grid": [(told, i % 10 > 0) for i in range(1000)], "fsdd": [(told, i % 10 == 0) for i in range(20)]}
    monkeypatch.setattr(temperature.Answerer, "load", lambda *_, **__: None)
    monkeypatch.setattr(temperature, "FEWEST", 0)  # of the questions of rows, which stand in `answers` here
    monkeypatch.setattr(temperature, "load_rows", lambda *_: [])
    monkeypatch.setattr(temperature, "answer", lambda _, task, *__: answers[task.name])
    found = calibrate_checkpoint(None, ["grid", "fsdd"], ["a", "b"], output=tmp_path)
    place = int(np.argmin(np.abs(np.array(told) - 0.5)))  # 90 % and 10 % right, each half
    assert found.temperature == round(float(TEMPERATURES[place]), 4)
    assert found.ece_after == pytest.approx(abs(told[place] - (900 + 2) / 1020), abs=1e-5) != found.ece_before
    assert (found.questions, found.fitted_on) == (1020, ["grid val", "fsdd val"])


def test_questions_about_seconds_and_graded_answers_are_not_fitted_to():
    grid = get_task("grid")
    judged = {"digit": "", "when_digit": "", "x": "caption", "y": "labels", "z": "number"}
    asked = [Question("q", "?", "1", kind, metric=metric) for kind, metric in judged.items()]
    assert [temperature._is_judged(question, grid) for question in asked] == [True, False, False, False, True]
