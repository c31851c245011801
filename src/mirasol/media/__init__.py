"""Files -> frames, waveform, timestamps. The only place that imports a decoder."""

from mirasol.media.join import join_clips
from mirasol.media.reader import probe, read_clip
from mirasol.media.spool import blocks, is_silent, release
from mirasol.media.types import WHOLE, Clip, Crop, MediaError, MediaInfo, MediaWarning

__all__ = [
    "WHOLE", "Clip", "Crop", "MediaError", "MediaInfo", "MediaWarning", "blocks", "is_silent", "join_clips", "probe",
    "read_clip", "release",
]  # fmt: skip
