"""Middleware: limits on request bodies, metrics, HEAD. Plain ASGI, so that responses are not buffered."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirasol.serve.errors import ApiError, error_response
from mirasol.serve.in_flight import InFlight
from mirasol.serve.limits import Limits
from mirasol.serve.metrics import Metrics
from mirasol.serve.service import too_large

CLOSE = {"Connection": "close"}  # the rest of the body is not read


class BodyLimit:
    """Answers 413 to a body over the limit, 429 if other requests hold too much memory, and 408 to a slow body.

    The stated length is checked before the body is read. Memory is counted as the body arrives, so that a client that
    states a large length and sends little takes no room.
    """

    def __init__(self, app: ASGIApp, limits: Limits, in_flight: InFlight):
        self.app, self.limits, self.in_flight = app, limits, in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a bounded body."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        stated = headers.get(b"content-length", b"0").decode("latin-1")
        is_file = headers.get(b"content-type", b"").startswith(b"multipart/")
        copies = 1 if is_file else self.limits.json_copies
        try:
            if not (stated.isascii() and stated.isdigit()) or int(stated) > self.limits.request_bytes:
                raise too_large(self.limits.request_bytes, stated)
            self.in_flight.check(int(stated) * copies)
        except ApiError as error:
            return await error_response(error, CLOSE)(scope, receive, send)
        with self.in_flight.request() as hold:
            body = self._bounded(receive, lambda num_bytes: hold(num_bytes * copies))
            await self.app(scope, body, send)

    def _bounded(self, receive: Receive, hold: Callable[[int], None]) -> Receive:
        """Return a `receive` that raises ApiError when the body exceeds a limit."""
        count, is_whole, begin = 0, False, time.monotonic()

        async def read() -> Message:
            late = begin + self.limits.body_idle_seconds + count / self.limits.body_bytes_per_second
            wait = max(min(self.limits.body_idle_seconds, late - time.monotonic()), 0.0)
            try:
                return await asyncio.wait_for(receive(), wait)
            except TimeoutError:
                raise ApiError(
                    408, f"Expected a whole request, found {count} bytes in {time.monotonic() - begin:.0f} s. Send it "
                    "faster, or a smaller one.", "too_slow",
                ) from None  # fmt: skip

        async def bounded() -> Message:
            nonlocal count, is_whole
            if is_whole:  # the next message is the client's disconnect
                return await receive()
            try:
                message = await read()
                is_whole = not message.get("more_body", False)
                num_bytes = len(message.get("body", b""))
                count += num_bytes
                if count > self.limits.request_bytes:
                    raise too_large(self.limits.request_bytes, "more")
                hold(num_bytes)
                return message
            except ApiError as error:
                error.headers = {**(error.headers or {}), **CLOSE}
                raise

        return bounded


class Measure:
    """Counts requests and their seconds by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and record its status and duration."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            route: Any = scope.get("route")
            path = getattr(route, "path", "other")  # ids and unknown paths make no series of their own
            self.metrics.note_request(scope["method"], path, status, time.perf_counter() - begin)


class Head:
    """Routes HEAD as GET; the web server leaves the body out."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        await self.app({**scope, "method": "GET"} if scope.get("method") == "HEAD" else scope, receive, send)
