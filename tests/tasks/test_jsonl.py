"""Manifests of own clips: what is well formed is read, what is not is reported by file and line."""

import json
from dataclasses import replace

import pytest

from mirasol.tasks import get_task


def write(folder, *lines) -> str:
    path = folder / "train.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "clips" / name).write_bytes(b"")
    return tmp_path


def test_rows_hold_questions_answers_and_seconds(folder):
    path = write(
        folder,
        {"media": "clips/a.mp4", "question": "what happens?", "answer": "a dog barks", "id": "first"},
        "",
        {"media": "clips/b.mp4", "questions": ["who?", "where?"], "answers": ["ann", "outside"], "seconds": [1, 2.5]},
    )
    first, second = get_task("jsonl").load(path)
    assert (first.id, first.media) == ("first", folder / "clips/a.mp4")
    assert [(q.text, q.answer, q.seconds) for q in second.questions] == [
        ("who?", "ann", (1.0, 2.5)), ("where?", "outside", (1.0, 2.5)),
    ]  # fmt: skip
    assert get_task("jsonl").load(folder, "train") == [first, second]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{not json", "not JSON"),
        ("[1]", "found list"),
        ({"media": "clips/a.mp4", "question": "q", "anwser": "a"}, "Did you mean 'answer'"),
        ({"media": "clips/a.mp4", "question": "q"}, "found neither"),
        ({"media": "clips/a.mp4", "questions": ["q", "r"], "answers": ["a"]}, "found 2 and 1"),
        ({"media": "clips/a.mp4", "question": "q", "answer": " \t"}, "text for 'answer', found ' "),
        ({"media": "clips/a.mp4", "question": "\u00a0", "answer": "a"}, "text for 'question', found"),
        ({"media": " ", "question": "q", "answer": "a"}, "text for 'media'"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "\ud800"}, "text for 'answer'"),
        ({"media": "clips/a.mp4", "question": "q", "answers": []}, "text for 'answers'"),
        ({"media": "clips/a.mp4", "question": "q", "answer": 3}, "'answer', found 3. Write \"3\" in quotes"),
        ({"media": "clips/a.mp4", "questions": ["q", "r"], "answers": ["a", ["b", ""]]}, "text for 'answers'"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "options": ["a", " "]}, "'options' as a list"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "id": ["x"]}, "'id' as text"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "kind": ""}, "'kind' as text"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "kind": "all"}, "'kind' as text other than"),
        ('{"media": "clips/a.mp4", "question": "q", "answer": "a", "answer": "b"}', "found 'answer' twice"),
        ('{"media": "clips/a.mp4", "question": "q", "answer": "a", "seconds": [NaN, 1]}', "'seconds' as .start, end."),
        (
            '{"media": "clips/a.mp4", "question": "q", "answer": "a", "segment": [0, 1e999]}',
            "'segment' as .start, end.",
        ),
        ("[" * 100_000, "not JSON"),
        ({"question": "q", "answer": "a"}, "text for 'media'"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "seconds": [2, 1]}, r"found \[2, 1\]"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "segment": [2, 2]}, r"'segment' as \[start, end\]"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "options": ["b", "c"]}, "answer among 'options'"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "crop": [0, 0.5, 0.5]}, r"'crop' as \[side, x, y\]"),
        ({"media": "clips/a.mp4", "question": "q", "answer": "a", "crop": 0.5}, r"'crop' as \[side, x, y\]"),
    ],
)
def test_malformed_lines_are_named_by_file_and_line(folder, line, problem):
    path = write(folder, {"media": "clips/b.mp4", "question": "q", "answer": "a"}, line)
    with pytest.raises(ValueError, match=problem) as error:
        get_task("jsonl").load(path)
    assert f"{path}:2:" in str(error.value) and "found 1 malformed" in str(error.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("video", "Did you mean 'media'"), ("audio", "Did you mean 'media'"), ("Video", "Did you mean 'media'"),
        ("path", "Did you mean 'media'"), ("start", r'Write "segment": \[start, end\]'),
        ("end", r'Write "segment": \[start, end\]'), ("caption", 'Write "answer" beside a "question"'),
        ("label", 'Write "answer" beside a "question"'), ("prompt", "Did you mean 'question'"),
        ("choices", "Did you mean 'options'"), ("type", "Did you mean 'kind'"), ("anwsers", "Did you mean 'answers'"),
    ],
)  # fmt: skip
def test_a_key_of_another_program_is_answered_by_meaning(folder, key, meant):
    path = write(folder, {"media": "clips/a.mp4", "question": "q", "answer": "a", key: 1})
    with pytest.raises(ValueError, match=f"train.jsonl:1: expected keys out of .*, found '{key}'. {meant}"):
        get_task("jsonl").load(path)


