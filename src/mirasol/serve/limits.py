"""Limits of a server. The operator sets them; requests cannot."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MEBIBYTE = 2**20
# Options of uvicorn. Deflate is off, because 256 KiB of it can hold 256 MiB of messages.
UVICORN: dict[str, Any] = {"ws_max_queue": 8, "ws_per_message_deflate": False, "proxy_headers": False}
Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class Limits(BaseModel):
    """Bounds on what clients send, on queues, and on stores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upload_bytes: Count = 256 * MEBIBYTE  # of one file, also as base64 in a request
    request_bytes: Count = 384 * MEBIBYTE  # of one HTTP request, which fits a file of `upload_bytes` in base64
    bytes_in_flight: Count = 2048 * MEBIBYTE  # memory of all HTTP requests; a JSON body counts `json_copies` times
    json_copies: Count = 4  # of a JSON body: bytes, text, strings, and files decoded from base64
    body_idle_seconds: Seconds = 20.0  # without a byte of an incomplete body
    body_bytes_per_second: Count = 16 * 1024  # least rate of a body that takes longer than that
    fetch_seconds: Seconds = 60.0  # for a file of an allowed host
    clip_seconds: Seconds = 4 * 3600.0
    clip_frames: Count = 1_000_000
    clip_tracks: Count = 16
    picture_pixels: Count = 4096 * 2304  # also of each frame of a clip
    picture_bytes: Count = 4 * MEBIBYTE
    question_characters: Count = 20_000  # before tokenisation; the context is far smaller
    waiting_clips: Count = 64  # in decoding or encoding
    waiting_questions: Count = 512
    share_of_one_client: Annotated[float, Field(gt=0, le=1)] = 0.5  # of these two queues
    clips_at_once: Count = 16  # in a batch of the encoder
    chunks_at_once: Count = 256
    questions_at_once: Count = 64
    decoders: Count = 2
    decode_seconds: Seconds = 30.0  # for one file, of elapsed time and of each core
    decode_seconds_per_mebibyte: Seconds = 4.0  # added for each MiB of the file
    decode_bytes: Count = 2048 * MEBIBYTE  # memory of a decoder, plus 8 times the size of its file
    decode_threads: Count = 256
    sessions: Count = 64  # open at the same time
    session_lag_seconds: Seconds = 5.0  # at a larger lag the oldest chunks are skipped
    session_idle_seconds: Seconds = 900.0
    session_save_seconds: Seconds = 15.0  # between saves of an open session, because a process may be killed
    message_bytes: Count = 16 * MEBIBYTE  # of a WebSocket message
    frames_at_once: Count = 64  # of one input_audio_buffer.append
    pixels_at_once: Count = 64 * 1280 * 720  # of these pictures together: 177 MB
    clip_memory_bytes: Count = 128 * MEBIBYTE  # latents with keys and values; other clips are read from the store
    clip_store_bytes: Count = 1024 * MEBIBYTE
    file_store_bytes: Count = 4096 * MEBIBYTE
    session_store_bytes: Count = 512 * MEBIBYTE


def default_folder() -> Path:
    """Return the default folder of a user's clips, files and sessions."""
    return Path.home() / ".cache" / "mirasol" / "serve"
