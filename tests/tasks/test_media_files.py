"""Clips are found in the layouts in which the data sets are passed on."""

from pathlib import Path

import pytest

from mirasol.tasks import get_task
from mirasol.tasks.media_files import MediaFiles, youtube_names


def place(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "name",
    [
        "3qesirWAGt4_000020.mp4",
        "test/3qesirWAGt4_000020.webm",
        "dog barking/3qesirWAGt4_000020_000030.MKV",
        "videos/3qesirWAGt4_20.mp4",
        "3qesirWAGt4_20_30.avi",
        "3qesirWAGt4_20000_30000.mp4",
    ],
)
def test_seconds_of_a_youtube_video_are_found(tmp_path, name):
    files = MediaFiles(place(tmp_path, name, "3qesirWAGt4_000090.mp4"))
    assert files.find(*youtube_names("3qesirWAGt4", 20, 30)) == tmp_path / name


def test_a_whole_video_is_not_taken_for_seconds_of_it(tmp_path):
    files = MediaFiles(place(tmp_path, "3qesirWAGt4.mp4"))
    assert files.find(*youtube_names("3qesirWAGt4", 20, 30)) == tmp_path / "videos/3qesirWAGt4_000020.mp4"


def test_a_picture_with_sound_comes_before_sound_alone(tmp_path):
    files = MediaFiles(place(tmp_path, "audio/P01_11.wav", "videos/P01/P01_11.MP4", "P01_11.txt"))
    assert files.find("P01_11") == tmp_path / "videos/P01/P01_11.MP4"


def test_clips_of_cameras_telephones_and_old_recorders_are_found(tmp_path):
    names = ["00001.MTS", "a.m2ts", "b.wmv", "c.3g2", "d.ogv", "e.vob", "f.amr", "g.aiff", "h.wma", "i.gif"]
    assert len(MediaFiles(place(tmp_path, *names, "notes.txt")).by_name) == len(names)


def test_a_name_with_a_folder_lies_in_that_folder(tmp_path):
    files = MediaFiles(place(tmp_path, "video/0101/2909445186.mp4", "video/0102/2909445186.mp4"))
    assert files.find("0102/2909445186") == tmp_path / "video/0102/2909445186.mp4"
    assert not files.find("0103/2909445186").exists()


def test_hidden_files_and_folders_hold_no_clips(tmp_path):
    place(tmp_path, "cafe\u0301/a.mp4", "cafe\u0301/._a.mp4", ".cache/b.mp4", "__MACOSX/caf\u00e9/._a.mp4")
    assert list(MediaFiles(tmp_path).by_name) == ["a"]
    (row,) = get_task("jsonl").load(tmp_path)
    assert row.questions[0].answer == "caf\u00e9", "macOS decomposes the letters of its names"


def test_names_are_tried_in_order(tmp_path):
    files = MediaFiles(place(tmp_path, "ID.mp4", "v_ID.mkv"))
    assert files.find("v_ID", "ID").name == "v_ID.mkv" and files.find("none", "ID").name == "ID.mp4"


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    place(tmp_path / "elsewhere", "a.mp4")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "clips").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "root")
    files = MediaFiles(tmp_path / "root")
    assert files.find("a") == tmp_path / "root/clips/a.mp4" and len(files.by_name["a"]) == 1


def test_the_folder_is_walked_once_however_many_clips(tmp_path, monkeypatch):
    files = MediaFiles(place(tmp_path, *(f"{n}.mp4" for n in range(50))))
    monkeypatch.setattr("os.stat", lambda *_, **__: pytest.fail("a clip was looked up on the disk"))
    assert len({files.find(str(n)) for n in range(60)}) == 60
