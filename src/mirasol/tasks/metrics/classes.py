"""Classification metrics, equal to epic-kitchens/C9-epic-sounds (commit 2ac9d65) and hche11/VGGSound (9bbc749).

Both scripts score one number for each class and clip: top-1, top-5, mean class accuracy, and the means over classes of
average precision (mAP) and area under the ROC curve (mAUC), with d' from mAUC. Here the numbers are the likelihoods of
the class names (`--rank`). Generated names have no ranking, so they have only top-1 and its mean over classes.

As in the scripts, classes without a clip are left out of the means (VGGSound's fails on them, but its test split has
all 309), and numbers are compared as float32. Of equal numbers, top-1 and top-5 take the last class (the script sorts
them in no fixed order) and the mean class accuracy takes the first, as the script does.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from mirasol.tasks.metrics.exact import by_kind, mean


def class_accuracy(right: Sequence[bool], classes: Sequence[str]) -> dict[str, float]:
    """Return the share of right class names (`exact_match`) and its mean over the classes that occur."""
    of_class = [*by_kind(right, classes, {}).values()]
    return {"num_questions": len(right), "exact_match": mean(right), "mean_class_accuracy": mean(of_class)}


def ranked_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return `top_1`, `top_5`, `mean_class_accuracy`, `mAP`, `mAUC` and `d_prime`.

    Args:
        scores: Score (clip, class), higher is likelier.
        labels: Number of the right class (clip).
    """
    scores, labels = np.asarray(scores, dtype=np.float32), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            f"Expected scores (clip, class) and labels (clip), found scores of shape {scores.shape} and labels of "
            f"shape {labels.shape}. Give one row of scores for each label."
        )
    order = scores.argsort(axis=-1, kind="stable")[:, ::-1]
    first = scores.argmax(axis=1)
    classes = np.unique(labels)
    areas = [auroc(scores[labels == label, label], scores[labels != label, label]) for label in classes]
    mean_area = mean(areas)
    return {
        "top_1": mean(order[:, 0] == labels),
        "top_5": mean((order[:, :5] == labels[:, None]).any(axis=1)),
        "mean_class_accuracy": mean([mean(first[labels == label] == label) for label in classes]),
        "mAP": mean([_average_precision(scores[:, label], labels == label) for label in classes]),
        "mAUC": mean_area,
        "d_prime": NormalDist().inv_cdf(mean_area) * 2**0.5 if 0 < mean_area < 1 else float("nan"),
    }


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the precision at each distinct threshold, weighted by the recall it adds."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # clips of equal scores are one threshold
    found = np.cumsum(positive[order])[last]
    precision = found / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / positive.sum())


def auroc(high: np.ndarray, low: np.ndarray) -> float:
    """Return how often a value of `high` exceeds one of `low`, ties counted half; nan if either is empty."""
    if not len(high) or not len(low):
        return float("nan")
    others = np.sort(low)
    below, not_above = np.searchsorted(others, high, "left"), np.searchsorted(others, high, "right")
    return float((below + not_above).sum() / 2 / len(high) / len(low))
