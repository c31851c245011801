"""Process pool for decoding and encoding clips."""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def forked_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of forked processes, because spawned ones would each import torch.

    The processes ignore Ctrl-C, which reaches the whole group, and the parent kills them: if they ended by
    themselves, the pool might report it before the parent gets the signal. After any error, jobs that have not begun
    are cancelled.
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
