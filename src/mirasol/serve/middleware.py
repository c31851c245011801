"""Middleware: limits on request bodies, metrics, HEAD. Plain ASGI, so that streams are not buffered."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirasol.serve.errors import ApiError
from mirasol.serve.in_flight import InFlight
from mirasol.serve.limits import Limits
from mirasol.serve.metrics import Metrics
from mirasol.serve.service import too_large


class BodyLimit:
    """Answers 413 to a request over the limit, 429 where others hold too much, and 408 to a slow one.

    What a request states is refused before it is read. What it holds is counted as it comes, so that one that states
    much and sends little takes nobody's room.
    """

    def __init__(self, app: ASGIApp, limits: Limits, in_flight: InFlight):
        self.app, self.limits, self.limit, self.in_flight = app, limits, limits.request_bytes, in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and stop it where it exceeds the limit."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.limit:
            return await refuse(send, too_large(self.limit, declared.decode("latin-1")))
        is_file = headers.get(b"content-type", b"").startswith(b"multipart/")
        copies = 1 if is_file else self.limits.json_copies
        try:
            self.in_flight.check(int(declared) * copies)
        except ApiError as error:
            return await refuse(send, error)
        with self.in_flight.request() as hold:
            await self._pass_on(scope, receive, send, lambda num_bytes: hold(num_bytes * copies))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, hold: Callable[[int], None]) -> None:
        count, is_whole, has_begun, begin = 0, False, False, time.monotonic()

        refusal: ApiError | None = None

        def refused(error: ApiError) -> ApiError:
            nonlocal refusal
            refusal = error
            return error

        async def bounded() -> Message:
            nonlocal count, is_whole
            if is_whole:  # what comes next is that the client leaves
                return await receive()
            late = begin + self.limits.body_idle_seconds + count / self.limits.body_bytes_per_second
            try:
                wait = max(min(self.limits.body_idle_seconds, late - time.monotonic()), 0.0)
                message = await asyncio.wait_for(receive(), wait)
            except TimeoutError:
                raise refused(ApiError(
                    408, f"Expected a whole request, found {count} bytes in {time.monotonic() - begin:.0f} s. Send it "
                    "faster, or a smaller one.", "too_slow",
                )) from None  # fmt: skip
            is_whole = not message.get("more_body", False)
            num_bytes = len(message.get("body", b""))
            count += num_bytes
            if count > self.limit:
                raise refused(too_large(self.limit, "more"))
            try:
                hold(num_bytes)
            except ApiError as error:
                raise refused(error) from None
            return message

        async def note(message: Message) -> None:
            nonlocal has_begun
            if refusal is not None and not has_begun:
                return  # the application calls it a body that cannot be parsed
            has_begun = True
            await send(message)

        try:
            await self.app(scope, bounded, note)
        except ApiError:
            if has_begun:
                raise
        if refusal is not None and not has_begun:
            await refuse(send, refusal)


class Measure:
    """Counts requests and their seconds by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it ended."""
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
    """Answers HEAD as GET without its body, as players and health checks expect."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def cut(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, cut)


async def refuse(send: Send, error: ApiError) -> None:
    """Send an error as the answer to a request."""
    body = json.dumps({"error": error.body}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
