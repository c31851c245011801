"""`InFlight`: a bound on the memory that all requests in progress hold together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mirasol.serve.errors import ApiError

RETRY_SECONDS = 5


class InFlight:
    """Bytes that requests hold until they are answered. Only the event loop's thread uses it.

    Args:
        limit: Bytes of all requests. A request that is alone may exceed it, because it has a limit of its own.
    """

    def __init__(self, limit: int):
        self.limit, self.num_bytes = limit, 0

    def check(self, more: int, own: int = 0) -> None:
        """Refuse more bytes for a request that holds `own` bytes.

        Raises:
            ApiError: Other requests hold too many bytes.
        """
        if self.num_bytes > own and self.num_bytes + more > self.limit:
            raise ApiError(
                429, f"Expected requests that hold at most {self.limit} bytes of memory together, found "
                f"{self.num_bytes} held and {more} more wanted. Try again in {RETRY_SECONDS} s, or send a smaller "
                "file.", "busy", type="rate_limit_error", headers={"Retry-After": f"{RETRY_SECONDS}"},
            )  # fmt: skip

    @contextmanager
    def request(self) -> Iterator[Callable[[int], None]]:
        """Give a function that holds bytes until the end of the block, or raises as `check` does."""
        own = 0

        def hold(more: int) -> None:
            nonlocal own
            self.check(more, own)
            own += more
            self.num_bytes += more

        try:
            yield hold
        finally:
            self.num_bytes -= own
