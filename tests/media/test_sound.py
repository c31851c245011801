"""Native channels -> mean -> 16 kHz, each piece at its own second."""

import numpy as np
import pytest
from clips import write_clip

from mirasol.media import read_clip
from mirasol.media.sound import SoundTrack


@pytest.mark.parametrize(
    ("gains", "expected"), [((1.0, 0.0), 0.25), ((1.0, 1.0), 0.5), ((1.0, -1.0), 0.0), ((1.0,), 0.5)]
)
def test_sound_is_the_mean_of_the_native_channels(tmp_path, gains, expected):
    clip = read_clip(write_clip(tmp_path / "a.wav", seconds=1, at=(0.5,), channel_gains=gains))
    # 16-bit rounding and the resampler's ripple on a 50 ms burst; FFmpeg's own down-mix would be off by 41 %
    assert np.abs(clip.waveform).max() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_a_tone_survives_resampling(tmp_path, rate):
    clip = read_clip(write_clip(tmp_path / "a.wav", seconds=1, at=np.arange(0, 1, 0.05), rate=rate))
    seconds = np.arange(len(clip.waveform)) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 1000 * seconds) + 0.01 * np.sin(2 * np.pi * 100 * seconds)
    inner = slice(1600, -1600)  # the resampler has nothing to look at beyond the ends
    assert np.abs(clip.waveform - tone)[inner].max() < 1e-3
    assert len(clip.waveform) == 16_000


def test_pieces_are_placed_by_time():
    sound = SoundTrack()
    sound.add(1.0, 16_000, np.full(160, 1, np.float32))
    sound.add(1.0105, 16_000, np.full(160, 2, np.float32))  # a container's rounding: no gap
    sound.add(1.05, 16_000, np.full(160, 3, np.float32))  # a gap of 30 ms
    sound.add(1.02, 16_000, np.full(640, 4, np.float32))  # overlaps: its first 40 ms are there already
    waveform = sound.waveform()
    assert sound.start == 1.0
    assert waveform[[0, 159, 160, 319, 320, 799, 800, 959]].tolist() == [1, 1, 2, 2, 0, 0, 3, 3]
    assert len(waveform) == 960


def test_a_broken_clock_makes_no_endless_silence():
    sound = SoundTrack()
    sound.add(0.0, 16_000, np.ones(160, np.float32))
    sound.add(95_443.7, 16_000, np.ones(160, np.float32))  # an MPEG counter restarted
    assert len(sound.waveform()) == 320
    assert "jump" in sound.warnings[0]


def test_a_change_of_rate_on_the_way_is_followed():
    sound = SoundTrack()
    sound.add(0.0, 16_000, np.zeros(1600, np.float32))
    sound.add(0.1, 8_000, np.zeros(800, np.float32))
    assert len(sound.waveform()) == 3200
