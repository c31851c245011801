"""Media of a user (paths, bytes, frames, waveforms) -> `Clip`s."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mirasol.features.feature_extraction_mirasol import SAMPLING_RATE, check_sampling_rate, check_waveform, is_waveform
from mirasol.features.image_processing_mirasol import check_frames
from mirasol.media import Clip

FILES = (str, Path, bytes)


def clip_from_frames(frames: Any, frame_times: Any = None, frame_rate: float | None = None) -> Clip:
    """A clip without sound of decoded frames, with their seconds or their rate."""
    frames = check_frames(frames)
    if (frame_times is None) == (frame_rate is None):
        raise ValueError(
            f"Frames need their times in seconds, but frame_times is {frame_times} and frame_rate is {frame_rate}: "
            f"pass one of them, {len(frames)} times or one rate, because Mirasol places every frame by its second."
        )
    if frame_rate is not None:
        if not (isinstance(frame_rate, Real) and 0 < frame_rate < np.inf):
            raise ValueError(f"frame_rate must be above 0 frames a second, but it is {frame_rate}: pass one number.")
        times = np.arange(len(frames)) / frame_rate
        return Clip(frames, times, None, duration=len(frames) / frame_rate)
    times = np.asarray(frame_times, dtype=np.float64)
    if times.shape != (len(frames),) or not (times[0] >= 0 and (np.diff(times) > 0).all() and times[-1] < np.inf):
        raise ValueError(
            f"frame_times must be {len(frames)} increasing seconds from 0 on, one for each frame, but they have the "
            f"shape {list(times.shape)} and begin {times.ravel()[:5].tolist()}: pass the second each is shown."
        )
    last_interval = times[-1] - times[-2] if len(times) > 1 else 0.04  # one frame lasts 1/25 s
    return Clip(frames, times, None, duration=float(times[-1] + last_interval))


def picture_of(picture: Any, frame_rate: float) -> Any:
    """Return a picture as a clip of one frame; a path, bytes or None as it is."""
    if picture is None or isinstance(picture, FILES):
        return picture
    if hasattr(picture, "convert"):  # of Pillow
        picture = picture.convert("RGB")
    return clip_from_frames(np.asarray(picture)[None], frame_rate=frame_rate)


def clips_of_pictures(images: Any, frame_rate: float) -> list:
    """Return one clip for each picture; transformers also nests them, one list a question."""
    nested = images if isinstance(images, (list, tuple)) else [images]
    rows = [row if isinstance(row, (list, tuple)) else [row] for row in nested]
    if many := next((len(row) for row in rows if len(row) > 1), 0):
        raise ValueError(f"Expected one picture a question, but found {many}: pass them as a video, with frame_times.")
    return [picture_of(row[0] if row else None, frame_rate) for row in rows]


def _check_clip(clip: Clip) -> Clip:
    """Return the clip; raises ValueError if frames lie after its end, where they would be lost."""
    if clip.frame_times is not None and len(clip.frame_times) and clip.frame_times[-1] > clip.duration:
        raise ValueError(
            f"A clip's duration must reach the end of its last track, but it is {clip.duration:g} s and the last "
            f"frame is shown at {clip.frame_times[-1]:g} s: set duration to the second where the clip ends."
        )
    return clip


def with_waveform(clip: Clip | None, waveform: Any, sampling_rate: int | None = None) -> Clip:
    """Replace the clip's sound by this waveform, from t = 0."""
    check_sampling_rate(sampling_rate)
    return _replace_sound(clip, check_waveform(waveform).numpy())


def _replace_sound(clip: Clip | None, samples: np.ndarray) -> Clip:
    seconds = len(samples) / SAMPLING_RATE
    if clip is None:
        return Clip(None, None, samples, duration=seconds)
    if clip.waveform is not None or (clip.info and clip.info.has_audio):
        source = clip.info.source if clip.info else "The clip"
        warnings.warn(f"{source} has sound of its own; the given audio replaces it.", stacklevel=4)
    picture_end = clip.duration if clip.waveform is None or clip.video_end is None else clip.video_end
    picture_seconds = 0.0 if clip.frames is None else picture_end
    return replace(
        clip, waveform=samples, audio_start=0.0, audio_gaps=[], duration=max(seconds, picture_seconds),
        video_end=picture_seconds,
    )  # fmt: skip


