"""A clip as a live client sends it: JPEG pictures and PCM of 16 bits, in base64."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import soxr
from PIL import Image

from mirasol.media import read_clip

PIECE_SECONDS = 0.4


@dataclass
class LiveMedia:
    """Pieces of a clip, as arguments of `input_audio_buffer.append`."""

    frames: list[tuple[float, str]]  # second, JPEG
    sound: np.ndarray
    rate: int

    def pieces(self, timestamps: bool = True, video: bool = True, audio: bool = True) -> list[dict]:
        """The clip in pieces of 0.4 s."""
        found = []
        for start in np.arange(0, len(self.sound) / self.rate, PIECE_SECONDS):
            end = start + PIECE_SECONDS
            shown = [(second, jpeg) for second, jpeg in self.frames if start - 1e-6 <= second < end - 1e-6]
            piece: dict = {}
            if audio:
                samples = self.sound[round(start * self.rate) : round(end * self.rate)]
                piece["audio"] = base64.b64encode(samples.tobytes()).decode()
            if video:
                piece["video_frames"] = [jpeg for _, jpeg in shown]
                if timestamps:
                    piece["timestamps"] = [second for second, _ in shown]
            found.append(piece)
        return found


def live_media(clip: bytes, rate: int = 24_000) -> LiveMedia:
    """The pictures and sound of a file."""
    read = read_clip(clip)
    sound = soxr.resample(read.waveform, read.sampling_rate, rate)
    frames = zip(read.frame_times.tolist(), map(jpeg, read.frames), strict=True)
    return LiveMedia(list(frames), (sound.clip(-1, 1) * 32_767).astype("<i2"), rate)


def jpeg(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return base64.b64encode(file.getvalue()).decode()
