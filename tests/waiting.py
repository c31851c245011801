"""Tests wait for what must happen, on however slow a machine, instead of sleeping for as long as it usually takes."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0  # seconds for what must happen


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"not within {PATIENCE:g} s"
        time.sleep(0.01)
