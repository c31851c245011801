"""`probe` and `read_clip`: a file -> frames and sound on one time axis."""

import warnings as python_warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64

from mirasol.media import torchcodec_backend
from mirasol.media.container import Scan, choose_stream, name_of, open_container, scan, stated_end
from mirasol.media.frames import SAME_TIME_SECONDS, FrameDecoder, FramePicker, frame_seconds, orientation
from mirasol.media.types import Clip, MediaError, MediaInfo, MediaWarning, Source

BACKENDS = ("pyav", "torchcodec")
Select = Callable[[MediaInfo], Float64[np.ndarray, " time"]]


def probe(source: Source) -> MediaInfo:
    """What the file holds and when, exact, for the price of its sound and one frame."""
    return _survey(source).info


def read_clip(
    source: Source,
    *,
    use_video: bool = True,
    use_audio: bool = True,
    select: Select | None = None,
    backend: str = "pyav",
) -> Clip:
    """The clip's frames and mono 16 kHz sound with their times.

    t = 0 is the earliest first timestamp of the used tracks.

    Args:
        source: a path, or the bytes of a file.
        use_video: False leaves the picture out: `frames` is None and it no longer counts for t = 0.
        use_audio: the same for the sound.
        select: gives the wanted seconds, sorted, once the file's times are known. For each the last frame shown at
            or before it is kept (before the first frame: the first), each frame once. None keeps every frame.
        backend: "pyav", or "torchcodec" (an extra; docs/decoders.md lists the files it gets wrong).

    Raises:
        MediaError: nothing usable in the file. What can only partly be read is used, and reported as `MediaWarning`
            and in `Clip.warnings`.
    """
    if backend not in BACKENDS:
        raise ValueError(f'Expected backend to be one of {BACKENDS}, found "{backend}". Leave it out to use PyAV.')
    if not (use_video or use_audio):
        raise ValueError("Expected use_video or use_audio, found both False: nothing would be read. Switch one on.")
    survey = _survey(source, use_video, use_audio, backend)
    info, notes = survey.info, survey.warnings
    frames = frame_times = None
    if info.has_video:
        times = None if select is None else np.asarray(select(info), np.float64).reshape(-1)
        if times is not None and (np.diff(times) < 0).any():
            raise ValueError("Expected sorted times from `select`, found one before its predecessor. Sort them.")
        if times is None or len(times):
            read = _read_frames if backend == "pyav" else _read_frames_torchcodec
            frames, frame_times = read(source, survey, times)
    waveform = survey.scan.sound.waveform() if info.has_audio else None
    for note in notes:
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


@dataclass
class _Survey:
    """One pass over the file: `info` is on the clip's axis, `scan` on the file's clock, where t = 0 is `origin`."""

    info: MediaInfo
    scan: Scan
    origin: float
    video_index: int | None
    warnings: list[str]


