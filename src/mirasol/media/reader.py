"""`probe` and `read_clip`: a file -> frames and sound on one time axis."""

import warnings as python_warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float64

from mirasol.media import torchcodec_backend
from mirasol.media.container import name_of, open_container, seek
from mirasol.media.frames import SAME_TIME_SECONDS, FrameDecoder, FramePicker, Image
from mirasol.media.segment import cut_frames, cut_waveform
from mirasol.media.survey import Survey, survey_file
from mirasol.media.types import Clip, MediaInfo, MediaWarning, Source

BACKENDS = ("pyav", "torchcodec")
Select = Callable[[MediaInfo], Float64[np.ndarray, " time"]]
Prepare = Callable[[Image], Image]


def probe(source: Source) -> MediaInfo:
    """What the file holds and when, exact, for the price of its sound and one frame."""
    return survey_file(source).info


def read_clip(
    source: Source,
    *,
    use_video: bool = True,
    use_audio: bool = True,
    select: Select | None = None,
    prepare: Prepare | None = None,
    start: float = 0.0,
    end: float | None = None,
    backend: str = "pyav",
    warn: bool = True,
) -> Clip:
    """The clip's frames and mono 16 kHz sound with their times.

    t = 0 is the earliest first timestamp of the used tracks, plus `start`.

    Args:
        source: a path, or the bytes of a file.
        use_video: False leaves the picture out: `frames` is None and it no longer counts for t = 0.
        use_audio: the same for the sound.
        select: gives the wanted seconds, sorted, once the file's times are known. For each the last frame shown at
            or before it is kept (before the first frame: the first), each frame once. None keeps every frame.
        prepare: applied to each kept frame as soon as it is decoded, such as a crop; `Clip.frames` holds its results,
            so no more than a few whole frames are in memory at once.
        start, end: the seconds of the file to read as if they were all of it, found by seeking. The frame on show at
            `start` counts as shown from 0 on; sound is placed by its packets' stamps, exact to 1 ms.
        backend: "pyav", or "torchcodec" (an extra; docs/decoders.md lists the files it gets wrong).
        warn: False leaves what is reported to `Clip.warnings` alone; safe where threads read.

    Raises:
        MediaError: nothing usable in the file. What can only partly be read is used, and reported as `MediaWarning`
            and in `Clip.warnings`.
    """
    if backend not in BACKENDS:
        raise ValueError(f'Expected backend to be one of {BACKENDS}, found "{backend}". Leave it out to use PyAV.')
    if not (use_video or use_audio):
        raise ValueError("Expected use_video or use_audio, found both False: nothing would be read. Switch one on.")
    if not (np.isfinite(start) and start >= 0 and (end is None or end > start)):
        raise ValueError(
            f"Expected a segment that begins at 0 s or later and ends after it begins, found {start} s to {end} s of "
            f"{name_of(source)}. Correct these seconds."
        )
    segment = None if start == 0 and end is None else (start, np.inf if end is None else end)
    survey = survey_file(source, use_video, use_audio, backend, segment)
    info, notes = survey.info, survey.warnings
    frames = frame_times = None
    if info.has_video:
        times = None if select is None else np.asarray(select(info), np.float64).reshape(-1)
        if times is not None and (np.diff(times) < 0).any():
            raise ValueError("Expected sorted times from `select`, found one before its predecessor. Sort them.")
        if segment is not None:
            times = survey.times_in_segment(times)
        if times is None or len(times):
            read = _read_frames if backend == "pyav" else _read_frames_torchcodec
            frames, frame_times = read(source, survey, times, prepare)
            if segment is not None:
                frames, frame_times = cut_frames(frames, frame_times, info.duration_seconds)
    waveform = cut_waveform(survey.scan.sound, survey.span) if info.has_audio else None
    for note in notes if warn else ():
        python_warnings.warn(f"{info.source}: {note}", MediaWarning, stacklevel=2)
    return Clip(
        frames=frames,
        frame_times=frame_times,
        waveform=waveform,
        audio_start=info.audio_start or 0.0,
        duration=info.duration_seconds,
        warnings=notes,
        info=info,
    )


def _read_frames(source: Source, survey: Survey, times, prepare: Prepare | None):
    """Decodes what the wanted times need, in one pass with PyAV."""
    packets = survey.scan.packets
    needed = None if times is None else packets.to_decode(times + survey.origin + SAME_TIME_SECONDS)
    picker = FramePicker(times, prepare)
    with open_container(source) as container:
        stream = container.streams[survey.video_index]
        seek(container, stream, survey.scan.begin)
        stream.thread_type = "AUTO"
        decoder = FrameDecoder(container, stream)
        for time, frame in decoder.frames(needed):
            picker.offer(time - survey.origin, partial(decoder.to_image, frame))
            if picker.is_done:
                break
    survey.warnings += decoder.warnings()
    return picker.result()


def _read_frames_torchcodec(source: Source, survey: Survey, times, prepare: Prepare | None):
    """The same with torchcodec, asked for the frames that the packets' timestamps promise."""
    packets = survey.scan.packets
    promised = packets.shown_times()
    if promised is not None and times is not None:
        promised = packets.shown_at(times + survey.origin + SAME_TIME_SECONDS)
    picker = FramePicker(times, prepare)
    wrong = 0
    given = torchcodec_backend.frames(source, survey.video_index, packets, promised)
    for index, (time, image) in enumerate(given):
        wrong += promised is not None and abs(time - promised[index]) > 1e-3
        picker.offer(time - survey.origin, partial(np.asarray, image))
        if picker.is_done:
            break
    if wrong:
        survey.warnings.append(
            f"torchcodec gave another frame than the file's timestamps ask for at {wrong} of {len(promised)} times. "
            'Use backend="pyav".'
        )
    return picker.result()
