"""Live sources -> frames and sound as they arrive: files, pipes, URLs, camera and microphone."""

import math
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from mirasol.media.clock import Clock, seconds
from mirasol.media.container import (
    CONTAINERS,
    choose_stream,
    is_whole,
    open_container,
    reason,
    several_tracks,
    sound_pieces,
    stated_end,
)
from mirasol.media.frames import FrameDecoder, frame_seconds
from mirasol.media.notes import NO_FRAME, NO_SAMPLE, SILENT, Faults, compare_length
from mirasol.media.spool import is_silent
from mirasol.media.survey import first_moment
from mirasol.media.types import MediaError

SCHEMES = ("udp://", "rtp://", "rtsp://", "http://", "https://", "tcp://", "srt://")
_CAMERA, _MICROPHONE = ("/dev/video0", "v4l2"), ("default", "alsa")  # device and FFmpeg's name of its driver
DEVICES = {"camera": [_CAMERA], "microphone": [_MICROPHONE], "camera+microphone": [_CAMERA, _MICROPHONE]}
LEAD_SECONDS = 2.0  # lead of one track after which t = 0 is set without the other
BYTES_AHEAD = 2**27  # of a file or pipe, decoded and waiting: five frames of 4K

Media = dict[str, Any]  # arguments of `push`: one frame with its second, or one piece of sound with its start


