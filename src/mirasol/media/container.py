"""Opening a file, choosing its streams, and one pass over its packets (sound decoded, picture only listed)."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Bool, Float64

from mirasol.media.sound import SoundTrack, mono
from mirasol.media.types import MediaError, Source


def describe(source: Source) -> str:
    """The name a message uses for a source."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def open_container(source: Source) -> av.container.InputContainer:
    """An open PyAV container, or a `MediaError` that says what was found instead."""
    name = describe(source)
    if not isinstance(source, bytes):
        path = Path(source)
        if not path.exists():
            raise MediaError(f"Expected a video or sound file at {name}, found no such file. Check the path; relative paths start at {os.getcwd()}.")
        if not path.is_file():
            raise MediaError(f"Expected a video or sound file at {name}, found a folder. Name one file inside it.")
        size = path.stat().st_size
    else:
        size = len(source)
    if size == 0:
        raise MediaError(f"Expected a video or sound file, found {name} with 0 bytes. Copy or download it again.")
    try:
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (av.FFmpegError, ValueError, OSError) as error:
        raise MediaError(
            f"Expected a video or sound file, found {size} bytes in {name} that FFmpeg cannot open ({_reason(error)}). "
            "Check that it is a media file; an mp4 cut off before its index (moov) must be copied or downloaded again."
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def choose_stream(container: av.container.InputContainer, kind: str) -> av.stream.Stream | None:
    """The stream to use: marked default first, then the largest picture or the most sound, then the first one.

    Cover pictures of music files and streams without a known decoder are not candidates.
    """
    candidates = [
        stream
        for stream in getattr(container.streams, kind)
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]

    def rank(stream):
        codec = stream.codec_context
        size = codec.width * codec.height if kind == "video" else codec.sample_rate * codec.layout.nb_channels
        return (not stream.disposition & Disposition.default, -size, stream.index)

    return min(candidates, key=rank, default=None)


@dataclass
class PacketTable:
    """The picture's packets in decoding order, on the file's own clock; what jumping by GOP needs to know."""

    times: Float64[np.ndarray, " packet"]  # presentation seconds, nan where the container gives none
    ends: Float64[np.ndarray, " packet"]
    is_keyframe: Bool[np.ndarray, " packet"]
    is_shown: Bool[np.ndarray, " packet"]  # False: cut away by an edit list, or before the first keyframe

    def shown_times(self) -> Float64[np.ndarray, " frame"] | None:
        """Presentation seconds of all shown frames, sorted; None when the container does not give them."""
        times = self.times[self.is_shown]
        return None if np.isnan(times).any() else np.sort(times)

    def to_decode(self, times: Float64[np.ndarray, " time"]) -> Bool[np.ndarray, " packet"]:
        """Which packets must be decoded to see the frames shown at `times`: from each one's keyframe up to itself.

        Few times: whole GOPs are skipped. Many: every GOP is wanted and this is everything, straight through.
        """
        known = self.shown_times()
        if known is None or not len(known):
            return np.ones(len(self.times), bool)
        candidates = np.flatnonzero(self.is_shown)
        candidates = candidates[np.argsort(self.times[candidates], kind="stable")]
        wanted = np.unique(candidates[np.clip(np.searchsorted(known, times, side="right") - 1, 0, None)])
        keyframes = np.flatnonzero(self.is_keyframe)
        needed = np.zeros(len(self.times), bool)
        for packet in wanted:
            before = keyframes[keyframes <= packet]
            start = before[-1] if len(before) else 0
            if self.times[packet] < self.times[start] and len(before) > 1:
                start = before[-2]  # shown before its own keyframe (open GOP): it refers to the GOP before
            needed[start : packet + 1] = True
        return needed


@dataclass
class Scan:
    """What one pass over a file's packets finds, on the file's own clock."""

    packets: PacketTable | None
    sound: SoundTrack
    warnings: list[str] = field(default_factory=list)


def scan(container, video, audio) -> Scan:
    """Reads every packet once: sound is decoded as it comes, picture packets are listed for the frame reader."""
    sound, warnings = SoundTrack(), []
    rows: list[tuple[float, float, bool, bool]] = []
    streams = [stream for stream in (video, audio) if stream is not None]
    bad_packets = 0
    last = 0.0
    try:
        for packet in container.demux(streams):
            if packet.stream is audio:
                bad_packets += not _decode_sound(audio, packet, sound)
            elif packet.size:
                time = np.nan if packet.pts is None else float(packet.pts * packet.time_base)
                length = float((packet.duration or 0) * packet.time_base)
                rows.append((time, time + length, packet.is_keyframe, not packet.is_discard))
            if packet.dts is not None:
                last = float(packet.dts * packet.time_base)
    except av.FFmpegError as error:
        warnings.append(f"Reading stopped near {last:.2f} s ({_reason(error)}): what came before is used.")
        if audio is not None:
            _decode_sound(audio, None, sound)
    if bad_packets:
        warnings.append(f"{bad_packets} sound packets could not be decoded and were left out: silence stands in their place.")
    return Scan(_table(rows) if video is not None else None, sound, warnings + sound.warnings)


def _decode_sound(stream, packet, sound: SoundTrack) -> bool:
    """Adds the packet's sound (None: what the decoder still holds); False if it cannot be decoded."""
    try:
        frames = stream.codec_context.decode(packet)
    except av.FFmpegError:
        return False
    for frame in frames:
        start = None if frame.pts is None else float(frame.pts * stream.time_base)
        sound.add(start, frame.sample_rate, mono(frame))
    return True


def _table(rows: list[tuple[float, float, bool, bool]]) -> PacketTable:
    times, ends, is_keyframe, is_shown = (np.array([row[i] for row in rows]) for i in range(4))
    is_keyframe, is_shown = is_keyframe.astype(bool), is_shown.astype(bool)
    if is_keyframe.any():
        is_shown[: int(is_keyframe.argmax())] = False
    return PacketTable(times.astype(np.float64), ends.astype(np.float64), is_keyframe, is_shown)