def test_text_may_hold_what_unicode_calls_line_ends_and_the_file_a_byte_order_mark(folder):
    lines = [{"media": "clips/a.mp4", "question": "what\u2028is?", "answer": "one\u0085two\x0cthree"},
             {"media": "clips/b.mp4", "question": "q", "answer": "a"}]  # fmt: skip
    text = "".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines)
    (folder / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    first, second = get_task("jsonl").load(folder, "train")
    assert (first.questions[0].text, first.questions[0].answer) == ("what\u2028is?", "one\u0085two\x0cthree")
    assert second.id == "train:2"


def test_lines_about_one_file_are_one_clip(folder):
    (folder / "clips" / "link.mp4").symlink_to(folder / "clips" / "a.mp4")
    path = write(
        folder,
        {"media": "clips/a.mp4", "question": "who?", "answer": "ann", "seconds": [0, 1]},
        {"media": "clips/b.mp4", "question": "who?", "answer": "bob"},
        {"media": "./clips/a.mp4", "question": "where?", "answer": "out", "id": "second"},
        {"media": "clips/link.mp4", "questions": ["why?"], "answers": ["rain"]},
        {"media": "clips/a.mp4", "segment": [1, 2], "question": "when?", "answer": "now"},
        {"media": "clips/a.mp4", "crop": [0.5, 0.5, 0.5], "question": "what?", "answer": "dog"},
    )
    whole, other, part, square = get_task("jsonl").load(path)
    assert [(q.id, q.answer, q.seconds) for q in whole.questions] == [
        ("train:1/0", "ann", (0.0, 1.0)), ("second/0", "out", None), ("train:4/0", "rain", None),
    ]  # fmt: skip
    assert [(row.id, row.media.name, len(row.questions)) for row in (whole, other, part, square)] == [
        ("train:1", "a.mp4", 3), ("train:2", "b.mp4", 1), ("train:5", "a.mp4", 1), ("train:6", "a.mp4", 1),
    ]  # fmt: skip
    assert part.segment == (1.0, 2.0) and square.crop == (0.5, 0.5, 0.5)


def test_kinds_are_scored_apart(folder):
    rows = get_task("jsonl").load(
        write(
            folder,
            {"media": "clips/a.mp4", "question": "who?", "answer": "ann", "kind": "person"},
            {"media": "clips/a.mp4", "questions": ["where?", "why?"], "answers": ["out", "rain"]},
        )
    )
    scores = get_task("jsonl").score(rows[0].questions, ["ann", "in", "rain"])
    right = pytest.approx(2 / 3)
    assert scores == {"num_questions": 3, "score": right, "exact_match": right, "person": 1.0, "open": 0.5}


def test_a_question_may_have_several_accepted_answers(folder):
    (row,) = get_task("jsonl").load(
        write(
            folder,
            {"media": "clips/a.mp4", "question": "who?", "answers": ["ann", "anna"]},
            {"media": "clips/a.mp4", "questions": ["where?", "why?"], "answers": [["out", "outside"], "rain"]},
        )
    )
    assert [(q.answer, q.references) for q in row.questions] == [
        ("ann", ("anna",)), ("out", ("outside",)), ("rain", ()),
    ]  # fmt: skip
    right = get_task("jsonl").right
    assert right(row.questions, ["Anna.", "outside", "rain"]) == [True] * 3
    assert right(row.questions, ["out", "ann", "outside"]) == [False] * 3


@pytest.mark.parametrize(
    ("answer", "tolerance", "given", "right"),
    [
        ("12", 0, "12", True), ("12", 0, "about 12 dogs", True), ("12", 0, "13", False), ("12", 0, "a dozen", False),
        ("1.5", 0.1, "1.6 s", True), ("1.5", 0.1, "1.4", True), ("1.5", 0.1, "1.61", False), ("-3", 1, "-4", True),
        ("-3", 1, "3", False), ("1,200", 0, "1200", True), ("1200", 0, "it is 1,200", True), ("12", 0.5, "", False),
        ("1", 0, "1,2345", True), (".5", 0, "0.5", True), ("0.5", 0, "at .5 s.", True), ("5", 0, ".5", False),
        ("\N{MINUS SIGN}3", 0, "-3", True), ("19", 0, "take A-19", True), ("2", 0, "2-4", True),
        ("2", 0, "is 2.", True), ("1e-05", 0, "1e-5", True), ("1", 0, "1e-5", False), ("-0.5", 0, "-.5", True),
    ],
)  # fmt: skip
def test_numbers_are_right_within_their_tolerance(folder, answer, tolerance, given, right):
    line = {"media": "clips/a.mp4", "question": "q", "answer": answer, "metric": "number", "tolerance": tolerance}
    (row,) = get_task("jsonl").load(write(folder, line))
    assert get_task("jsonl").right(row.questions, [given]) == [right]


def test_the_error_of_numbers_is_to_the_nearest_accepted_one_and_of_answers_that_have_one(folder):
    line = {"media": "clips/a.mp4", "question": "q", "answers": ["2", "10"], "metric": "number", "tolerance": 1}
    (row,) = get_task("jsonl").load(write(folder, line))
    found = get_task("jsonl").score([*row.questions] * 4, ["3", "13", "-1", "many"])
    assert found["numbers"] == {"mean_absolute_error": pytest.approx(7 / 3), "answers_without_number": 1}


def test_yes_and_no_are_judged_by_the_first_word(folder):
    line = {"media": "clips/a.mp4", "question": "does it bark?", "answer": "Yes", "metric": "yes_no"}
    (row,) = get_task("jsonl").load(write(folder, line))
    given = ["yes", "Yes, it does.", "no", "No: yes", "", "it does"]
    assert get_task("jsonl").right([*row.questions] * 6, given) == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"metric": "captoin"}, "'metric' out of exact, .*, found 'captoin'. Did you mean 'caption'?"),
        ({"metric": "caption", "options": ["a", "b"]}, "no 'options' beside the metric 'caption'"),
        ({"metric": "labels", "answer": ["a, b", "c"]}, "labels without commas, which separate them, found 'a, b'"),
        ({"metric": "labels", "answer": " , "}, "labels between commas as answer, found ' , '"),
        ({"metric": "number"}, "expected a number as answer, found 'a'"),
        ({"metric": "yes_no"}, "expected yes or no as answer, found 'a'"),
        ({"tolerance": 1}, '\'tolerance\' from 0 on beside "metric": "number", found 1'),
        ({"metric": "number", "answer": "3", "tolerance": -1}, "'tolerance' from 0 on .* found -1"),
    ],
)
def test_a_metric_that_does_not_fit_the_answer_is_refused(folder, keys, problem):
    path = write(folder, {"media": "clips/a.mp4", "question": "q", "answer": "a"} | keys)
    with pytest.raises(ValueError, match=f"train.jsonl:1: expected {problem}|train.jsonl:1: {problem}"):
        get_task("jsonl").load(path)


