"""Files and folders appear whole or not at all."""

import os

import pytest

from mirasol.files import replace_folder, shared_folder, whole_folder, write_whole


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_text_is_written_in_utf_8_into_folders_that_are_made(tmp_path):
    path = tmp_path / "new" / "deep" / "notes.txt"
    write_whole(path, "Grüße\n")
    assert path.read_bytes() == b"Gr\xc3\xbc\xc3\x9fe\n"
    assert names(path.parent) == ["notes.txt"]


def test_a_failed_write_leaves_the_old_text(tmp_path):
    path = tmp_path / "metrics.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \ud800")
    assert path.read_text() == "old"


def test_the_old_text_is_there_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_whole(path, "old")
    replace, seen = os.replace, []

    def look(source, target):
        seen.append((path.read_text(), source.read_text()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    write_whole(path, "new")
    assert seen == [("old", "new")] and path.read_text() == "new"


def test_the_old_folder_is_not_lost_where_the_new_one_cannot_be_moved(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights").touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", tmp_path / "best")
    assert names(tmp_path / "best.old") == ["weights"]


def test_a_folder_takes_the_place_of_the_old_one_only_when_it_is_whole(tmp_path):
    folder = tmp_path / "runs" / "best"
    with whole_folder(folder) as partial:
        (partial / "old").touch()
        assert not folder.exists()
    with whole_folder(folder) as partial:
        (partial / "new").touch()
        assert names(folder) == ["old"]
    assert names(folder) == ["new"]
    assert names(folder.parent) == ["best"]


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_a_folder_that_could_not_be_filled_leaves_the_old_one_alone(tmp_path, stop):
    with whole_folder(tmp_path / "best") as partial:
        (partial / "old").touch()
    with pytest.raises(stop), whole_folder(tmp_path / "best") as partial:
        (partial / "half").touch()
        raise stop
    assert names(tmp_path) == ["best"]
    assert names(tmp_path / "best") == ["old"]


def test_what_a_kill_left_is_not_in_the_next_folder(tmp_path):
    for leftover in ("best.partial", "best.old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "stale").touch()
    with whole_folder(tmp_path / "best") as partial:
        (partial / "new").touch()
    (tmp_path / "next").mkdir()
    replace_folder(tmp_path / "next", tmp_path / "best")
    assert names(tmp_path) == ["best"]
    assert names(tmp_path / "best") == []


def test_of_two_that_make_a_shared_folder_at_once_the_first_one_stays(tmp_path):
    folder = tmp_path / "cache" / "key"
    with shared_folder(folder) as late:
        with shared_folder(folder) as early:
            (early / "early").touch()
        (late / "late").touch()
    assert names(folder) == ["early"]
    assert names(folder.parent) == ["key"]


def test_a_shared_folder_that_could_not_be_filled_is_not_there(tmp_path):
    with pytest.raises(ValueError), shared_folder(tmp_path / "cache" / "key") as partial:
        (partial / "half").touch()
        raise ValueError
    assert names(tmp_path / "cache") == []
