"""Frames by timestamp with PyAV: upright RGB frames at given seconds; GOPs without one are skipped."""

from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from jaxtyping import Bool, Float64, UInt8

from mirasol.media.clock import Clock, seconds
from mirasol.media.spool import Spool

Image = UInt8[np.ndarray, "height width channel"]

# These store decoding times only, so which packet becomes which frame, and when it is shown, is known after decoding.
FORMATS_WITHOUT_PRESENTATION_TIMES = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
# Float rounding between k / fps and the container's ticks; real timestamps differ by far more.
SAME_TIME_SECONDS = 1e-6


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns counter-clockwise (as `np.rot90` counts), and whether to mirror left-right before turning."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know the kind of another entry, such as those of stereoscopic pictures
        return round(frame.rotation / 90) % 4, False
    if matrix is None:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix)[:36], np.int32) / 65536  # type: ignore[call-overload]  # a buffer
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return round(np.degrees(np.arctan2(-b, a)) / 90) % 4, bool(is_mirrored)


def shown_size(stream, frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height at which pixels are square, before turning; never fewer pixels than are stored."""
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1.01 < max(aspect, 1 / aspect) <= 4:  # rounding (4096:4095), or no picture is that narrow
        aspect = 1.0
    return round(frame.width * max(aspect, 1)), round(frame.height * max(1 / aspect, 1))


def square_pixels(image: Image, size: tuple[int, int]) -> Image:
    """The upright image at `size` (width, height), at which its pixels are square."""
    if image.shape[1::-1] == size:
        return image
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(width=size[0], height=size[1]).to_ndarray()


def frame_seconds(stream) -> float:
    """Return the duration of one frame where the container does not state it."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(1 / rate) if rate else 0.04


class FalseKeyframe(Exception):
    """A packet is flagged as a keyframe but is none, so decoding cannot start there."""


class FrameDecoder:
    """Decodes one stream's frames in presentation order, each with its seconds on the file's clock.

    `times` are the packets' times from the scan; None before the scan.

    If the container stores decoding times only, FFmpeg's guess of presentation times runs backwards around B-frames;
    the decoding times of the frames in presentation order are used instead.
    """

    def __init__(self, container, stream, times: Float64[np.ndarray, " packet"] | None = None) -> None:
        self.container, self.stream, self.codec, self.times = container, stream, stream.codec_context, times
        self.stamp = "dts" if container.format.name in FORMATS_WITHOUT_PRESENTATION_TIMES else "pts"
        # Of the first frame, as stored and with square pixels; its orientation likewise.
        self.size = self.shown_size = (0, 0)
        self.orientation = (0, False)
        # One for all frames: PyAV's own default starts a pool of threads for every frame it converts.
        self.reformatter = VideoReformatter()
        self.latest: float | None = None  # seconds of the last frame given
        self.fed: list[float] = []  # presentation seconds of the packets given to the decoder, before the scan
        self.bad_packets = self.damaged = self.backward = self.resized = 0

    def frames(
        self, needed: Bool[np.ndarray, " packet"] | None = None, is_sought: bool = False
    ) -> Iterator[tuple[float, av.VideoFrame]]:
        """Seconds and frame; packets that are not `needed` (None: all are) are never given to the decoder.

        Raises:
            FalseKeyframe: decoding would begin (after packets left out, or after a seek) where it cannot.
        """
        return self.timed(self._decode(needed, is_sought))

    def timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield decoded frames with their seconds; frames that run backwards are counted and dropped."""
        for frame in frames:
            stamp = getattr(frame, self.stamp)
            if stamp is not None:
                time = seconds(stamp, self.stream.time_base)
            else:
                time = 0.0 if self.latest is None else self.latest + frame_seconds(self.stream)
            if self.latest is not None and time <= self.latest:
                self.backward += 1
                continue
            self.latest = time
            if self.size == (0, 0):
                self.size, self.orientation = (frame.width, frame.height), orientation(frame)
                self.shown_size = shown_size(self.stream, frame)
            self.resized += (frame.width, frame.height) != self.size
            self.damaged += frame.is_corrupt
            yield time, frame

    def to_image(self, frame: av.VideoFrame) -> Image:
        """The frame in RGB as a player shows it; scaled only where pixels are not square or the size changes."""
        width, height = self.size
        rgb = self.reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        turns, is_mirrored = self.orientation
        image = rgb.to_ndarray()
        upright = np.rot90(image[:, ::-1] if is_mirrored else image, turns)
        return square_pixels(upright, self.shown_size[::-1] if turns % 2 else self.shown_size)

    def warnings(self) -> list[str]:
        """Return the faults found so far, in sentences."""
        notes = []
        if self.bad_packets:
            notes.append(f"{self.bad_packets} picture packets could not be decoded and were left out.")
        if self.damaged:
            notes.append(f"{self.damaged} frames were decoded from damaged data.")
        if self.backward:
            notes.append(
                f"{self.backward} frames are stamped at or before the frame shown before them and were left out."
            )
        if self.resized:
            notes.append(
                f"{self.resized} frames are stored in another size and were scaled to the first, {self.size}."
            )
        return notes

    def _decode(self, needed, is_sought: bool) -> Iterator[av.VideoFrame]:
        last = None if needed is None else int(np.flatnonzero(needed)[-1])
        begins: set[int | None] = set()  # stamps of the packets at which decoding begins anew
        is_broken_off, clock = False, Clock()

        def checked(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
            for frame in frames:
                if frame.pts in begins and not frame.key_frame and frame.pict_type != PictureType.I:
                    raise FalseKeyframe
            return frames

        try:
            packets = (packet for packet in self.container.demux(self.stream) if packet.size)
            for index, packet in enumerate(packets):
                if last is not None and index > last:
                    break
                if needed is not None and not needed[index]:
                    is_broken_off = True
                    continue
                if self.times is None:
                    if (time := clock.place_packet(packet)[0]) is not None:
                        self.fed.append(time)
                elif index < len(self.times) and not np.isnan(self.times[index]):
                    packet.pts = round(self.times[index] / packet.time_base)
                if is_broken_off:  # drain and reset the decoder, as after a seek
                    yield from checked(self.feed(None))
                    self.codec.flush_buffers()
                if is_broken_off or (is_sought and index == 0):
                    begins.add(packet.pts)
                    is_broken_off = False
                yield from checked(self.feed(packet))
        except av.FFmpegError:
            pass  # the end of a cut-off file: the scan has met and reported it
        yield from checked(self.feed(None))

    def feed(self, packet) -> list[av.VideoFrame]:
        """The frames that the packet completes; None: those that the decoder still holds."""
        try:
            return self.codec.decode(packet)
        except av.FFmpegError:  # one bad packet: the decoder continues with the next one
            self.bad_packets += 1
            return []


class FramePicker:
    """Keeps, for each wanted time, the last frame shown at or before it (before the first frame: the first)."""

    def __init__(self, times: Float64[np.ndarray, " time"] | None, prepare: Callable[[Image], Image] | None) -> None:
        self.times = times  # None: keep every frame
        self.prepare = prepare
        self.kept_times: list[float] = []
        self._frames = Spool()
        self._next = 0
        self._held: tuple[float, Callable[[], Image]] | None = None

    @property
    def is_done(self) -> bool:
        return self.times is not None and self._next >= len(self.times)

    def offer(self, time: float, make_image: Callable[[], Image]) -> None:
        """Takes the next frame in presentation order; its image is made only if it is kept."""
        if self.times is None:
            self._keep(time, make_image)
            return
        while not self.is_done and self.times[self._next] + SAME_TIME_SECONDS < time:
            self._keep(*(self._held or (time, make_image)))
            self._next += 1
        self._held = (time, make_image)

    def result(self) -> tuple[UInt8[np.ndarray, "frame height width channel"], Float64[np.ndarray, " frame"]]:
        """The kept frames and their times, each frame once."""
        if self._held is not None and not self.is_done:
            self._keep(*self._held)
        shown = self._frames.array() if self.kept_times else np.empty((0, 0, 0, 3), np.uint8)
        return shown, np.array(self.kept_times, np.float64)

    def _keep(self, time: float, make_image: Callable[[], Image]) -> None:
        if self.kept_times and self.kept_times[-1] == time:
            return
        image = make_image()
        self._frames.append((image if self.prepare is None else self.prepare(image))[None])
        self.kept_times.append(time)
