"""Evaluation by several processes: `torchrun --nproc-per-node 2 -m mirasol.cli evaluate ...`."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch

LONGEST_WAIT = timedelta(days=7)  # of the fastest process for the slowest


@dataclass(frozen=True)
class Processes:
    """Rank of this process and the number of processes."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes (a barrier)."""
        if self.count > 1:
            torch.distributed.barrier()

    def gather(self, part: dict) -> dict:
        """Join the parts of all processes; a collective call."""
        parts = [part] * self.count
        if self.count > 1:
            torch.distributed.all_gather_object(parts, part)
        return {key: value for part in parts for key, value in part.items()}


def joined_processes() -> Processes:
    """Return the processes of the process group that is open, such as that of a training run."""
    if not torch.distributed.is_initialized():
        return Processes()
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())


@contextlib.contextmanager
def started_processes() -> Iterator[Processes]:
    """Yield the processes that torchrun or accelerate started, else a single one.

    They only synchronise, so the CPU backend (gloo) is enough on every machine.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(torch.distributed.get_rank(), count)
    finally:
        torch.distributed.destroy_process_group()
