"""torchcodec beside PyAV: the same frames at the same seconds, the same sound, and the files it gets wrong."""

from pathlib import Path

import numpy as np
import pytest
from clips import cut_with_edit_list, write_clip

from mirasol.media import MediaError, read_clip, torchcodec_backend

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
# The sound's second packet is stamped 35 and 33 ms after the first one ends: torchcodec joins them, we keep the time.
WITH_A_GAP = {"applausing.mp4", "skateboarding_dog.mp4"}
# Its track begins at 0.067 s, before which there is nothing: torchcodec's index is off by two frames.
WITH_OTHER_FRAMES = {"applausing.mp4"}


@pytest.fixture(scope="module", autouse=True)
def torchcodec():
    """Skips where torchcodec, or the FFmpeg libraries it needs, are not installed."""
    try:
        torchcodec_backend.load()
    except ValueError as error:
        pytest.skip(f"needs torchcodec and FFmpeg's shared libraries: {error}")


def assert_same(source, select=None, *, same_frames=True, same_sound=True):
    ours = read_clip(source, select=select)
    theirs = read_clip(source, select=select, decoder="torchcodec")
    if ours.frames is not None and same_frames:
        np.testing.assert_allclose(theirs.frame_times, ours.frame_times, atol=1e-6)
        assert np.array_equal(theirs.frames, ours.frames)
    if ours.waveform is not None and same_sound:
        assert len(theirs.waveform) == len(ours.waveform) and theirs.audio_start == pytest.approx(ours.audio_start)
        assert np.abs(theirs.waveform - ours.waveform).max() < 1e-5  # measured 2e-7; both resample with soxr
    return ours, theirs


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".wav"])
def test_both_read_the_same_clip(tmp_path, suffix):
    assert_same(write_clip(tmp_path / f"a{suffix}", seconds=0.6))


def test_both_follow_variable_rate_rotation_late_sound_and_edit_lists(tmp_path):
    assert_same(write_clip(tmp_path / "vfr.mp4", frame_times=[0.1, 0.2, 0.25, 0.5, 0.9], seconds=1))
    assert_same(write_clip(tmp_path / "turned.mp4", rotation=90, seconds=0.2))
    assert_same(write_clip(tmp_path / "late.mkv", sound_start=0.4, sound_seconds=0.4, seconds=1))
    cut = cut_with_edit_list(write_clip(tmp_path / "whole.mp4", gop=50), tmp_path / "cut.mp4", 0.6)
    assert_same(cut)
    assert_same(cut, lambda info: np.array([0.1, 0.9]))


def test_bytes_work_in_both(tmp_path):
    assert_same(write_clip(tmp_path / "a.mp4", seconds=0.4).read_bytes())


def test_torchcodec_loses_a_gap_in_the_sound(tmp_path):
    path = write_clip(tmp_path / "gap.mkv", sound_gap=(0.6, 0.9))
    ours, theirs = assert_same(path, same_sound=False)
    assert len(ours.waveform) - len(theirs.waveform) > 0.28 * 16_000


def test_torchcodec_refuses_a_damaged_sound_track(tmp_path):
    data = write_clip(tmp_path / "a.mp4", seconds=4, options={"movflags": "faststart"}).read_bytes()
    with pytest.raises(MediaError, match='decoder="pyav"'):
        read_clip(data[: len(data) // 2], decoder="torchcodec")


def test_torchcodec_cannot_end_an_mpeg_file(tmp_path):
    path = write_clip(tmp_path / "a.ts", seconds=0.6)
    with pytest.raises(MediaError, match='decoder="pyav"'):
        read_clip(path, decoder="torchcodec")


@pytest.mark.parametrize("path", sorted(CLIPS.glob("*/*.*[4vim]")), ids=lambda path: path.name)
def test_both_read_the_same_real_clip(path):
    same = {"same_frames": path.name not in WITH_OTHER_FRAMES, "same_sound": path.name not in WITH_A_GAP}
    assert_same(path, lambda info: np.arange(0.2, info.duration_seconds, 1.6), **same)


def test_torchcodec_cannot_end_an_avi_with_packed_frames_and_pyav_reads_all():
    path = CLIPS / "research_only" / "ucf101_apply_eye_makeup.avi"
    if not path.exists():
        pytest.skip(f"needs {path}, which is not on this machine")
    with pytest.raises(MediaError, match='decoder="pyav"'):
        read_clip(path, decoder="torchcodec")
    clip = read_clip(path)
    assert len(clip.frames) == 164 and clip.warnings == []
    np.testing.assert_allclose(np.diff(clip.frame_times), 0.04, atol=1e-9)  # FFmpeg's own guess runs backwards here


def test_real_clips_are_here():
    if not CLIPS.is_dir():
        pytest.skip(f"needs the real clips in {CLIPS}, which are not on this machine")
    assert len(list(CLIPS.glob("*/*.*[4vim]"))) == 21
