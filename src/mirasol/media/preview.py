"""Some seconds of a clip as a small file that every browser plays, to be embedded in a page."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import Float32, UInt8

BITS_PER_SECOND = {"video": 96_000, "audio": 32_000}  # bounds the size: 10 s are at most about 180 kB


def encode_preview(
    frames: UInt8[np.ndarray, "frame height width 3"] | None,
    frames_per_second: float,
    waveform: Float32[np.ndarray, " sample"] | None,
    sampling_rate: int,
) -> bytes:
    """Return an MP4 of H.264 and AAC; frames must have even sides. One of the two tracks may be absent."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        streams: list[Any] = []
        if frames is not None:
            rate = str(BITS_PER_SECOND["video"])
            options: Any = {"preset": "veryfast", "crf": "30", "maxrate": rate, "bufsize": rate, "threads": "1"}
            video = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
            video.width, video.height, video.pix_fmt, video.options = *frames.shape[2:0:-1], "yuv420p", options
            streams.append((video, (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames)))
        if waveform is not None:
            audio = container.add_stream("aac", rate=sampling_rate, layout="mono")
            audio.bit_rate = BITS_PER_SECOND["audio"]
            whole = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
            whole.sample_rate, whole.pts = sampling_rate, 0
            streams.append((audio, iter([whole])))
        for stream, pieces in streams:
            for piece in (*pieces, None):
                container.mux(stream.encode(piece))
    return file.getvalue()
