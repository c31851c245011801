"""A bounded queue that serves clients in turn, and the errors of the engine."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class BusyError(RuntimeError):
    """A queue is full. `retry_after` estimates the seconds until it has room."""

    def __init__(self, what: str, waiting: int, limit: int, retry_after: float):
        self.retry_after = max(1.0, retry_after)
        super().__init__(
            f"Expected room in the queue of {what}, found {waiting} of at most {limit}. Try again in "
            f"{self.retry_after:.0f} s."
        )


class HeldError(BusyError):
    """Another process of the folder has the session and does not release it."""

    def __init__(self, id: str):
        self.retry_after = 10.0
        RuntimeError.__init__(
            self,
            f"Expected the session {id[:80]!r} to be free, found that it is in another process of this server, which "
            "is busy. Try again in 10 s.",
        )


class UnknownIdError(ValueError):
    """No clip, file or session has this id."""

    def __init__(self, what: str, id: str):
        super().__init__(
            f"Expected the id of a {what} of this server, found {id[:80]!r}, which is unknown or was removed to make "
            f"room for newer ones. Send the {what} again."
        )


class FairQueue(Generic[T]):
    """Queue of many clients' items. `take` serves the clients in turn, and each client's items in order.

    Args:
        what: Name of the items in messages.
        capacity: Number of items.
        share: Share of the capacity that one client may fill.
    """

    def __init__(self, what: str, capacity: int, share: float = 1.0):
        self.what, self.capacity, self.of_one = what, capacity, max(1, int(capacity * share))
        self.seconds_each = 0.1  # running mean of the time to process an item
        self._items: OrderedDict[str, deque[T]] = OrderedDict()
        self._lock = threading.Lock()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, client: str, item: T) -> None:
        """Add an item.

        Raises:
            BusyError: The queue is full, or the client's share of it is.
        """
        with self._lock:
            own = self._items.get(client, ())
            waiting, limit = (self._length, self.capacity) if len(own) < self.of_one else (len(own), self.of_one)
            if waiting >= limit:
                raise BusyError(self.what, waiting, limit, waiting * self.seconds_each)
            self._items.setdefault(client, deque()).append(item)
            self._length += 1

    def take(self, count: int) -> list[T]:
        """Return up to `count` items; a client that is served moves to the end of the turn."""
        found: list[T] = []
        with self._lock:
            while self._items and len(found) < count:
                client, items = next(iter(self._items.items()))
                found.append(items.popleft())
                if items:
                    self._items.move_to_end(client)
                else:
                    del self._items[client]
            self._length -= len(found)
        return found

    def discard(self, client: str, item: T) -> None:
        """Remove an item, if it still waits."""
        with self._lock:
            items = self._items.get(client, deque())
            kept = deque(each for each in items if each is not item)
            self._length -= len(items) - len(kept)
            if kept:
                self._items[client] = kept
            else:
                self._items.pop(client, None)

    def note(self, seconds: float, count: int) -> None:
        """Record the seconds that `count` items took, for `retry_after`."""
        self.seconds_each = 0.8 * self.seconds_each + 0.2 * seconds / max(count, 1)
