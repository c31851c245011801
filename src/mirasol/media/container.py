"""Opening a file, choosing its streams, and one pass over its packets (sound decoded, picture only listed)."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Bool, Float64

from mirasol.media.frames import FORMATS_WITHOUT_PRESENTATION_TIMES
from mirasol.media.sound import SoundTrack, mono
from mirasol.media.types import MediaError, Source

# Containers of recorded picture and sound. Without this list FFmpeg draws text files as ANSI art, plays single images,
# and follows playlists (hls, concat, dash) to other files and to the network, which bytes from a stranger must not do.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,flv,asf,ogg,nut,mxf,dv,rm,gif,"
    "wav,w64,mp3,aac,ac3,eac3,dts,flac,aiff,caf,amr,au,ape,wv,tta"
)
INTERLEAVE_SECONDS = 10.0


def name_of(source: Source) -> str:
    """What a message calls a source."""
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)


def reason(error: Exception) -> str:
    """An FFmpeg error in words, without its number and path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def open_container(source: Source) -> av.container.InputContainer:
    """An open PyAV container, or a `MediaError` that says what was found instead."""
    name = name_of(source)
    if isinstance(source, bytes):
        size, file = len(source), io.BytesIO(source)
    else:
        path = Path(source)
        if not path.exists():
            raise MediaError(
                f"Expected a video or sound file at {name}, found no such file. "
                f"Check the path; relative paths start at {os.getcwd()}."
            )
        if not path.is_file():
            raise MediaError(f"Expected a video or sound file at {name}, found a folder. Name one file inside it.")
        size, file = path.stat().st_size, str(path)
    if size == 0:
        raise MediaError(f"Expected a video or sound file, found {name} with 0 bytes. Copy or download it again.")
    try:
        return av.open(file, container_options={"format_whitelist": CONTAINERS})
    except (av.FFmpegError, ValueError, OSError) as error:
        raise MediaError(
            f"Expected a video or sound file, found {name} with {size} bytes that cannot be opened as one "
            f"({reason(error)}). Check that it is a media file; an mp4 cut off before its index (moov) must be copied "
            "or downloaded again."
        ) from error


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
    """The picture's packets in decoding order, on the file's clock: what skipping whole GOPs needs to know."""

    times: Float64[np.ndarray, " packet"]  # presentation seconds, nan where the container gives none
    ends: Float64[np.ndarray, " packet"]
    is_keyframe: Bool[np.ndarray, " packet"]
    is_shown: Bool[np.ndarray, " packet"]  # False: hidden by an edit list, or before the first keyframe

    @classmethod
    def from_rows(cls, rows: list[tuple[float, float, bool, bool]]) -> "PacketTable":
        """The table of (time, end, is_keyframe, is_shown) rows."""
        times, ends, is_keyframe, is_shown = np.array(rows, np.float64).reshape(-1, 4).T
        is_keyframe, is_shown = is_keyframe.astype(bool), is_shown.astype(bool)
        if is_keyframe.any():
            is_shown[: int(is_keyframe.argmax())] = False
        return cls(times, ends, is_keyframe, is_shown)

    def shown_times(self) -> Float64[np.ndarray, " frame"] | None:
        """Presentation seconds of all shown frames, sorted; None when the container does not give them."""
        times = self.times[self.is_shown]
        return None if not len(times) or np.isnan(times).any() else np.unique(times)

    def shown_at(self, times: Float64[np.ndarray, " time"]) -> Float64[np.ndarray, " frame"]:
        """Presentation seconds of the frames shown at `times`, each once; needs known `shown_times`."""
        shown = self.shown_times()
        return np.unique(shown[np.clip(np.searchsorted(shown, times, side="right") - 1, 0, None)])

    def to_decode(self, times: Float64[np.ndarray, " time"]) -> Bool[np.ndarray, " packet"] | None:
        """Which packets must be decoded to see the frames shown at `times`: from each one's keyframe up to itself.

        Few times: whole GOPs are left out. Many: every GOP is wanted and the file is decoded straight through. None,
        everything, where the container does not tell the times.
        """
        if self.shown_times() is None:
            return None
        keyframes = np.flatnonzero(self.is_keyframe)
        needed = np.zeros(len(self.times), bool)
        for packet in np.flatnonzero(self.is_shown & np.isin(self.times, self.shown_at(times))):
            before = keyframes[keyframes <= packet]
            start = before[-1] if len(before) else 0
            if self.times[packet] < self.times[start] and len(before) > 1:
                start = before[-2]  # shown before its own keyframe (open GOP): it refers to the GOP before
            needed[start : packet + 1] = True
        return needed


