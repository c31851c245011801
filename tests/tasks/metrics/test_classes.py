"""Scores of one class a clip are those of the official scripts of EPIC-SOUNDS and VGGSound."""

import json
from pathlib import Path

import numpy as np
import pytest

from mirasol.tasks.metrics.classes import class_accuracy, ranked_metrics

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def official() -> dict:
    return json.loads((DATA / "ranked.json").read_text())


@pytest.fixture(scope="module")
def found(official) -> dict[str, float]:
    rows = np.array(official["rows"])
    return ranked_metrics(rows[:, 1:], rows[:, 0])


@pytest.mark.parametrize("script", ["c9_epic_sounds", "vggsound"])
def test_ranked_scores_are_the_official(official, found, script):
    # Sums in another order than NumPy's and scikit-learn's differ in the last digit.
    assert {name: found[name] for name in official[script]} == pytest.approx(official[script], rel=1e-12)


def test_class_names_score_as_the_first_of_a_ranking(official, found):
    rows = np.array(official["rows"])
    labels, best = rows[:, 0], rows[:, 1:].argmax(axis=1)
    by_name = class_accuracy(best == labels, [f"class {i}" for i in labels])
    assert by_name["exact_match"] == found["top_1"] and by_name["num_questions"] == 520
    assert by_name["mean_class_accuracy"] == pytest.approx(found["mean_class_accuracy"], rel=1e-12)


def test_equal_scores_count_as_one_threshold():
    # Class 1 at threshold 2: two of two clips, one right; at 1: the rest. AP = 1/2 * 1/2 + 1/2 * 2/4.
    metrics = ranked_metrics(np.array([[0, 2], [0, 2], [3, 1], [3, 1]]), np.array([1, 0, 1, 0]))
    class_0 = 1 / 2 * 1 / 2 + 1 / 2 * 2 / 4
    assert metrics["mAP"] == pytest.approx((class_0 + 0.5) / 2)
    assert metrics["mAUC"] == 0.5 and metrics["d_prime"] == 0.0


def test_scores_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 2\) and labels of shape \(2,\)"):
        ranked_metrics(np.zeros((3, 2)), np.zeros(2, dtype=int))


@pytest.mark.parametrize("right", [True, False])
def test_a_perfect_and_a_reversed_ranking_have_no_d_prime(right):
    """The area is 1 or 0, whose quantile is infinite: nan, as it is no number to average or plot."""
    scores = np.array([[2.0, 1.0], [1.0, 2.0]])
    metrics = ranked_metrics(scores, np.array([0, 1] if right else [1, 0]))
    assert metrics["mAUC"] == float(right) and np.isnan(metrics["d_prime"])


def test_scores_that_float32_cannot_tell_apart_are_equal():
    """As in the scripts: the mean class accuracy takes the first of equal ones, top-1 the last."""
    found = ranked_metrics(np.array([[1.0, 1.0 + 1e-9], [1.0 + 1e-9, 1.0]]), np.array([0, 1]))
    assert (found["mean_class_accuracy"], found["top_1"]) == (0.5, 0.5) and found["mAUC"] == 0.5
