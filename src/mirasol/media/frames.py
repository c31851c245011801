"""Pictures by time with PyAV: upright RGB frames of the wanted seconds, skipping GOPs that hold none."""

from collections.abc import Callable, Iterator

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Bool, Float64, UInt8

from mirasol.media.spool import Spool

Image = UInt8[np.ndarray, "height width channel"]

# These store decoding times only, so which packet becomes which frame, and when it is shown, is known after decoding.
FORMATS_WITHOUT_PRESENTATION_TIMES = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
# Float rounding between k / fps and the container's ticks; real timestamps differ by far more.
SAME_TIME_SECONDS = 1e-6


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns counter-clockwise (as `np.rot90` counts), and whether to mirror left-right before turning."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix)[:36], np.int32) / 65536
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return round(np.degrees(np.arctan2(-b, a)) / 90) % 4, bool(is_mirrored)


def frame_seconds(stream) -> float:
    """How long one frame is shown where the container does not say."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(1 / rate) if rate else 0.04


class FrameDecoder:
    """Decodes one stream's frames in presentation order, each with its seconds on the file's clock.

    Where the container stores only decoding times, FFmpeg's guess of the rest runs backwards around B-frames; the
    decoding times of the frames, once decoded and in order, are the better clock.
    """

    def __init__(self, container, stream) -> None:
        self.container, self.stream, self.codec = container, stream, stream.codec_context
        self.stamp = "dts" if container.format.name in FORMATS_WITHOUT_PRESENTATION_TIMES else "pts"
        self.size: tuple[int, int] | None = None  # as stored, of the first frame; its orientation likewise
        self.orientation = (0, False)
        # One for all frames: PyAV's own default starts a pool of threads for every frame it converts.
        self.reformatter = VideoReformatter()
        self.bad_packets = self.damaged = self.backward = self.resized = 0

    def frames(self, needed: Bool[np.ndarray, " packet"] | None = None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Seconds and frame; packets that are not `needed` (None: all are) are never given to the decoder."""
        step = frame_seconds(self.stream)
        previous = None
        for frame in self._decode(needed):
            stamp = getattr(frame, self.stamp)
            if stamp is not None:
                time = float(stamp * self.stream.time_base)
            else:
                time = 0.0 if previous is None else previous + step
            if previous is not None and time <= previous:
                self.backward += 1
                continue
            previous = time
            if self.size is None:
                self.size, self.orientation = (frame.width, frame.height), orientation(frame)
            self.resized += (frame.width, frame.height) != self.size
            self.damaged += frame.is_corrupt
            yield time, frame

    def to_image(self, frame: av.VideoFrame) -> Image:
        """The frame in RGB as a player shows it; scaled only where a file changes its picture size on the way."""
        width, height = self.size
        rgb = self.reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
        turns, is_mirrored = self.orientation
        image = rgb.to_ndarray()
        return np.rot90(image[:, ::-1] if is_mirrored else image, turns)

    def warnings(self) -> list[str]:
        """What went wrong so far, in sentences."""
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

    def _decode(self, needed) -> Iterator[av.VideoFrame]:
        last = None if needed is None else int(np.flatnonzero(needed)[-1])
        is_broken_off = False
        try:
            packets = (packet for packet in self.container.demux(self.stream) if packet.size)
            for index, packet in enumerate(packets):
                if last is not None and index > last:
                    break
                if needed is not None and not needed[index]:
                    is_broken_off = True
                    continue
                if is_broken_off:  # the decoder first gives what it holds, then forgets it, as after a seek
                    yield from self._feed(None)
                    self.codec.flush_buffers()
                    is_broken_off = False
                yield from self._feed(packet)
        except av.FFmpegError:
            pass  # the end of a cut-off file: the scan has met and reported it
        yield from self._feed(None)

    def _feed(self, packet) -> list[av.VideoFrame]:
        try:
            return self.codec.decode(packet)
        except av.FFmpegError:  # one bad packet: the decoder goes on with the next one
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
        return self._frames.array(), np.array(self.kept_times, np.float64)

    def _keep(self, time: float, make_image: Callable[[], Image]) -> None:
        if self.kept_times and self.kept_times[-1] == time:
            return
        image = make_image()
        self._frames.append((image if self.prepare is None else self.prepare(image))[None])
        self.kept_times.append(time)
