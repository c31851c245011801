"""`probe` and `read_clip`: a file -> frames and sound on one time axis."""

import warnings as python_warnings
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
from jaxtyping import Float64

from mirasol.media.container import Scan, choose_stream, describe, open_container, scan
from mirasol.media.frames import FramePicker, decode_frames, orientation
from mirasol.media.types import Clip, MediaError, MediaInfo, MediaWarning, Source

Select = Callable[[MediaInfo], Float64[np.ndarray, " time"]]


@dataclass
class FirstFrame:
    """What only a decoded frame tells: its real time on the file's clock, the upright size, the rotation."""

    time: float
    width: int
    height: int
    rotation: int


def probe(source: Source) -> MediaInfo:
    """What the file holds and when, without decoding more than its sound and first frame."""
    return _survey(source, use_video=True, use_audio=True).info


def read_clip(
    source: Source,
    *,
    use_video: bool = True,
    use_audio: bool = True,
    select: Select | None = None,
    backend: str = "pyav",
) -> Clip:
    """The clip's frames and 16 kHz mono sound with their times; t = 0 is the earliest first timestamp of the used tracks.

    Args:
        source: a path, or the bytes of a file.
        use_video: False leaves the picture out: `frames` is None and it no longer counts for t = 0.
        use_audio: the same for the sound.
        select: gives the wanted seconds, sorted, once the file's times are known. For each the last frame shown at
            or before it is kept (before the first frame: the first), each frame once. None keeps every frame.
        backend: "pyav", or "torchcodec" (an extra; see docs/decoders.md for files it gets wrong).

    Raises:
        MediaError: nothing usable in the file. What could only partly be read is used and reported as `MediaWarning`.
    """
    if backend not in ("pyav", "torchcodec"):
        raise ValueError(f'Expected backend "pyav" or "torchcodec", found "{backend}". Leave it out to use PyAV.')
    survey = _survey(source, use_video, use_audio)
    info, notes = survey.info, list(survey.warnings)
    frames = frame_times = waveform = None
    if info.has_video:
        times = None if select is None else np.asarray(select(info), np.float64).reshape(-1)
        if times is not None and (np.diff(times) < 0).any():
            raise ValueError("Expected `select` to give sorted times, found a time before the one preceding it. Sort them.")
        if times is None or len(times):
            frames, frame_times = _read_frames(source, survey, times, notes)
    if info.has_audio:
        waveform = survey.scan.sound.waveform()
    for note in notes:
        python_warnings.warn(f"{describe(source)}: {note}", MediaWarning, stacklevel=2)
    return Clip(
        frames=frames,
        frame_times=frame_times,
        waveform=waveform,
        audio_start=info.audio_start or 0.0,
        duration=info.duration_seconds,
        warnings=notes,
        info=info,
    )


@dataclass
class _Survey:
    """The scan of a file with its times already on the clip's axis in `info`; `origin` is t = 0 on the file's clock."""

    info: MediaInfo
    scan: Scan
    origin: float
    warnings: list[str]


