"""Files -> frames, waveform, timestamps. The only place that imports a decoder."""

from mirasol.media.join import join_clips
from mirasol.media.reader import probe, read_clip
from mirasol.media.spool import blocks, release
from mirasol.media.types import WHOLE, Clip, Crop, MediaError, MediaInfo, MediaWarning

__all__ = [
    "WHOLE", "Clip", "Crop", "MediaError", "MediaInfo", "MediaWarning", "blocks", "join_clips", "probe", "read_clip",
    "release",
]  # fmt: skip
