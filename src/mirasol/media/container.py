"""Opening a file, choosing its streams, and one pass over its packets (sound decoded, picture only listed)."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Bool, Float32, Float64

from mirasol.media.clock import INTERLEAVE_SECONDS, Clock, seconds
from mirasol.media.frames import FORMATS_WITHOUT_PRESENTATION_TIMES
from mirasol.media.notes import Faults
from mirasol.media.sound import JITTER_SECONDS, SoundTrack, is_plausible, mono
from mirasol.media.types import MediaError, Source

# Containers of recorded picture and sound. Without this list FFmpeg draws text files as ANSI art, plays single images,
# and follows playlists (hls, concat, dash) to other files and to the network, which bytes from a stranger must not do.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,obu,ivf,flv,asf,ogg,nut,mxf,dv,rm,gif,"
    "wav,w64,mp3,aac,ac3,eac3,dts,flac,aiff,caf,amr,au,ape,wv,tta"
)
# Of these a track is known only once its first packet is met, which may come minutes after the beginning.
FORMATS_WITHOUT_A_HEADER = {"flv", "mpeg", "mpegts"}
# Their length is an estimate from the bit rate, which tells nothing about whether they are whole.
FORMATS_WITHOUT_A_LENGTH = {"aac", "ac3", "amr", "dts", "eac3", "mpegvideo"}
MP3_LENGTHS = (b"Xing", b"Info", b"VBRI")  # headers with a length; without them the same holds for mp3
SEARCHED_BYTES = 128 << 20
FORMAT_BYTES = 1 << 18


def name_of(source: Source) -> str:
    """Return the name of a source for messages."""
    return getattr(source, "name", f"<{len(source)} bytes>") if isinstance(source, bytes) else str(source)


def held(source: Source) -> str | Path | bytes:
    """Return a path or bytes; a member of another file is read into memory, once."""
    return source if isinstance(source, str | Path | bytes) else source.read_bytes()


def reason(error: BaseException) -> str:
    """An FFmpeg error in words, without its number and path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def media_errors(source: Source) -> Iterator[None]:
    """Turn every error of a decoder into a `MediaError`; a `ValueError` of ours passes."""
    try:
        yield
    except MediaError:
        raise
    except (av.FFmpegError, ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, UnicodeError) as error:
        raise MediaError(
            f"Expected a video or sound file that can be decoded, found {name_of(source)}, which fails with "
            f"{type(error).__name__} ({reason(error)}). Export or record the file again."
        ) from error


def open_container(source: Source) -> av.container.InputContainer:
    """Open a PyAV container, or raise a `MediaError` that names the cause."""
    name, source = name_of(source), held(source)
    file: str | bytes
    if isinstance(source, bytes):
        size, file = len(source), source
    else:
        path = Path(source)
        if not path.exists():
            raise MediaError(
                f"Expected a video or sound file at {name}, found no such file. "
                f"Check the path; relative paths start at {os.getcwd()}."
            )
        if not path.is_file():
            raise MediaError(f"Expected a video or sound file at {name}, found a folder. Name one file inside it.")
        # Without the protocol's name FFmpeg takes "12:30.mp4" for an address.
        size, file = path.stat().st_size, f"file:{path}"
    if size == 0:
        raise MediaError(f"Expected a video or sound file, found {name} with 0 bytes. Copy or download it again.")
    try:
        container = _open(file)
        kinds = {stream.type for stream in container.streams if stream.codec_context is not None}
        if container.format.name in FORMATS_WITHOUT_A_HEADER and not kinds >= {"video", "audio"}:
            container.close()
            search = {"probesize": str(min(max(size, 5_000_000), SEARCHED_BYTES)), "analyzeduration": str(2**62)}
            container = _open(file, search)
        return container
    except (av.FFmpegError, ValueError, OSError) as error:
        why, advice = (
            reason(error),
            "Check that it is a media file; an mp4 cut off before its index (moov) must be copied ",
        )
        advice += "or downloaded again."
        if isinstance(error, av.error.ArgumentError):  # known to FFmpeg, but not one of CONTAINERS
            why = f"its format, {_format_name(source) or 'a text or a playlist'}, is not supported"
            advice = "Convert it to mp4, Matroska, WAV or another format of recorded picture and sound."
        raise MediaError(
            f"Expected a video or sound file, found {name} with {size} bytes that cannot be opened as one ({why}). "
            f"{advice}"
        ) from error


def _open(file: str | bytes, options: dict[str, str] | None = None) -> av.container.InputContainer:
    options = {"format_whitelist": CONTAINERS} | (options or {})
    opened = io.BytesIO(file) if isinstance(file, bytes) else file
    # Titles may be in any encoding: they are not worth an error.
    return av.open(opened, "r", container_options=options, metadata_errors="replace")


