"""Frames -> `pixel_values_videos`: a square of each frame, resized and normalised."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor


class MirasolVideoProcessor(BaseImageProcessor):
    """Makes `pixel_values_videos` from uint8 frames, without torchvision.

    Frames are cropped before they are resized, so that only visible pixels are computed.

    Args:
        image_size: Side of the square that the model sees, in pixels.
        crop_fraction: Side of the square cut from each frame, as a part of the frame's shorter side.
        crop_center: Centre of the square, as fractions of the frame's width and height; a square that would leave the
            frame is moved to its edge.
        image_mean: Subtracted from the colours after they are scaled to [0, 1].
        image_std: Divides them after that.
        do_rescale: Whether colours are multiplied by `rescale_factor`.
        rescale_factor: By default 1 / 255.
        do_normalize: Whether `image_mean` and `image_std` are used.

    transformers' Auto class for videos needs torchvision, so this one is registered, saved and loaded as
    `image_processor`.
    """

    model_input_names = ["pixel_values_videos"]

    def __init__(
        self,
        image_size: int = 224,
        crop_fraction: float = 1.0,
        crop_center: Sequence[float] = (0.5, 0.5),
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_crop(crop_fraction, crop_center)
        self.image_size = image_size
        self.crop_fraction = crop_fraction
        self.crop_center = list(crop_center)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize

    def replace(self, **values: Any) -> "MirasolVideoProcessor":
        """Return a copy with other values."""
        other = copy.copy(self)
        for name, value in values.items():
            setattr(other, name, value)
        return other

    @property
    def crop(self) -> tuple[float, float, float]:
        """Side and centre of the square: fraction, x, y."""
        return (self.crop_fraction, self.crop_center[0], self.crop_center[1])

    def crop_and_resize(
        self,
        frames: UInt8[np.ndarray, "frame height width 3"],
        image_size: int | None = None,
        crop: Sequence[float] | None = None,
        selected: np.ndarray | None = None,
    ) -> UInt8[Tensor, "selected 3 size size"]:
        """The square of every frame that the model sees, `image_size` pixels wide, still uint8.

        `crop` (fraction, x, y) replaces the processor's own. Of the frames numbered in `selected`, if given, only
        the square is copied. The frames are seen channels-last (no copy) because antialiased uint8 resizing is much
        faster so.
        """
        size = self.image_size if image_size is None else image_size
        fraction, *center = self.crop if crop is None else crop
        check_crop(fraction, center)
        height, width = frames.shape[1:3]
        side = max(1, round(fraction * min(height, width)))
        left, top = (
            min(max(int(part * length - side / 2), 0), length - side)
            for part, length in zip(center, (width, height), strict=True)
        )
        square = frames[:, top : top + side, left : left + side]
        square = square if selected is None else square[selected]
        if not (square.flags.c_contiguous and square.flags.writeable):
            square = square.copy()
        pixels = rearrange(torch.from_numpy(square), "frame height width channel -> frame channel height width")
        if side == size:
            return pixels
        return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)

    def square_of(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        image_size: int | None = None,
        crop: Sequence[float] | None = None,
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Crop and resize one frame, channels last, as soon as it is decoded."""
        pixels = self.crop_and_resize(image[None], image_size, crop)
        return rearrange(pixels, "1 channel height width -> height width channel").numpy()

    def to_pixel_values(self, pixels: UInt8[Tensor, "*row 3 height width"]) -> Float[Tensor, "*row 3 height width"]:
        """Return normalised colours: (pixels / 255 - mean) / std."""
        mean, std = (torch.tensor(v) for v in (self.image_mean, self.image_std))
        if not self.do_normalize:
            mean, std = torch.zeros(3), torch.ones(3)
        mean, std = (rearrange(v.expand(3), "channel -> channel 1 1") for v in (mean, std))
        values = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        scale = self.rescale_factor if self.do_rescale else 1.0
        return values.mul_(scale / std).sub_(mean / std)

    def preprocess(
        self, images: np.ndarray | Sequence[np.ndarray], return_tensors: str | None = "pt", **options: Any
    ) -> BatchFeature:
        """Return `pixel_values_videos` [batch frame channel height width] of a video or several equally long ones."""
        if unknown := sorted(set(options) - vars(self).keys()):
            raise TypeError(f"MirasolVideoProcessor got unexpected keywords: {', '.join(unknown)}.")
        if options:
            return self.replace(**options).preprocess(images, return_tensors)
        is_batch = isinstance(images, (list, tuple)) or np.ndim(images) == 5
        videos = [check_frames(np.asarray(video)) for video in (images if is_batch else [images])]
        counts = {len(video) for video in videos}
        if len(counts) > 1:
            raise ValueError(
                f"Videos of one call must have equally many frames, but these have {sorted(counts)}: "
                "use MirasolProcessor, which places them in chunks and masks what is missing."
            )
        values = torch.stack([self.to_pixel_values(self.crop_and_resize(video)) for video in videos])
        return BatchFeature({"pixel_values_videos": values}, tensor_type=return_tensors)

    def __call__(  # type: ignore[override]  # videos alone
        self, images, return_tensors: str | None = "pt", **kwargs
    ) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(images, return_tensors=return_tensors, **kwargs)


def check_crop(fraction: float, center: Sequence[float]) -> None:
    """Raises ValueError if the crop lies outside the frame."""
    if not 0 < fraction <= 1:
        raise ValueError(
            f"crop_fraction is a part of the frame's shorter side, above 0 and at most 1, but it is "
            f"{fraction}: pass 1.0 to keep the largest square."
        )
    if len(center) != 2 or not all(0 <= part <= 1 for part in center):
        raise ValueError(
            f"crop_center is (x, y), each a part of the frame from 0 to 1, but it is {tuple(center)}: "
            "pass (0.5, 0.5) for the middle."
        )


def check_frames(frames: np.ndarray | Tensor) -> UInt8[np.ndarray, "frame height width 3"]:
    """Return the frames as an array; raises ValueError unless they are uint8 RGB pictures, channels last."""
    array = frames.detach().cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            f"Frames must have the shape [frame, height, width, 3], but these have {list(array.shape)}: "
            "pass RGB pictures with the colours last, at least one."
        )
    if array.dtype != np.uint8:
        raise ValueError(
            f"Frames must be uint8 with values 0 to 255, but these are {array.dtype}: "
            "pass them as they were decoded; the processor normalises them."
        )
    return array
