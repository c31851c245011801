"""Files -> frames, waveform, timestamps. The only place that imports a decoder."""

from mirasol.media.reader import probe, read_clip
from mirasol.media.types import Clip, MediaError, MediaInfo, MediaWarning

__all__ = ["Clip", "MediaError", "MediaInfo", "MediaWarning", "probe", "read_clip"]
