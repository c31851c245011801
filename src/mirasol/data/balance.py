"""Balanced sampling: all answers to a question are about equally frequent in a round."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int

from mirasol.tasks import Row


def answer_weights(rows: Sequence[Row]) -> Float64[np.ndarray, " row"]:
    """Return the share of each row in a balanced round, larger for rare answers; the shares sum to 1.

    The weight of a row is the mean over its questions of 1 / (answers to that question x rows with this answer).
    """
    pairs = [[(question.text, question.answer) for question in row.questions] for row in rows]
    counts = Counter(pair for of_row in pairs for pair in of_row)
    num_answers = Counter(text for text, _ in counts)
    weights = np.array([np.mean([1 / (num_answers[pair[0]] * counts[pair]) for pair in of_row]) for of_row in pairs])
    return weights / weights.sum()


def balanced_round(weights: Float64[np.ndarray, " row"], rng: np.random.Generator) -> Int[np.ndarray, " item"]:
    """Return as many rows as there are weights, each about as often as its share, in random order.

    Systematic sampling: the count of a row differs from its share by less than one.
    """
    steps = (rng.random() + np.arange(len(weights))) / len(weights)
    return rng.permutation(np.searchsorted(np.cumsum(weights), steps, side="right").clip(max=len(weights) - 1))
