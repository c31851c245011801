"""State of live streams between two calls of the model, passed in and returned."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .modeling_mirasol_outputs import MirasolEncoderOutput


class MirasolStreamCache(dict[str, Tensor]):
    """State of a batch of streams: named tensors whose first axis is the batch; an empty one starts streams.

    Nothing is edited in place: each call returns a new cache, so that an older one can still be used or saved. It is a
    flat dict, as safetensors stores it. With windows its size does not depend on the length of the stream, and
    positions are relative, so that a stream may have any length.

    | name | shape | holds |
    |---|---|---|
    | key_i, value_i | batch chunk latent dim | the last `window_chunks` - 1 chunks in temporal layer i, not rotated |
    | temporal_mask | batch chunk | which of these are real |
    | history, history_mask; memory | the Combiner's | see there |
    | prediction, prediction_mask | batch latent dim; batch | the expected features of the next chunk |
    | latents, latent_mask, latent_times | batch chunk ... | the last real chunks, as many as the text may read |
    | projected | batch chunk pair latent size | their keys and values, a pair a decoder layer, without times |
    """

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(value.nbytes for value in self.values())

    def rows(self, index: Sequence[int]) -> "MirasolStreamCache":
        """The state of these streams of the batch."""
        return MirasolStreamCache({name: value[list(index)] for name, value in self.items()})

    @classmethod
    def cat(cls, caches: Sequence["MirasolStreamCache"]) -> "MirasolStreamCache":
        """Join the states of streams to a batch; the past of younger streams is padded with masked chunks."""
        if len({frozenset(cache) for cache in caches}) != 1:
            raise ValueError(
                "Expected streams of one model that all have begun, found caches with other names of tensors. "
                "Advance a new stream once by itself before it joins a batch."
            )
        return cls({name: torch.cat(_filled([cache[name] for cache in caches])) for name in caches[0]})

    def retain(self, window: int | None, **new: Tensor) -> "MirasolStreamCache":
        """Append `new` chunks (real where `latent_mask` is True) to the retained ones.

        With a window, the last `window` real chunks of each row are kept, oldest first, after masked ones if there are
        fewer.
        """
        values = {name: torch.cat([self[name], value], 1) if name in self else value for name, value in new.items()}
        if window is not None:
            order = last_real(values["latent_mask"], window)
            row = torch.arange(len(order), device=order.device)[:, None]
            values = {name: value[row, order] for name, value in values.items()}
        return MirasolStreamCache({**self, **{name: value.detach() for name, value in values.items()}})

    def encoder_outputs(self) -> MirasolEncoderOutput:
        """The retained chunks as `encoder_outputs` of `forward` and `generate`: a view, nothing is copied."""
        if "latents" not in self:
            raise ValueError("Expected a stream of at least one chunk, found none. Advance it before it is asked.")
        return MirasolEncoderOutput(
            last_hidden_state=self["latents"].flatten(1, 2),
            chunk_mask=self["latent_mask"],
            chunk_times=self["latent_times"],
            projected=self["projected"],
        )


def _filled(values: Sequence[Tensor]) -> list[Tensor]:
    """Left-pad the second axis with zeros (False) to the longest."""
    if values[0].ndim < 2:
        return list(values)
    length = max(value.shape[1] for value in values)
    return [
        torch.cat([value.new_zeros(len(value), length - value.shape[1], *value.shape[2:]), value], dim=1)
        for value in values
    ]


def last_real(mask: Bool[Tensor, "batch chunk"], window: int) -> Int[Tensor, "batch kept"]:
    """Return indices of each row's last `window` real chunks, oldest first, after missing ones if there are fewer."""
    order = mask.long().argsort(dim=1, stable=True)
    return order[:, max(order.shape[1] - window, 0) :]


def decoder_window(
    chunk_mask: Bool[Tensor, "batch chunk"], chunk_times: Float[Tensor, "batch chunk 2"], window: int | None
) -> tuple[Bool[Tensor, "batch chunk"], Float[Tensor, "batch chunk 2"]]:
    """Return the chunks that the text may attend to, and their times, which count from the oldest of them.

    So the times of a long stream are those of a short clip. A window of two (1 = attended; real, missing):

        r r m r m        . 1 . 1 .        seconds count from the start of the second
    """
    if window is None:
        return chunk_mask, chunk_times
    later = chunk_mask.flip(1).cumsum(dim=1).flip(1)  # real chunks from this one on
    seen = chunk_mask & (later <= window)
    start = torch.where(seen, chunk_times[..., 0], torch.inf).amin(dim=1)
    return seen, chunk_times - torch.where(start.isinf(), 0.0, start)[:, None, None]
