"""A ViT's 2D patches -> Mirasol's windows: inflate kernels in time, sample positions at the windows' centres."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def inflate_kernel(
    kernel: Float[Tensor, "dim channel height width"], size: Sequence[int]
) -> Float[Tensor, "dim window"]:
    """Return the weight of a window's projection: the patch projection of the window, resized to a patch.

    The weight is divided by the number of frames, so a still clip of one colour gives the patch's token for any window
    size. `size` is (frames, height, width), or (height, width) for a window without time.
    """
    *frames, height, width = size
    if kernel.shape[-2:] != (height, width):
        pixels = rearrange(torch.eye(height * width), "pixel (height width) -> pixel 1 height width", height=height)
        resized = F.interpolate(pixels, size=kernel.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
        kernel = einsum(kernel, resized[:, 0], "dim channel row column, pixel row column -> dim channel pixel")
        kernel = rearrange(kernel, "dim channel (height width) -> dim channel height width", height=height)
    num_frames = frames[0] if frames else 1
    inflated = repeat(
        kernel / num_frames, "dim channel height width -> dim channel frame height width", frame=num_frames
    )
    return rearrange(inflated, "dim channel frame height width -> dim (channel frame height width)")


def sample_positions(
    table: Float[Tensor, "row column dim"], places: Float[Tensor, "token 2"]
) -> Float[Tensor, "token dim"]:
    """Return position embeddings at `places` (row, column, fractional), bilinear, clamped to the table's border."""
    last = torch.tensor(table.shape[:2]) - 1
    places = places.clamp(min=torch.zeros(2), max=last.float())
    low = places.floor().long()
    high = torch.minimum(low + 1, last)
    share = places - low  # weight of the higher neighbour, along each axis
    corners = [
        ((1 - share[:, 0]) * (1 - share[:, 1]), table[low[:, 0], low[:, 1]]),
        ((1 - share[:, 0]) * share[:, 1], table[low[:, 0], high[:, 1]]),
        (share[:, 0] * (1 - share[:, 1]), table[high[:, 0], low[:, 1]]),
        (share[:, 0] * share[:, 1], table[high[:, 0], high[:, 1]]),
    ]
    return reduce(
        torch.stack([weight[:, None] * rows for weight, rows in corners]), "corner token dim -> token dim", "sum"
    )