def _format_name(source: str | Path | bytes) -> str | None:
    """FFmpeg's name of a file's format; no protocol is allowed, so nothing is followed."""
    try:
        with av.open(io.BytesIO(_head(source)), container_options={"protocol_whitelist": "none"}) as container:
            return container.format.name
    except (av.FFmpegError, ValueError, OSError):
        return None


def _head(source: Source) -> bytes:
    source = held(source)
    if isinstance(source, bytes):
        return source[:FORMAT_BYTES]
    with open(source, "rb") as file:
        return file.read(FORMAT_BYTES)


def choose_stream(
    container: av.container.InputContainer, kind: str, wanted: int | str | None = None
) -> av.stream.Stream | None:
    """The stream to use: marked default first, then the largest picture or the most sound, then the first one.

    Cover pictures of music files and streams without a known decoder are not candidates. `wanted` is the number of a
    sound track, counted from 0, or its language.
    """
    candidates = tracks(container, kind)

    def rank(stream):
        codec = stream.codec_context
        size = codec.width * codec.height if kind == "video" else codec.sample_rate * codec.layout.nb_channels
        return (not stream.disposition & Disposition.default, -size, stream.index)

    if wanted is not None and candidates:
        chosen = [stream for number, stream in enumerate(candidates) if wanted in (number, stream.language)]
        if not chosen:
            raise ValueError(
                f"Expected audio_stream to be the number or language of a sound track, found {wanted!r}. The file has "
                f"{describe_tracks(candidates)}: choose one of them."
            )
        return chosen[0]
    return min(candidates, key=rank, default=None)


def tracks(container: av.container.InputContainer, kind: str) -> list[av.stream.Stream]:
    """The streams of this kind that can be used."""
    return [
        stream
        for stream in getattr(container.streams, kind)
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]


def describe_tracks(streams: list[av.stream.Stream]) -> str:
    """Number, language and codec of each sound track."""
    return ", ".join(
        f"{number} ({stream.language or 'no language'}, {stream.codec_context.name})"
        for number, stream in enumerate(streams)
    )


def several_tracks(container: av.container.InputContainer, used: av.stream.Stream | None) -> list[str]:
    """Return a sentence about which sound track is used, where there are several."""
    candidates = tracks(container, "audio")
    if used is None or len(candidates) < 2:
        return []
    return [
        f"The file has {len(candidates)} sound tracks, {describe_tracks(candidates)}: {candidates.index(used)} is "
        "used. Choose another one with audio_stream."
    ]


@dataclass
class PacketTable:
    """The picture's packets in decoding order, on the file's clock, from which GOPs to skip are found."""

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
        assert shown is not None, "frames are looked up by times that the container gives"
        return np.unique(shown[np.clip(np.searchsorted(shown, times, side="right") - 1, 0, None)])

    def to_decode(self, times: Float64[np.ndarray, " time"]) -> Bool[np.ndarray, " packet"] | None:
        """Return the packets to decode for the frames shown at `times`: from each frame's keyframe to the frame.

        With few times whole GOPs are skipped. Returns None, for all packets, if the container has no timestamps.
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
            # A second field is not shown on its own, but completes its frame.
            needed[start : packet + 1 + (not self.is_shown[packet + 1 : packet + 2].all())] = True
        return needed

    def pair_fields(self, seconds_per_field: float) -> None:
        """Join each two packets that hold one field of a frame: it is shown from the first field's time on."""
        gaps = np.diff(self.times)
        for second in np.flatnonzero((gaps > 0) & (gaps < 1.5 * seconds_per_field)) + 1:
            if self.is_shown[second - 1]:
                self.is_shown[second] = False
                self.ends[second - 1] = max(self.ends[second], self.times[second] + seconds_per_field)


@dataclass
class Scan:
    """Result of one pass over a file's packets from `begin` on, on the file's clock."""

    packets: PacketTable
    sound: SoundTrack
    sound_end: float | None  # seconds where the last packet of sound within the span ends, decoded or not
    is_open_ended: bool = False  # the last packet does not say when it ends
    warnings: list[str] = field(default_factory=list)
    begin: float | None = None


def seek(container, stream, time: float | None) -> None:
    """Seek to the stream's keyframe at or before `time`, or to its start for None."""
    if time is not None:
        container.seek(round(time / stream.time_base), stream=stream)


