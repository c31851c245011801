"""Messages of a `/v1/realtime` client -> checked settings, PCM, pictures and items."""

import base64
import binascii
import secrets
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from mirasol.serve.decode import DecodePicture
from mirasol.serve.errors import ApiError
from mirasol.serve.limits import Limits

RATES = (16_000, 24_000)
MAX_TEXT = 20_000
MAX_PARTS = 64


def new_id(kind: str) -> str:
    """Return a new id, such as event_0123456789abcdef."""
    return f"{kind}_{secrets.token_hex(10)}"


class OwnSettings(BaseModel):
    """Our own fields of a session, under `mirasol`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunks: StrictBool = False  # send a mirasol.chunk event for each
    attribute: StrictBool = False
    keep: StrictBool = False  # also after a normal close
    when_behind: Literal["wait", "skip"] = "wait"
    use_video: StrictBool = True
    use_audio: StrictBool = True
    allowed_lateness: Annotated[float, Field(ge=0, le=60)] = 2.0


STREAM_OPTIONS = ("use_video", "use_audio", "allowed_lateness")


class Settings(BaseModel):
    """Settings of a session that are supported here."""

    model_config = ConfigDict(frozen=True)

    rate: int = 24_000
    instructions: str | None = None
    mirasol: OwnSettings = OwnSettings()

    @classmethod
    def read(cls, wanted: Any, before: "Settings") -> "Settings":
        """Return the settings after a `session.update`; what it leaves out stays as before."""
        if not isinstance(wanted, dict):
            message = f"Expected session to be an object, found {wanted!r:.80}. Send the settings there."
            raise ApiError(400, message, "invalid_value", "session")
        own = wanted.get("mirasol", {})
        if not isinstance(own, dict):
            raise ApiError(400, f"Expected session.mirasol to be an object, found {own!r:.80}.", "invalid_value")
        instructions = wanted.get("instructions", before.instructions)
        if instructions is not None and (not isinstance(instructions, str) or len(instructions) > MAX_TEXT):
            message = f"Expected instructions as text of at most {MAX_TEXT} characters, found others. Shorten them."
            raise ApiError(400, message, "invalid_value", "session.instructions")
        try:
            mine = OwnSettings.model_validate({**before.mirasol.model_dump(), **own})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            known = ", ".join(OwnSettings.model_fields)
            message = f"Expected another session.mirasol.{place} ({first['msg']}), found {first['input']!r:.80}."
            raise ApiError(400, f"{message} Known are {known}.", "invalid_value", f"session.mirasol.{place}") from None
        return cls(rate=_rate(wanted, before.rate), instructions=instructions, mirasol=mine)

    def stream_options(self, before: "Settings") -> dict[str, Any]:
        """Return the options of the stream that differ."""
        mine, theirs = self.mirasol, before.mirasol
        return {name: getattr(mine, name) for name in STREAM_OPTIONS if getattr(mine, name) != getattr(theirs, name)}

    def describe(self, id: str, model: str, about: dict[str, Any]) -> dict[str, Any]:
        """Return the session as the server's events show it."""
        sound = {"format": {"type": "audio/pcm", "rate": self.rate}, "turn_detection": None, "transcription": None}
        return {
            "id": id, "object": "realtime.session", "type": "realtime", "model": model, "output_modalities": ["text"],
            "instructions": self.instructions or "", "audio": {"input": sound}, "tools": [],
            "mirasol": {**self.mirasol.model_dump(), **about},
        }  # fmt: skip


def _rate(wanted: dict[str, Any], before: int) -> int:
    """Return the sampling rate that a session asks for, in the places of the present and the older protocol."""
    sound: Any = wanted.get("audio")
    for key in ("input", "format"):
        sound = sound.get(key) if isinstance(sound, dict) else None
    sound = wanted.get("input_audio_format") if sound is None else sound
    if sound is None or sound in ("pcm16", "audio/pcm"):
        return before
    kind, rate = (sound.get("type", "audio/pcm"), sound.get("rate", before)) if isinstance(sound, dict) else (sound, 0)
    if kind not in ("audio/pcm", "pcm16") or rate not in RATES or isinstance(rate, bool):
        raise ApiError(
            400,
            f"Expected sound as audio/pcm (16 bits, mono) at 16000 or 24000 Hz, found {kind!r:.40} at {rate!r:.40}. "
            "Convert it in the client.",
            "invalid_value",
            "session.audio.input.format",
        )
    return int(rate)


