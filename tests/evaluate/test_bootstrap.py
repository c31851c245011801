"""Intervals: clips are the unit, seeds fix the result, and the interval covers what it should."""

import numpy as np
import pytest

from mirasol.evaluate.bootstrap import bootstrap_ratio, bootstrap_statistic


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered = []
    for trial in range(150):
        right = rng.binomial(6, 0.7, size=53).astype(float)
        interval = bootstrap_ratio(right, np.full(53, 6.0), seed=trial, num_resamples=300)
        covered.append(interval.low <= 0.7 <= interval.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_questions_of_one_clip_are_not_counted_as_independent():
    right = np.array([6.0, 0.0] * 20)  # all or nothing within a clip
    by_clip = bootstrap_ratio(right, np.full(40, 6.0))
    as_if_independent = bootstrap_ratio(np.repeat([1.0, 0.0] * 20, 6), np.ones(240))
    assert by_clip.high - by_clip.low > 2 * (as_if_independent.high - as_if_independent.low)


def test_ratio_weighs_clips_by_their_questions_and_is_the_same_for_the_same_seed():
    totals, counts = np.array([1.0, 3.0, 0.0]), np.array([1.0, 4.0, 0.0])
    first = bootstrap_ratio(totals, counts, seed=3)
    assert first == bootstrap_ratio(totals, counts, seed=3)
    assert first.value == pytest.approx(4 / 5)
    assert first.low <= first.value <= first.high


def test_nothing_measured_gives_none_instead_of_a_number():
    assert bootstrap_ratio(np.zeros(0), np.zeros(0)).as_dict() == {
        "value": None,
        "low": None,
        "high": None,
        "clips": 0,
    }
    assert bootstrap_statistic([]).num_clips == 0


def test_median_of_pooled_errors_stays_finite_when_some_answers_are_no_number():
    interval = bootstrap_statistic([[0.1], [0.2], [float("inf")], [0.1], [0.3]])
    assert interval.value == pytest.approx(0.2)
    assert interval.low == pytest.approx(0.1)
