"""Files that are not what they should be: one clear error, or what can be used with a report of the rest."""

import numpy as np
import pytest
from clips import picture_number, write_clip

from mirasol.media import MediaError, MediaWarning, probe, read_clip


@pytest.fixture
def cut_off(tmp_path):
    """Half of a 4 s mp4 whose index comes first."""
    data = write_clip(tmp_path / "whole.mp4", seconds=4, options={"movflags": "faststart"}).read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(data[: len(data) // 2])
    return path


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"none\.mp4, found no such file\. Check the path"):
        read_clip(tmp_path / "none.mp4")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(MediaError, match="found a folder"):
        probe(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4"])
def test_a_text_is_not_a_clip(tmp_path, name):
    path = tmp_path / name
    path.write_text("a line of text\n" * 99)  # FFmpeg would draw it as ANSI art
    with pytest.raises(MediaError, match="1485 bytes that cannot be opened"):
        read_clip(path)


def test_a_playlist_is_not_followed(tmp_path):
    target = write_clip(tmp_path / "a.ts", seconds=0.2)
    path = tmp_path / "list.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.2,\n{target}\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match="cannot be opened"):
        read_clip(path)


@pytest.mark.parametrize("data", [b"", b"no media at all " * 9])
def test_bytes_that_are_no_file_are_refused(data):
    with pytest.raises(MediaError, match=f"{len(data)} bytes"):
        read_clip(data)


def test_a_cut_off_mp4_gives_what_it_holds_and_says_so(cut_off):
    with pytest.warns(MediaWarning, match=r"The file states 4\.\d\d s, found 1\.\d\d s"):
        clip = read_clip(cut_off)
    assert [picture_number(frame) for frame in clip.frames[:30]] == list(range(30))
    assert 1 < clip.duration < 2.5 and len(clip.waveform) > 16_000
    assert any("found" in note for note in clip.warnings)
    with pytest.warns(MediaWarning):
        few = read_clip(cut_off, select=lambda info: np.array([0.5, 3.0]))
    assert picture_number(few.frames[0]) == 12 and few.frame_times[-1] == clip.frame_times[-1]


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".wav", ".mp3"])
def test_other_cut_off_files_are_used_and_reported(tmp_path, suffix):
    data = write_clip(tmp_path / f"whole{suffix}", seconds=4).read_bytes()
    with pytest.warns(MediaWarning):
        clip = read_clip(data[: len(data) // 2])
    assert clip.warnings and 1 < clip.duration < 3


def test_an_mp4_without_its_index_says_what_to_do(tmp_path):
    data = write_clip(tmp_path / "whole.mp4", seconds=2).read_bytes()
    with pytest.raises(MediaError, match=r"\(moov\) must be copied or downloaded again"):
        read_clip(data[: len(data) // 2])


def test_damage_inside_a_file_is_passed_over_and_reported(tmp_path):
    data = bytearray(write_clip(tmp_path / "a.mp4", seconds=4, options={"movflags": "faststart"}).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    with pytest.warns(MediaWarning, match="could not be decoded"):
        clip = read_clip(bytes(data))
    assert picture_number(clip.frames[-1]) == 99 and clip.frame_times[-1] == pytest.approx(3.96)


def test_a_zero_length_track_beside_a_good_one_is_reported(tmp_path):
    with pytest.warns(MediaWarning, match="sound track holds no sample"):
        clip = read_clip(write_clip(tmp_path / "a.mkv", seconds=0.4, sound_seconds=0))
    assert clip.waveform is None and len(clip.frames) == 10
    with pytest.warns(MediaWarning, match="picture track holds no frame"):
        clip = read_clip(write_clip(tmp_path / "b.mkv", seconds=0.4, frame_times=[]))
    assert clip.frames is None and clip.waveform is not None


def test_a_file_with_only_a_zero_length_track_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.mkv", seconds=0.4, frame_times=[])
    with pytest.raises(MediaError, match="at least one frame"):
        read_clip(path, use_audio=False)


def test_a_track_that_is_not_there_is_named(tmp_path):
    path = write_clip(tmp_path / "a.wav", seconds=0.2)
    with pytest.raises(MediaError, match="Expected a picture track in .*, found these tracks: audio"):
        read_clip(path, use_audio=False)


def test_reading_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="both False"):
        read_clip(tmp_path / "a.mp4", use_video=False, use_audio=False)
    with pytest.raises(ValueError, match='found "opencv"'):
        read_clip(tmp_path / "a.mp4", decoder="opencv")
