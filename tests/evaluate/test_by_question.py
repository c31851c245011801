"""Results by question: each recurring question has its score, its baseline, its conditions and its confusions."""

from dataclasses import replace

import pytest

from mirasol.evaluate.by_question import by_kind, by_question
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.results import Clips, Metrics, Prediction
from mirasol.tasks import Question, Row, get_task

TASK = get_task("jsonl")
BOTH, PICTURE = Condition("both"), Condition("picture")


def rows_of(*clips: dict[str, str]) -> list[Row]:
    """One row a clip, from questions to answers; a question has its first word as kind."""
    return [
        Row(f"c{i}", None, tuple(Question(f"c{i}/{text}", text, a, text.split()[0]) for text, a in clip.items()))
        for i, clip in enumerate(clips)
    ]


def answered(rows, said: dict[str, str], sound_used: bool = True) -> list[Prediction]:
    given = [(row, q, said.get(q.id, q.answer)) for row in rows for q in row.questions]
    return [
        Prediction(row.id, q.id, q.kind, q.text, q.answer, a, a == q.answer, 0.5, sound_used=sound_used)
        for row, q, a in given
    ]


ROWS = rows_of(
    {"what is heard?": "dog", "what color?": "red", "who?": "ann"},
    {"what is heard?": "cat", "what color?": "red"},
    {"what is heard?": "dog", "what color?": "blue"},
    {"what is heard?": "cow", "what color?": "red"},
)


def test_a_question_that_is_always_wrong_is_not_hidden_by_another_of_its_kind():
    found = answered(ROWS, {f"c{i}/what is heard?": "fog" for i in range(4)})
    heard, color = by_question(TASK, {BOTH: found}, ROWS, [])
    assert (heard.name, heard.right.value, heard.questions) == ("what is heard?", 0.0, 4)
    assert (color.name, color.right.value, color.confusions) == ("what color?", 1.0, [])
    assert [(c.answer, c.generated, c.count) for c in heard.confusions] == [
        ("dog", "fog", 2), ("cat", "fog", 1), ("cow", "fog", 1),
    ]  # fmt: skip
    what, who = by_kind(TASK, {BOTH: found}, ROWS, [])
    assert (what.name, what.right.value, what.questions) == ("what", 0.5, 8) and who.name == "who?"


def test_the_baseline_is_the_most_common_answer_of_train_to_the_same_question():
    found = {BOTH: answered(ROWS, {})}
    heard, color = by_question(TASK, found, ROWS, [])
    assert (heard.baseline_answer, heard.baseline) == ("dog", 0.5) and color.baseline == 0.75
    train = rows_of({"what is heard?": "Cat."}, {"what color?": "red"}, {"what color?": "red"})
    heard, color = by_question(TASK, found, ROWS, train)
    assert (heard.baseline_answer, heard.baseline) == ("cat", 0.25)
    other = rows_of({"what else?": "cow"})  # not the same question, but the same kind
    assert by_question(TASK, found, ROWS, other)[0].baseline_answer == "cow"


def test_conditions_are_compared_within_a_question():
    said = {"c0/what is heard?": "?", "c1/what is heard?": "?"}
    found = {BOTH: answered(ROWS, {}), PICTURE: answered(ROWS, said)}
    heard, color = by_question(TASK, found, ROWS, [])
    assert heard.comparisons[1].minus_first.value == -0.5 and color.comparisons[1].minus_first.value == 0
    assert by_question(TASK, {BOTH: found[BOTH]}, ROWS, [])[0].comparisons == []


def test_an_interval_takes_the_clip_as_its_unit():
    rows = [Row("c", None, tuple(Question(f"c/{i}", "who?", "ann", "who") for i in range(6)))]
    (group,) = by_question(TASK, {BOTH: answered(rows, {"c/0": "bob"})}, rows, [])
    assert group.right.num_clips == 1 and group.right.low == group.right.high


def test_seconds_have_their_own_table():
    rows = [Row("c", None, tuple(Question(f"c/{i}", "when?", "1.00", "when_letter") for i in range(3)))]
    assert by_question(get_task("grid"), {BOTH: answered(rows, {})}, rows, []) == []


def test_the_terminal_lists_questions_or_the_lowest_of_many():
    few = by_question(TASK, {BOTH: answered(ROWS, {f"c{i}/what is heard?": "fog" for i in range(4)})}, ROWS, [])
    many = [few[1].model_copy(update={"name": f"q{i}"}) for i in range(20)] + [few[0]]

    def text(questions) -> str:
        return str(
            Metrics(
                checkpoint="", task="jsonl", split="", condition="both", clips=Clips(asked=4, answered=4), scores={},
                scores_missing_wrong={}, intervals_95={}, questions=questions,
            )
        )  # fmt: skip

    assert "what is heard?" in text(few) and "always 'dog': 50.0 %" in text(few)
    assert "the lowest of 21 recurring questions" in text(many) and text(many).count("always") == 5
    assert "what is heard?" in text(many)


@pytest.mark.parametrize("count", [1, 2])
def test_a_cut_answer_is_counted_in_grammar(count):
    metrics = Metrics(
        checkpoint="", task="jsonl", split="", condition="both", clips=Clips(asked=4, answered=4), scores={},
        scores_missing_wrong={}, intervals_95={}, cut_answers=count,
    )  # fmt: skip
    wanted = {1: "1 answer reached the limit of tokens and was cut", 2: "2 answers reached"}[count]
    assert wanted in str(metrics) and "raise --max-new-tokens" in str(metrics)


def test_one_text_asked_as_two_kinds_is_two_groups():
    questions = [Question(f"c/{i}", "who?", "ann", kind) for i, kind in enumerate(("who", "name", "name", "who"))]
    rows = [Row("c", None, tuple(questions))]
    assert [(g.name, g.kind, g.questions) for g in by_question(TASK, {BOTH: answered(rows, {})}, rows, [])] == [
        ("who?", "who", 2), ("who?", "name", 2),
    ]  # fmt: skip


def test_an_answer_with_partial_credit_is_no_confusion():
    found = [replace(p, credit=0.5) for p in answered(ROWS, {f"c{i}/what is heard?": "fog" for i in range(4)})]
    assert by_question(TASK, {BOTH: found}, ROWS, [])[0].confusions == []


def test_the_baseline_takes_answers_of_train_to_the_same_kind_only():
    train = rows_of({"where is it?": "cow"}, {"where is it?": "cow"}, {"what else?": "cat"})
    assert by_question(TASK, {BOTH: answered(ROWS, {})}, ROWS, train)[0].baseline_answer == "cat"
