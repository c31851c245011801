"""Files -> frames, waveform, timestamps. The only place that imports a decoder."""

from mirasol.media.reader import probe, read_clip
from mirasol.media.types import WHOLE, Clip, Crop, MediaError, MediaInfo, MediaWarning

__all__ = ["WHOLE", "Clip", "Crop", "MediaError", "MediaInfo", "MediaWarning", "probe", "read_clip"]
