"""Survey of a file, or of some seconds of it, before a frame is chosen: packets, decoded sound and times."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mirasol.media import torchcodec_backend
from mirasol.media.container import (
    Scan,
    choose_stream,
    name_of,
    open_container,
    scan,
    several_tracks,
    stated_end,
)
from mirasol.media.frames import SAME_TIME_SECONDS, FrameDecoder, frame_seconds, orientation, shown_size
from mirasol.media.notes import NO_FRAME, NO_SAMPLE, compare_length
from mirasol.media.segment import first_sound_time, scan_span
from mirasol.media.types import MediaError, MediaInfo, Source

FRAMES_WITH_FIELDS = 4  # interlaced frames to decode to see whether their fields are in packets of their own


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
        """Clip `times` to the segment; for None return the times of its frames, or None if the container has none."""
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
    decoder: str | None = "pyav",
    segment: tuple[float, float] | None = None,
    audio_stream: int | str | None = None,
    use_seeking: bool = True,
) -> Survey:
    """The survey of a whole file, or of the seconds (start, end) of it. Unused tracks are listed, never decoded.

    Args:
        source: A path, or the bytes of a file.
        use_video: False leaves the picture out of the duration.
        use_audio: False leaves the sound out of the duration.
        decoder: Decoder of the sound; None does not decode it, and its end is that of its last packet.
        segment: Seconds of the file.
        audio_stream: Number or language of the sound track.
        use_seeking: False reads a segment from the start of the file, if its keyframe flags are wrong.
    """
    name, notes = name_of(source), list[str]()
    start, end = segment or (0.0, np.inf)
    with open_container(source) as container:
        video, audio = choose_stream(container, "video"), choose_stream(container, "audio", audio_stream)
        if (video is None or not use_video) and (audio is None or not use_audio):
            wanted = " or ".join(["picture"] * use_video + ["sound"] * use_audio)
            found_tracks = ", ".join(stream.type for stream in container.streams) or "none"
            raise MediaError(
                f"Expected a {wanted} track in {name}, found these tracks: {found_tracks}. "
                "Use another file, or do not switch off the track that is there."
            )
        if use_audio and audio_stream is None:
            notes += several_tracks(container, audio)
        first = None if video is None else _first_frame(source, video)
        sound_start = None if audio is None else first_sound_time(source, audio)
        # t = 0 is the file's own, so that a track left out moves no other.
        origin = min(_known(first, sound_start), default=0.0)
        span = (origin + start, origin + end)
        decode_sound = use_audio and decoder == "pyav"
        if segment is not None and decoder != "torchcodec":
            found = scan_span(source, video, audio, span, decode_sound, use_seeking)
        else:
            found = scan(source, container, video, audio, decode_sound=decode_sound)
        if decoder == "torchcodec" and use_audio and audio is not None:
            found.sound = torchcodec_backend.read_sound(source, audio.index)
        notes += found.warnings
        if decoder is None and found.is_open_ended:  # only its samples tell how long the sound is
            return survey_file(source, use_video, use_audio, "pyav", segment, audio_stream)
        if first is not None and first["seconds_per_field"]:
            found.packets.pair_fields(first["seconds_per_field"])
        if first is not None:  # those before refer to what came before the file
            found.packets.is_shown &= ~(found.packets.times < first["time"])
        if video is not None and first is None and use_video:
            notes.append(NO_FRAME)
        if audio is not None and sound_start is None and use_audio:
            notes.append(NO_SAMPLE)
        used = _known(first if use_video else None, sound_start if use_audio else None)
        if not used:
            raise MediaError(
                f"Expected at least one frame or one sample of sound in {name}, found none. {' '.join(notes)} "
                "Export or record the file again."
            )
        video_facts, audio_facts = (
            _video_facts(video, found, first, span),
            _sound_facts(audio, found, sound_start, span),
        )
        ends = [video_facts.get("video_end", 0.0) * use_video, audio_facts.get("audio_end", 0.0) * use_audio]
        info = MediaInfo(
            source=name,
            container=container.format.name,
            duration_seconds=max(ends),
            has_video=bool(video_facts),
            has_audio=bool(audio_facts),
            warnings=notes,
            **video_facts | audio_facts,
        )
        streams = [
            stream for stream, is_used in ((video, use_video), (audio, use_audio)) if stream is not None and is_used
        ]
        stated = stated_end(source, container, streams)
        if not max(ends):
            raise MediaError(
                f"Expected picture or sound from {start:.2f} s to {end:.2f} s of {name}, found none"
                f"{'' if stated is None else f': it lasts {stated - origin:.2f} s'}. Correct these seconds."
            )
        notes += compare_length(
            None if stated is None else min(stated, span[1]) - span[0], info.duration_seconds, start
        )
        return Survey(info, found, span, None if video is None else video.index, notes)


def first_moment(source: Source, audio_stream: int | str | None = None) -> float | None:
    """Return t = 0 of a file on its clock, which does not depend on the tracks that are used; None without media."""
    with open_container(source) as container:
        video, audio = choose_stream(container, "video"), choose_stream(container, "audio", audio_stream)
        first = None if video is None else _first_frame(source, video)
        return min(_known(first, None if audio is None else first_sound_time(source, audio)), default=None)


def _known(first: dict | None, sound_start: float | None) -> list[float]:
    return [*([] if first is None else [first["time"]]), *([] if sound_start is None else [sound_start])]


def _first_frame(source: Source, video) -> dict | None:
    """Return facts that need decoded frames: the first one's time on the file's clock, its upright size and rotation,
    and the duration of a field if the frames' two fields are in packets of their own, else None.
    """
    facts, times = None, list[float]()
    with open_container(source) as container:
        stream = container.streams[video.index]
        decoder = FrameDecoder(container, stream)
        for time, frame in decoder.frames():
            times.append(time)
            if facts is None:
                turns, _ = orientation(frame)
                width, height = shown_size(stream, frame)
                width, height = (height, width) if turns % 2 else (width, height)
                facts = {"time": time, "width": width, "height": height, "rotation": -90 * turns % 360}
            if not frame.interlaced_frame or len(times) == FRAMES_WITH_FIELDS:
                break
    if facts is None:
        return None
    # Packets between two frames that give none of their own hold second fields, as AVCHD cameras write H.264.
    gaps = [time - max(t for t in times if t < time + 1e-3) for time in decoder.fed if times[0] <= time < times[-1]]
    longest = 0.75 * np.diff(times).min(initial=np.inf)  # a longer gap is a frame that is lost
    return facts | {"seconds_per_field": min((gap for gap in gaps if 1e-3 < gap < longest), default=None)}


def _video_facts(video, found: Scan, first: dict | None, span: tuple[float, float]) -> dict[str, Any]:
    """Empty where no frame is shown within the span."""
    packets, (begin, end) = found.packets, span
    if first is None or not len(packets.times):
        return {}
    shown, num_frames = packets.shown_times(), None
    step = _frame_interval(video, shown)
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
        "pixel_aspect": float(video.sample_aspect_ratio or 1),
        "num_frames": num_frames,
        "video_codec": video.codec_context.name,
        "video_start": max(first["time"] - begin, 0.0),
        "video_end": float(min(last, end) - begin),
    }


def _frame_interval(video, shown: Float64[np.ndarray, " frame"] | None) -> float:
    """Return the duration of a frame: the header's, unless the actual frames differ by more than 10 %."""
    stated = frame_seconds(video)
    if shown is None or len(shown) < 2:
        return stated
    measured = float(shown[-1] - shown[0]) / (len(shown) - 1)
    return stated if abs(measured / stated - 1) < 0.1 else measured


def _sound_facts(audio, found: Scan, start: float | None, span: tuple[float, float]) -> dict[str, Any]:
    """Empty where there is no sample within the span."""
    sound, codec, (begin, end) = found.sound, audio and audio.codec_context, span
    is_decoded = sound.start is not None
    start, last = (sound.start, sound.end) if is_decoded else (start, found.sound_end)
    if start is None or last is None or min(last, end) <= max(start, begin):
        return {}
    return {
        "audio_codec": codec.name,
        "audio_sampling_rate": sound.segments[0][1] if is_decoded else codec.sample_rate,
        "audio_channels": codec.layout.nb_channels,
        "audio_start": max(start - begin, 0.0),
        "audio_end": min(last, end) - begin,
    }
