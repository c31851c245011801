"""Percentile intervals by resampling clips. The clip is the unit, because the questions of one clip share its picture
and its sound: resampling single questions would count one clip many times and give intervals that are too small."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mirasol.results import Number

NUM_RESAMPLES = 2000
QUANTILES = ((1 - 0.95) / 2, (1 + 0.95) / 2)


@dataclass(frozen=True)
class Interval:
    """A measured value and its percentile interval over clips; nan (null in JSON) if nothing was measured."""

    value: Number
    low: Number
    high: Number
    num_clips: int

    @property
    def points(self) -> str:
        """The difference in percentage points, with its sign."""
        if np.isnan(self.value):
            return "–"
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "nothing to measure"
        return f"{100 * self.value:5.1f} %   [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def resample(num_clips: int, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """Return clip indices (resample, clip), drawn with replacement."""
    return np.random.default_rng(seed).integers(0, num_clips, size=(num_resamples, num_clips))


def bootstrap_ratio(
    totals: Float[np.ndarray, " clip"],
    counts: Float[np.ndarray, " clip"],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """Return the interval of sum(totals) / sum(counts), e.g. right answers over questions; clips are resampled whole.

    Totals may be differences, such as right with both modalities minus right with sound alone; then the interval is
    that of the paired difference.
    """
    if len(totals) == 0 or counts.sum() == 0:
        return Interval(np.nan, np.nan, np.nan, len(totals))
    picks = resample(len(totals), seed, num_resamples)
    sums, sizes = totals[picks].sum(axis=1), counts[picks].sum(axis=1)
    ratios = sums[sizes > 0] / sizes[sizes > 0]
    low, high = np.quantile(ratios, QUANTILES)
    return _interval(totals.sum() / counts.sum(), low, high, len(totals))


def bootstrap_statistic(
    values_by_clip: Sequence[Sequence[float]],
    statistic: Callable[[np.ndarray], float] = np.median,
    *,
    seed: int = 0,
    num_resamples: int = 1000,
) -> Interval:
    """Return the interval of a statistic (median by default) of the pooled values; clips are resampled whole."""
    clips = [np.asarray(values, dtype=np.float64) for values in values_by_clip if len(values)]
    if not clips:
        return Interval(np.nan, np.nan, np.nan, 0)
    picks = resample(len(clips), seed, num_resamples)
    draws = [statistic(np.concatenate([clips[i] for i in row])) for row in picks]
    # "nearest", because a number and infinity (an answer without a time) cannot be interpolated.
    low, high = np.quantile(draws, QUANTILES, method="nearest")
    return _interval(statistic(np.concatenate(clips)), low, high, len(clips))


def _interval(value: float, low: float, high: float, num_clips: int) -> Interval:
    return Interval(round(float(value), 6), round(float(low), 6), round(float(high), 6), num_clips)
