"""Rare answers come as often as frequent ones, and every clip still comes."""

from collections import Counter
from pathlib import Path

import numpy as np

from mirasol.data.balance import answer_weights, balanced_round
from mirasol.tasks import Question, Row


def rows_of(*answers: str) -> list[Row]:
    return [Row(str(i), Path("a"), (Question(str(i), "what?", a, "open"),)) for i, a in enumerate(answers)]


def test_every_answer_has_the_same_share_of_a_balanced_round():
    rows = rows_of(*"a" * 17, *"b" * 3, *"c" * 10)
    weights = answer_weights(rows)
    seen: set[int] = set()
    for seed in range(20):
        order = balanced_round(weights, np.random.default_rng(seed))
        assert len(order) == 30
        counts = Counter(rows[i].questions[0].answer for i in order)
        assert all(9 <= counts[answer] <= 11 for answer in "abc")
        assert max(Counter(order).values()) <= 5
        seen |= set(order)
    assert seen == set(range(30))


def test_answers_are_balanced_within_their_own_question_and_equal_ones_are_left_as_they_are():
    assert np.allclose(answer_weights(rows_of(*"abcab"[:4])), [1 / 6, 1 / 3, 1 / 3, 1 / 6])
    assert sorted(balanced_round(np.full(7, 1 / 7), np.random.default_rng(1))) == list(range(7))
    two = [Row("x", Path("a"), (Question("1", "p?", "yes", "o"), Question("2", "q?", "no", "o"))),
           Row("y", Path("a"), (Question("3", "p?", "no", "o"),))]  # fmt: skip
    assert np.allclose(answer_weights(two), np.array([0.75, 0.5]) / 1.25)
