"""`probe` and `read_clip`: a file -> frames and sound on one time axis."""

import warnings as python_warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Float64

from mirasol.media import torchcodec_backend
from mirasol.media.container import held, media_errors, name_of, open_container, seek
from mirasol.media.frames import SAME_TIME_SECONDS, FalseKeyframe, FrameDecoder, FramePicker, Image, square_pixels
from mirasol.media.segment import cut_frames, cut_waveform, gaps_within
from mirasol.media.survey import Survey, survey_file
from mirasol.media.types import Clip, MediaError, MediaInfo, MediaWarning, Source

FALSE_KEYFRAMES = (
    "Packets that are flagged as keyframes are none, or are followed by frames that need more than them: the file is "
    "decoded from its beginning, not from the nearest one."
)
DECODERS = ("pyav", "torchcodec")
Select = Callable[[MediaInfo], Float64[np.ndarray, " time"]]
Prepare = Callable[[Image], Image]


def probe(source: Source, *, start: float = 0.0, end: float | None = None) -> MediaInfo:
    """Describe a file, or its seconds from `start` to `end`, by reading its packets, one frame and one sample.

    The sound ends with its last packet, up to one packet after its last sample.
    """
    source = held(source)
    segment = _segment(source, start, end)
    with media_errors(source):
        return survey_file(source, decoder=None, segment=segment).info


def read_clip(
    source: Source,
    *,
    use_video: bool = True,
    use_audio: bool = True,
    select: Select | None = None,
    prepare: Prepare | None = None,
    start: float = 0.0,
    end: float | None = None,
    audio_stream: int | str | None = None,
    decoder: str = "pyav",
    warn: bool = True,
) -> Clip:
    """The clip's frames and mono 16 kHz sound with their times.

    t = 0 is the earliest first timestamp of the file's picture and sound, whichever are used, plus `start`.

    Args:
        source: a path, or the bytes of a file.
        use_video: False leaves the picture out: `frames` is None and it no longer counts for the duration.
        use_audio: the same for the sound.
        select: function of the file's `MediaInfo` that returns sorted seconds. For each of them the last frame shown
            at or before it is kept (before the first frame: the first), each frame once. None keeps every frame.
        prepare: applied to each kept frame as soon as it is decoded, such as a crop, so that only a few whole frames
            are in memory at once.
        start, end: the segment of the file to read, found by seeking. The frame on show at `start` is shown from 0
            on; sound is placed by its packets' timestamps, exact to 1 ms.
        audio_stream: the sound track to use where there are several: its number, counted from 0, or its language.
        decoder: "pyav", or "torchcodec" (an extra; docs/decoders.md lists the files it gets wrong).
        warn: False reports faults in `Clip.warnings` only, which is safe under threads.

    Raises:
        MediaError: nothing in the file is usable. A file that can be read in part gives a `MediaWarning`, also in
            `Clip.warnings`.
    """
    if decoder not in DECODERS:
        raise ValueError(f'Expected decoder to be one of {DECODERS}, found "{decoder}". Leave it out to use PyAV.')
    if not (use_video or use_audio):
        raise ValueError("Expected use_video or use_audio, found both False: nothing would be read. Switch one on.")
    source = held(source)
    segment = _segment(source, start, end)
    survey_it = partial(survey_file, source, use_video, use_audio, decoder, segment, audio_stream)
    with media_errors(source):
        survey = survey_it()
    frames = frame_times = None
    if use_video and survey.info.has_video:
        read = _read_frames if decoder == "pyav" else _read_frames_torchcodec
        times = _wanted_times(survey, select, segment)
        if times is None or len(times):
            with media_errors(source):
                try:
                    frames, frame_times = read(source, survey, times, prepare)
                except FalseKeyframe:
                    if survey.scan.begin is not None:
                        survey = survey_it(use_seeking=False)
                    survey.warnings.append(FALSE_KEYFRAMES)
                    frames, frame_times = read(source, survey, times, prepare, is_straight=True)
            if segment is not None:
                frames, frame_times = cut_frames(frames, frame_times, survey.info.duration_seconds)
            if not len(frames):
                frames = frame_times = None
                survey.warnings.append("No frame of the picture can be decoded: read as if there were none.")
                survey.info = replace(survey.info, has_video=False)
    info, notes = survey.info, survey.warnings
    waveform = None
    if use_audio and info.has_audio:
        with media_errors(source):
            waveform = cut_waveform(survey.scan.sound, survey.span)
        waveform = waveform if len(waveform) else None
    if waveform is None and frames is None and not info.has_video:
        raise MediaError(
            f"Expected at least one frame or one sample of sound in {info.source}, found none. {' '.join(notes)} "
            "Export or record the file again."
        )
    for note in notes if warn else ():
        python_warnings.warn(f"{info.source}: {note}", MediaWarning, stacklevel=2)
    clip = Clip(
        frames=frames,
        frame_times=frame_times,
        waveform=waveform,
        audio_start=info.audio_start or 0.0,
        duration=info.duration_seconds,
        warnings=notes,
        info=info,
        video_end=info.video_end,
        audio_gaps=gaps_within(survey.scan.sound, survey.span),
    )
    if waveform is not None and (not use_video or not info.has_video):
        clip.duration = clip.audio_end
    return clip