def scan(
    source, container, video, audio, span: tuple[float, float] = (-np.inf, np.inf), decode_sound: bool = True
) -> Scan:
    """Reads every packet once: sound is decoded as it comes, picture packets are listed for the frame decoder.

    Outside `span` (seconds on the file's clock) no sound is decoded, and what comes after it is not read.
    """
    sound, rows, warnings, clock = SoundTrack(), [], [], Clock()
    passed, faults = set(), Faults()
    time, sound_end, is_open_ended = 0.0, None, False
    streams = [stream for stream in (video, audio) if stream is not None]
    try:
        for packet in container.demux(streams) if streams else ():
            if not packet.size:  # the last one of each track, which is empty: what the decoder still holds
                if packet.stream is audio and decode_sound:
                    _add_sound(audio, packet, sound)
                continue
            begin, dts, end = clock.place_packet(packet)
            if dts is not None and dts > span[1]:
                passed.add(packet.stream_index)
                # Tracks are interleaved: one that is this far ahead of the other will not see it again.
                if len(passed) == len(streams) or dts > span[1] + INTERLEAVE_SECONDS:
                    break
                continue
            faults.incomplete += packet.is_corrupt
            if packet.stream is audio:
                if begin is not None and packet.duration and end < span[0]:
                    continue
                is_open_ended = np.isnan(end) or not packet.duration
                if not np.isnan(end):
                    sound_end = end if sound_end is None else max(sound_end, end)
                faults.bad_sound += decode_sound and not _add_sound(audio, packet, sound)
            else:
                begin = np.nan if begin is None else begin
                rows.append((begin, end, packet.is_keyframe, not packet.is_discard and shows_a_frame(packet)))
            time = time if dts is None else dts
    except av.FFmpegError as error:
        if not is_whole(source, container, streams, clock):
            warnings.append(f"Reading stopped near {time:.2f} s ({reason(error)}): what comes before is used.")
        if audio is not None and decode_sound:
            _add_sound(audio, None, sound)
    warnings += faults.warnings()
    if sound.repeated > JITTER_SECONDS:
        warnings.append(f"{sound.repeated:.2f} s of sound are stamped as seconds that came before and were left out.")
    if container.format.name in FORMATS_WITHOUT_PRESENTATION_TIMES:
        rows = [(np.nan, np.nan, *flags) for _, _, *flags in rows]
    notes = warnings + clock.warnings() + sound.warnings
    return Scan(PacketTable.from_rows(rows), sound, sound_end, is_open_ended, notes)


def is_whole(source: Source, container, streams, clock: Clock) -> bool:
    """True if the packets read last as long as the header states: an error then is about tags at the end."""
    stated = stated_end(source, container, streams)
    return stated is not None and clock.end is not None and clock.end > stated - 0.1


def shows_a_frame(packet) -> bool:
    """False for a packet of VP8 or VP9 that only later frames refer to; containers list it like any other."""
    codec, data = packet.stream.codec_context.name, memoryview(packet)
    if codec.endswith("vp8"):
        return bool(data[0] >> 4 & 1)
    if not codec.endswith("vp9") or data[-1] >> 5 == 0b110:  # several frames in one packet: the last one is shown
        return True
    bits = data[0] << 1 if data[0] >> 4 & 3 == 3 else data[0]  # profile 3 has one more bit before these
    return bool(bits & 0b1000 or bits & 0b10)  # shows an existing frame, or its own


def _add_sound(stream, packet, sound: SoundTrack) -> bool:
    """Adds the packet's sound (None: what the decoder still holds); False if it cannot be decoded."""
    try:
        for start, frame, samples in sound_pieces(stream, packet):
            sound.add(start if frame.pts is not None or sound.end is None else None, frame.sample_rate, samples)
    except av.FFmpegError:
        return False
    return True


def sound_pieces(stream, packet) -> list[tuple[float, av.AudioFrame, Float32[np.ndarray, " sample"]]]:
    """Decode a packet: frames with their seconds, by default those of the packet, and their mono samples.

    Raises:
        av.FFmpegError: the packet is damaged, or decodes to samples that only damage gives.
    """
    stamp, base = None if packet is None else packet.pts, stream.time_base
    codec, pieces = stream.codec_context, []
    for frame in codec.decode(packet):
        samples = mono(frame)
        if codec.codec.lossy and not is_plausible(samples):  # a lossless one holds what it was given
            raise av.InvalidDataError(0, "samples far beyond full scale")
        pieces.append((seconds(frame.pts if frame.pts is not None else stamp or 0, base), frame, samples))
    return pieces


def stated_end(source: Source, container, streams) -> float | None:
    """Return the end of the used streams by the header, in seconds on the file's clock; None if it has none."""
    form = container.format.name
    if form in FORMATS_WITHOUT_A_LENGTH or (form == "mp3" and not any(name in _head(source) for name in MP3_LENGTHS)):
        return None
    if container.format.name == "avi":
        return max(stream.frames * float(stream.time_base) for stream in streams)
    ends = [
        float((stream.duration + (stream.start_time or 0)) * stream.time_base)
        for stream in streams
        if stream.duration is not None
    ]
    if ends:
        return max(ends)
    has_others = form != "flv" and any(stream.type in ("subtitle", "data") for stream in container.streams)
    if container.duration is None or has_others:
        return None  # a subtitle may be what lasts that long; flv states the length of picture and sound
    start = container.start_time or 0
    # Matroska states the last moment itself, where others state how long it is from the first
    is_end = "matroska" in container.format.name and container.duration > start
    return (container.duration + (0 if is_end else start)) / av.time_base