def as_list(value: Any, items: tuple[type, ...]) -> list:
    """Return `value` if it is a list of items, else a list of it alone; an array or a list of numbers is one item."""
    if isinstance(value, items) or is_waveform(value):
        return [value]
    if isinstance(value, Sequence):
        return list(value)
    raise ValueError(
        f"Expected a {', '.join(item.__name__ for item in items)}, an array or a list of them, "
        f"but found a {type(value).__name__}: pass one of these."
    )


def _clips_of_arrays(videos: Any) -> Any:
    """Return an array [clip, frame, ...] as a list of clips, and a list of pictures as the one clip that they make."""
    if isinstance(videos, (np.ndarray, Tensor)) and videos.ndim == 5:
        return list(videos)
    first = videos[0] if isinstance(videos, (list, tuple)) and videos else None
    is_picture = hasattr(first, "convert") or (isinstance(first, (np.ndarray, Tensor)) and first.ndim == 3)
    if not is_picture:
        return videos
    pictures = [np.asarray(each.convert("RGB") if hasattr(each, "convert") else each) for each in videos]
    if len(sizes := {picture.shape for picture in pictures}) > 1:
        raise ValueError(
            f"The pictures of a clip must have one size, but these have {sorted(sizes)}: pass them as images, if each "
            "is a clip of its own."
        )
    return [np.stack(pictures)]


def as_clips(
    videos: Any,
    audio: Any,
    read: Callable[..., Clip],
    use_video: bool,
    use_audio: bool,
    frame_times: Any = None,
    frame_rate: float | None = None,
    sampling_rate: int | None = None,
) -> list[Clip]:
    """One clip for each entry of `videos` and `audio`; `read(source, use_video=, use_audio=)` reads a file."""
    video_list = None if videos is None else as_list(_clips_of_arrays(videos), (Clip, *FILES))
    audio_list = None if audio is None else as_list(audio, FILES)
    count = len(video_list if video_list is not None else audio_list or [])
    video_list = video_list or [None] * count
    audio_list = audio_list or [None] * count
    if len(audio_list) != len(video_list):
        raise ValueError(
            f"videos and audio must be equally many, but there are {len(video_list)} videos and {len(audio_list)} "
            "waveforms: pass None where a clip lacks one of them."
        )
    is_single = isinstance(videos, (np.ndarray, Tensor)) and videos.ndim < 5
    is_flat = is_waveform(frame_times) and np.ndim(frame_times) == 1  # the seconds of every video
    is_shared = is_single or is_flat or frame_times is None
    if not (is_shared or len(frame_times) == count):
        raise ValueError(
            f"A list of {count} videos needs as many frame_times, but there are {len(frame_times)}: pass a list with "
            "the times of each video, None for a file."
        )
    clips = []
    clip: Clip | None
    for number, (video, sound) in enumerate(zip(video_list, audio_list, strict=True)):
        if isinstance(video, FILES):
            clip = read(video, use_video=use_video, use_audio=use_audio and sound is None)
        elif isinstance(video, Clip) or video is None:
            clip = video and _check_clip(video)
        else:
            times = frame_times if is_shared else frame_times[number]
            clip = clip_from_frames(video, times, frame_rate)
        if isinstance(sound, FILES):
            heard = read(sound, use_video=False, use_audio=True)
            assert heard.waveform is not None, "a reader raises where there is no sound"
            clip = _replace_sound(clip, heard.waveform)
        elif sound is not None:
            clip = with_waveform(clip, sound, sampling_rate)
        if clip is None:
            raise ValueError(f"Clip {number} has neither video nor audio: pass one of them for every clip.")
        clips.append(clip)
    return clips
