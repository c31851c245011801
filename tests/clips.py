"""Tiny clips for every test that needs a file: pictures that tell their number, sound that beeps on time."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mirasol.data.augment import AugmentConfig

CODECS = {
    ".mp4": ("libx264", "aac"),
    ".mkv": ("libx264", "libopus"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".avi": ("mpeg4", "mp2"),
    ".mpg": ("mpeg1video", "mp2"),
    ".ts": ("libx264", "aac"),
    ".m4a": (None, "aac"),
    ".wav": (None, "pcm_s16le"),
    ".mp3": (None, "libmp3lame"),
    ".nut": (None, "flac"),
}
BITS = 8  # a picture carries its number (mod 256) as 8 black or white columns in its left half


def numbered_picture(number: int, width: int, height: int) -> np.ndarray:
    """An RGB picture [height, width, 3] whose left half spells `number` and whose upper right quarter is red."""
    picture = np.full((height, width, 3), 128, np.uint8)
    edges = np.linspace(0, width // 2, BITS + 1).astype(int)
    for bit in range(BITS):
        picture[:, edges[bit] : edges[bit + 1]] = 235 if number >> bit & 1 else 20
    picture[: height // 2, width // 2 :] = (220, 30, 30)
    return picture


def picture_number(picture: np.ndarray) -> int:
    """The number spelled by a (decoded, upright) `numbered_picture`."""
    width = picture.shape[1]
    edges = np.linspace(0, width // 2, BITS + 1)
    centres = ((edges[:-1] + edges[1:]) / 2).astype(int)
    height = picture.shape[0]
    return sum(
        int(picture[height // 4 : -height // 4, column].mean() > 128) << bit for bit, column in enumerate(centres)
    )


def beeps(seconds: float, rate: int, at: Sequence[float], start: float = 0.0) -> np.ndarray:
    """Sound [sample] that starts at `start` s: 50 ms of 1 kHz at each time of `at`, a faint hum elsewhere."""
    times = start + np.arange(round(seconds * rate)) / rate
    sound = 0.01 * np.sin(2 * np.pi * 100 * times)
    for beep in at:
        sound += np.where((times >= beep) & (times < beep + 0.05), 0.5 * np.sin(2 * np.pi * 1000 * (times - beep)), 0)
    return sound.astype(np.float32)


def beep_times(waveform: np.ndarray, start: float = 0.0, rate: int = 16_000) -> list[float]:
    """Seconds at which the beeps of a decoded waveform begin."""
    loud = np.abs(waveform) > 0.2
    first = np.flatnonzero(loud)
    return [start + i / rate for n, i in enumerate(first) if n == 0 or i - first[n - 1] > 0.1 * rate]


def write_clip(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    fps: float | Fraction = 25,
    seconds: float = 2.0,
    frame_times: Sequence[float] | None = None,
    picture: bool = True,
    sound: bool = True,
    sound_start: float = 0.0,
    sound_seconds: float | None = None,
    sound_gap: tuple[float, float] | None = None,
    silent: bool = False,
    at: Sequence[float] = (0.5, 1.0, 1.5),
    video_codec: str | None = None,
    audio_codec: str | None = None,
    rate: int = 48_000,
    channel_gains: Sequence[float] = (1.0, 1.0),
    gop: int = 12,
    b_frames: int | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Writes a clip and gives its path back; the suffix chooses container and codecs.

    Args:
        path: The name, with a suffix of `CODECS`.
        size: width and height of the stored picture.
        fps: frames per second, ignored with `frame_times`.
        seconds: length of the picture, and of the sound unless `sound_seconds` is given.
        frame_times: presentation seconds of each frame (variable frame rate, late start).
        sound_start: seconds of the first sample; the sound then lasts `sound_seconds`.
        sound_gap: (from, to) seconds in which no sound packets are written.
        silent: a sound track of zeros.
        at: seconds of the beeps, on the clip's axis.
        channel_gains: one factor per channel (1 or 2 channels).
        gop: frames from one keyframe to the next.
        b_frames: pictures stored out of order between two others; 2 for H.264, else none.
        rotation: 0, 90, 180 or 270, clockwise, written as a display matrix (mp4 only).
    """
    default_video, default_audio = CODECS[path.suffix]
    times = np.arange(round(seconds * fps)) / float(fps) if frame_times is None else np.asarray(frame_times)
    with av.open(str(path), "w", options=options or {}) as container:
        video = audio = None
        if picture and (video_codec or default_video):
            video = container.add_stream(video_codec or default_video, rate=Fraction(fps))
            video.width, video.height = size
            exact = video.codec_context.name == "libx264" and (size[0] % 2 or size[1] % 2)
            video.pix_fmt = "yuv444p" if exact else "yuv420p"
            video.codec_context.gop_size = gop
            video.codec_context.bit_rate = 400_000
            video.codec_context.time_base = Fraction(1, 90_000) if frame_times is not None else 1 / Fraction(fps)
            if video.codec_context.name == "libx264":
                bf = 2 if b_frames is None else b_frames
                video.options = {"crf": "18", "preset": "ultrafast", "bf": str(bf), "sc_threshold": "0"}
            elif b_frames:
                video.codec_context.max_b_frames = b_frames
            video.options = video.options | (codec_options or {})
        if sound and (audio_codec or default_audio):
            layout = {1: "mono", 2: "stereo"}[len(channel_gains)]
            audio = container.add_stream(audio_codec or default_audio, rate=rate, layout=layout)
        packets = []
        if video is not None:
            packets += _picture_packets(video, times, size)
        if audio is not None:
            length = seconds if sound_seconds is None else sound_seconds
            wave = beeps(length, rate, at, sound_start) * (not silent)
            packets += _sound_packets(audio, wave, rate, sound_start, channel_gains, sound_gap)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    if rotation:
        _write_rotation(path, rotation, size)
    return path


