"""Intervals: clips are the unit, seeds fix the result, and the interval covers what it should."""

import json

import numpy as np
import pytest
from pydantic import TypeAdapter

from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio, bootstrap_statistic, resample


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
    nothing = bootstrap_ratio(np.zeros(0), np.zeros(0))
    assert str(nothing) == "nothing to measure" and nothing.points == "–"
    written = TypeAdapter(Interval).dump_json(nothing)
    assert json.loads(written) == {"value": None, "low": None, "high": None, "num_clips": 0}
    assert np.isnan(TypeAdapter(Interval).validate_json(written).value)
    assert bootstrap_statistic([]).num_clips == 0


def test_median_of_pooled_errors_stays_finite_when_some_answers_are_no_number():
    interval = bootstrap_statistic([[0.1], [0.2], [float("inf")], [0.1], [0.3]])
    assert interval.value == pytest.approx(0.2)
    assert interval.low == pytest.approx(0.1)


def by_hand(totals, counts, seed, num_resamples=400):
    """Every resample as plain loops: clips drawn with replacement, sum over sum, two-sided 95 %."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(totals), size=(num_resamples, len(totals)))
    ratios = sorted(sum(totals[i] for i in row) / sum(counts[i] for i in row) for row in picks)
    return np.quantile(ratios, 0.025), np.quantile(ratios, 0.975)


def test_the_interval_is_the_two_sided_one_of_resampled_sums():
    """Unequal clips: a mean of ratios, a one-sided quantile or another seed gives other numbers."""
    totals, counts = np.array([9.0, 0.0, 1.0, 2.0, 7.0]), np.array([10.0, 1.0, 1.0, 6.0, 7.0])
    for seed in (0, 5):
        found = bootstrap_ratio(totals, counts, seed=seed, num_resamples=400)
        assert (found.low, found.high) == pytest.approx(by_hand(totals, counts, seed), abs=1e-6)
        assert found.value == pytest.approx(19 / 25)
    assert bootstrap_ratio(totals, counts, seed=0).low != bootstrap_ratio(totals, counts, seed=1).low


def test_every_clip_is_drawn_the_last_as_often_as_the_others():
    picks = resample(7, seed=0, num_resamples=500)
    assert picks.shape == (500, 7)
    shares = np.bincount(picks.ravel(), minlength=7) / picks.size
    assert shares == pytest.approx(np.full(7, 1 / 7), abs=0.02)
    assert not np.array_equal(picks, resample(7, seed=1, num_resamples=500))


def test_the_interval_of_a_median_is_that_of_pooled_values_of_resampled_clips():
    clips = [[0.1, 0.9, 0.3], [0.2], [0.5, 0.6], [0.7]]
    found = bootstrap_statistic(clips, np.median, seed=3, num_resamples=200)
    rows = np.random.default_rng(3).integers(0, 4, size=(200, 4))
    draws = [np.median(np.concatenate([clips[i] for i in row])) for row in rows]
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975], method="nearest"))


def test_clips_without_a_question_of_the_kind_do_not_count():
    assert bootstrap_statistic([[0.1], [], [0.3]]).num_clips == 2
    without = bootstrap_ratio(np.array([1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]), num_resamples=200)
    assert (without.low, without.high) == (1.0, 1.0)  # a resample without any question has no share
