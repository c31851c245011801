"""GRID questions are right by the labels, balanced, deterministic, and follow the clip when it is moved in time."""

from collections import Counter

import numpy as np
import pytest

from mirasol.tasks import get_task, grid

WORD_TIMES = ((0.71, 0.9), (0.9, 1.08), (1.08, 1.12), (1.15, 1.24), (1.24, 1.45), (1.45, 1.87))  # a gap before "f"
ROW = grid.GridRow(
    "bbaf3s", "clip.mp4", word_times=WORD_TIMES, words=("bin", "blue", "at", "f", "three", "soon"), split="val"
)


def word_at(time: float, word_times=WORD_TIMES) -> str:
    """The word by a plain loop over the labels."""
    for word, (start, end) in zip(ROW.words, word_times, strict=True):
        if start <= time < end:
            return word
    return "nothing"


def asked_time(question) -> float:
    return float(question.text.removeprefix("what is said at ").removesuffix(" seconds?"))


def test_shipped_splits_are_complete_and_disjoint(grid_root):
    rows = {split: get_task("grid").load(grid_root, split) for split in grid.SPLITS}
    assert {split: len(of_split) for split, of_split in rows.items()} == {"train": 720, "val": 90, "test": 90}
    sentences = {split: {row.words for row in of_split} for split, of_split in rows.items()}
    assert not sentences["test"] & (sentences["train"] | sentences["val"])
    assert all(row.media.is_file() for of_split in rows.values() for row in of_split)


def test_question_texts_and_answers_are_those_of_the_labels():
    questions = {question.kind: question for question in grid.evaluation_questions(ROW) if question.kind != "said_at"}
    assert [questions[kind].text for kind in grid.WORD_KINDS] == [
        "which command is named?", "which color is named?", "which preposition is named?",
        "which letter is named?", "which digit is named?", "which adverb is named?",
    ]  # fmt: skip
    assert [questions[kind].answer for kind in grid.WORD_KINDS] == list(ROW.words)
    assert (questions["sentence"].text, questions["sentence"].answer) == ("what is said?", "bin blue at f three soon")
    assert questions["when_letter"].text == "when does the letter begin?"
    assert [questions[f"when_{kind}"].answer for kind in grid.WORD_KINDS] == ["0.7", "0.9", "1.1", "1.1", "1.2", "1.4"]
    assert questions["digit"].seconds == (1.24, 1.45)


def test_said_at_is_the_word_spoken_then(grid_root):
    rows = get_task("grid").load(grid_root, "test")
    for row in rows:
        said_at = [question for question in row.questions if question.kind == "said_at"]
        assert len(said_at) == 4
        for question in said_at:
            spans = zip(row.words, row.word_times, strict=True)
            spoken = [word for word, (start, end) in spans if start <= asked_time(question) < end]
            assert question.answer == (spoken or ["nothing"])[0]
            assert question.seconds[0] <= asked_time(question) <= question.seconds[1]


def test_random_questions_are_as_many_for_every_clip_and_follow_a_moved_clip():
    rng = np.random.default_rng(0)
    moved = [(1.07 * start + 0.31, 1.07 * end + 0.31) for start, end in WORD_TIMES]
    for _ in range(200):
        questions = get_task("grid").sample_questions(ROW, rng, moved, 3.2)
        assert len(questions) == 14
        for question in questions:
            if question.kind == "said_at":
                assert 0 <= asked_time(question) <= 3.2
                assert question.answer == word_at(asked_time(question), moved)
            if question.kind.startswith("when_"):
                start = moved[grid.WORD_KINDS.index(question.kind.removeprefix("when_"))][0]
                assert abs(float(question.answer) - start) <= 0.05 + 1e-9


def test_no_question_is_about_a_moment_at_the_edge_of_a_word(grid_root):
    """The labels are exact to half a frame: 0.02 s from an edge nothing is certain."""
    rng, decimals, kinds = np.random.default_rng(0), Counter(), Counter()
    for row in get_task("grid").load(grid_root, "val"):
        for question in get_task("grid").sample_questions(row, rng, row.word_times, 3.0):
            kinds[question.kind] += 1
            if question.kind == "said_at":
                decimals[len(question.text.removesuffix(" seconds?").rpartition(".")[2])] += 1
                edges = [0.0, 3.0, *(edge for span in row.word_times for edge in span)]
                inside = question.seconds[0] + 0.02 - 1e-9 <= asked_time(question) <= question.seconds[1] - 0.02 + 1e-9
                assert inside and set(question.seconds) <= set(edges)
    assert 0.15 < decimals[2] / decimals.total() < 0.35  # a quarter of the clips is asked in hundredths
    assert all(kinds[f"when_{kind}"] > 25 for kind in grid.WORD_KINDS)  # half of 90 each


