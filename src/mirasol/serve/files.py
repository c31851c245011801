"""`/v1/files` and `/v1/clips`: stored files, and clips that are watched once and asked many times."""

import mimetypes
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from mirasol.serve.clips import WatchedClip
from mirasol.serve.errors import ApiError, invalid
from mirasol.serve.parts import read_reference
from mirasol.serve.service import Service, client_of, service_of, too_large
from mirasol.serve.store import Entry

router = APIRouter()
SHOWN = (
    "video/",
    "audio/",
    "image/jpeg",
    "image/png",
    "image/webp",
)  # types that a browser may display
BLOCK = 2**20


class ClipRequest(BaseModel):
    """A clip to watch. Media are ids, data: URIs or addresses; `audio` replaces the audio of `video`."""

    model_config = ConfigDict(extra="forbid")

    video: str | None = None
    audio: str | None = None
    image: str | None = None
    use_video: StrictBool = True
    use_audio: StrictBool = True


class ClipQuestion(BaseModel):
    """A question about a watched clip."""

    model_config = ConfigDict(extra="forbid")

    question: str
    options: list[str] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    attribute: StrictBool = False


class RangedFile(FileResponse):
    """A file response that refuses an invalid range with an error object instead of plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""

        async def checked(message: Message) -> None:
            if message.get("status") in (400, 416):
                size, found = self.headers["content-length"], Headers(scope=scope).get("range", "")
                raise ApiError(
                    416, f"Expected a range within the {size} bytes of the file, found {found[:80]!r}. Send a range "
                    "such as bytes=0-999, or leave the header out.", "invalid_range", "Range",
                    headers={"Content-Range": f"bytes */{size}"},
                )  # fmt: skip
            await send(message)

        await super().__call__(scope, receive, checked)


@router.post("/v1/files")
async def upload(request: Request, file: UploadFile, purpose: Annotated[str, Form()] = "user_data") -> dict[str, Any]:
    """Store a file. The same bytes of the same API key get the same id."""
    service, owner = service_of(request), client_of(request).owner
    if any(name.startswith("expires_after") for name in await request.form()):
        raise invalid(
            "Expected no expires_after, because a file stays until newer ones need its room, found one. Leave it out, "
            "and delete the file when it is not needed.", "expires_after",
        )  # fmt: skip
    return await run_in_threadpool(_store, service, file, purpose[:40], owner)


def _store(service: Service, file: UploadFile, purpose: str, owner: str) -> dict[str, Any]:
    limit, source = service.engine.limits.upload_bytes, file.file
    digest, size = sha256(owner.encode() + b"\0"), 0
    while block := source.read(BLOCK):
        size += len(block)
        if size > limit:
            raise too_large(limit, "more")
        digest.update(block)
    if not size:
        raise ApiError(400, "Expected a file with bytes, found 0 bytes. Send the clip again.", "empty_file", "file")
    source.seek(0)

    def write(path: Path) -> None:
        with path.open("wb") as target:
            shutil.copyfileobj(source, target, BLOCK)

    name = Path(file.filename or "file").name[-120:]
    facts = {"filename": name, "purpose": purpose, "owner": owner}
    return _file_object(service.engine.files.put(write, facts, digest.hexdigest()))


@router.get("/v1/files")
async def list_files(request: Request) -> dict[str, Any]:
    """List the files of this API key."""
    owner = client_of(request).owner
    if not owner:
        raise ApiError(
            403,
            "Expected an API key, whose files are listed, found a server without keys, where an id is the only access "
            "to a file. Start the server with --api-key-file.",
            "no_api_keys",
        )
    entries = service_of(request).engine.files.entries(owner=owner)
    return {"object": "list", "data": [_file_object(entry) for entry in entries], "has_more": False}


@router.get("/v1/files/{id}")
async def file_facts(request: Request, id: str) -> dict[str, Any]:
    """Describe a file."""
    return _file_object(_file(request, id))


@router.get("/v1/files/{id}/content")
async def content(request: Request, id: str) -> FileResponse:
    """Return the bytes of a file, whole or in ranges, so that a player can seek."""
    entry = _file(request, id)
    name = entry.facts["filename"]
    type = mimetypes.guess_type(name)[0] or ""
    type = type if type.startswith(SHOWN) else "application/octet-stream"
    safe = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}
    return RangedFile(entry.path, media_type=type, filename=name, content_disposition_type="inline", headers=safe)


@router.delete("/v1/files/{id}")
async def remove_file(request: Request, id: str) -> dict[str, Any]:
    """Remove a file; clips that were watched from it remain."""
    _file(request, id)
    service_of(request).engine.files.remove(id)
    return {"id": id, "object": "file", "deleted": True}


@router.post("/v1/clips")
async def watch(request: Request, body: ClipRequest) -> dict[str, Any]:
    """Watch a clip; its id takes questions."""
    named = {"video": body.video, "audio": body.audio, "image": body.image}
    media = {kind: read_reference(value, kind) for kind, value in named.items() if value}
    service = service_of(request)
    clip = await service.watch(media, body.use_video, body.use_audio, client_of(request))
    return clip_object(clip)


@router.get("/v1/clips/{id}")
async def clip_facts(request: Request, id: str) -> dict[str, Any]:
    """Describe a watched clip: its chunks, their surprise, the video and audio that were used."""
    service = service_of(request)
    await service.clip(id, client_of(request))  # refuses a clip of another owner
    return clip_object(await run_in_threadpool(service.engine.clips.reread, id))


@router.post("/v1/clips/{id}/ask")
async def ask(request: Request, id: str, body: ClipQuestion) -> dict[str, Any]:
    """Answer a question about a watched clip."""
    service = service_of(request)
    clip = await service.clip(id, client_of(request))
    reply = await service.ask(
        request, clip, body.question, options=body.options, max_new_tokens=body.max_tokens, attribute=body.attribute
    )
    return {"object": "clip.answer", "clip": id, "question": body.question, **reply.as_dict()}


@router.delete("/v1/clips/{id}")
async def remove_clip(request: Request, id: str) -> dict[str, Any]:
    """Remove a watched clip."""
    service = service_of(request)
    await service.clip(id, client_of(request))
    await run_in_threadpool(service.engine.clips.forget, id)
    return {"id": id, "object": "clip", "deleted": True}


def clip_object(clip: WatchedClip) -> dict[str, Any]:
    """Return a clip as an API object."""
    return {"id": clip.id, "object": "clip", "created_at": int(clip.created), "mirasol": clip.facts}


def _file(request: Request, id: str) -> Entry:
    return service_of(request).file(id, client_of(request).owner)


def _file_object(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id, "object": "file", "bytes": entry.num_bytes, "created_at": int(entry.created),
        "filename": entry.facts["filename"], "purpose": entry.facts["purpose"], "status": "processed",
    }  # fmt: skip
