"""Bounds on an untrusted file, checked against its headers before it is decoded."""

from dataclasses import dataclass
from typing import Any

from mirasol.media.container import media_errors, name_of, open_container
from mirasol.media.types import MediaError, Source

# Codecs of cameras, phones, browsers, editors and archives. Those that FFmpeg can decode and nobody sends are left out
# (JPEG 2000, EXR, games, screen recorders), because each is code that a crafted file may reach.
VIDEO_NAMES = (
    "h264 hevc vvc av1 libdav1d libaom-av1 vp8 libvpx vp9 libvpx-vp9 mpeg1video mpeg2video mpegvideo mpeg4 msmpeg4v1 "
    "msmpeg4v2 msmpeg4 msmpeg4v3 h261 h263 h263i h263p flv flv1 theora wmv1 wmv2 wmv3 vc1 mjpeg mjpegb prores dnxhd "
    "dvvideo rv10 rv20 rv30 rv40 svq1 svq3 cinepak indeo3 indeo5 gif png ffv1 huffyuv ffvhuff utvideo rawvideo "
    "vp6 vp6f vp3"
)
AUDIO_NAMES = (
    "aac aac_latm mp1 mp1float mp2 mp2float mp3 mp3float mp3adu mp3on4 ac3 eac3 dca opus libopus vorbis libvorbis "
    "libspeex alac amr_nb amr_wb libopencore_amrnb libopencore_amrwb wmav1 wmav2 wmapro wmavoice cook sipr ra_144 "
    "flac amrnb amrwb ra_288 qdm2 qcelp gsm gsm_ms speex tta wavpack ape truehd nellymoser mace3 mace6"
)
VIDEO_CODECS, AUDIO_CODECS = frozenset(VIDEO_NAMES.split()), frozenset(AUDIO_NAMES.split())
AUDIO_FAMILIES = ("pcm_", "adpcm_")


@dataclass(frozen=True)
class Bounds:
    """Bounds on a file.

    Args:
        seconds: Of its length.
        pixels: Of a frame.
        frames: Of its picture.
        tracks: Of any kind.
    """

    seconds: float
    pixels: int
    frames: int
    tracks: int


def check_bounds(source: Source, bounds: Bounds) -> None:
    """Raise MediaError if a file's headers state more than the bounds, or a codec that is not on the lists."""
    name = name_of(source)
    with media_errors(source), open_container(source) as container:
        if len(container.streams) > bounds.tracks:
            raise _beyond(name, "tracks", bounds.tracks, len(container.streams), "Keep the picture and one sound")
        if container.duration is not None and container.duration / 1e6 > bounds.seconds:
            found = f"{container.duration / 1e6:g}"
            raise _beyond(name, "s", f"{bounds.seconds:g}", found, "Cut the part that the question is about")
        for stream in container.streams:
            codec: Any = stream.codec_context
            if codec is None or stream.type not in ("video", "audio"):
                continue
            allowed = VIDEO_CODECS if stream.type == "video" else AUDIO_CODECS
            if not (codec.name in allowed or (stream.type == "audio" and codec.name.startswith(AUDIO_FAMILIES))):
                raise MediaError(
                    f"Expected {name} in a codec that cameras, phones and browsers write, found {codec.name}, which "
                    "this server does not decode. Convert it to H.264 and AAC."
                )
            if stream.type == "video" and codec.width * codec.height > bounds.pixels:
                raise _beyond(
                    name, "pixels a frame", bounds.pixels, f"{codec.width} x {codec.height}", "Scale it down"
                )
            if stream.type == "video" and stream.frames > bounds.frames:
                raise _beyond(name, "frames", bounds.frames, stream.frames, "Cut it, or lower its frame rate")


def _beyond(name: str, unit: str, most: object, found: object, remedy: str) -> MediaError:
    return MediaError(f"Expected {name} with at most {most} {unit}, found {found}. {remedy}.")
