"""Order of the rows in training: a function of (seed, epoch) alone."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Indices of the dataset in an order that depends on (seed, epoch) alone, so that a resumed run meets it again.

    Every batch is of one task, because short clips would be padded to the longest of their batch, and because tasks
    ask unequal numbers of questions: each gives whole batches, and these are shuffled.

    A task with fewer rows than a batch repeats some to fill one; of another one, what does not fill a batch is left
    out, other rows each epoch.

    Args:
        sizes: Rows of each task; the tasks lie end to end.
        batch_size: Rows that are taken together.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int) -> None:
        self.sizes, self.batch_size, self.seed, self.epoch = list(sizes), batch_size, seed, 0

    @property
    def uneven(self) -> str:
        """A warning where a source fills no batch, or where epochs leave out more than a tenth of it; else empty."""
        told = []
        for size in dict.fromkeys(self.sizes):
            rest = size % self.batch_size
            better = min(range(self.batch_size, self.batch_size // 2, -1), key=lambda batch: size % batch)
            if size < self.batch_size:
                told.append(
                    f"{size} clips repeat to fill a batch of {self.batch_size}: schedule.batch_size={size} is faster"
                )
            elif rest > 0.1 * size:
                told.append(
                    f"{rest} of {size} clips, other ones each time, are left out of an epoch of whole batches of "
                    f"{self.batch_size}"
                    + f": schedule.batch_size={better} leaves out {size % better}" * (better < self.batch_size)
                )
        return "; ".join(told)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(self._num_taken, self.sizes))

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches: list[torch.Tensor] = []
        for start, size in zip(accumulate(self.sizes, initial=0), self.sizes, strict=False):
            order = torch.randperm(size, generator=generator)
            taken = start + order.repeat(-(-self.batch_size // size))[: self._num_taken(size)]
            batches += taken.split(self.batch_size)
        if len(self.sizes) > 1:
            batches = [batches[index] for index in torch.randperm(len(batches), generator=generator)]
        return iter(torch.cat(batches).tolist())

    def rows_of(self, number: int) -> list[int]:
        """Return the rows of one batch of this epoch, by its number."""
        start = number * self.batch_size
        return list(self)[start : start + self.batch_size]

    def _num_taken(self, size: int) -> int:
        if size < self.batch_size:
            return self.batch_size
        return size if len(self.sizes) == 1 else size // self.batch_size * self.batch_size
