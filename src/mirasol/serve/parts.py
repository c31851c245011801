"""Chat messages -> the question and references to its media, in the formats of the common servers."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from mimetypes import guess_type
from typing import Any
from urllib.parse import unquote_to_bytes

from mirasol.chunks.chat import EARLIER, KINDS, TEXTS
from mirasol.serve.errors import invalid, wrong
from mirasol.serve.ids import PATTERN

KEYS = ("url", "image_url", "data", "file_data", "file_id", "base64", "file_url")
BASE64 = ("data", "file_data", "base64")
ID = re.compile(f"(?:file|clip){PATTERN}")


@dataclass(frozen=True)
class Reference:
    """Media of a request: the bytes, the id of a stored file or clip, or an address to fetch."""

    data: bytes | None = None
    id: str | None = None
    url: str | None = None


@dataclass
class Asked:
    """A question and its media by kind: `video`, `audio` or `image`."""

    question: str
    media: dict[str, Reference] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Asked:
    """Return the text of the last user message, and the media of the last message that brings any."""
    asked = Asked("")
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "system", "developer", "assistant"):
            raise wrong(f"messages.{number}.role", "user, system, developer or assistant", role, "Change the role")
        if role in ("system", "developer"):
            asked.warnings.append(f"The {role} message is not used: the model reads only the last question.")
        if content is not None and not isinstance(content, str | list):
            raise wrong(f"messages.{number}.content", "text or a list of parts", content, "Send one of these")
        texts = [content] if isinstance(content, str) else []
        brought = []
        for place, part in enumerate(content if isinstance(content, list) else ()):
            where = f"messages.{number}.content.{place}"
            kind = part.get("type") if isinstance(part, Mapping) else None
            if not isinstance(kind, str):
                raise wrong(where, "an object with a type", part, "Send a part such as {'type': 'text', 'text': ...}")
            if kind in TEXTS:
                if not isinstance(part.get("text"), str):
                    raise wrong(f"{where}.text", "a string", part.get("text"), "Send the question there")
                texts.append(part["text"])
            elif kind in KINDS:
                brought.append(read_part(part, where))
            elif kind != "refusal":
                known = ", ".join((*TEXTS, *KINDS))
                raise wrong(f"{where}.type", f"one of {known}", kind, "Send the media under one of these types")
        if brought and asked.media:
            asked.warnings.append(EARLIER)
        asked.media = {} if brought else asked.media
        for kind, reference in brought:
            add_media(asked, kind, reference)
        if role == "user":
            asked.question = " ".join(texts)
    return asked


def add_media(asked: Asked, kind: str, reference: Reference) -> None:
    """Set the media of this kind, in place of earlier media of the kind."""
    if kind in asked.media:
        asked.warnings.append(f"A message has several {kind} parts: only the last one is used.")
    asked.media.pop(kind, None)
    asked.media[kind] = reference


def read_part(part: Mapping[str, Any], where: str) -> tuple[str, Reference]:
    """Return the kind of a part's media, and the reference to them."""
    type = str(part["type"])
    inner = part.get(type)
    values: Mapping[str, Any] = {"url": inner} if isinstance(inner, str) else inner or part
    if not isinstance(values, Mapping):
        raise wrong(f"{where}.{type}", "an object or a string", inner, "Send the media there")
    for key in KEYS:
        value = values.get(key)
        if isinstance(value, Mapping):  # {"image_url": {"url": ...}} in a part of another type
            value = value.get("url")
        if value is None:
            continue
        if not isinstance(value, str):
            raise wrong(f"{where}.{key}", "a string", value, "Send base64, a data: URI or the id of a file")
        kind = KINDS[type]
        if "file" in type and (_media_type(value, values.get("filename")) or "").startswith("image/"):
            kind = "image"
        return kind, read_reference(value, f"{where}.{key}", is_base64=key in BASE64)
    raise wrong(where, f"an object with {type} under one of {', '.join(KEYS)}", sorted(values), "Send the media there")


def read_reference(value: str, where: str, is_base64: bool = False) -> Reference:
    """Return the reference in a data: URI, an id, an address, or base64 where that is allowed."""
    if ID.fullmatch(value):
        return Reference(id=value)
    head, separator, rest = value[:200].partition(":")
    scheme = head.lower()
    if separator and scheme == "data":
        header, comma, data = value.partition(",")
        if not comma:
            raise wrong(where, "a data: URI with a comma before its data", value, "Write data:video/mp4;base64,...")
        found = decode_base64(data, where) if header.endswith(";base64") else unquote_to_bytes(data)
    elif separator and scheme in ("http", "https") and rest.startswith("//"):
        return Reference(url=value)
    elif is_base64:
        found = decode_base64(value, where)
    else:
        raise wrong(where, "a data: URI, or the id of a file that was sent to /v1/files", value, "Send one of these")
    if not found:
        raise wrong(where, "the bytes of a file", found, "Send the file")
    return Reference(data=found)


def decode_base64(text: str, where: str) -> bytes:
    """Return the bytes of base64.

    Raises:
        ApiError: The text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        found = f"{len(text)} characters that are not ({error})"
        raise invalid(f"Expected {where} to be base64, found {found}. Encode the bytes.", where) from None


def _media_type(value: str, name: Any) -> str | None:
    if value.startswith("data:"):
        return value[5:100].partition(";")[0].partition(",")[0]
    return guess_type(name)[0] if isinstance(name, str) else None
