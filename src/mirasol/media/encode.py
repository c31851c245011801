"""Re-encode a clip for training: fewer pixels, closer keyframes, mono sound at 16 kHz."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
from jaxtyping import Float32

from mirasol.media.container import held, media_errors, open_container
from mirasol.media.frames import FrameDecoder, Image
from mirasol.media.segment import cut_waveform
from mirasol.media.survey import survey_file
from mirasol.media.types import SAMPLING_RATE, Source

TIME_BASE = Fraction(1, 90_000)
X264 = {"crf": "23", "preset": "veryfast", "tune": "fastdecode", "bf": "0"}
SOUND_BITS_PER_SECOND = 64_000
SAMPLES_PER_PACKET = 1024


def encode_small(source: Source, height: int, gop: int) -> bytes | None:
    """Re-encode a clip as mp4 (H.264, AAC) on the same time axis.

    Returns None if re-encoding would lose information: if the sound has gaps, which AAC would fill with silence, or if
    the reader reports a fault.

    Args:
        source: The clip.
        height: Pixels of the picture's shorter side; a smaller picture keeps its size.
        gop: Frames from one keyframe to the next.

    Raises:
        MediaError: The clip cannot be decoded.
    """
    source = held(source)
    with media_errors(source):
        survey = survey_file(source)
        if survey.warnings or survey.scan.sound.gaps:
            return None
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as output:
            video: Any = None
            audio: Any = None
            if survey.info.has_video:
                assert survey.info.frame_rate is not None and survey.info.width and survey.info.height
                video = output.add_stream("libx264", rate=Fraction(survey.info.frame_rate).limit_denominator(1001))
                video.width, video.height = _small_size(survey.info.width, survey.info.height, height)
                video.pix_fmt, video.time_base = "yuv420p", TIME_BASE
                video.codec_context.time_base, video.codec_context.gop_size = TIME_BASE, gop
                video.options = X264
            if survey.info.has_audio:
                audio = output.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
                audio.codec_context.bit_rate = SOUND_BITS_PER_SECOND
            if audio is not None:
                _write_sound(output, audio, cut_waveform(survey.scan.sound, survey.span), survey.info.audio_start)
            if video is not None and not _write_picture(output, video, source, survey):
                return None
    return file.getvalue()


def _small_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Return the even width and height with a shorter side of at most `shorter` pixels."""
    share = min(shorter / min(width, height), 1.0)
    return 2 * max(round(width * share / 2), 1), 2 * max(round(height * share / 2), 1)


def _write_picture(output, stream, source, survey) -> bool:
    """Encode every frame at its time; return whether all of them could be decoded."""
    with open_container(source) as container:
        decoder = FrameDecoder(container, container.streams[survey.video_index], survey.scan.packets.times)
        for time, frame in decoder.frames():
            if time < survey.origin + (survey.info.video_start or 0.0) - 1e-6:
                continue
            image: Image = decoder.to_image(frame)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            picture = picture.reformat(stream.width, stream.height, "yuv420p", interpolation="AREA")
            picture.pts, picture.time_base = round((time - survey.origin) / TIME_BASE), TIME_BASE
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
        return not decoder.warnings()


def _write_sound(output, stream, waveform: Float32[np.ndarray, " sample"], start: float | None) -> None:
    first = round((start or 0.0) * SAMPLING_RATE)
    for offset in range(0, len(waveform), SAMPLES_PER_PACKET):
        piece = np.ascontiguousarray(waveform[offset : offset + SAMPLES_PER_PACKET])[None]
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLING_RATE, first + offset, Fraction(1, SAMPLING_RATE)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
