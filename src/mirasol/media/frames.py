"""Pictures by time with PyAV: upright RGB frames of the wanted seconds, skipping GOPs that hold none."""

from collections.abc import Iterator

import av
import numpy as np
from jaxtyping import Bool, Float64, UInt8

# Float rounding between k / fps and the container's ticks; real timestamps differ by far more.
SAME_TIME_SECONDS = 1e-6


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns counter-clockwise (as `np.rot90` counts) and whether to mirror left-right first, to show it upright."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    a, b, _, c, d, _, _, _, _ = np.frombuffer(bytes(matrix)[:36], np.int32) / 65536
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return round(np.degrees(np.arctan2(-b, a)) / 90) % 4, bool(is_mirrored)


def upright(image: UInt8[np.ndarray, "height width channel"], turns: int, is_mirrored: bool) -> UInt8[np.ndarray, "..."]:
    """The picture as a player shows it."""
    return np.rot90(image[:, ::-1] if is_mirrored else image, turns)


def decode_frames(container, stream, needed: Bool[np.ndarray, " packet"] | None) -> Iterator[av.VideoFrame]:
    """Decoded frames in presentation order; packets that are not `needed` are never given to the decoder."""
    codec = stream.codec_context
    last = None if needed is None or not needed.any() else int(np.flatnonzero(needed)[-1])
    is_broken_off = False
    try:
        for index, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if needed is not None and (index >= len(needed) or not needed[index]):
                is_broken_off = True
                if last is None or index > last:
                    break
                continue
            if is_broken_off:
                yield from _decoded(codec, None)
                codec.flush_buffers()
                is_broken_off = False
            yield from _decoded(codec, packet)
    except av.FFmpegError:  # the scan has met and reported the same end of data
        pass
    yield from _decoded(codec, None)


def _decoded(codec, packet) -> list[av.VideoFrame]:
    try:
        return codec.decode(packet)
    except av.FFmpegError:  # one bad packet: the decoder goes on with the next one
        return []


class FramePicker:
    """Keeps, for each wanted time, the last frame shown at or before it (before the first frame: the first)."""

    def __init__(self, times: Float64[np.ndarray, " time"] | None, capacity: int) -> None:
        self.times = times
        self.capacity = max(capacity if times is None else min(len(times), capacity), 1)
        self.frames: np.ndarray | None = None
        self.kept_times: list[float] = []
        self._next = 0
        self._held: tuple[float, av.VideoFrame] | None = None
        self._is_resized = False
        self.warnings: list[str] = []

    @property
    def is_done(self) -> bool:
        return self.times is not None and self._next >= len(self.times)

    def offer(self, time: float, frame: av.VideoFrame) -> None:
        """Takes the next frame in presentation order."""
        if self.times is None:
            self._keep(time, frame)
            return
        while not self.is_done and self.times[self._next] + SAME_TIME_SECONDS < time:
            self._keep(*(self._held or (time, frame)))
            self._next += 1
        self._held = (time, frame)

    def finish(self) -> None:
        """Serves the times after the last frame."""
        if self._held is not None and not self.is_done:
            self._keep(*self._held)

    def _keep(self, time: float, frame: av.VideoFrame) -> None:
        if self.kept_times and self.kept_times[-1] == time:
            return
        if self.frames is None:
            self._size = frame.width, frame.height
        elif (frame.width, frame.height) != self._size:
            if not self.warnings:
                self.warnings.append(
                    f"The picture changes from {self._size[0]}x{self._size[1]} to {frame.width}x{frame.height} at "
                    f"{time:.2f} s: the frames from there on are scaled to the first size."
                )
            frame = frame.reformat(width=self._size[0], height=self._size[1])
        image = upright(frame.to_ndarray(format="rgb24"), *orientation(frame))
        if self.frames is None:
            self.frames = np.empty((self.capacity, *image.shape), np.uint8)
        elif len(self.kept_times) == len(self.frames):
            self.frames = np.concatenate([self.frames, np.empty_like(self.frames)])
        self.frames[len(self.kept_times)] = image
        self.kept_times.append(time)
