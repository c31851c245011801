"""`Inbox`: messages of a WebSocket with the time at which each was received, from which lag is measured."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

MAX_BYTES = 4 * 2**20  # read ahead for a session that may skip
MAX_MESSAGES = 4  # for a session that waits: TCP then slows its client down


class Received(NamedTuple):
    """A message that is handled next."""

    message: Any
    waited_seconds: float  # since it was received
    was_full: bool  # the inbox was full, so that more messages may wait in the socket


class Inbox:
    """Queue of messages that were received and not handled.

    Args:
        may_skip: Returns whether the session skips media when the model is behind, instead of slowing its client down.
    """

    def __init__(self, may_skip: Callable[[], bool]):
        self._may_skip = may_skip
        self._messages: deque[tuple[float, Any]] = deque()
        self._num_bytes = 0
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the socket is not read until a message is handled."""
        return self._num_bytes >= MAX_BYTES or (len(self._messages) >= MAX_MESSAGES and not self._may_skip())

    async def fill(self, socket: Any) -> None:
        """Receive messages until the disconnect, which is the last message."""
        type = ""
        while type != "websocket.disconnect":
            await self._until(lambda: not self.is_full)
            message = await socket.receive()
            type = message["type"]
            self._messages.append((monotonic(), message))
            self._num_bytes += _num_bytes(message)
            self._changed.set()

    async def get(self) -> Received:
        """Return the oldest message."""
        await self._until(lambda: bool(self._messages))
        was_full = self.is_full
        received, message = self._messages.popleft()
        self._num_bytes -= _num_bytes(message)
        self._changed.set()
        return Received(message, monotonic() - received, was_full)

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._changed.clear()
            await self._changed.wait()


def _num_bytes(message: Any) -> int:
    return len(message.get("text") or message.get("bytes") or "")
