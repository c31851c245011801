"""Processes that decode or encode clips side by side."""

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor


def forked_pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool of forked processes, as data loaders have; spawned, each would import torch.

    Ctrl-C reaches the whole group of processes: it ends these at once and silently, and the parent says what stopped.
    """
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(processes, context, signal.signal, (signal.SIGINT, signal.SIG_DFL))
