"""What `read_clip` makes of every kind of file: the right picture at the right second, the beeps on time."""

import av
import numpy as np
import pytest
from clips import beep_times, cut_with_edit_list, picture_number, write_clip

from mirasol.media import probe, read_clip

BEEP_TOLERANCE = 2e-3  # Matroska keeps milliseconds, an edit list too; a beep's onset is found to one sample


def numbers(clip) -> list[int]:
    return [picture_number(frame) for frame in clip.frames]


def beeps_of(clip) -> np.ndarray:
    return np.array(beep_times(clip.waveform, clip.audio_start))


# How far the format itself delays picture and sound against what was written, in seconds: mp2 in AVI and MPEG does not
# say that its first 481 samples are padding, MPEG-TS starts with AAC's 1,024 priming samples; both shift t = 0.
@pytest.mark.parametrize(
    ("suffix", "picture_delay", "sound_delay"),
    [
        (".mp4", 0, 0),
        (".mkv", 0, 0),
        (".webm", 0, 0),
        (".avi", 0, 0.01),
        (".mpg", 0.01, 0.01),
        (".ts", 0.0213, 0.0213),
    ],
)
def test_every_frame_and_beep_is_at_its_second(tmp_path, suffix, picture_delay, sound_delay):
    clip = read_clip(write_clip(tmp_path / f"a{suffix}", seconds=1.2, at=(0.3, 0.8)))
    assert numbers(clip) == list(range(30))
    np.testing.assert_allclose(clip.frame_times, np.arange(30) / 25 + picture_delay, atol=1e-3)
    np.testing.assert_allclose(beeps_of(clip), np.array([0.3, 0.8]) + sound_delay, atol=BEEP_TOLERANCE)
    assert clip.frames.shape == (30, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert clip.waveform.dtype == np.float32 and clip.sampling_rate == 16_000
    assert clip.warnings == []
    assert min(clip.frame_times[0], clip.audio_start) == 0


@pytest.mark.parametrize("suffix", [".m4a", ".wav", ".mp3"])
def test_audio_only_has_no_frames(tmp_path, suffix):
    clip = read_clip(write_clip(tmp_path / f"a{suffix}", at=(0.5, 1.5)))
    assert clip.frames is None and clip.frame_times is None
    np.testing.assert_allclose(beeps_of(clip), [0.5, 1.5], atol=BEEP_TOLERANCE)


def test_a_missing_sound_track_is_none_and_a_silent_one_is_zeros(tmp_path):
    missing = read_clip(write_clip(tmp_path / "missing.mp4", sound=False, seconds=0.4))
    silent = read_clip(write_clip(tmp_path / "silent.mp4", silent=True, seconds=0.4))
    assert missing.waveform is None and not missing.info.has_audio
    assert len(silent.waveform) >= 6400 and np.abs(silent.waveform).max() < 1e-4


def test_a_track_switched_off_is_none(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=0.4)
    assert read_clip(path, use_audio=False).waveform is None
    assert read_clip(path, use_video=False).frames is None


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_that_starts_late_and_ends_early_keeps_its_seconds(tmp_path, suffix):
    clip = read_clip(write_clip(tmp_path / f"late{suffix}", sound_start=0.4, sound_seconds=0.8, at=(0.5, 1.0)))
    # AAC gives its priming frame before the first written sample
    assert 0.4 - 1024 / 48_000 - 2e-3 <= clip.audio_start <= 0.4 + BEEP_TOLERANCE
    np.testing.assert_allclose(beeps_of(clip), [0.5, 1.0], atol=BEEP_TOLERANCE)
    assert clip.audio_end < 1.25 and clip.duration == pytest.approx(2.0)


def test_sound_that_starts_first_is_t_zero(tmp_path):
    times = 0.3 + np.arange(20) / 25
    path = write_clip(tmp_path / "a.mkv", frame_times=times, seconds=1.5, at=(0.5,))
    clip = read_clip(path)
    np.testing.assert_allclose(clip.frame_times, times, atol=1e-3)
    assert clip.audio_start == 0


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_gap_in_the_sound_keeps_what_follows_in_place(tmp_path, suffix):
    clip = read_clip(write_clip(tmp_path / f"gap{suffix}", sound_gap=(0.6, 0.9), at=(0.3, 1.1, 1.6)))
    np.testing.assert_allclose(beeps_of(clip), [0.3, 1.1, 1.6], atol=BEEP_TOLERANCE)
    assert np.abs(clip.waveform[int(0.67 * 16_000) : int(0.85 * 16_000)]).max() < 1e-3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_keeps_presentation_times(tmp_path, suffix):
    times = [0.1, 0.2, 0.25, 0.5, 0.9, 1.4]
    clip = read_clip(write_clip(tmp_path / f"vfr{suffix}", frame_times=times))
    np.testing.assert_allclose(clip.frame_times, times, atol=1e-3)
    assert numbers(clip) == [0, 1, 2, 3, 4, 5]


def test_an_avi_with_reordered_frames_runs_forward(tmp_path):
    path = write_clip(tmp_path / "b.avi", seconds=1, b_frames=2, sound=False)
    clip = read_clip(path)
    assert numbers(clip) == list(range(25))
    np.testing.assert_allclose(np.diff(clip.frame_times), 0.04, atol=1e-9)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotation_flag_gives_upright_frames(tmp_path, rotation):
    path = write_clip(tmp_path / "turned.mp4", rotation=rotation, seconds=0.2, sound=False)
    clip, info = read_clip(path), probe(path)
    stored = np.rot90(clip.frames, rotation // 90, axes=(1, 2))
    assert [picture_number(frame) for frame in stored] == list(range(5))
    assert (info.height, info.width) == clip.frames.shape[1:3]
    assert info.rotation == rotation


def test_odd_sizes_are_kept(tmp_path):
    assert read_clip(write_clip(tmp_path / "odd.mp4", size=(65, 49), seconds=0.2)).frames.shape == (5, 49, 65, 3)


def test_a_one_frame_clip_has_one_frame_and_a_length(tmp_path):
    clip = read_clip(write_clip(tmp_path / "one.mp4", seconds=0.04, sound=False))
    assert clip.frames.shape[0] == 1 and clip.frame_times.tolist() == [0.0]
    assert clip.duration == pytest.approx(0.04)


def test_an_edit_list_hides_what_was_cut_away(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", gop=50, at=(1.0, 1.5))
    path = cut_with_edit_list(whole, tmp_path / "cut.mp4", 0.6)
    clip = read_clip(path)
    assert numbers(clip) == list(range(15, 50))
    np.testing.assert_allclose(clip.frame_times, np.arange(35) / 25, atol=1e-3)
    np.testing.assert_allclose(beeps_of(clip), [0.4, 0.9], atol=BEEP_TOLERANCE)
    few = read_clip(path, select=lambda info: np.array([0.0, 0.5]))
    assert numbers(few) == [15, 27]


def test_bytes_read_like_their_file(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=0.4)
    ours, theirs = read_clip(path), read_clip(path.read_bytes())
    assert np.array_equal(ours.frames, theirs.frames) and np.array_equal(ours.waveform, theirs.waveform)
    assert np.array_equal(ours.frame_times, theirs.frame_times)


def test_the_default_then_the_largest_stream_is_used(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        for width in (32, 64, 48):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 32, "yuv420p"
        packets = []
        for stream in container.streams.video:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, stream.width, 3), np.uint8), "rgb24")
            frame.pts = 0
            packets += [*stream.encode(frame), *stream.encode(None)]
        for packet in packets:
            container.mux(packet)
    assert read_clip(path).frames.shape[2] == 64


def test_probe_tells_what_reading_finds(tmp_path):
    info = probe(write_clip(tmp_path / "a.mp4", seconds=1.2))
    assert (info.num_frames, info.width, info.height, info.frame_rate) == (30, 64, 48, 25)
    assert (info.audio_sampling_rate, info.audio_channels, info.audio_codec, info.video_codec) == (
        48_000,
        2,
        "aac",
        "h264",
    )
    assert info.video_end == pytest.approx(1.2)
