"""A question far from all of training is told, one that training asked in other words is not."""

import pytest

from mirasol import DEFAULT_CHECKPOINT
from mirasol.answer.known_questions import KnownQuestions


@pytest.fixture(scope="module")
def shipped() -> KnownQuestions:
    return KnownQuestions.load(DEFAULT_CHECKPOINT)


@pytest.mark.parametrize(
    "question",
    ["which color is named?", "Which COLOR is named", "what color is named?", "what is said at 1.25 seconds?",
     "which sound is heard?", "what flies?", "which digit is spoken?"],
)  # fmt: skip
def test_questions_of_training_are_known_whatever_their_case_and_numbers(shipped, question):
    assert shipped.warning(question) is None


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("what animal is it?", "'animal' is in none"),
        ("which colour is named?", "'colour' is in none of its questions; the nearest is 'which color is named?'"),
        ("what is named at the digit color?", "none of its questions is worded so"),
        ("¿qué?", "'qué' is in none"),
        ("what", "none of its questions is worded so; the nearest is 'what flies?'"),
    ],
)
def test_other_questions_are_told_with_the_nearest_known_one(shipped, question, reason):
    assert reason in shipped.warning(question)


def test_the_summary_counts_questions_with_numbers_alike_and_keeps_frequent_answers():
    pairs = [("at 1.5 s?", "a"), ("at 2 s?", "b"), ("at 3 s?", "b"), ("who?", "c")]
    found = KnownQuestions.of(pairs)
    assert [(q.text, q.count, q.answers) for q in found.questions] == [("at # s?", 3, ["b", "a"]), ("who?", 1, ["c"])]
    assert found.num_different == 2 and set(found.words) == {"at", "#", "s", "who"}


def test_of_more_questions_than_are_listed_only_the_words_count():
    found = KnownQuestions.of([(f"what is {a} by {b}?", "x") for a in "abcdefghijklmnopqrst" for b in "uvwxyzabcdefg"])
    assert found.num_different > len(found.questions) == 200
    assert found.warning("by by by what?") is None and "'where'" in found.warning("where is a?")
