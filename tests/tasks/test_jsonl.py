"""Manifests of own clips: what is well formed is read, what is not is reported by file and line."""

import json

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
        ({"media": "clips/a.mp4", "question": "q", "answer": 3}, r"found \[3\]"),
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
    with pytest.warns(UserWarning, match="1 of 2 clips .* are missing: .*gone.mp4"):
        rows = get_task("jsonl").load(path)
    assert [row.media.name for row in rows] == ["a.mp4", "gone.mp4"]


def test_a_manifest_of_missing_media_is_refused(folder):
    path = write(folder, {"media": "gone.mp4", "question": "q", "answer": "a"})
    with pytest.raises(ValueError, match=r"found none of .*gone\.mp4\. Media paths are relative"):
        get_task("jsonl").load(path)


def test_options_segments_and_squares_are_kept(folder):
    line = {"media": "clips/a.mp4", "question": "q", "answer": "a", "options": ["a", "b"], "segment": [1, 2.5]}
    line |= {"crop": [1, 0.5, 0.25]}
    (row,) = get_task("jsonl").load(write(folder, line))
    assert row.segment == (1.0, 2.5) and row.crop == (1.0, 0.5, 0.25) and row.questions[0].options == ("a", "b")


def test_a_line_with_an_id_that_was_there_is_refused(folder):
    line = {"media": "clips/a.mp4", "question": "q", "answer": "a", "id": "one"}
    with pytest.raises(ValueError, match=r"train\.jsonl:2: expected an id of its own, found 'one' a second time"):
        get_task("jsonl").load(write(folder, line, line))


def test_score_is_exact_match_after_normalisation(folder):
    path = write(folder, {"media": "clips/a.mp4", "questions": ["q", "r"], "answers": ["A dog", "no"]})
    questions = get_task("jsonl").load(path)[0].questions
    assert get_task("jsonl").score(questions, ["a  dog.", "yes"])["exact_match"] == 0.5
