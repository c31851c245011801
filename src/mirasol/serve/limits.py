"""Limits of a server. The operator sets them; a request never does."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MEBIBYTE = 2**20
# Of uvicorn, whoever starts it. Deflate is off because 256 KiB of it may hold 256 MiB of messages.
UVICORN: dict[str, Any] = {"ws_max_queue": 8, "ws_per_message_deflate": False, "proxy_headers": False}
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Limits(BaseModel):
    """Bounds on what clients may send, on what waits, and on what is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload_bytes: Count = 256 * MEBIBYTE  # of one file, also as base64 inside a request
    request_bytes: Count = 384 * MEBIBYTE  # of one HTTP request: a file of `upload_bytes` in base64
    bytes_in_flight: Count = 2048 * MEBIBYTE  # of memory of all HTTP requests; JSON counts `json_copies` times
    json_copies: Count = 4  # of a body: as it came, as text, as strings, as the files that were in base64
    body_idle_seconds: Seconds = 20.0  # without a byte of a request that is not whole
    body_bytes_per_second: Count = 16 * 1024  # of a request that takes longer than those
    fetch_seconds: Seconds = 60.0  # for a file of another host
    clip_seconds: Seconds = 4 * 3600.0
    clip_frames: Count = 1_000_000
    clip_tracks: Count = 16
    picture_pixels: Count = 4096 * 2304  # also of each frame of a clip
    picture_bytes: Count = 4 * MEBIBYTE
    question_characters: Count = 20_000  # before it is tokenised; the context is far smaller
    waiting_clips: Count = 64  # being decoded or encoded
    waiting_questions: Count = 512
    share_of_one_client: Annotated[float, Field(gt=0, le=1)] = 0.5  # of these two
    clips_at_once: Count = 16  # in one call of the encoder
    chunks_at_once: Count = 256
    questions_at_once: Count = 64
    decoders: Count = 2
    decode_seconds: Seconds = 30.0  # of one file, on the clock and of each core
    decode_seconds_per_mebibyte: Seconds = 4.0  # more of a large one
    decode_bytes: Count = 2048 * MEBIBYTE  # of memory while one file is decoded, beside 8 times its size
    decode_threads: Count = 256
    sessions: Count = 64  # live at the same time
    session_lag_seconds: Seconds = 5.0  # behind by more, chunks are skipped, oldest first
    session_idle_seconds: Seconds = 900.0
    session_save_seconds: Seconds = 15.0  # between saves of a live session: a process may be killed
    message_bytes: Count = 16 * MEBIBYTE  # of a WebSocket
    frames_at_once: Count = 64  # of one append
    pixels_at_once: Count = 64 * 1280 * 720  # of their pictures: 177 MB
    clip_memory_bytes: Count = 128 * MEBIBYTE  # of latents with their keys and values; others are read from the store
    clip_store_bytes: Count = 1024 * MEBIBYTE
    file_store_bytes: Count = 4096 * MEBIBYTE
    session_store_bytes: Count = 512 * MEBIBYTE


def default_folder() -> Path:
    """Return the folder in which a server of this user keeps clips, files and sessions."""
    return Path.home() / ".cache" / "mirasol" / "serve"
