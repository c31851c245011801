"""Segments of long files, found by seeking, so that the rest is neither read nor decoded."""

import contextlib

import av
import numpy as np
from jaxtyping import Float32, Float64

from mirasol.media.clock import Clock
from mirasol.media.container import Scan, open_container, scan, seek, sound_pieces
from mirasol.media.frames import FORMATS_WITHOUT_PRESENTATION_TIMES, SAME_TIME_SECONDS
from mirasol.media.sound import SAMPLING_RATE, SoundTrack
from mirasol.media.types import Source

# Audio packets depend on earlier ones (MP3: up to 9 of 26 ms), and a resampler looks both ways. The second number is
# for files that seek into the middle of a GOP (MPEG-TS) or have a longer one; else the whole file is read.
PREROLL_SECONDS = (0.5, 10.0)
POSTROLL_SECONDS = 0.1


def scan_span(
    source: Source, video, audio, span: tuple[float, float], decode_sound: bool = True, use_seeking: bool = True
) -> Scan:
    """Survey `span`, seconds on the file's clock, from the keyframe that its start needs."""
    begin, end = span
    sounding = (begin - PREROLL_SECONDS[0], end + POSTROLL_SECONDS)
    for preroll in (*PREROLL_SECONDS, None) if use_seeking else (None,):
        with open_container(source) as container:
            if container.format.name in FORMATS_WITHOUT_PRESENTATION_TIMES or begin < PREROLL_SECONDS[0]:
                preroll = None
            target = None if preroll is None else begin - preroll
            picture = None if video is None else container.streams[video.index]
            sound = None if audio is None else container.streams[audio.index]
            try:
                seek(container, picture or sound, target)
            except av.FFmpegError:
                continue
            found = scan(source, container, picture, sound, sounding, decode_sound)
        packets = found.packets
        if target is None or video is None or (packets.times[packets.is_keyframe] <= begin).any():
            break
    found.begin = target
    return found


def first_sound_time(source: Source, audio) -> float | None:
    """Seconds of the first decoded sample on the file's clock."""
    clock = Clock()
    with open_container(source) as container:
        stream = container.streams[audio.index]
        try:
            for packet in container.demux(stream):
                clock.place_packet(packet)
                with contextlib.suppress(av.FFmpegError):
                    for time, *_ in sound_pieces(stream, packet):
                        return time
        except av.FFmpegError:
            pass
    return None


def cut_waveform(sound: SoundTrack, span: tuple[float, float]) -> Float32[np.ndarray, " sample"]:
    """The samples within `span`, seconds on the file's clock: cut after resampling, which looks both ways."""
    begin, end = span
    assert sound.start is not None, "there is sound"
    first = max(round((begin - sound.start) * SAMPLING_RATE), 0)
    last = None if np.isinf(end) else round((end - sound.start) * SAMPLING_RATE)
    return np.ascontiguousarray(sound.waveform()[first:last])


def cut_frames(frames, times: Float64[np.ndarray, " frame"], duration: float):
    """The frames shown from 0 to `duration`, and their seconds; the one on show at 0 counts as shown from 0 on."""
    first = max(int(np.searchsorted(times, SAME_TIME_SECONDS, side="right")) - 1, 0)
    last = int(np.searchsorted(times, duration - SAME_TIME_SECONDS))
    return frames[first:last], times[first:last].clip(min=0.0)


def gaps_within(sound: SoundTrack, span: tuple[float, float]) -> list[tuple[float, float]]:
    """The sound's gaps within `span` (seconds on the file's clock), in seconds from its begin on."""
    begin, end = span
    return [
        (max(first, begin) - begin, min(last, end) - begin)
        for first, last in sound.gaps
        if last > begin and first < end
    ]