def _segment(source: Source, start: float, end: float | None) -> tuple[float, float] | None:
    if not (np.isfinite(start) and start >= 0 and (end is None or end > start)):
        raise ValueError(
            f"Expected a segment that begins at 0 s or later and ends after it begins, found {start} s to {end} s of "
            f"{name_of(source)}. Correct these seconds."
        )
    return None if start == 0 and end is None else (start, np.inf if end is None else end)


def _wanted_times(survey: Survey, select: Select | None, segment) -> Float64[np.ndarray, " time"] | None:
    times = None if select is None else np.asarray(select(survey.info), np.float64).reshape(-1)
    if times is not None and (np.diff(times) < 0).any():
        raise ValueError("Expected sorted times from `select`, found one before its predecessor. Sort them.")
    return times if segment is None else survey.times_in_segment(times)


def _read_frames(source: Source, survey: Survey, times, prepare: Prepare | None, is_straight: bool = False):
    """Decode the frames at `times` in one pass with PyAV.

    `is_straight` decodes all packets from the start, in one thread: in several, an error at the end of the file loses
    the frames of the other threads, too.
    """
    assert survey.video_index is not None, "the file has a picture"
    packets = survey.scan.packets
    wanted = None if times is None else times + survey.origin + SAME_TIME_SECONDS
    needed = None if wanted is None or is_straight else packets.to_decode(wanted)
    picker = FramePicker(times, prepare)
    with open_container(source) as container:
        stream = container.streams[survey.video_index]
        seek(container, stream, survey.scan.begin)
        stream.thread_type = "NONE" if is_straight else "AUTO"  # type: ignore[attr-defined]  # a VideoStream
        decoder = FrameDecoder(container, stream, packets.times)
        for time, frame in decoder.frames(needed, is_sought=survey.scan.begin is not None):
            picker.offer(time - survey.origin, partial(decoder.to_image, frame))
            if picker.is_done:
                break
    shown, missing = picker.result(), 0
    if (promised := packets.shown_times()) is not None:
        promised = promised if wanted is None else packets.shown_at(wanted)
        missing = len(np.setdiff1d(np.round(promised - survey.origin, 3), shown[1].round(3)))
    is_partial = survey.scan.begin is not None or (needed is not None and not needed[: needed.nonzero()[0][-1]].all())
    if missing and is_partial:
        raise FalseKeyframe
    if (missing or decoder.bad_packets) and not is_straight:
        return _read_frames(source, survey, times, prepare, is_straight=True)
    if missing:
        survey.warnings.append(f"{missing} of the wanted frames could not be decoded: those before are shown instead.")
    survey.warnings += decoder.warnings()
    return shown


def _read_frames_torchcodec(source: Source, survey: Survey, times, prepare: Prepare | None, is_straight: bool = False):
    """Decode the frames at `times` with torchcodec, and compare their timestamps with the packets'."""
    assert survey.video_index is not None, "the file has a picture"
    packets = survey.scan.packets
    promised = packets.shown_times()
    if promised is not None and times is not None:
        promised = packets.shown_at(times + survey.origin + SAME_TIME_SECONDS)
    picker = FramePicker(times, prepare)
    wrong, size = 0, (survey.info.width or 0, survey.info.height or 0)
    given = torchcodec_backend.frames(source, survey.video_index, packets, promised)
    for index, (time, image) in enumerate(given):
        wrong += promised is not None and abs(time - promised[index]) > 1e-3
        picker.offer(time - survey.origin, partial(square_pixels, image, size))
        if picker.is_done:
            break
    if promised is not None and wrong:
        survey.warnings.append(
            f"torchcodec gave another frame than the file's timestamps ask for at {wrong} of {len(promised)} times. "
            'Use decoder="pyav".'
        )
    return picker.result()
