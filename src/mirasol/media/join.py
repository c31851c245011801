"""Clips end to end: one longer clip, as an editor joins files."""

from collections.abc import Sequence

import numpy as np

from mirasol.media.types import Clip


def join_clips(clips: Sequence[Clip], seconds: float) -> Clip:
    """Return one clip in which clip k is shown and heard from k * `seconds` on.

    Each is cut to `seconds`; one that is shorter shows its last frame, and is silent, for the rest. Clips without one
    of the tracks leave a gap in it.

    Args:
        clips: Decoded clips whose frames, if any, are equally large and whose sound has one sampling rate.
        seconds: Length of each in the joined clip, whole samples of its sound.

    Raises:
        ValueError: sizes or sampling rates differ.
    """
    sizes = {clip.frames.shape[1:] for clip in clips if clip.frames is not None}
    rates = {clip.sampling_rate for clip in clips}
    if len(sizes) > 1 or len(rates) > 1:
        raise ValueError(
            f"Clips to be joined must be equally large and have one sampling rate, found {sorted(sizes)} pixels and "
            f"{sorted(rates)} Hz: read them with one crop."
        )
    (rate,) = rates
    length = round(seconds * rate)
    frames, times, gaps, notes = [], [], [], []
    waveform = np.zeros(len(clips) * length, np.float32)
    for number, clip in enumerate(clips):
        start = number * seconds
        if clip.frames is not None and clip.frame_times is not None:
            count = int(np.searchsorted(clip.frame_times, seconds - 1e-6))
            frames.append(clip.frames[:count])
            times.append(clip.frame_times[:count] + start)
        if clip.waveform is None:
            gaps.append((start, start + seconds))
        else:
            first = round(clip.audio_start * rate)
            heard = clip.waveform[max(-first, 0) : max(length - first, 0)]
            begin = number * length + max(first, 0)
            waveform[begin : begin + len(heard)] = heard
            gaps += [(start + low, start + min(high, seconds)) for low, high in clip.audio_gaps if low < seconds]
        notes += clip.warnings
    duration = len(clips) * seconds
    has_sound = any(clip.waveform is not None for clip in clips)
    return Clip(
        np.concatenate(frames) if frames else None,
        np.concatenate(times) if times else None,
        waveform if has_sound else None,
        rate,
        duration=duration,
        warnings=list(dict.fromkeys(notes)),
        crop=clips[0].crop,
        video_end=duration if frames else None,
        audio_gaps=gaps if has_sound else [],
    )
