"""Orderly stop of a run after Ctrl-C or SIGTERM (preemption): finish the step, save a checkpoint, end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import get_worker_info

SIGNALS = (signal.SIGINT, signal.SIGTERM)
REPEAT_SECONDS = 3.0  # one Ctrl-C arrives twice, from the terminal and from torchrun


class StopRequest:
    """Handler that keeps the signal that asked this process to stop.

    A second Ctrl-C, some seconds after the first, ends the process at once. A second SIGTERM does not, because a
    cluster sends it to torchrun and to its processes, and torchrun forwards it.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._received = 0.0

    def __call__(self, number: int, frame: object = None) -> None:
        """Handle a signal."""
        is_repeated = self.signal is not None and time.monotonic() - self._received > REPEAT_SECONDS
        if number == signal.SIGINT and is_repeated:
            raise KeyboardInterrupt("training stopped at once; the same command resumes from the last checkpoint")
        if self.signal is None:
            self.signal, self._received = signal.Signals(number), time.monotonic()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while the block runs; outside the main thread Python delivers none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.signal = None
        before = [signal.signal(number, self) for number in SIGNALS]
        try:
            yield
        finally:
            self.signal = None
            for number, handler in zip(SIGNALS, before, strict=True):
                signal.signal(number, handler)


STOP = StopRequest()  # one, because a process has one handler per signal


class SurvivingCollator:
    """Collator whose loader workers survive a signal to the process group, because the step needs them.

    A worker ignores Ctrl-C and the first SIGTERM; the second one, which its parent sends, ends it.
    """

    def __init__(self, collate: Callable) -> None:
        self.collate, self._is_set = collate, False

    def __call__(self, samples: list) -> Any:
        if not self._is_set and get_worker_info() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))
            self._is_set = True
        return self.collate(samples)
