"""Load items of a data set ahead in worker processes, in a given order."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

MAX_WORKERS = 8
ITEMS_AHEAD = 4  # per worker


def load_ahead(items: Dataset, indices: Sequence[int], workers: int | None = None) -> Iterator[Any]:
    """Return an iterator over the items of these indices, in this order, loaded by `workers` processes.

    By default there is one worker per core, at most 8, and none for at most 4 items.
    """
    if workers is None:
        workers = min(MAX_WORKERS, os.cpu_count() or 1) if len(indices) > ITEMS_AHEAD else 0
    if workers == 0:
        return map(items.__getitem__, indices)
    return iter(
        DataLoader(
            items,
            sampler=list(indices),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=ITEMS_AHEAD,
            worker_init_fn=_one_thread,
        )  # fmt: skip
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
