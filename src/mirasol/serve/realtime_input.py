"""Messages of a `/v1/realtime` client -> checked settings, PCM, pictures and items."""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from mirasol.serve.decode import DecodePicture
from mirasol.serve.errors import invalid, validated, wrong
from mirasol.serve.ids import new_id
from mirasol.serve.limits import Limits
from mirasol.serve.parts import decode_base64

MAX_TEXT = 20_000
MAX_PARTS = 64
MaxTokens = Annotated[int, Field(ge=1, strict=True)] | Literal["inf"] | None
STREAM_OPTIONS = ("use_video", "use_audio", "allowed_lateness")


class OwnSettings(BaseModel):
    """Settings of a session under `mirasol`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chunks: StrictBool = False  # send a mirasol.chunk event for each chunk
    attribute: StrictBool = False
    keep: StrictBool = False  # save the session after a normal close too
    when_behind: Literal["wait", "skip"] = "wait"
    use_video: StrictBool = True
    use_audio: StrictBool = True
    allowed_lateness: Annotated[float, Field(ge=0, le=60)] = 2.0  # seconds


class AudioFormat(BaseModel):
    """Format of a session's audio: 16-bit mono PCM at a rate in Hz; None leaves the rate as it is."""

    type: Literal["audio/pcm", "pcm16"] = "audio/pcm"
    rate: Literal[16_000, 24_000] | None = None


class SessionUpdate(BaseModel):
    """Fields of `session.update` that have an effect, in the current protocol and in the older one."""

    instructions: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    max_output_tokens: MaxTokens = Field(
        None, validation_alias=AliasChoices("max_output_tokens", "max_response_output_tokens")
    )
    format: Annotated[
        AudioFormat | None,
        BeforeValidator(lambda value: {"type": value} if isinstance(value, str) else value),
        Field(validation_alias=AliasChoices(AliasPath("audio", "input", "format"), "input_audio_format")),
    ] = None
    mirasol: dict[str, Any] = {}


class Settings(BaseModel):
    """Settings of a session."""

    model_config = ConfigDict(frozen=True)

    rate: int = 24_000  # Hz
    instructions: str | None = None
    max_output_tokens: MaxTokens = None
    mirasol: OwnSettings = OwnSettings()

    @classmethod
    def read(cls, wanted: Any, before: "Settings") -> "Settings":
        """Return the settings after a `session.update`. A field that it leaves out keeps its value."""
        update = validated(SessionUpdate, wanted, "session")
        own = validated(OwnSettings, {**before.mirasol.model_dump(), **update.mirasol}, "session.mirasol")
        kept: dict[str, Any] = {"instructions": before.instructions, "max_output_tokens": before.max_output_tokens}
        changed = {name: getattr(update, name) for name in kept if name in update.model_fields_set}
        rate = update.format.rate if update.format is not None else None
        return cls(rate=rate or before.rate, mirasol=own, **(kept | changed))

    def stream_options(self, before: "Settings") -> dict[str, Any]:
        """Return the options of the stream that differ."""
        mine, theirs = self.mirasol, before.mirasol
        return {name: getattr(mine, name) for name in STREAM_OPTIONS if getattr(mine, name) != getattr(theirs, name)}

    def describe(self, id: str, model: str, about: dict[str, Any]) -> dict[str, Any]:
        """Return the session object of the server's events."""
        audio = {"format": {"type": "audio/pcm", "rate": self.rate}, "turn_detection": None, "transcription": None}
        return {
            "id": id, "object": "realtime.session", "type": "realtime", "model": model, "output_modalities": ["text"],
            "instructions": self.instructions or "", "max_output_tokens": self.max_output_tokens or "inf",
            "audio": {"input": audio}, "tools": [],
            "mirasol": {**self.mirasol.model_dump(), **about},
        }  # fmt: skip


class TextPart(BaseModel):
    """Text of an item."""

    type: Literal["input_text", "text", "output_text"]
    text: str


class AudioPart(BaseModel):
    """Audio of an item: base64 of PCM."""

    type: Literal["input_audio"]
    audio: str


class ImagePart(BaseModel):
    """A picture of an item: a data: URI, and its second in the session."""

    type: Literal["input_image"]
    image_url: Annotated[str, Field(pattern="^data:")]
    timestamps: Any = None


Part = Annotated[TextPart | AudioPart | ImagePart, Field(discriminator="type")]


def _is_short(parts: list[TextPart | AudioPart | ImagePart]) -> list[TextPart | AudioPart | ImagePart]:
    count = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    if count > MAX_TEXT:
        raise ValueError(f"Text should have at most {MAX_TEXT} characters in all parts, not {count}")
    return parts


class Item(BaseModel):
    """A message item. Other fields of the client are dropped, so that they take no memory."""

    id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    type: Literal["message"] = "message"
    role: Literal["user", "system", "assistant"]
    content: Annotated[list[Part], Field(max_length=MAX_PARTS), AfterValidator(_is_short)]


def read_item(item: Any) -> dict[str, Any]:
    """Return a message item with its parts checked, and with an id."""
    found = validated(Item, item, "item").model_dump()
    for part in found["content"]:
        part["type"] = "input_text" if part["type"] == "text" else part["type"]
    return {**found, "id": found["id"] or new_id("item")}


def read_sound(value: Any) -> np.ndarray:
    """Return base64 of PCM16 as int16 samples."""
    data = _bytes(value, "audio")
    if len(data) % 2:
        raise invalid(f"Expected PCM of 16 bits, found {len(data)} bytes. Send whole samples of 2 bytes.", "audio")
    return np.frombuffer(data, "<i2")


def read_frames(values: Any, limits: Limits, decode_picture: DecodePicture) -> list[np.ndarray]:
    """Return pictures; each is base64 or a data: URI of JPEG, PNG or WebP."""
    if not isinstance(values, list) or len(values) > limits.frames_at_once:
        found = f"{len(values)} pictures" if isinstance(values, list) else type(values).__name__
        raise invalid(
            f"Expected video_frames to be a list of at most {limits.frames_at_once} pictures, found {found}. Append "
            "them in several events.", "video_frames",
        )  # fmt: skip
    pictures: list[np.ndarray] = []
    for place, value in enumerate(values):
        pictures.append(decode_picture(_bytes(value, f"video_frames.{place}"), limits))
        pixels = sum(picture.shape[0] * picture.shape[1] for picture in pictures)
        if pixels > limits.pixels_at_once:
            raise invalid(
                f"Expected video_frames of at most {limits.pixels_at_once} pixels together, found {pixels} in the "
                f"first {place + 1}. Send smaller pictures, or append them in several events.", "video_frames",
            )  # fmt: skip
    return pictures


def _bytes(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise wrong(where, "base64", value, "Encode the bytes")
    return decode_base64(value.partition(",")[2] if value.startswith("data:") else value, where)
