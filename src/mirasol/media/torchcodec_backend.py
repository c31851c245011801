"""The optional torchcodec decoder; docs/decoders.md lists the files it gets wrong."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from mirasol.media.container import PacketTable
from mirasol.media.frames import SAME_TIME_SECONDS
from mirasol.media.sound import SoundTrack
from mirasol.media.types import MediaError, Source


def load():
    """The torchcodec package, or an error that says how to get it: it needs FFmpeg's shared libraries beside it."""
    try:
        import torchcodec.decoders as decoders
    except Exception as error:  # OSError or RuntimeError, by version, when the libraries are missing
        raise ValueError(
            f'Expected a working torchcodec for decoder="torchcodec", found {type(error).__name__}: '
            f"{str(error).strip().splitlines()[0]} Install the extra (pip install 'mirasol[torchcodec]') and FFmpeg's "
            "shared libraries (for example apt-get install ffmpeg), or leave decoder out to use PyAV."
        ) from error
    return decoders


def read_sound(source: Source, stream_index: int) -> SoundTrack:
    """Return the whole sound (mean of native channels) as one gapless piece, because torchcodec reports no gaps."""
    sound = SoundTrack()
    try:
        samples = load().AudioDecoder(source, stream_index=stream_index).get_all_samples()
    except RuntimeError as error:
        raise MediaError(_message("sound", error)) from error
    sound.add(samples.pts_seconds, samples.sample_rate, samples.data.mean(dim=0).numpy())
    return sound


def frames(
    source: Source,
    stream_index: int,
    packets: PacketTable,
    times: Float64[np.ndarray, " frame"] | None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds and upright RGB image of the frames shown at `times` on the file's clock (None: of all frames).

    Seeks by index in exact mode, which is right at variable frame rate; by time in approximate mode if an edit list
    hides frames, because exact mode of 0.13 miscounts those and silently returns other frames.
    """
    has_hidden_frames = not packets.is_shown.all()
    shown = packets.shown_times()
    try:
        decoder = load().VideoDecoder(
            source,
            stream_index=stream_index,
            dimension_order="NHWC",
            num_ffmpeg_threads=0,
            seek_mode="approximate" if has_hidden_frames else "exact",
        )
        for step in range(len(decoder)) if times is None else times:
            if times is None:
                frame = decoder.get_frame_at(step)
            elif has_hidden_frames or shown is None:
                frame = decoder.get_frame_played_at(float(step) + SAME_TIME_SECONDS)
            else:
                frame = decoder.get_frame_at(int(np.searchsorted(shown, step)))
            yield frame.pts_seconds, frame.data.numpy()
    except (RuntimeError, IndexError) as error:
        raise MediaError(_message("picture", error)) from error


def _message(track: str, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"Expected a {track} track that torchcodec can decode, found an error: {lines[0]} "
        'Use decoder="pyav", which also reads damaged and unusual files.'
    )
