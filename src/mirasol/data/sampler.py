"""Order of the rows in training: a function of (seed, epoch) alone."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Indices of the dataset in an order that depends on (seed, epoch) alone, so that a resumed run meets it again.

    Every batch is of one task, because short clips would be padded to the longest of their batch, and because tasks
    ask unequal numbers of questions: each gives whole batches, and these are shuffled.

    Args:
        sizes: Rows of each task; the tasks lie end to end.
        batch_size: Rows that are taken together.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int) -> None:
        if min(sizes) < batch_size:
            found = f"sources of {', '.join(map(str, sizes))}" if len(sizes) > 1 else f"{sizes[0]}"
            raise ValueError(
                f"Expected at least one batch of {batch_size} readable clips of each source in an epoch, found "
                f"{found} clips. Lower schedule.batch_size, or raise clips_per_epoch of the small source."
            )
        self.sizes, self.batch_size, self.seed, self.epoch = list(sizes), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(self._num_taken, self.sizes))

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches: list[torch.Tensor] = []
        for start, size in zip(accumulate(self.sizes, initial=0), self.sizes, strict=False):
            taken = start + torch.randperm(size, generator=generator)[: self._num_taken(size)]
            batches += taken.split(self.batch_size)
        if len(self.sizes) > 1:
            batches = [batches[index] for index in torch.randperm(len(batches), generator=generator)]
        return iter(torch.cat(batches).tolist())

    def rows_of(self, number: int) -> list[int]:
        """Return the rows of one batch of this epoch, by its number."""
        start = number * self.batch_size
        return list(self)[start : start + self.batch_size]

    def _num_taken(self, size: int) -> int:
        return size if len(self.sizes) == 1 else size // self.batch_size * self.batch_size
