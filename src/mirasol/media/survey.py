"""What a file, or some seconds of it, holds: packets, decoded sound and times, before a frame is chosen."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mirasol.media import torchcodec_backend
from mirasol.media.container import Scan, choose_stream, name_of, open_container, scan, stated_end
from mirasol.media.frames import SAME_TIME_SECONDS, FrameDecoder, frame_seconds, orientation
from mirasol.media.segment import first_sound_time, scan_span
from mirasol.media.types import MediaError, MediaInfo, Source


@dataclass
class Survey:
    """One pass over the packets: `info` is on the clip's axis, `scan` on the file's clock; the clip is its `span`."""

    info: MediaInfo
    scan: Scan
    span: tuple[float, float]
    video_index: int | None
    warnings: list[str]

    @property
    def origin(self) -> float:
        """Seconds of t = 0 on the file's clock."""
        return self.span[0]

    def times_in_segment(self, times: Float64[np.ndarray, " time"] | None) -> Float64[np.ndarray, " time"] | None:
        """The wanted seconds, none so late that a frame after the segment is shown; for None those of its frames.

        None again where the container does not tell the times of its frames.
        """
        shown = self.scan.packets.shown_times()
        latest = self.info.duration_seconds - 2 * SAME_TIME_SECONDS
        if times is None and shown is not None:
            times = np.unique((shown - self.origin).clip(min=0.0))
            times = times[times <= latest]
        return times if times is None else np.minimum(times, latest)


def survey_file(
    source: Source,
    use_video: bool = True,
    use_audio: bool = True,
    backend: str = "pyav",
    segment: tuple[float, float] | None = None,
) -> Survey:
    """The survey of a whole file, or of the seconds (start, end) of it."""
    name, notes = name_of(source), list[str]()
    start, end = segment or (0.0, np.inf)
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
        first = None if video is None else _first_frame(source, video)
        if segment is not None and backend == "pyav":
            sound_start = None if audio is None else first_sound_time(source, audio)
            origin = min(_known(first, sound_start), default=0.0)
            found = scan_span(source, video, audio, (origin + start, origin + end))
        else:
            found = scan(container, video, audio if backend == "pyav" else None)
            if backend == "torchcodec" and audio is not None:
                found.sound = torchcodec_backend.read_sound(source, audio.index)
            sound_start = found.sound.start
        notes += found.warnings
        if video is not None and first is None:
            notes.append("The picture track holds no frame that can be decoded: read as if there were none.")
        if audio is not None and sound_start is None:
            notes.append("The sound track holds no sample that can be decoded: read as if there were none.")
        if not _known(first, sound_start):
            raise MediaError(
                f"Expected at least one frame or one sample of sound in {name}, found none. {' '.join(notes)} "
                "Export or record the file again."
            )
        origin = min(_known(first, sound_start))
        span = (origin + start, origin + end)
        facts = _video_facts(video, found, first, span) | _sound_facts(audio, found, span)
        info = MediaInfo(
            source=name,
            container=container.format.name,
            duration_seconds=max(facts.get("video_end", 0.0), facts.get("audio_end", 0.0)),
            has_video="video_end" in facts,
            has_audio="audio_end" in facts,
            **facts,
        )
        stated = stated_end(container, [stream for stream in (video, audio) if stream is not None])
        if not facts:
            raise MediaError(
                f"Expected picture or sound from {start:.2f} s to {end:.2f} s of {name}, found none"
                f"{'' if stated is None else f': it lasts {stated - origin:.2f} s'}. Correct these seconds."
            )
        missing = 0.0 if stated is None else min(stated, span[1]) - span[0] - info.duration_seconds
        if missing > max(0.5, 0.02 * info.duration_seconds):
            notes.append(
                f"The file states {info.duration_seconds + missing:.2f} s, found {info.duration_seconds:.2f} s, "
                "as if cut off: those are used. Copy or download it again for the rest."
            )
        return Survey(info, found, span, None if video is None else video.index, notes)


def _known(first: dict | None, sound_start: float | None) -> list[float]:
    return [*([] if first is None else [first["time"]]), *([] if sound_start is None else [sound_start])]


def _first_frame(source: Source, video) -> dict | None:
    """What only a decoded frame tells: its real time on the file's clock, the upright size, the rotation."""
    with open_container(source) as container:
        for time, frame in FrameDecoder(container, container.streams[video.index]).frames():
            turns, _ = orientation(frame)
            width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
            return {"time": time, "width": width, "height": height, "rotation": -90 * turns % 360}
    return None


def _video_facts(video, found: Scan, first: dict | None, span: tuple[float, float]) -> dict[str, Any]:
    """Empty where no frame is shown within the span."""
    packets, (begin, end) = found.packets, span
    if first is None or not len(packets.times):
        return {}
    step, shown, num_frames = frame_seconds(video), packets.shown_times(), None
    if shown is None:
        last = first["time"] + len(packets.times) * step
    else:
        last = np.max(packets.ends[packets.is_shown & (packets.times == shown[-1])])
        last = last if last > shown[-1] else shown[-1] + step
        within = shown[(shown >= first["time"]) & (shown < end)]
        num_frames = len(within) - max(int(np.searchsorted(within, begin, side="right")) - 1, 0)
    if min(last, end) <= max(first["time"], begin):
        return {}
    return {
        "frame_rate": 1 / step,
        "width": first["width"],
        "height": first["height"],
        "rotation": first["rotation"],
        "num_frames": num_frames,
        "video_codec": video.codec_context.name,
        "video_start": max(first["time"] - begin, 0.0),
        "video_end": float(min(last, end) - begin),
    }


def _sound_facts(audio, found: Scan, span: tuple[float, float]) -> dict[str, Any]:
    """Empty where there is no sample within the span."""
    sound, (begin, end) = found.sound, span
    if sound.start is None or min(sound.end, end) <= max(sound.start, begin):
        return {}
    return {
        "audio_codec": audio.codec_context.name,
        "audio_sampling_rate": sound.segments[0][1],
        "audio_channels": audio.codec_context.layout.nb_channels,
        "audio_start": max(sound.start - begin, 0.0),
        "audio_end": min(sound.end, end) - begin,
    }
