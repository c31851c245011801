"""Middleware for Ray Serve's proxy: error objects in OpenAI's format, and a bound on data that wait for a replica.

Both middlewares are plain ASGI. The proxy imports this file, so that it must not import torch.
"""

import asyncio
import json
from functools import partialmethod
from typing import Any

import uvicorn
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirasol.serve.limits import UVICORN, Limits

BYTES_AHEAD = 4 * 2**20  # of a connection, which its replica has not read
READ = "mirasol.read"  # type of a message from `AtReplica` to `AtProxy`
OURS = "mirasol.ours"  # key that marks responses of the application; others are Ray's own
# With these headers a client could change Ray's timeouts and routing.
HEADERS_OF_RAY = (
    "x-request-timeout-seconds", "x-request-disconnect-disabled", "x-session-id", "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)  # fmt: skip
SERVICE_RESTART = 1012


def middlewares() -> list[Middleware]:
    """Return the middleware of RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    # Ray has no setting for these options of uvicorn. It calls this function before it creates the configuration.
    bounded = partialmethod(uvicorn.Config.__init__, ws_max_size=Limits().message_bytes, **UVICORN)
    uvicorn.Config.__init__ = bounded  # type: ignore[method-assign, assignment]
    return [Middleware(AtProxy)]


class AtReplica:
    """Reports to the proxy the bytes that the application reads, and marks the application's responses."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)

        async def read() -> Message:
            message = await receive()
            if size := _num_bytes(message):
                await send({"type": READ, "bytes": size})
            return message

        async def mark(message: Message) -> None:
            await send({**message, OURS: True} if message["type"] == "http.response.start" else message)

        await self.app(scope, read, mark)


class AtProxy:
    """Reads at most `BYTES_AHEAD` ahead of a replica, and answers for a replica that ended."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "lifespan" or scope["path"].startswith("/-/"):
            return await self.app(scope, receive, send)
        scope["headers"] = [each for each in scope["headers"] if each[0].decode("latin-1") not in HEADERS_OF_RAY]
        ahead, has_room = 0, asyncio.Event()
        begun = ended = False
        status = 0  # of a response of Ray, which is replaced

        async def bounded() -> Message:
            nonlocal ahead
            while ahead >= BYTES_AHEAD:
                has_room.clear()
                await has_room.wait()
            message = await receive()
            ahead += _num_bytes(message)
            return message

        async def answer(message: Message) -> None:
            nonlocal ahead, begun, ended, status
            kind = message["type"]
            if kind == READ:
                ahead -= message["bytes"]
                has_room.set()
            elif kind == "http.response.start" and not message.pop(OURS, False):
                status = message["status"]
            elif not status:
                begun = True
                ended = ended or kind in ("websocket.close", "websocket.http.response.body")
                await send(message)

        await self.app(scope, bounded, answer)
        if scope["type"] == "websocket" and begun and not ended:
            await send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "resume with ?session="})
        elif not begun:
            await _refuse(scope, send, status)


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    """Answer a request that no replica answered."""
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    error = {
        "message": "Expected an answer of a replica, found that it ended or that none is ready. Try again in 2 s.",
        "type": "server_error", "param": None, "code": "replica_lost",
    }  # fmt: skip
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"2"), (b"x-content-type-options", b"nosniff")]
    known = status if status in (408, 429) else 503
    await send({"type": f"{kind}.start", "status": known, "headers": headers})
    await send({"type": f"{kind}.body", "body": json.dumps({"error": error}).encode()})


def _num_bytes(message: Message) -> int:
    content: Any = message.get("body") or message.get("text") or message.get("bytes") or b""
    return len(content)
