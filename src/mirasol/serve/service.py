"""`Service`, shared by the routes: references to media -> a watched clip, questions -> replies."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
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
from mirasol.serve.errors import ApiError
from mirasol.serve.ids import belongs
from mirasol.serve.in_flight import InFlight
from mirasol.serve.parts import Reference
from mirasol.serve.queues import UnknownIdError
from mirasol.serve.store import Entry

T = TypeVar("T")
Fetch = Callable[[str], Awaitable[bytes]]
MAX_OPTIONS = 64  # to choose an answer from
SMALL_BYTES = 64 * 1024  # parsed in less time than another thread takes to begin


async def refuse_to_fetch(url: str) -> bytes:
    """Refuse an address: this server fetches nothing."""
    raise ApiError(
        400,
        f"Expected media as a data: URI or the id of a file, found the address {url[:80]}, and this server fetches "
        "nothing. Download the file and send its bytes, or start the server with --allow-url-host.",
        "url_not_allowed",
    )


class Client(NamedTuple):
    """Who asks."""

    name: str  # of the API key, else the address: clients are served in turn
    owner: str  # of files, clips and sessions: the name of the API key, "" on a server without keys


@dataclass
class Service:
    """An engine under the name of its model.

    Args:
        engine: Does the work.
        model: Name that clients send.
        fetch: Gets the file of an address, or refuses it.
    """

    engine: Engine
    model: str = "mirasol"
    fetch: Fetch = refuse_to_fetch
    connections: dict[str, Any] = field(default_factory=dict)  # of live sessions, by their ids
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.in_flight = InFlight(self.engine.limits.bytes_in_flight)

    def check_model(self, name: Any) -> None:
        """Refuse a model that is not the loaded one."""
        if name not in (None, "", self.model, "mirasol"):
            message = (
                f"Expected the model {self.model!r}, found {str(name)[:80]!r}. GET /v1/models lists what is here."
            )
            raise ApiError(404, message, "model_not_found", "model")

    async def watch(
        self, media: dict[str, Reference], use_video: bool | None, use_audio: bool | None, client: Client
    ) -> WatchedClip:
        """Return the clip that these references make, watched now or before; None of a switch is the default."""
        if not media:
            raise ApiError(
                400,
                "Expected a clip to ask about, found text only. Send a video_url, input_video, audio_url, "
                "input_audio, image_url or file part, or mirasol.clip with the id of a watched one.",
                "no_media",
            )
        if "video" in media and "image" in media:
            raise ApiError(400, "Expected a video or an image, found both. Send one of them.", "invalid_value")
        ids = [reference.id for reference in media.values() if reference.id and reference.id.startswith("clip_")]
        if ids:
            if len(media) > 1:
                message = f"Expected the watched clip {ids[0]} alone, found other media beside it. Send files instead."
                raise ApiError(400, message, "invalid_value")
            return self._same(await self.clip(ids[0], client), use_video, use_audio)
        options = WatchOptions(use_video is not False, use_audio is not False)
        if not (options.use_video or options.use_audio):
            raise ApiError(400, "Expected use_video or use_audio, found both false. Switch one on.", "invalid_value")
        with self.in_flight.request() as hold:
            files = Media(**{kind: await self._file(each, client.owner, hold) for kind, each in media.items()})
            future = await run_in_threadpool(self.engine.watch, files, options, *client)
            return await asyncio.shield(asyncio.wrap_future(future))  # others may wait for the same clip

    async def ask(self, clip: WatchedClip, question: str, client: str, **chosen: Any) -> Reply:
        """Return the reply to a question about a clip."""
        options = chosen.get("options")
        if options is not None and len(options) > MAX_OPTIONS:
            raise ApiError(
                400, f"Expected at most {MAX_OPTIONS} options, found {len(options)}. Send fewer.", "invalid_value"
            )
        return await asyncio.wrap_future(self.engine.ask(clip, question, client=client, **chosen))

    async def ask_for(self, request: Request, clip: WatchedClip, question: str, **chosen: Any) -> Reply:
        """Return the reply, or take the question back when its client leaves."""
        asking = asyncio.ensure_future(self.ask(clip, question, client_of(request).name, **chosen))
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((asking, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise ApiError(499, "Expected a client that waits, found that it has left.", "client_left")
            return asking.result()
        finally:
            asking.cancel()
            leaving.cancel()

    async def clip(self, id: str, client: Client) -> WatchedClip:
        """Return a watched clip, unless it is another's."""
        if not belongs(id, client.owner):
            raise UnknownIdError("clip", id)
        recent = self.engine.clips.recent(id)
        return await run_in_threadpool(self.engine.clips.get, id) if recent is None else recent

    def _same(self, clip: WatchedClip, use_video: bool | None, use_audio: bool | None) -> WatchedClip:
        for name, wanted in (("use_video", use_video), ("use_audio", use_audio)):
            if wanted is not None and wanted != clip.facts[name]:
                raise ApiError(
                    400,
                    f"Expected {name} as the clip {clip.id} was watched ({clip.facts[name]}), found {wanted}. Watch "
                    "its file again with the other value.",
                    "invalid_value",
                    name,
                )
        return clip

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
        """Return a file that was sent, unless it is another's."""
        entry = self.engine.files.get(id) if id.startswith("file_") else None
        if entry is None or entry.facts["owner"] != owner:
            raise UnknownIdError("file", id)
        return entry


async def _left(request: Request) -> None:
    """Return when the client of a request that was read has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def too_large(limit: int, found: str) -> ApiError:
    """Return the refusal of a file that exceeds the limit."""
    return ApiError(
        413, f"Expected at most {limit} bytes, found {found}. Cut the clip, or encode it smaller.", "too_large"
    )


def service_of(connection: HTTPConnection) -> Service:
    """Return the service of the application that a request or WebSocket came to."""
    return connection.app.state.service


def client_of(connection: HTTPConnection) -> Client:
    """Return who asks."""
    owner = getattr(connection.state, "client", "")
    return Client(owner or (connection.client.host if connection.client else ""), owner)


async def aside(num_bytes: int, call: Callable[..., T], *arguments: Any) -> T:
    """Return what a call gives, made in another thread if it has so much to read that all others would wait."""
    return call(*arguments) if num_bytes <= SMALL_BYTES else await run_in_threadpool(call, *arguments)


async def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request holds."""
    body = await request.body()
    try:
        value = await aside(len(body), json.loads, body)  # 300 MB of base64 take a second
    except (ValueError, RecursionError) as error:
        message = f"Expected JSON, found a body that is none ({error}). Send one JSON object."
        raise ApiError(400, message, "bad_json") from None
    if not isinstance(value, dict):
        message = f"Expected a JSON object, found a {type(value).__name__}. Send the fields inside of {{}}."
        raise ApiError(400, message, "bad_json")
    return value