@dataclass
class Scan:
    """What one pass over a file's packets finds, on the file's clock. `begin`: where the pass was told to start."""

    packets: PacketTable
    sound: SoundTrack
    warnings: list[str] = field(default_factory=list)
    begin: float | None = None


def seek(container, stream, time: float | None) -> None:
    """The next packets are those from the stream's keyframe at or before `time` on; None: from the first one."""
    if time is not None:
        container.seek(round(time / stream.time_base), stream=stream)


def scan(container, video, audio, span: tuple[float, float] = (-np.inf, np.inf)) -> Scan:
    """Reads every packet once: sound is decoded as it comes, picture packets are listed for the frame decoder.

    Outside `span` (seconds on the file's clock) no sound is decoded, and what comes after it is not read.
    """
    sound, rows, warnings = SoundTrack(), [], []
    passed = set()
    bad_packets = cut_packets = 0
    time = 0.0
    streams = [stream for stream in (video, audio) if stream is not None]
    try:
        for packet in container.demux(streams) if streams else ():
            if packet.dts is not None and packet.dts * packet.time_base > span[1]:
                passed.add(packet.stream_index)
                # Tracks are interleaved: one that is this far ahead of the other will not see it again.
                if len(passed) == len(streams) or packet.dts * packet.time_base > span[1] + INTERLEAVE_SECONDS:
                    break
                continue
            cut_packets += packet.is_corrupt
            if packet.stream is audio:
                if packet.pts is not None and (packet.pts + (packet.duration or 0)) * packet.time_base < span[0]:
                    continue
                bad_packets += not _decode_sound(audio, packet, sound)
            elif packet.size:
                begin = np.nan if packet.pts is None else float(packet.pts * packet.time_base)
                end = begin + float((packet.duration or 0) * packet.time_base)
                rows.append((begin, end, packet.is_keyframe, not packet.is_discard))
            if packet.dts is not None:
                time = float(packet.dts * packet.time_base)
    except av.FFmpegError as error:
        warnings.append(f"Reading stopped near {time:.2f} s ({reason(error)}): what comes before is used.")
        if audio is not None:
            _decode_sound(audio, None, sound)
    if cut_packets:
        warnings.append(f"{cut_packets} packets are incomplete, as where a file is cut off: what they hold is used.")
    if bad_packets:
        warnings.append(f"{bad_packets} sound packets could not be decoded and were left out.")
    if container.format.name in FORMATS_WITHOUT_PRESENTATION_TIMES:
        rows = [(np.nan, np.nan, *flags) for _, _, *flags in rows]
    return Scan(PacketTable.from_rows(rows), sound, warnings + sound.warnings)


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


def stated_end(container, streams) -> float | None:
    """Seconds on the file's clock up to which the header promises the used streams; None where it does not say."""
    if container.format.name == "avi":
        return max(stream.frames * float(stream.time_base) for stream in streams)
    ends = [
        float((stream.duration + (stream.start_time or 0)) * stream.time_base)
        for stream in streams
        if stream.duration is not None
    ]
    if ends:
        return max(ends)
    if container.duration is None or any(stream.type not in ("video", "audio") for stream in container.streams):
        return None  # a subtitle may be what lasts that long
    return (container.duration + (container.start_time or 0)) / av.time_base