def read_sound(value: Any) -> np.ndarray:
    """Return base64 of PCM16 as int16 samples."""
    data = _base64(value, "audio")
    if len(data) % 2:
        raise ApiError(400, f"Expected PCM of 16 bits, found {len(data)} bytes. Send whole samples.", "invalid_value")
    return np.frombuffer(data, "<i2")


def read_frames(values: Any, limits: Limits, decode_picture: DecodePicture) -> list[np.ndarray]:
    """Return pictures, each base64 or a data: URI of JPEG, PNG or WebP."""
    if not isinstance(values, list) or len(values) > limits.frames_at_once:
        found = len(values) if isinstance(values, list) else type(values).__name__
        message = (
            f"Expected a list of at most {limits.frames_at_once} video_frames, found {found}. Append them in parts."
        )
        raise ApiError(400, message, "invalid_value", "video_frames")
    pictures: list[np.ndarray] = []
    for place, value in enumerate(values):
        pictures.append(decode_picture(_base64(value, f"video_frames.{place}"), limits))
        pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures)
        if pixels > limits.pixels_at_once:
            raise ApiError(
                400,
                f"Expected video_frames of at most {limits.pixels_at_once} pixels together, found {pixels} in the "
                f"first {place + 1}. Send smaller pictures, or append them in parts.",
                "invalid_value",
                "video_frames",
            )
    return pictures


def read_item(item: Any) -> dict[str, Any]:
    """Return a message item with its parts checked."""
    if not isinstance(item, dict) or item.get("type", "message") != "message":
        found = item.get("type") if isinstance(item, dict) else item
        raise ApiError(
            400, f"Expected an item of type message, found {found!r:.80}. Send one.", "invalid_value", "item"
        )
    role, parts = item.get("role"), item.get("content")
    if role not in ("user", "system", "assistant"):
        message = f"Expected the role user, system or assistant, found {role!r:.80}. Correct it."
        raise ApiError(400, message, "invalid_value", "item.role")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ApiError(
            400, "Expected content as a list of parts, found another value.", "invalid_value", "item.content"
        )
    texts = sum(len(part["text"]) for part in parts if isinstance(part.get("text"), str))
    if len(parts) > MAX_PARTS or texts > MAX_TEXT:
        message = (
            f"Expected an item of at most {MAX_PARTS} parts and {MAX_TEXT} characters, found {len(parts)} parts and "
            f"{texts} characters. Shorten it."
        )
        raise ApiError(400, message, "invalid_value", "item.content")
    content = [_part(part, f"item.content.{place}") for place, part in enumerate(parts)]
    id = item.get("id")
    if id is not None and (not isinstance(id, str) or not 0 < len(id) <= 64):
        raise ApiError(400, f"Expected an item's id of at most 64 characters, found {id!r:.80}.", "invalid_value")
    return {"id": id or new_id("item"), "type": "message", "role": role, "content": content}


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = str(part.get("type"))
    wanted = {"input_text": "text", "text": "text", "output_text": "text", "input_audio": "audio",
              "input_image": "image_url"}  # fmt: skip
    if kind not in wanted:
        message = f"Expected {where} of type input_text, input_audio or input_image, found {kind!r:.80}. Correct it."
        raise ApiError(400, message, "invalid_value", f"{where}.type")
    value = part.get(wanted[kind])
    if not isinstance(value, str) or (wanted[kind] == "text" and len(value) > MAX_TEXT):
        message = f"Expected {where}.{wanted[kind]} as a string, of at most {MAX_TEXT} characters if it is text"
        raise ApiError(400, f"{message}, found another value.", "invalid_value", f"{where}.{wanted[kind]}")
    if kind == "input_image" and not value.startswith("data:"):
        message = f"Expected {where}.image_url as a data: URI, found {value[:80]!r}. Send the picture's bytes."
        raise ApiError(400, message, "invalid_value", f"{where}.image_url")
    times = {"timestamps": part.get("timestamps")} if kind == "input_image" else {}
    return {"type": "input_text" if kind == "text" else kind, wanted[kind]: value, **times}


def _base64(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise ApiError(
            400, f"Expected {where} as base64, found {value!r:.40}. Encode the bytes.", "invalid_value", where
        )
    text = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"Expected {where} as base64, found {len(text)} characters that are not ({error}). Encode the bytes."
        raise ApiError(400, message, "invalid_value", where) from None
