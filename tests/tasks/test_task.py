"""What all tasks share: how answers are compared, which kinds the headline is over, and how questions are sampled."""

import numpy as np
import pytest

from mirasol.tasks import TASKS, Question, Row, get_task

AS_WRITTEN = {"msrvtt_qa", "activitynet_qa"}  # their official scripts compare strings as they are


@pytest.mark.parametrize("name", sorted({*TASKS} - AS_WRITTEN))
@pytest.mark.parametrize(
    ("reference", "given", "right"),
    [
        ("Drink / Eat", "drink /  eat.", True),  # both sides in lower case, single spaces, no end mark
        ("a dog!", "A dog", True),
        ("a dog", "A dog?!", True),
        ("engine, vroom", "engine vroom", False),  # punctuation inside a name stays
        ("t-shirt", "t shirt", False),
        ("metal-only collision", "metalonly collision", False),
        (".5", "5", False),
    ],
)
def test_answers_are_compared_after_the_same_normalisation(name, reference, given, right):
    task = get_task(name)
    assert task.is_right(Question("1", "?", reference, "open"), given) is right
    assert task.is_right(Question("1", "?", given, "open"), reference) is right


@pytest.mark.parametrize("name", sorted(AS_WRITTEN))
@pytest.mark.parametrize(("given", "right"), [("dog", True), ("Dog", False), ("dog ", False), ("dog.", False)])
def test_two_benchmarks_compare_strings_as_they_are(name, given, right):
    assert get_task(name).is_right(Question("1", "?", "dog", "open"), given) is right


@pytest.mark.parametrize("name", ["jsonl", "drone", "vggsound", "msrvtt_qa"])
def test_training_asks_every_question_in_an_order_of_the_generator(name):
    row = Row("a", None, tuple(Question(str(i), f"{i}?", "x", "open") for i in range(7)))
    orders = [get_task(name).sample_questions(row, np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1] and len({tuple(q.id for q in order) for order in orders}) == 3
    assert all(sorted(order, key=lambda q: q.id) == list(row.questions) for order in orders)


@pytest.mark.parametrize(
    ("given", "error"),
    [("1.5", 0.3), ("at 0.7 seconds or 1.2", 0.5), ("2", 0.8), (".7", 0.5), ("soon", np.inf), ("", np.inf)],
)
def test_the_first_number_is_the_time_that_is_meant(given, error):
    question = Question("1", "when does it begin?", "1.2", "when_digit", (1.2, 9.0))
    assert get_task("grid").error_seconds(question, given) == pytest.approx(error)


def test_without_a_kind_of_the_headline_it_is_over_all_kinds_but_seconds():
    grid = get_task("grid")
    assert grid.headline_among(["when_letter", "sentence", "letter"]) == ["letter"]
    assert grid.headline_among(["when_letter", "sentence", "said_at"]) == ["sentence", "said_at"]


def test_only_missing_wordnet_is_warned_of_before_answers_are_computed(monkeypatch, tmp_path):
    monkeypatch.setenv("WORDNET_DICT", str(tmp_path))
    with pytest.warns(
        UserWarning, match="Expected the WordNet 3.0 database .* Until then only exact_match is computed"
    ):
        get_task("nextqa_oe").check_requirements()
    question = Question("1", "?", "a dog", "DO")
    with pytest.warns(UserWarning, match="only exact_match"):
        assert get_task("nextqa_oe").score([question], ["A dog."]) == {
            "num_questions": 1, "exact_match": 1.0, "exact_match_D": 1.0, "exact_match_DO": 1.0,
        }  # fmt: skip