def _survey(source: Source, use_video: bool, use_audio: bool) -> _Survey:
    name = describe(source)
    notes: list[str] = []
    with open_container(source) as container:
        video = choose_stream(container, "video") if use_video else None
        audio = choose_stream(container, "audio") if use_audio else None
        if video is None and audio is None:
            asked = {(True, True): "a picture or a sound track", (True, False): "a picture track", (False, True): "a sound track"}
            found = ", ".join(stream.type for stream in container.streams) or "no track at all"
            raise MediaError(
                f"Expected {asked.get((use_video, use_audio), 'use_video or use_audio')} in {name}, found {found}. "
                "Use another file, or switch the missing track off (use_video=False or use_audio=False)."
            )
        found = scan(container, video, audio)
        first = _first_frame(source, video) if video is not None and len(found.packets.times) else None
        if video is not None and first is None:
            notes.append("The picture track holds no frame that can be decoded: read as if there were none.")
        if audio is not None and found.sound.start is None:
            notes.append("The sound track holds no sample that can be decoded: read as if there were none.")
        if first is None and found.sound.start is None:
            raise MediaError(
                f"Expected at least one frame or 1 sample of sound in {name}, found none ({' '.join(notes + found.warnings)}) "
                "Record or export the file again."
            )
        starts = [start for start in (first.time if first else None, found.sound.start) if start is not None]
        origin = min(starts)
        times = {}
        if first is not None:
            times |= _video_facts(video, found, first, origin)
        if found.sound.start is not None:
            times |= {
                "audio_codec": audio.codec_context.name,
                "audio_sampling_rate": found.sound.segments[0][1],
                "audio_channels": audio.codec_context.layout.nb_channels,
                "audio_start": found.sound.start - origin,
                "audio_end": found.sound.end - origin,
            }
        info = MediaInfo(
            source=name,
            container=container.format.name,
            duration_seconds=max(times.get("video_end", 0.0), times.get("audio_end", 0.0)),
            has_video=first is not None,
            has_audio=found.sound.start is not None,
            **times,
        )
        notes = found.warnings + notes
        stated = _stated_end(container, [s for s in (video, audio) if s is not None], origin)
        if stated is not None and info.duration_seconds < stated - max(0.5, 0.02 * stated):
            notes.append(
                f"The file states {stated:.2f} s but only {info.duration_seconds:.2f} s can be read, as if it had been cut off: "
                "those are used. Copy or download it again for the rest."
            )
    return _Survey(info, found, origin, notes)


def _first_frame(source: Source, video) -> FirstFrame | None:
    with open_container(source) as container:
        stream = container.streams[video.index]
        for frame in decode_frames(container, stream, None):
            turns, _ = orientation(frame)
            width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
            return FirstFrame(_frame_time(frame, stream, 0.0), width, height, -90 * turns % 360)
    return None


def _frame_time(frame: av.VideoFrame, stream, expected: float) -> float:
    pts = frame.pts if frame.pts is not None else frame.dts
    return expected if pts is None else float(pts * stream.time_base)


def _frame_seconds(stream) -> float:
    """How long one frame is shown when the container does not say."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(1 / rate) if rate else 0.04


def _video_facts(video, found: Scan, first: FirstFrame, origin: float) -> dict:
    packets, length = found.packets, _frame_seconds(video)
    shown = packets.shown_times()
    if shown is None:
        num_frames = None
        last_end = first.time + len(packets.times) * length
    else:
        shown = shown[shown >= first.time]
        num_frames = len(shown)
        last = np.flatnonzero(packets.is_shown & (packets.times == shown[-1]))[-1]
        last_end = packets.ends[last] if packets.ends[last] > shown[-1] else shown[-1] + length
    return {
        "frame_rate": 1 / length,
        "width": first.width,
        "height": first.height,
        "rotation": first.rotation,
        "num_frames": num_frames,
        "video_codec": video.codec_context.name,
        "video_start": first.time - origin,
        "video_end": float(last_end - origin),
    }


def _stated_end(container, streams, origin: float) -> float | None:
    """Seconds the header promises for the used tracks, None where it does not (or where other tracks blur it)."""
    ends = [
        float((stream.duration + (stream.start_time or 0)) * stream.time_base) - origin
        for stream in streams
        if stream.duration is not None
    ]
    if ends:
        return max(ends)
    if container.duration is None or any(stream.type not in ("video", "audio") for stream in container.streams):
        return None
    return container.duration / av.time_base + (container.start_time or 0) / av.time_base - origin


def _read_frames(source: Source, survey: _Survey, times, notes: list[str]):
    packets = survey.scan.packets
    needed = None if times is None else packets.to_decode(times + survey.origin + 1e-6)
    picker = FramePicker(times, capacity=len(packets.times))
    with open_container(source) as container:
        stream = choose_stream(container, "video")
        length = _frame_seconds(stream)
        last, dropped = -np.inf, 0
        for frame in decode_frames(container, stream, needed):
            time = _frame_time(frame, stream, last + length if np.isfinite(last) else 0.0) - survey.origin
            if time <= last:
                dropped += 1
                continue
            last = time
            picker.offer(time, frame)
            if picker.is_done:
                break
        picker.finish()
    if dropped:
        notes.append(f"{dropped} frames carry a timestamp at or before the frame shown before them: left out.")
    notes += picker.warnings
    count = len(picker.kept_times)
    return picker.frames[:count], np.array(picker.kept_times, np.float64)