def test_evaluation_asks_what_it_always_asked(grid_root):
    """Published scores rest on these questions."""
    texts = [q.text for q in get_task("grid").load(grid_root, "test")[0].questions if q.kind == "said_at"]
    assert [float(text.split()[4]) for text in texts] == [1.3, 0.8, 1.1, 0.6]


def test_said_at_is_balanced_over_words_and_gaps_and_uniform_inside(grid_root):
    rng = np.random.default_rng(0)
    counts: Counter = Counter()
    for row in get_task("grid").load(grid_root, "train")[::3]:
        for question in get_task("grid").sample_questions(row, rng, row.word_times, 3.0):
            if question.kind == "said_at":
                counts["nothing" if question.answer == "nothing" else row.words.index(question.answer)] += 1
    shares = np.array([counts[key] for key in [*range(6), "nothing"]]) / counts.total()
    assert shares.min() > 0.08 and shares.max() < 0.2, shares  # 1/7 each, but for words too short to hold a tenth


def test_fixed_questions_do_not_change_and_random_ones_do():
    assert grid.evaluation_questions(ROW) == grid.evaluation_questions(ROW)
    first, again, other = (
        get_task("grid").sample_questions(ROW, np.random.default_rng(seed), WORD_TIMES, 3.0) for seed in (5, 5, 6)
    )
    assert first == again and first != other


def test_score_equals_counting_by_hand():
    questions = [question for question in grid.evaluation_questions(ROW) if question.kind in ("color", "letter")]
    questions += [question for question in grid.evaluation_questions(ROW) if question.kind == "when_letter"] * 3
    metrics = get_task("grid").score(questions, ["Blue.", "g", "1.2", "no idea", "1.4"], [ROW])
    assert (metrics["color"], metrics["letter"], metrics["words"]) == (1.0, 0.0, 0.5)
    assert metrics["when_letter"]["median_error_seconds"] == pytest.approx(0.25)  # errors 0.05, infinite, 0.25
    assert metrics["when_letter"]["within_0.1_seconds"] == pytest.approx(1 / 3)
    assert metrics["when_letter"]["constant_median_error_seconds"] == pytest.approx(0.05)  # 1.1 or 1.2 for 1.15


def test_best_constant_is_the_best_of_all_tenths(grid_root):
    rows = get_task("grid").load(grid_root, "train")
    letters = [row.word_times[3][0] for row in rows]
    for_median, for_within = grid.best_constants(rows)["letter"]
    tenths = [tenth / 10 for tenth in range(31)]
    errors = {tenth: sorted(abs(letter - tenth) for letter in letters) for tenth in tenths}
    assert np.median(errors[round(for_median, 1)]) == min(np.median(errors[tenth]) for tenth in tenths)
    within = {tenth: sum(error <= 0.1 + 1e-6 for error in errors[tenth]) for tenth in tenths}
    assert within[round(for_within, 1)] == max(within.values())


def test_errors_name_what_is_near(tmp_path):
    with pytest.raises(ValueError, match="found 'gird'. Did you mean 'grid'"):
        get_task("gird")
    with pytest.raises(ValueError, match="found 'tset'. Did you mean 'test'"):
        get_task("grid").load(tmp_path, "tset")
    with pytest.raises(ValueError, match="found no such file"):
        get_task("grid").load(tmp_path, "test")
    (tmp_path / "labels.csv").write_text("id,file\na,a.mp4\n")
    with pytest.raises(ValueError, match="found none called split, command"):
        get_task("grid").load(tmp_path, "test")


def test_every_question_has_an_id_of_its_own(grid_root):
    rows = [row for split in ("val", "test") for row in get_task("grid").load(grid_root, split)]
    ids = [question.id for row in rows for question in row.questions]
    assert len(set(ids)) == len(ids) == 17 * len(rows)