def test_a_split_that_is_not_there_names_those_that_are(folder):
    write(folder, {"media": "clips/a.mp4", "question": "q", "answer": "a"})
    with pytest.raises(ValueError, match=r"manifest at .*val\.jsonl .* found only train\.jsonl\."):
        get_task("jsonl").load(folder, "val")


def test_a_manifest_that_is_no_text_is_refused(folder):
    (folder / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="Expected UTF-8 text"):
        get_task("jsonl").load(folder, "train")


def test_missing_media_are_counted_and_their_rows_kept(folder):
    path = write(
        folder,
        {"media": "clips/a.mp4", "question": "q", "answer": "a"},
        {"media": "clips/gone.mp4", "question": "q", "answer": "a"},
    )
    with pytest.warns(UserWarning, match="1 of 2 files of .* are missing: clips/gone.mp4 .line 2."):
        rows = get_task("jsonl").load(path)
    assert [row.media.name for row in rows] == ["a.mp4", "gone.mp4"]


def test_a_manifest_of_missing_media_is_refused(folder):
    path = write(folder, {"media": "gone.mp4", "question": "q", "answer": "a"})
    with pytest.raises(ValueError, match=r"found none of gone\.mp4 .line 1.\. Media paths are relative"):
        get_task("jsonl").load(path)


def test_options_segments_and_squares_are_kept(folder):
    line = {"media": "clips/a.mp4", "question": "q", "answer": "a", "options": ["a", "b"], "segment": [1, 2.5]}
    line |= {"crop": [1, 0.5, 0.25]}
    (row,) = get_task("jsonl").load(write(folder, line))
    assert row.segment == (1.0, 2.5) and row.crop == (1.0, 0.5, 0.25) and row.questions[0].options == ("a", "b")