class Source:
    """A source that is played once. Iterating yields its media, timed from the first of them.

    Args:
        name: A file, "-" (standard input), a named pipe, a URL that FFmpeg can open, or one of `DEVICES`.
        use_video, use_audio: The tracks that are wanted.
        audio_stream: The sound track to use where there are several: its number, counted from 0, or its language.
        realtime: Play a file at its own speed.
        timeout: Seconds without any media after which the source counts as stalled.

    Raises:
        MediaError: The source cannot be opened, has no wanted track, stalls, or breaks off, after all media before
            that have been yielded.
    """

    def __init__(
        self,
        name: str,
        use_video: bool = True,
        use_audio: bool = True,
        audio_stream: int | str | None = None,
        realtime: bool = False,
        timeout: float = 10.0,
    ):
        self.name, self.realtime, self.timeout = name, realtime, timeout
        self.is_live = name == "-" or name in DEVICES or name.startswith(SCHEMES) or Path(name).is_fifo()
        wanted = ({"video": None} if use_video else {}) | ({"audio": audio_stream} if use_audio else {})
        self._containers = self._open()
        found = [
            (container, {kind: choose_stream(container, kind, track) for kind, track in wanted.items()})
            for container in self._containers
        ]
        self._tracks = [
            (container, {kind: stream for kind, stream in streams.items() if stream is not None})
            for container, streams in found
        ]
        self.has_video, self.has_audio = (
            any(kind in streams for _, streams in self._tracks) for kind in ("video", "audio")
        )
        if not (self.has_video or self.has_audio):
            kinds = ", ".join(stream.type for container in self._containers for stream in container.streams) or "none"
            raise MediaError(f"Expected a {' or '.join(wanted)} track in {name}, found these tracks: {kinds}.")
        self._origin = None if self.is_live else first_moment(name, audio_stream)
        # True if the source waits for its consumer, as files and pipes do.
        self.waits = not (realtime or name in DEVICES or name.startswith(SCHEMES))
        self._media = _MediaQueue(BYTES_AHEAD if self.waits else 0)
        self._stopped = threading.Event()
        self._notes = list[str]()
        for container, streams in self._tracks if audio_stream is None else ():
            self._notes += several_tracks(container, streams.get("audio"))
        self._counts: list[Clock | Faults | FrameDecoder] = []
        self._clock: tuple[float, float] | None = None  # of a realtime source: its first second, and when that was

    def __iter__(self) -> Iterator[Media]:
        """Decode in one thread per container, and yield the media."""
        readers = [threading.Thread(target=self._read, args=track, daemon=True) for track in self._tracks]
        for reader in readers:
            reader.start()
        try:
            yield from self._from_zero(self._arriving(len(readers)))
        finally:
            self.stop()

    def stop(self) -> None:
        """End the iteration after the media that are queued."""
        self._stopped.set()

    def waiting(self) -> bool:
        """Return whether decoded pieces are in the queue."""
        return not self._media.empty()

    @property
    def warnings(self) -> list[str]:
        """The faults of the media so far, in sentences."""
        return self._notes + [note for count in self._counts for note in count.warnings()]

    def _open(self) -> list[av.container.InputContainer]:
        try:
            if self.name in DEVICES:
                return [av.open(device, format=kind, timeout=self.timeout) for device, kind in DEVICES[self.name]]
            options = {"format_whitelist": f"{CONTAINERS},rtsp,rtp,sdp"}
            if self.name.startswith(SCHEMES):
                return [av.open(self.name, timeout=self.timeout, container_options=options)]
            if self.is_live:
                # Unbuffered, or what is there waits for the rest of a buffer.
                pipe = open(0 if self.name == "-" else self.name, "rb", buffering=0)  # noqa: SIM115
                return [av.open(pipe, mode="r", container_options=options)]
        except (av.FFmpegError, ValueError, OSError) as error:
            raise MediaError(
                f"Expected a source of video or sound at {self.name}, found none that can be opened "
                f"({reason(error)}). Check that it is there and sends, or raise --timeout ({self.timeout:g} s)."
            ) from error
        return [open_container(self.name)]

    def _read(self, container, streams: dict[str, Any]) -> None:
        """Put every frame and piece of sound into the queue with its seconds on the container's clock; then None."""
        end: MediaError | None = None
        decoder = FrameDecoder(container, streams["video"]) if "video" in streams else None
        clock, faults = Clock(), Faults()
        if decoder is not None:  # with slices in several threads FFmpeg does not mark frames as damaged
            decoder.stream.thread_type = "NONE"
        self._counts += [clock, faults] if decoder is None else [clock, faults, decoder]
        spans: dict[str, list[float]] = {}  # first second and end of each track
        is_heard = False

        def put(kind: str, second: float | None, length: float, media: Media) -> None:
            begin, reached = spans.get(kind, (second or 0.0, second or 0.0))
            spans[kind] = [begin, (reached if second is None else second) + length]
            self._put(second, media)

        try:
            for packet in container.demux(list(streams.values())):
                if self._stopped.is_set():
                    return
                if packet.size:
                    clock.place_packet(packet)
                    faults.incomplete += packet.is_corrupt
                if decoder is not None and packet.stream is decoder.stream:
                    for second, frame in decoder.timed(decoder.feed(packet if packet.size else None)):
                        length = seconds(frame.duration or 0, packet.time_base) or frame_seconds(packet.stream)
                        put("video", second, length, {"frames": [decoder.to_image(frame)]})
                    continue
                try:
                    pieces = sound_pieces(packet.stream, packet)
                except av.FFmpegError:  # one bad packet: its seconds are a gap
                    faults.bad_sound += 1
                    continue
                for start, sound, samples in pieces:
                    at = None if sound.pts is None and "audio" in spans else start
                    rate, is_heard = sound.sample_rate, is_heard or not is_silent(samples)
                    put("audio", at, len(samples) / rate, {"waveform": samples, "sampling_rate": rate})
        except Exception as error:  # the consumer must learn why this thread ended
            is_end = not self.is_live and isinstance(error, av.FFmpegError)
            if not (is_end and is_whole(self.name, container, list(streams.values()), clock)):
                end = MediaError(f"{self.name} broke off ({reason(error)}): what came before is used.")
        self._notes += [
            note for kind, note in (("video", NO_FRAME), ("audio", NO_SAMPLE)) if kind in streams and kind not in spans
        ]
        if "audio" in spans and not is_heard:
            self._notes.append(f"{self.name} {SILENT}")
        stated = None if self.is_live or not spans else stated_end(self.name, container, list(streams.values()))
        if stated is not None:
            begin, reached = min(first for first, _ in spans.values()), max(last for _, last in spans.values())
            self._notes += compare_length(stated - begin, reached - begin)
        self._media.put((math.inf, end))

    def _put(self, second: float | None, media: Media) -> None:
        if self.realtime and second is not None:
            self._clock = self._clock or (second, time.monotonic())
            time.sleep(max(second - self._clock[0] + self._clock[1] - time.monotonic(), 0.0))
        self._media.put((second, media))

    def _arriving(self, readers: int) -> Iterator[tuple[float | None, Media]]:
        ends = []
        heard = time.monotonic()
        while readers and not self._stopped.is_set():
            try:
                second, media = self._media.get(timeout=0.1)  # so that a signal, or stop(), is seen
            except queue.Empty:
                if time.monotonic() - heard > self.timeout:
                    raise MediaError(f"{self.name} gave no media for {self.timeout:g} s: it has stalled.") from None
                continue
            heard = time.monotonic()
            if media is None or isinstance(media, MediaError):
                readers -= 1
                ends.append(media)
            else:
                yield second, media
        for end in ends:
            if end is not None:
                raise end

    def _from_zero(self, arriving: Iterator[tuple[float | None, Media]]) -> Iterator[Media]:
        """Set t = 0 to the file's own; else to the earliest media, once both tracks have begun or one is far ahead."""
        held: list[tuple[float | None, Media]] = []
        origin = self._origin
        for second, media in arriving:
            if origin is None:
                held.append((second, media))
                known = [at for at, _ in held if at is not None]
                kinds = {"frames" in piece for _, piece in held}
                begun = len(kinds) == self.has_video + self.has_audio
                if not (begun or (known and known[-1] - known[0] > LEAD_SECONDS)):
                    continue
                origin = min(known, default=0.0)
                yield from (self._placed(at, piece, origin) for at, piece in held)
                held.clear()
                continue
            yield self._placed(second, media, origin)
        origin = origin if origin is not None else min((at for at, _ in held if at is not None), default=0.0)
        yield from (self._placed(at, piece, origin) for at, piece in held)

    def _placed(self, second: float | None, media: Media, origin: float) -> Media:
        at = None if second is None else second - origin
        return media | ({"frame_times": [at or 0.0]} if "frames" in media else {"start_time": at})


class _MediaQueue(queue.Queue):
    """Queue whose size is the bytes of its media, at least one for each entry."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._num_bytes = 0

    def _qsize(self) -> int:
        return self._num_bytes

    def _put(self, item: tuple[float | None, Any]) -> None:
        super()._put(item)
        self._num_bytes += _num_bytes(item[1])

    def _get(self) -> tuple[float | None, Any]:
        item = super()._get()
        self._num_bytes -= _num_bytes(item[1])
        return item


def _num_bytes(media: Any) -> int:
    arrays = (*media.get("frames", ()), media.get("waveform")) if isinstance(media, dict) else ()
    return max(1, sum(array.nbytes for array in arrays if array is not None))
