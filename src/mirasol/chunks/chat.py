"""Chat messages -> their media, in the formats of transformers and of the common servers."""

import base64
import binascii
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

TEXTS = ("text", "input_text")
# The part's type -> what it brings. Its value lies under its type, or under one of KEYS.
KINDS = {
    name: kind for kind in ("video", "audio", "image") for name in (kind, f"{kind}_url", f"input_{kind}")
} | {"file": "video", "input_file": "video"}  # fmt: skip
KEYS = ("image_url", "url", "path", "data", "base64", "file_data")
ENCODED = ("data", "base64", "file_data")
EARLIER = "The media of earlier messages are not used: the question is about the last message that brings any."


def media_of(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the "video", "audio" and "image" of the last message with media, each a path, bytes, a value or None.

    Those of earlier messages are another clip: the sound of one is not joined with the picture of the other.

    Raises:
        ValueError: A part of another type, of a remote address, or without a value.
    """
    found: dict[str, list] = {}
    for message in messages:
        content, brought = message.get("content"), dict[str, list]()
        for part in content if isinstance(content, (list, tuple)) else ():
            kind = part.get("type")
            if kind in TEXTS or kind == "refusal":
                continue
            if kind not in KINDS:
                raise ValueError(
                    f"Parts of a chat must be of type {', '.join((*TEXTS, *KINDS))}, but one is of type {kind!r}: "
                    "send the clip as one of these."
                )
            brought.setdefault(KINDS[kind], []).append(_value(part))
        if brought and found:
            warnings.warn(EARLIER, stacklevel=4)
        found = brought or found
    for kind, values in found.items():
        if len(values) > 1:
            warnings.warn(
                f"A chat is about one {kind}, but this one holds {len(values)}: only the last is used.", stacklevel=4
            )
    if "video" in found and "image" in found:
        raise ValueError("Expected a video or an image in a message, but found both: send one of them.")
    return {kind: found[kind][-1] if kind in found else None for kind in ("video", "audio", "image")}


def plain_texts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with `input_text` parts named `text`, as chat templates expect them."""
    return [
        {
            **message,
            "content": [
                {**part, "type": "text"} if part.get("type") in TEXTS else part for part in message["content"]
            ],
        }
        if isinstance(message.get("content"), (list, tuple))
        else {**message, "content": message.get("content") or ""}
        for message in messages
    ]


def _value(part: Mapping[str, Any]) -> Any:
    kind = part["type"]
    inner = part.get(kind)
    if isinstance(inner, Mapping):
        part = inner
    elif inner is not None:
        return inner if kind in ("video", "audio", "image") and not isinstance(inner, str) else _source(inner, kind)
    for key in KEYS:
        if part.get(key) is not None:
            return _decode(part[key], kind) if key in ENCODED else _source(part[key], kind)
    raise ValueError(
        f"A part of type {kind!r} must hold its media under {kind!r} or {', '.join(KEYS)}, but it holds "
        f"{', '.join(map(repr, part)) or 'nothing'}: send a path, a data: URI or base64."
    )


def _source(value: Any, kind: str) -> Any:
    """The bytes of a data: URI, the path of a file: URI or a path; remote addresses are refused."""
    if not isinstance(value, str):
        return value
    scheme, separator, rest = value.partition(":")
    if separator and scheme.lower() == "data" and "," in rest:
        header, _, data = rest.partition(",")
        if header.endswith(";base64"):
            return _decode(data, kind)
        return unquote(data).encode()
    if scheme.lower() == "file" and rest.startswith("//"):
        return unquote(urlsplit(value).path)
    if separator and rest.startswith("//"):
        raise ValueError(
            f"A part of type {kind!r} must be a path, a file: or data: URI, but it is {value[:80]!r}, and Mirasol "
            "fetches nothing from the network: download the file and pass its path."
        )
    return value


def _decode(value: Any, kind: str) -> bytes:
    """The bytes of base64, with or without the head of a data: URI."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(
            f"A part of type {kind!r} must hold base64, but its {len(text)} characters are not ({error}): encode the "
            "bytes of the file."
        ) from error
