"""Uploads -> the model's inputs. No other module of serve/ parses clients' files."""

import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from mirasol.chunks.sources import as_clips, clips_of_pictures
from mirasol.media import Clip, MediaError
from mirasol.media.bounds import Bounds, check_bounds
from mirasol.serve.limits import Limits

DecodePicture = Callable[[bytes, Limits], np.ndarray]
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class Media:
    """Files of a clip, each as bytes or as a path on the server. `audio` replaces the audio of `video`."""

    video: bytes | Path | None = None
    audio: bytes | Path | None = None
    image: bytes | Path | None = None

    def parts(self) -> Iterable[tuple[str, bytes | Path]]:
        """Yield the kinds and values of the files that are not None."""
        return ((name, value) for name, value in vars(self).items() if value is not None)


@dataclass(frozen=True)
class WatchOptions:
    """Tracks that are used."""

    use_video: bool = True
    use_audio: bool = True


@dataclass(frozen=True)
class Decoded:
    """A clip as the model's inputs without batch axis, and its facts for the client."""

    chunks: dict[str, Tensor]
    facts: dict[str, Any]


def digest(media: Media, options: WatchOptions, owner: str = "") -> str:
    """Return a digest of the bytes of all files, the options, and the owner."""
    found = sha256(f"{sorted(asdict(options).items())}{owner}".encode())
    for name, value in media.parts():
        one = sha256()
        if isinstance(value, Path):
            with value.open("rb") as file:
                while block := file.read(2**20):
                    one.update(block)
        else:
            one.update(value)
        found.update(f"{name} {one.hexdigest()}".encode())
    return found.hexdigest()


def decode(media: Media, options: WatchOptions, processor: Any, limits: Limits) -> Decoded:
    """Return the chunks of a clip.

    Raises:
        ValueError: The files have no usable media, or exceed the limits.
    """
    tracks = {"use_video": options.use_video, "use_audio": options.use_audio}

    bounds = Bounds(limits.clip_seconds, limits.picture_pixels, limits.clip_frames, limits.clip_tracks)

    def read(source: bytes | Path, **chosen: bool) -> Clip:
        check_bounds(source, bounds)
        return processor.read_clip(source, warn=False, **chosen)

    picture = None if media.image is None else decode_picture(_bytes(media.image), limits)
    video = media.video if picture is None else clips_of_pictures(picture, processor.frames_per_second)[0]
    if media.audio is not None and not options.use_video:
        video = None  # its picture is not wanted, and its audio is replaced
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (clip,) = as_clips([video], [media.audio], read, **tracks)
        if clip.duration > limits.clip_seconds:
            raise MediaError(
                f"Expected a clip of at most {limits.clip_seconds:g} s, found {clip.duration:g} s. Send the part that "
                "the question is about."
            )
        chunks, report = processor.chunk_and_describe(clip, **tracks)
    facts = {
        **asdict(options),
        "seconds": report.duration_seconds,
        "seconds_covered": report.seconds_covered,
        "num_frames": report.num_frames_used,
        "video": "used" if chunks["video_chunk_mask"].any() else "not used",
        "audio": report.sound,
        "warnings": list(dict.fromkeys([*report.warnings, *(str(each.message) for each in caught)])),
        "has_video": chunks["video_chunk_mask"].tolist(),
        "has_audio": chunks["audio_chunk_mask"].tolist(),
    }
    return Decoded(chunks, facts)


def decode_picture(data: bytes, limits: Limits) -> UInt8[np.ndarray, "height width 3"]:
    """Return the pixels of a JPEG, PNG or WebP picture.

    Raises:
        ValueError: The data are not a picture, or exceed the limits.
    """
    from PIL import Image, ImageOps

    if len(data) > limits.picture_bytes:
        raise MediaError(
            f"Expected a picture of at most {limits.picture_bytes} bytes, found {len(data)}. Send a smaller one, "
            "because the model uses a small square of it."
        )
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as picture:
            warnings.simplefilter("ignore")
            if picture.width * picture.height > limits.picture_pixels:
                raise MediaError(
                    f"Expected a picture of at most {limits.picture_pixels} pixels, found {picture.width} x "
                    f"{picture.height}. Send a smaller one, because the model uses a small square of it."
                )
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except MediaError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
        raise MediaError(
            f"Expected a picture as {', '.join(PICTURE_FORMATS)}, found {len(data)} bytes that are not "
            f"({type(error).__name__}). Send a JPEG."
        ) from error


def _bytes(value: bytes | Path) -> bytes:
    return value.read_bytes() if isinstance(value, Path) else value
