"""`Service`, which all routes share: references to media -> a watched clip, questions -> replies."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from mirasol.serve.batches import Reply
from mirasol.serve.clips import WatchedClip
from mirasol.serve.decode import Media, WatchOptions
from mirasol.serve.engine import Engine
from mirasol.serve.errors import ApiError, invalid
from mirasol.serve.ids import belongs
from mirasol.serve.in_flight import InFlight
from mirasol.serve.parts import Reference
from mirasol.serve.queues import UnknownIdError
from mirasol.serve.store import Entry

T = TypeVar("T")
Fetch = Callable[[str], Awaitable[bytes]]
SMALL_BYTES = 64 * 1024  # parsed in less time than another thread takes to start


async def refuse_to_fetch(url: str) -> bytes:
    """Refuse an address, because no host is allowed."""
    raise ApiError(
        400, f"Expected media as a data: URI or the id of a file, found the address {url[:80]}, and this server "
        "fetches nothing. Send the bytes of the file, or start the server with --allow-url-host.", "url_not_allowed",
    )  # fmt: skip


class Client(NamedTuple):
    """The client of a request."""

    name: str  # of the API key, else the address: clients are served in turn
    owner: str  # of files, clips and sessions: the name of the API key, "" on a server without keys


@dataclass
class Service:
    """An engine under the name of its model.

    Args:
        engine: Engine that the routes call.
        model: Model name that clients send.
        fetch: Returns the file at an address, or refuses the address.
    """

    engine: Engine
    model: str = "mirasol"
    fetch: Fetch = refuse_to_fetch
    connections: dict[str, Any] = field(default_factory=dict)  # of live sessions, by session id
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.in_flight = InFlight(self.engine.limits.bytes_in_flight)

    def check_model(self, name: Any) -> None:
        """Refuse a model that is not loaded."""
        if name not in (None, "", self.model, "mirasol"):
            message = f"Expected the model {self.model!r}, found {name!r:.80}. Send a model that GET /v1/models lists."
            raise ApiError(404, message, "model_not_found", "model")

    async def watch(
        self, media: dict[str, Reference], use_video: bool | None, use_audio: bool | None, client: Client
    ) -> WatchedClip:
        """Return the clip of these references, watched now or earlier. A switch that is None has its default."""
        if not media:
            raise ApiError(
                400, "Expected a clip to ask about, found only text. Send a video_url, input_video, audio_url, "
                "input_audio, image_url or file part, or mirasol.clip with the id of a watched clip.", "no_media",
            )  # fmt: skip
        if "video" in media and "image" in media:
            raise invalid("Expected a video or an image, found both. Send one of them.")
        ids = [reference.id for reference in media.values() if reference.id and reference.id.startswith("clip_")]
        if ids:
            if len(media) > 1:
                raise invalid(
                    f"Expected only the watched clip {ids[0]}, found other media beside it. Send files instead."
                )
            clip = await self.clip(ids[0], client)
            for name, wanted in (("use_video", use_video), ("use_audio", use_audio)):
                if wanted is not None and wanted != clip.facts[name]:
                    raise invalid(
                        f"Expected {name} to be {clip.facts[name]}, as when the clip {clip.id} was watched, found "
                        f"{wanted}. Watch the file again with the other value.", name,
                    )  # fmt: skip
            return clip
        options = WatchOptions(use_video is not False, use_audio is not False)
        if not (options.use_video or options.use_audio):
            raise invalid("Expected use_video or use_audio, found both false. Set one of them to true.")
        with self.in_flight.request() as hold:
            files = Media(**{kind: await self._file(each, client.owner, hold) for kind, each in media.items()})
            future = await run_in_threadpool(self.engine.watch, files, options, *client)
            return await asyncio.shield(asyncio.wrap_future(future))  # other requests may wait for the same clip

    async def ask(self, request: Request, clip: WatchedClip, question: str, **chosen: Any) -> Reply:
        """Return the reply to a question about a clip; cancel the question if the client disconnects."""
        future = self.engine.ask(clip, question, client=client_of(request).name, **chosen)
        asking, leaving = asyncio.wrap_future(future), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise ApiError(499, "Expected a connected client, found that it disconnected.", "client_left")
            return asking.result()
        finally:
            asking.cancel()
            leaving.cancel()

    async def clip(self, id: str, client: Client) -> WatchedClip:
        """Return a watched clip of this client.

        Raises:
            UnknownIdError: There is none, or another client owns it.
        """
        if not belongs(id, client.owner):
            raise UnknownIdError("clip", id)
        recent = self.engine.clips.recent(id)
        return await run_in_threadpool(self.engine.clips.get, id) if recent is None else recent

    async def _file(self, reference: Reference, owner: str, hold: Callable[[int], None]) -> bytes | Path:
        if reference.url is not None:
            data = await self.fetch(reference.url)
            hold(len(data))
            return data
        if reference.data is not None:
            if len(reference.data) > self.engine.limits.upload_bytes:
                raise too_large(self.engine.limits.upload_bytes, f"{len(reference.data)}")
            return reference.data
        return self.file(reference.id or "", owner).path

    def file(self, id: str, owner: str) -> Entry:
        """Return an uploaded file of this owner.

        Raises:
            UnknownIdError: There is none, or another client owns it.
        """
        entry = self.engine.files.get(id) if id.startswith("file_") else None
        if entry is None or entry.facts["owner"] != owner:
            raise UnknownIdError("file", id)
        return entry


def stream_reply(engine: Engine, about: str | WatchedClip, question: str, **chosen: Any) -> AsyncIterator[str | Reply]:
    """Ask a question; return an iterator of pieces of the answer and, at the end, the reply.

    The engine refuses the question here, before the first piece. Closing the iterator cancels the question.
    """
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def put(value: Any) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, value)

    future = engine.ask(about, question, on_text=put, **chosen)
    future.add_done_callback(put)

    async def iterate() -> AsyncIterator[str | Reply]:
        try:
            while isinstance(value := await queue.get(), str):
                yield value
            yield value.result()
        finally:
            future.cancel()

    return iterate()


async def _disconnected(request: Request) -> None:
    """Return when the client disconnects; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def too_large(limit: int, found: str) -> ApiError:
    """Return the refusal of a file over the limit."""
    return ApiError(
        413, f"Expected at most {limit} bytes, found {found}. Cut the clip, or encode it smaller.", "too_large"
    )


def service_of(connection: HTTPConnection) -> Service:
    """Return the service of a request's or WebSocket's application."""
    return connection.app.state.service


def client_of(connection: HTTPConnection) -> Client:
    """Return the client of a request or WebSocket."""
    owner = getattr(connection.state, "client", "")
    return Client(owner or (connection.client.host if connection.client else ""), owner)


async def in_thread_if_large(num_bytes: int, call: Callable[..., T], *arguments: Any) -> T:
    """Call a function; a large input is parsed in another thread, so that the event loop serves others meanwhile."""
    return call(*arguments) if num_bytes <= SMALL_BYTES else await run_in_threadpool(call, *arguments)


async def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body."""
    body = await request.body()
    try:
        value = await in_thread_if_large(len(body), json.loads, body)  # 300 MB of base64 take a second
    except (ValueError, RecursionError) as error:
        message = f"Expected JSON, found a body that is not ({error}). Send one JSON object."
        raise ApiError(400, message, "bad_json") from None
    if not isinstance(value, dict):
        message = f"Expected a JSON object, found a {type(value).__name__}. Send the fields in {{}}."
        raise ApiError(400, message, "bad_json")
    return value