def test_a_line_with_an_id_that_was_there_is_refused(folder):
    line = {"media": "clips/a.mp4", "question": "q", "answer": "a", "id": "one"}
    with pytest.raises(ValueError, match=r"train\.jsonl:2: expected an id of its own, found 'one' as in line 1"):
        get_task("jsonl").load(write(folder, line, line))


def test_score_is_exact_match_after_normalisation(folder):
    path = write(folder, {"media": "clips/a.mp4", "questions": ["q", "r"], "answers": ["A dog", "no"]})
    questions = get_task("jsonl").load(path)[0].questions
    assert get_task("jsonl").score(questions, ["a  dog.", "yes"])["exact_match"] == 0.5


def test_labels_are_a_set_with_partial_credit(folder):
    path = write(
        folder,
        {"media": "clips/a.mp4", "question": "heard?", "answer": ["dog", "rain"], "metric": "labels"},
        {"media": "clips/b.mp4", "questions": ["seen?"], "answers": ["Car, bus"], "metric": "labels", "kind": "sight"},
    )
    jsonl, questions = get_task("jsonl"), [q for row in get_task("jsonl").load(path) for q in row.questions]
    assert [question.answer for question in questions] == ["dog, rain", "Car, bus"]  # as training writes them
    given = ["Rain, dog, rain", "car, tram, boat, bus"]
    assert jsonl.right(questions, given) == [True, False]
    assert list(map(jsonl.credit, questions, given)) == [1, pytest.approx(2 * 2 / (2 + 4))]
    scores = jsonl.score(questions, given)
    assert scores["score"] == pytest.approx(5 / 6) and scores["exact_match"] == 0.5
    assert scores["sight"] == pytest.approx(2 / 3)
    assert scores["label_sets"] == {"f1": pytest.approx(5 / 6), "exact_set": 0.5}
    assert jsonl.credit(questions[0], "") == 0
    assert jsonl.credit(replace(questions[0], references=("cat",)), "cat") == 1  # the nearest accepted set


def test_captions_are_judged_by_rouge_l_and_cider(folder):
    lines = [
        {"media": "clips/a.mp4", "question": "describe it", "answers": ["a dog barks at a man", "a dog is loud"]},
        {"media": "clips/b.mp4", "question": "describe it", "answer": "rain falls on a roof"},
    ]
    path = write(folder, *(line | {"metric": "caption"} for line in lines))
    questions = [question for row in get_task("jsonl").load(path) for question in row.questions]
    copied = get_task("jsonl").score(questions, ["a dog is loud", "rain falls on a roof"])
    poor = get_task("jsonl").score(questions, ["a dog", "snow"])
    assert copied["score"] == copied["captions"]["rouge_l"] == copied["exact_match"] == 1
    assert copied["captions"]["cider"] > 5 > poor["captions"]["cider"] > 0
    assert 0 < poor["score"] < 0.4 and poor["exact_match"] == 0


def test_a_recipe_names_the_metric_where_a_line_does_not(folder):
    path = write(
        folder,
        {"media": "clips/a.mp4", "question": "how many?", "answer": "3"},
        {"media": "clips/a.mp4", "question": "who?", "answer": "ann 5", "metric": "exact"},
    )
    jsonl = get_task("jsonl")
    (row,) = jsonl.with_metric(jsonl.load(path), "number")
    assert jsonl.right(row.questions, ["about 3 dogs", "5"]) == [True, False]
    assert jsonl.right(jsonl.load(path)[0].questions, ["about 3 dogs", "5"]) == [False, False]
    with pytest.raises(ValueError, match="expected metric out of .* found 'numbr'. Did you mean 'number'?"):
        jsonl.with_metric([row], "numbr")
    path = write(folder, {"media": "clips/a.mp4", "question": "how many?", "answer": "three"})
    with pytest.raises(ValueError, match=r"found 1 that it cannot:\n  .*train.jsonl:1: expected a number as answer"):
        jsonl.with_metric(jsonl.load(path), "number")
    with pytest.raises(ValueError, match="Task 'grid' is judged by its own metric, found metric='caption'"):
        get_task("grid").with_metric([], "caption")


def test_a_second_manifest_of_the_same_split_is_not_passed_over_in_silence(folder):
    path = write(folder, {"media": "clips/a.mp4", "question": "q", "answer": "a"})
    path.with_suffix(".csv").write_text("media,question,answer\nclips/b.mp4,q,b\n")
    with pytest.warns(UserWarning, match=r"train\.jsonl is read, and train\.csv beside it is not"):
        rows = get_task("jsonl").load(folder, "train")
    assert [row.media.name for row in rows] == ["a.mp4"]
