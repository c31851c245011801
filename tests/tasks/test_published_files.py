"""The benchmarks' published annotation files give the published numbers of questions, clips and classes."""

from pathlib import Path

import pytest

from mirasol.tasks import get_task

ANNOTATIONS = Path(__file__).parents[3] / "shared" / "data" / "annotations"
pytestmark = [
    pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="needs the published files of ../shared/data/annotations"),
    pytest.mark.filterwarnings("error::UserWarning"),  # such as: this is not the published number
]


def load(name: str, split: str, classes=None):
    rows = get_task(name, classes).load(ANNOTATIONS / name, split)
    questions = [question for row in rows for question in row.questions]
    assert len({row.id for row in rows}) == len(rows)
    assert len({question.id for question in questions}) == len(questions)
    assert all(question.text.count("?") == 1 and question.answer for question in questions)
    return rows, questions


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    path = tmp_path_factory.mktemp("names") / "names.csv"
    path.write_text("".join(f"{number},action {number}\r\n" for number in range(31)))
    return path


@pytest.mark.parametrize(
    ("name", "split", "clips", "count"),
    [
        ("activitynet_qa", "train", 3_200, 32_000),
        ("activitynet_qa", "val", 1_800, 18_000),
        ("activitynet_qa", "test", 800, 8_000),
        ("nextqa_mc", "val", 570, 4_996),
        ("nextqa_mc", "test", 1_000, 8_564),
        ("nextqa_oe", "train", 3_870, 37_523),
        ("nextqa_oe", "val", 570, 5_343),
        ("nextqa_oe", "test", 1_000, 9_178),
        ("vggsound", "test", 15_446, 15_446),
        ("epic_sounds", "val", 8_035, 8_035),
    ],
)
def test_counts_are_the_published_ones(name, split, clips, count):
    rows, questions = load(name, split)
    assert (len(rows), len(questions)) == (clips, count)
    assert get_task(name).info.sizes[split] == count


@pytest.mark.parametrize(("split", "clips"), [("train", 14_799), ("test", 2_597)])
def test_kinetics_sounds_has_31_numbers_that_the_class_file_names(names, split, clips):
    rows, questions = load("kinetics_sounds", split, classes=names)
    assert len(rows) == clips == get_task("kinetics_sounds").info.sizes[split]
    assert {question.answer for question in questions} == {*questions[0].options} == {f"action {n}" for n in range(31)}


def test_activitynet_qa_types_are_named():
    _, questions = load("activitynet_qa", "test")
    kinds = [question.kind for question in questions]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)} == {
        "yes_no": 2094, "other": 1499, "motion": 800, "temporal": 800, "spatial": 800, "color": 697, "number": 606,
        "location": 386, "object": 318,
    }  # fmt: skip
    yes = get_task("activitynet_qa").score(questions, ["yes"] * len(questions))
    assert yes["exact_match"] == pytest.approx(0.138, abs=5e-4)


def test_nextqa_answers_are_one_of_five():
    rows, questions = load("nextqa_mc", "val")
    assert all(len(question.options) == 5 and question.answer in question.options for question in questions)
    groups = [question.kind[0] for question in questions]
    assert (groups.count("C"), groups.count("T"), groups.count("D")) == (2607, 1612, 777)
    first = rows[0].questions[0]
    assert (first.id, first.answer) == ("4010069381_6", "roll the handle")
    assert first.text == (
        "how do the two man play the instrument? "
        "choose: roll the handle; tap their feet; strum the string; hit with sticks; pat with hand"
    )


def test_next_oe_test_has_second_references():
    _, questions = load("nextqa_oe", "test")
    assert sum(bool(question.references) for question in questions) == 4632


def test_next_oe_train_uses_three_numbers_twice():
    _, questions = load("nextqa_oe", "train")
    again = [question for question in questions if question.id.endswith("/2")]
    assert sorted(question.id for question in again) == ["3617262562_2/2", "4598213889_2/2", "4598213889_5/2"]


def test_vggsound_names_keep_their_commas():
    rows, questions = load("vggsound", "test")
    assert len(questions[0].options) == 309 and {question.answer for question in questions} == {*questions[0].options}
    assert sum("," in name for name in questions[0].options) == 23
    assert "engine accelerating, revving, vroom" in questions[0].options
    assert (rows[0].id, questions[0].answer) == ("glLQrEijrKg_000300", "playing hammond organ")  # and no \r


def test_epic_sounds_names_keep_their_slashes_and_rows_their_seconds():
    rows, questions = load("epic_sounds", "val")
    options = questions[0].options
    assert len(options) == 44 and (options[0], options[43]) == ("metal-only collision", "drink / eat")
    assert (rows[0].id, rows[0].segment, questions[0].answer) == (
        "P01_11_0",
        (2.069, 2.993),
        "ceramic / wood collision",
    )
    lengths = sorted(row.segment[1] - row.segment[0] for row in rows)
    assert lengths[len(lengths) // 2] == pytest.approx(1.0, abs=0.05) and lengths[-1] == pytest.approx(791, abs=1)


@pytest.mark.parametrize("name", ["activitynet_qa", "nextqa_mc", "vggsound", "epic_sounds"])
def test_the_right_answers_score_one(name):
    task = get_task(name)
    _, questions = load(name, "val" if name == "epic_sounds" else "test")
    assert task.score(questions, [question.answer for question in questions])[task.headline] == 1
