"""Process pool for decoding and encoding clips."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def forked_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of forked processes, as data loaders have; spawned, each would import torch.

    Ctrl-C reaches the whole group of processes. These leave it to the parent, which ends them at once and silently;
    were they to end by themselves, the pool might report that before the parent hears of the stop. After any error
    what has not begun is left out.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield pool
        except BaseException as stop:
            if isinstance(stop, KeyboardInterrupt):
                for process in list((pool._processes or {}).values()):
                    process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