def _survey(source: Source, use_video: bool = True, use_audio: bool = True, backend: str = "pyav") -> _Survey:
    name, notes = name_of(source), list[str]()
    facts: dict[str, Any] = {}
    with open_container(source) as container:
        video = choose_stream(container, "video") if use_video else None
        audio = choose_stream(container, "audio") if use_audio else None
        if video is None and audio is None:
            wanted = " or ".join(["picture"] * use_video + ["sound"] * use_audio)
            tracks = ", ".join(stream.type for stream in container.streams) or "none"
            raise MediaError(
                f"Expected a {wanted} track in {name}, found these tracks: {tracks}. "
                "Use another file, or do not switch off the track that is there."
            )
        found = scan(container, video, audio if backend == "pyav" else None)
        if backend == "torchcodec" and audio is not None:
            found.sound = torchcodec_backend.read_sound(source, audio.index)
        notes += found.warnings
        first = _first_frame(source, video) if len(found.packets.times) else None
        if video is not None and first is None:
            notes.append("The picture track holds no frame that can be decoded: read as if there were none.")
        if audio is not None and found.sound.start is None:
            notes.append("The sound track holds no sample that can be decoded: read as if there were none.")
        starts: list[Any] = [start for start in (first and first["time"], found.sound.start) if start is not None]
        if not starts:
            raise MediaError(
                f"Expected at least one frame or one sample of sound in {name}, found none. {' '.join(notes)} "
                "Export or record the file again."
            )
        origin = min(starts)
        if first is not None:
            facts |= _video_facts(video, found, first, origin)
        if found.sound.start is not None:
            facts |= {
                "audio_codec": audio.codec_context.name,
                "audio_sampling_rate": found.sound.segments[0][1],
                "audio_channels": audio.codec_context.layout.nb_channels,
                "audio_start": found.sound.start - origin,
                "audio_end": found.sound.end - origin,
            }
        info = MediaInfo(
            source=name,
            container=container.format.name,
            duration_seconds=max(facts.get("video_end", 0.0), facts.get("audio_end", 0.0)),
            has_video=first is not None,
            has_audio=found.sound.start is not None,
            **facts,
        )
        stated = stated_end(container, [stream for stream in (video, audio) if stream is not None])
        missing = 0.0 if stated is None else stated - origin - info.duration_seconds
        if missing > max(0.5, 0.02 * info.duration_seconds):
            notes.append(
                f"The file states {info.duration_seconds + missing:.2f} s, found {info.duration_seconds:.2f} s, "
                "as if cut off: those are used. Copy or download it again for the rest."
            )
        return _Survey(info, found, origin, None if video is None else video.index, notes)


def _first_frame(source: Source, video) -> dict | None:
    """What only a decoded frame tells: its real time on the file's clock, the upright size, the rotation."""
    with open_container(source) as container:
        for time, frame in FrameDecoder(container, container.streams[video.index]).frames():
            turns, _ = orientation(frame)
            width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
            return {"time": time, "width": width, "height": height, "rotation": -90 * turns % 360}
    return None


def _video_facts(video, found: Scan, first: dict, origin: float) -> dict:
    packets, step = found.packets, frame_seconds(video)
    shown, num_frames = packets.shown_times(), None
    if shown is None:
        end = first["time"] + len(packets.times) * step
    else:
        num_frames = int((shown >= first["time"]).sum())
        end = np.max(packets.ends[packets.is_shown & (packets.times == shown[-1])])
        end = end if end > shown[-1] else shown[-1] + step
    return {
        "frame_rate": 1 / step,
        "width": first["width"],
        "height": first["height"],
        "rotation": first["rotation"],
        "num_frames": num_frames,
        "video_codec": video.codec_context.name,
        "video_start": first["time"] - origin,
        "video_end": float(end - origin),
    }


def _read_frames(source: Source, survey: _Survey, times):
    """Decodes what the wanted times need, in one pass with PyAV."""
    packets = survey.scan.packets
    needed = None if times is None else packets.to_decode(times + survey.origin + SAME_TIME_SECONDS)
    picker = FramePicker(times, capacity=len(packets.times))
    with open_container(source) as container:
        stream = container.streams[survey.video_index]
        stream.thread_type = "AUTO"
        decoder = FrameDecoder(container, stream)
        for time, frame in decoder.frames(needed):
            picker.offer(time - survey.origin, partial(decoder.to_image, frame))
            if picker.is_done:
                break
    survey.warnings += decoder.warnings()
    return picker.result()


def _read_frames_torchcodec(source: Source, survey: _Survey, times):
    """The same with torchcodec, asked for the frames that the packets' timestamps promise."""
    packets = survey.scan.packets
    promised = packets.shown_times()
    if promised is not None and times is not None:
        promised = packets.shown_at(times + survey.origin + SAME_TIME_SECONDS)
    picker = FramePicker(times, capacity=len(packets.times))
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
