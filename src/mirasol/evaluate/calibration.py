"""Calibration of the confidence, accuracy against coverage, and abstention."""

import math
from collections.abc import Sequence

import numpy as np

from mirasol.evaluate.bootstrap import Interval
from mirasol.results import Number, Result
from mirasol.tasks.metrics.classes import auroc
from mirasol.tasks.metrics.exact import mean

NUM_BINS = 10  # of equal width
NUM_POINTS = 20  # of the curve of accuracy against coverage


class Bin(Result):
    """Answers with a confidence from `low` to `high`: count, mean confidence and share right."""

    low: float
    high: float
    count: int
    confidence: Number
    accuracy: Number


class Covered(Result):
    """Accuracy of the answers with at least `confidence`, which are the share `coverage` of all answers."""

    coverage: float
    confidence: float
    accuracy: float


class Calibration(Result):
    """Calibration of the confidence, over answers that are either right or wrong.

    Attributes:
        ece: Expected calibration error: distance between confidence and share right, averaged over the answers' bins.
        overconfidence: Mean confidence minus share right.
        auroc: Probability that a right answer is more confident than a wrong one; ties count half.
        mean_accuracy: Accuracy of the most confident answers, averaged over all coverages.
        temperature: Temperature of the checkpoint, see `mirasol calibrate`; 1 if it has none.
    """

    questions: int
    ece: Number
    overconfidence: Number
    auroc: Number
    mean_accuracy: Number
    temperature: float = 1.0
    bins: list[Bin] = []
    curve: list[Covered] = []

    def __str__(self) -> str:
        return (
            f"calibration error {100 * self.ece:.1f} %, mean confidence minus share right "
            f"{100 * self.overconfidence:+.1f} %"
            + ("" if math.isnan(self.auroc) else f", AUROC of confidence {self.auroc:.3f}")
        )


class Abstention(Result):
    """Score if answers below a confidence are withheld; `right` is the share right of the given answers."""

    below: float
    given: int
    abstained: int
    right: Interval

    def __str__(self) -> str:
        total = self.given + self.abstained
        return (
            f"abstained on {self.abstained} of {total} answers, whose confidence is below {100 * self.below:g} %; "
            f"right among the others {self.right}"
        )


def calibrate(confidence: Sequence[float], right: Sequence[bool], temperature: float = 1.0) -> Calibration | None:
    """Return the calibration of answers; None if there are none."""
    sure, hit = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if not len(sure):
        return None
    order = np.argsort(-sure, kind="stable")
    return Calibration(
        questions=len(sure),
        ece=round(expected_error(sure, hit), 6),
        overconfidence=round(float(sure.mean() - hit.mean()), 6),
        auroc=round(auroc(sure[hit == 1], sure[hit == 0]), 6),
        mean_accuracy=round(float(np.mean(np.cumsum(hit[order]) / np.arange(1, len(sure) + 1))), 6),
        temperature=temperature,
        bins=bins(sure, hit),
        curve=curve(sure[order], hit[order]),
    )


def bins(sure: np.ndarray, hit: np.ndarray) -> list[Bin]:
    """Return the answers in bins of equal width; the last bin includes a confidence of 1."""
    place = bin_of(sure)
    found = []
    for number in range(NUM_BINS):
        inside = place == number
        confidence, accuracy = (round(mean(values[inside]), 6) for values in (sure, hit))
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        found.append(Bin(low=low, high=high, count=int(inside.sum()), confidence=confidence, accuracy=accuracy))
    return found


def expected_error(sure: np.ndarray, hit: np.ndarray) -> float:
    """Return the expected calibration error."""
    gaps = np.bincount(bin_of(sure), weights=sure - hit, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(sure))


def bin_of(sure: np.ndarray) -> np.ndarray:
    """Return the number of each answer's bin."""
    return np.minimum((sure * NUM_BINS).astype(int), NUM_BINS - 1)


def curve(sure: np.ndarray, hit: np.ndarray) -> list[Covered]:
    """Return accuracy against coverage of answers in descending order of confidence.

    A point never splits answers of equal confidence, because no threshold could.
    """
    last = np.flatnonzero(np.append(np.diff(sure) != 0, True)) + 1  # numbers of answers above a threshold
    wanted = np.ceil(np.linspace(1 / NUM_POINTS, 1, NUM_POINTS) * len(sure))
    counts = np.unique(last[np.searchsorted(last, wanted)])
    right = np.cumsum(hit)
    return [
        Covered(
            coverage=round(float(count / len(sure)), 6),
            confidence=round(float(sure[count - 1]), 6),
            accuracy=round(float(right[count - 1] / count), 6),
        )
        for count in counts.tolist()
    ]
