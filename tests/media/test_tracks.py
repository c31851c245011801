"""Which tracks are used, what that leaves unchanged, and what looking costs."""

from fractions import Fraction

import av
import numpy as np
import pytest
from clips import beep_times, beeps, write_clip

from mirasol.media import MediaError, MediaWarning, probe, read_clip
from mirasol.media.sound import SoundTrack


@pytest.fixture
def bilingual(tmp_path):
    """A sound file with two tracks: German, which beeps at 0.2 s, and French, which beeps at 0.6 s."""
    path = tmp_path / "two.mka"
    with av.open(str(path), "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for stream, language in zip(streams, ("ger", "fre"), strict=True):
            stream.metadata["language"] = language
        for stream, at in zip(streams, (0.2, 0.6), strict=True):
            samples = (beeps(1.0, 16_000, [at]) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame) + stream.encode(None))
    return path


@pytest.mark.parametrize(("wanted", "second"), [(0, 0.2), (1, 0.6), ("ger", 0.2), ("fre", 0.6)])
def test_a_sound_track_is_chosen_by_number_or_language(bilingual, recwarn, wanted, second):
    clip = read_clip(bilingual, audio_stream=wanted)
    assert beep_times(clip.waveform) == pytest.approx([second], abs=2e-3)
    assert not recwarn.list


def test_several_sound_tracks_are_named(bilingual):
    with pytest.warns(MediaWarning, match=r"2 sound tracks, 0 \(ger, pcm_s16le\), 1 \(fre, pcm_s16le\): 0 is used"):
        read_clip(bilingual)
    with pytest.raises(ValueError, match="found 'spa'. The file has 0 .ger, pcm_s16le., 1 "):
        read_clip(bilingual, audio_stream="spa")


@pytest.mark.parametrize(
    ("suffix", "late"),
    [
        (".mkv", "picture"),
        (".mp4", "picture"),
        (".ts", "picture"),
        (".mkv", "sound"),
        (".ts", "sound"),
        (".mpg", "sound"),
    ],
)
def test_a_track_left_out_moves_no_other(tmp_path, suffix, late):
    times = np.arange(20) / 25 + 0.3 if late == "picture" else None
    start = 0.2 if late == "sound" else 0.0
    path = write_clip(
        tmp_path / f"a{suffix}",
        frame_times=times,
        seconds=1.0,
        sound_start=start,
        sound_seconds=1.0 - start,
        at=(0.5,),
    )
    both, seen, heard = read_clip(path), read_clip(path, use_audio=False), read_clip(path, use_video=False)
    assert np.array_equal(seen.frame_times, both.frame_times) and seen.waveform is None
    assert heard.audio_start == both.audio_start and heard.frames is None
    assert np.array_equal(heard.waveform, both.waveform)
    assert min(both.frame_times[0], both.audio_start) == 0
    assert seen.duration == both.video_end
    assert heard.duration == both.audio_end
    assert seen.info.has_audio and heard.info.has_video
    assert max(both.frame_times[0], both.audio_start) > 0.1


def test_a_masked_track_counts_as_little_as_an_absent_one(tmp_path):
    clip = read_clip(write_clip(tmp_path / "a.mkv", seconds=1, sound_seconds=2.0))
    assert clip.duration == pytest.approx(2.0, abs=0.01)
    assert clip.duration == pytest.approx(clip.audio_end)
    assert clip.video_end == pytest.approx(1.0)


def test_probe_decodes_one_frame_and_one_sample(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", seconds=5)
    decoded = []
    monkeypatch.setattr(SoundTrack, "add", lambda self, *piece: decoded.append(piece))
    info = probe(path)
    assert not decoded
    assert info.has_audio and info.audio_start == 0
    assert info.audio_end == pytest.approx(5.0, abs=0.03) and info.video_end == pytest.approx(5.0)
    part = probe(path, start=1.0, end=2.5)
    assert part.duration_seconds == pytest.approx(1.5) and part.has_audio and part.num_frames == 38


def test_probe_of_seconds_after_the_sound_finds_none(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=3, sound_seconds=1)
    assert not probe(path, start=2.0).has_audio and probe(path, start=0.5).has_audio
    assert not read_clip(path, start=2.0, use_audio=False).info.has_audio
    with pytest.raises(ValueError, match="ends after it begins"):
        probe(path, start=2.0, end=1.0)


@pytest.mark.parametrize(("aspect", "size"), [((12, 11), (70, 48)), ((1, 2), (64, 96)), ((4096, 4095), (64, 48))])
def test_pixels_are_square(tmp_path, aspect, size):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        frame.pts = 0
        container.mux(stream.encode(frame) + stream.encode(None))
    clip, info = read_clip(path), probe(path)
    assert (info.width, info.height) == clip.frames.shape[2:0:-1] == size
    assert info.pixel_aspect == pytest.approx(aspect[0] / aspect[1], rel=0.01)


def test_a_picture_format_is_refused_by_its_name(tmp_path):
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        container.mux(stream.encode(frame) + stream.encode(None))
    with pytest.raises(MediaError, match="its format, png_pipe, is not supported"):
        read_clip(tmp_path / "a.png")


@pytest.mark.parametrize("error", [MemoryError("2 GiB"), OverflowError("big"), IndexError("late"), RuntimeError("?")])
def test_whatever_a_decoder_raises_is_a_media_error(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    path = write_clip(tmp_path / "a.wav", seconds=0.2)
    monkeypatch.setattr("mirasol.media.survey.scan", fail)
    with pytest.raises(MediaError, match=type(error).__name__):
        read_clip(path)
    with pytest.raises(MediaError, match=type(error).__name__):
        probe(path)


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_matroska_file_that_starts_late_is_whole(tmp_path, suffix):
    """Its header states the last moment, 7 s, not a duration: nothing is missing from the 2 s."""
    times = list(5 + np.arange(50) / 25)
    path = write_clip(tmp_path / f"late{suffix}", frame_times=times, sound_start=5.0, sound_seconds=2.0, at=(5.5,))
    clip = read_clip(path, select=lambda info: np.array([0.0]))
    assert clip.warnings == [] and clip.duration == pytest.approx(2.0, abs=0.05)
