"""Clips end to end: each from its own second on, short ones held, sound in place."""

import numpy as np
import pytest

from mirasol.media import Clip, join_clips

RATE = 100


def clip(first: int, seconds: float, audio_start: float = 0.0, **changes) -> Clip:
    """Frames numbered from `first` at 10 a second, sound of ones."""
    count = round(seconds * 10)
    values = {
        "frames": np.full((count, 2, 2, 3), np.arange(first, first + count)[:, None, None, None], np.uint8),
        "frame_times": np.arange(count) / 10,
        "waveform": np.full(round((seconds - audio_start) * RATE), first + 1, np.float32),
        "sampling_rate": RATE, "audio_start": audio_start, "duration": seconds,
    }  # fmt: skip
    return Clip(**values | changes)


def test_every_clip_is_seen_and_heard_from_its_own_second_on():
    joined = join_clips([clip(0, 0.7), clip(100, 0.5), clip(200, 0.3, audio_start=0.1)], 0.5)
    assert joined.duration == joined.video_end == 1.5
    assert joined.frames[:, 0, 0, 0].tolist() == [*range(5), *range(100, 105), *range(200, 203)]
    assert joined.frame_times == pytest.approx([*np.arange(10) / 10, 1.0, 1.1, 1.2])
    heard = joined.waveform.reshape(3, 50)
    assert (heard[0] == 1).all() and (heard[1] == 101).all()
    assert heard[2].tolist() == [0] * 10 + [201] * 20 + [0] * 20


def test_a_clip_without_sound_is_a_gap_and_gaps_move_along():
    mute = clip(0, 0.5, waveform=None)
    joined = join_clips([mute, clip(0, 0.5, audio_gaps=[(0.1, 0.2), (0.4, 0.9)])], 0.5)
    assert joined.audio_gaps == [(0.0, 0.5), pytest.approx((0.6, 0.7)), pytest.approx((0.9, 1.0))]
    assert join_clips([mute, mute], 0.5).waveform is None


def test_clips_of_unequal_size_or_rate_are_refused():
    small = clip(0, 0.5)
    for other in (clip(0, 0.5, sampling_rate=200), clip(0, 0.5, frames=np.zeros((5, 3, 3, 3), np.uint8))):
        with pytest.raises(ValueError, match="equally large and have one sampling rate"):
            join_clips([small, other], 0.5)
