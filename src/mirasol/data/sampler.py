"""Order of the clips in training: a function of (seed, epoch) alone, not of ranks or workers."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from torch.utils.data import Sampler

SHARDS_PER_GROUP = 8  # shards whose clips are shuffled together: so many files are open at a time


class EpochSampler(Sampler[int]):
    """Indices of an epoch's clips, in whole batches for each rank, in an order that depends on (seed, epoch) alone.

    Batch n of an epoch goes to rank n modulo `num_ranks`, as accelerate distributes batches. So the clips of a step do
    not depend on the number of ranks, as long as ranks times accumulated batches stay the same. Incomplete batches are
    filled with blanks: index -1 - n for source n, for which a data set returns a masked item without any loss. Every
    clip occurs once, and every rank has equally many batches.

    Every batch is of one source, because short clips would be padded to the longest of their batch, and because tasks
    ask unequal numbers of questions. The batches of several sources are shuffled.

    Args:
        sources: Clips of each source, or clips of each of its shards; the sources lie end to end.
        batch_size: Clips of a batch.
        seed: Seed of the order.
        num_ranks: Processes that share the batches.
    """

    def __init__(self, sources: Sequence[int | Sequence[int]], batch_size: int, seed: int, num_ranks: int = 1) -> None:
        self.shards = [[source] if isinstance(source, int) else list(source) for source in sources]
        self.sizes = [sum(shards) for shards in self.shards]
        self.num_clips = sum(self.sizes)  # of an epoch, without blanks
        if not all(self.sizes):
            raise ValueError(f"Expected clips in every source, found {self.sizes} of them. Leave out what is empty.")
        self.batch_size, self.seed, self.num_ranks = batch_size, seed, num_ranks
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given."""
        self.epoch = epoch

    def __len__(self) -> int:
        batches = sum(-(-size // self.batch_size) for size in self.sizes)
        return -(-batches // self.num_ranks) * self.num_ranks * self.batch_size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        batches: list[torch.Tensor] = []
        for number, first in enumerate(accumulate([0, *self.sizes[:-1]])):
            indices = first + shuffle(self.shards[number], generator)
            blanks = indices.new_full((-len(indices) % self.batch_size,), -1 - number)
            batches += torch.cat([indices, blanks]).split(self.batch_size)
        if len(self.sizes) > 1:
            # Sources take turns at random, each in its own order: clips of one shard stay near each other.
            sources = [number for number, size in enumerate(self.sizes) for _ in range(-(-size // self.batch_size))]
            turns = torch.tensor(sources)[torch.randperm(len(sources), generator=generator)]
            batches = [batches[place] for place in turns.argsort(stable=True).argsort().tolist()]
        order = torch.cat(batches).tolist()
        return iter(order + [-1] * (len(self) - len(order)))


def shuffle(shards: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Return the indices of shards of these sizes: shards in random order, then clips shuffled within each group."""
    if len(shards) == 1:
        return torch.randperm(shards[0], generator=generator)
    firsts = list(accumulate([0, *shards[:-1]]))
    chosen = torch.randperm(len(shards), generator=generator).tolist()
    shuffled = []
    for start in range(0, len(chosen), SHARDS_PER_GROUP):
        group = [torch.arange(firsts[n], firsts[n] + shards[n]) for n in chosen[start : start + SHARDS_PER_GROUP]]
        indices = torch.cat(group)
        shuffled.append(indices[torch.randperm(len(indices), generator=generator)])
    return torch.cat(shuffled)
