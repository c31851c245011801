"""Some seconds of a file: the same pictures and sounds as those seconds of the whole, found by seeking."""

import numpy as np
import pytest
from clips import beep_times, picture_number, write_clip

from mirasol.media import MediaError, read_clip
from mirasol.media.frames import FrameDecoder
from mirasol.media.sound import SoundTrack
from mirasol.media.survey import survey_file

# A cut of another sampling rate starts between two samples of the whole's 16 kHz grid: half a sample of 62.5 us.
HALF_SAMPLE = 0.5 / 16_000
MILLISECOND = 16 + 1  # samples: Matroska stamps packets to the millisecond; the whole counts from the first


def numbers(clip) -> list[int]:
    return [picture_number(frame) for frame in clip.frames]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".mpg", ".ts"])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.9), (1.013, 1.77), (2.6, None), (2.4, 2.43)])
def test_a_segment_holds_what_the_whole_file_holds_in_these_seconds(tmp_path, suffix, start, end):
    path = write_clip(tmp_path / f"a{suffix}", seconds=3.2, gop=20, at=(0.3, 1.1, 1.5, 2.8))
    whole, part = read_clip(path), read_clip(path, start=start, end=end)
    end = end or whole.duration
    first = np.flatnonzero(whole.frame_times <= start + 1e-9)
    first = first[-1] if len(first) else 0
    wanted = slice(first, np.searchsorted(whole.frame_times, end))
    assert np.array_equal(part.frames, whole.frames[wanted])
    assert np.allclose(part.frame_times, (whole.frame_times[wanted] - start).clip(min=0), atol=1e-9)
    assert part.duration == pytest.approx(end - start, abs=1e-3)
    assert part.audio_start == pytest.approx(max(whole.audio_start - start, 0), abs=HALF_SAMPLE)
    slack = MILLISECOND if suffix in (".mkv", ".webm") else 1
    assert abs(len(part.waveform) - round((min(end, whole.audio_end) - start - part.audio_start) * 16_000)) <= slack
    first = round(max(start - whole.audio_start, 0) * 16_000)
    differences = [
        np.abs(part.waveform[32:-32] - whole.waveform[first + lag + 32 :][: len(part.waveform) - 64]).max()
        for lag in range(-min(slack, first), slack + 1)
        if first + lag + len(part.waveform) - 32 <= len(whole.waveform)
    ]
    # A 1 kHz beep of 0.5 moved by half a sample changes by up to 0.5 * 2 pi * 1000 * 31 us = 0.1.
    assert min(differences) < 0.12
    beeps = [time - start for time in beep_times(whole.waveform, whole.audio_start) if start <= time < end - 0.05]
    assert beep_times(part.waveform, part.audio_start) == pytest.approx(beeps, abs=2e-3)


def test_a_wav_is_cut_to_the_sample(tmp_path):
    path = write_clip(tmp_path / "a.wav", seconds=2, rate=16_000)
    whole, part = read_clip(path), read_clip(path, start=0.6, end=1.35)
    assert np.array_equal(part.waveform, whole.waveform[9_600:21_600])
    assert part.duration == pytest.approx(0.75)


def test_select_sees_the_segment_alone(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=3)
    seen = []
    clip = read_clip(path, start=1.0, end=2.0, select=lambda info: seen.append(info) or np.array([0.0, 0.5, 7]))
    assert seen[0].duration_seconds == pytest.approx(1.0) and seen[0].num_frames == 25
    assert numbers(clip) == [25, 37, 49]
    assert clip.frame_times == pytest.approx([0.0, 0.48, 0.96])


def test_the_rest_of_the_file_is_neither_read_nor_decoded(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "a.mp4", seconds=20, gop=10, size=(32, 32))
    fed, heard = [], []
    feed, add = FrameDecoder.feed, SoundTrack.add
    monkeypatch.setattr(FrameDecoder, "feed", lambda self, packet: fed.append(packet) or feed(self, packet))
    monkeypatch.setattr(SoundTrack, "add", lambda self, *piece: heard.append(len(piece[2])) or add(self, *piece))
    clip = read_clip(path, start=15.0, end=15.4)
    assert numbers(clip) == [number % 256 for number in range(375, 385)]
    assert len([packet for packet in fed if packet is not None]) < 40  # of 500: a GOP or two, and the first frame
    assert sum(heard) < 1.2 * 48_000  # of 20 s
    assert sum(survey_file(path, segment=(15.0, 15.4)).scan.packets.is_shown) < 40


def test_a_track_that_ends_before_the_segment_is_absent_from_it(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=2, sound_seconds=1, at=(0.5,))
    clip = read_clip(path, start=1.5, end=2.0)
    assert clip.waveform is None and not clip.info.has_audio
    assert clip.duration == pytest.approx(0.5) and len(clip.frames) == 13


def test_seconds_after_the_end_are_refused(tmp_path):
    path = write_clip(tmp_path / "a.mp4", seconds=1)
    with pytest.raises(MediaError, match=r"from 3\.00 s to 4\.00 s of .*a\.mp4, found none: it lasts 1\.\d\d s"):
        read_clip(path, start=3, end=4)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 2), (3, 1), (float("nan"), None)])
def test_seconds_that_are_no_span_are_refused(tmp_path, start, end):
    with pytest.raises(ValueError, match="ends after it begins"):
        read_clip(tmp_path / "a.mp4", start=start, end=end)