def _picture_packets(stream, times, size) -> list[av.Packet]:
    packets = []
    base = stream.codec_context.time_base
    for number, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(numbered_picture(number, *size), format="rgb24")
        frame.pts, frame.time_base = round(time / base), base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _sound_packets(stream, wave, rate, start, channel_gains, gap) -> list[av.Packet]:
    packets = []
    samples = np.stack([wave * gain for gain in channel_gains])
    layout = "mono" if len(channel_gains) == 1 else "stereo"
    for first in range(0, samples.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, first : first + 1024]), "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), first + round(start * rate)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    if gap is None:
        return packets
    return [packet for packet in packets if not gap[0] <= packet.pts * packet.time_base < gap[1]]


def _write_rotation(path: Path, rotation: int, size: tuple[int, int]) -> None:
    """Patches the first mp4 track header: its 3 x 3 matrix says how a player turns the picture."""
    turn = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[rotation]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, volume come before it
    a, b, c, d = turn
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4")
    data[at : at + 36] = matrix.tobytes()
    path.write_bytes(bytes(data))


def cut_with_edit_list(source: Path, path: Path, start: float) -> Path:
    """Copies from the keyframe before `start` on; an edit list hides what lies before (as `ffmpeg -ss -c copy`)."""
    with av.open(str(source)) as container:
        streams = {stream.index: stream for stream in container.streams if stream.type in ("video", "audio")}
        packets = [packet for packet in container.demux(list(streams.values())) if packet.dts is not None]
        video = next((stream for stream in streams.values() if stream.type == "video"), None)
        keyframes = [
            packet.pts * packet.time_base
            for packet in packets
            if packet.stream is video and packet.is_keyframe and packet.pts * packet.time_base <= start
        ]
        with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as target:
            copies = {index: target.add_stream_from_template(stream) for index, stream in streams.items()}
            for packet in packets:
                time = packet.pts * packet.time_base
                if time < (keyframes[-1] if packet.stream is video else start):
                    continue
                shift = round(start / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    return path


UNVARIED = AugmentConfig(
    shift_seconds=(0.0, 0.0), speed=(1.0, 1.0), chunk_phase_probability=0.0, freeze_probability=0.0,
    flip_probability=0.0, margin=1.0, zoom=(1.0, 1.0), brightness=0.0, contrast=(1.0, 1.0), color_gain=(1.0, 1.0),
    gain_db=(0.0, 0.0), noise_probability=0.0, num_time_masks=0, num_mel_masks=0, sound_only_probability=0.0,
    picture_only_probability=0.0,
)  # fmt: skip
"""Augmentation that changes nothing."""
