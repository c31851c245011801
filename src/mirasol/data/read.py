"""Read a row's clip for training: cropped frames with a border for random crops, and sound."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mirasol.chunks.time_grid import TOLERANCE_SECONDS
from mirasol.features import MirasolVideoProcessor
from mirasol.features.image_processing_mirasol import check_crop
from mirasol.media import WHOLE, Clip, Crop, MediaInfo, read_clip
from mirasol.tasks import Row, segment_of

Select = Callable[[MediaInfo], Float64[np.ndarray, " time"]]


@dataclass(frozen=True)
class ClipReader:
    """Reader of clips; the same row and timestamps give the same clip in every process.

    Args:
        image_processor: Its crop, or else the row's, and its size are used.
        margin: Factor that enlarges the crop, clipped to the frame, for random crops.
        frames_per_second: Rate of the time grid whose frames are kept; None keeps every frame.
        decoder: `pyav` or `torchcodec`.
    """

    image_processor: MirasolVideoProcessor
    margin: float = 1.0
    frames_per_second: float | None = None
    decoder: str = "pyav"

    def square(self, row: Row) -> tuple[int, Crop]:
        """Return the side in pixels and the crop of the square that is kept."""
        fraction, x, y = row.crop or self.image_processor.crop
        check_crop(fraction, (x, y))
        size = round(self.image_processor.image_size * min(self.margin, 1 / fraction))
        return size, (min(fraction * size / self.image_processor.image_size, 1.0), x, y)

    def grid_times(self, info: MediaInfo) -> Float64[np.ndarray, " time"]:
        """Return the timestamps of the time grid over the whole clip."""
        assert self.frames_per_second is not None, "a reader that keeps every frame has no grid"
        times = np.arange(int(np.ceil(info.duration_seconds * self.frames_per_second))) / self.frames_per_second
        return times + TOLERANCE_SECONDS  # the tolerance of chunks, because Matroska rounds 1/15 s to 67 ms

    def read(self, row: Row, select: Select | None = None) -> Clip:
        """Return the clip with the frames shown at the timestamps of `select`, by default the grid's.

        Raises:
            ValueError, OSError: The clip cannot be read.
        """
        if select is None and self.frames_per_second is not None:
            select = self.grid_times
        size, crop = self.square(row)
        cut = functools.partial(self.image_processor.square_of, image_size=size, crop=crop)
        clip = read_clip(row.media, select=select, prepare=cut, decoder=self.decoder, warn=False, **segment_of(row))
        clip.crop = WHOLE
        return clip


def cause_of(row: Row, error: Exception) -> str:
    """Return the cause of an unreadable clip: missing, damaged or undecodable."""
    if not row.media.is_file():
        return "missing"
    return "damaged" if type(error).__name__ == "Damaged" else "undecodable"
