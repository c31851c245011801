"""Augmentation of training clips: time, picture, sound, spectrogram, and modality dropout.

Every draw comes from a NumPy generator seeded by (seed, epoch, sample id), so a clip does not depend on worker or
order. Sound and picture stay synchronous: shift and speed apply to frame times, waveform and word times alike.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Float32, UInt8
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from mirasol.media import Clip


def _ordered(value: tuple[float, float], about) -> tuple[float, float]:
    if value[0] > value[1]:
        found = f"[{value[0]:g}, {value[1]:g}]"
        raise ValueError(f"Expected augmentation {about.field_name} as [low, high], found {found}: swap them.")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
WordTimes = Sequence[tuple[float, float]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
class AugmentConfig:
    """Strength of each augmentation. Ranges are uniform; the defaults are the preset `strong`."""

    shift_seconds: Range = (-0.3, 0.6)  # of the whole clip, circular; limited so that every known word stays inside
    speed: Range = (0.9, 1.1)
    chunk_phase_probability: Probability = 0.25  # that the time grid starts up to a chunk before the clip
    freeze_probability: Probability = 0.05  # of each frame, to repeat the one before
    flip_probability: Probability = 0.5
    margin: Annotated[float, Field(ge=1)] = 1.15  # side of the cached crop, as a multiple of the side shown
    zoom: Range = (0.92, 1.08)  # side of the random crop, as a multiple of the side shown without augmentation
    brightness: Annotated[float, Field(ge=0)] = 0.15  # up to this share of full white is added or taken
    contrast: Range = (0.75, 1.3)
    color_gain: Range = (0.9, 1.1)  # of red, green and blue, each
    gain_db: Range = (-8.0, 6.0)
    noise_probability: Probability = 0.4
    noise_ramp_epochs: Range = (
        0.0,
        0.0,
    )  # noise_probability grows from 0 between these epochs, because clean words are learned faster
    pink_share: Probability = 0.5  # of the noises; the others are white
    noise_db: Range = (-12.0, 20.0)  # signal-to-noise ratio over the whole clip
    silence_probability: Probability = 0.0  # that silence replaces the sound of a clip with picture
    num_time_masks: Count = 2
    time_mask_seconds: Annotated[float, Field(ge=0)] = 0.1  # longest
    num_mel_masks: Count = 2
    mel_mask_share: Probability = 0.15  # largest share of the mel bins per mask
    sound_only_probability: Probability = 0.15
    picture_only_probability: Probability = 0.25
    sound_first_epochs: Count = 0  # first epochs with sound only: cheap, and words are learned from sound first

    def __post_init__(self) -> None:
        if self.sound_only_probability + self.picture_only_probability > 1:
            raise ValueError(
                "Expected sound_only_probability + picture_only_probability to be at most 1, found "
                f"{self.sound_only_probability:g} + {self.picture_only_probability:g}: lower one of them."
            )

    def at_epoch(self, epoch: int) -> "AugmentConfig":
        """Return the config of one epoch; noise grows over the first epochs."""
        start, full = self.noise_ramp_epochs
        grown = 1.0 if epoch >= full else max(0.0, (epoch - start) / (full - start))
        config = dataclasses.replace(self, noise_probability=self.noise_probability * grown)
        if epoch < self.sound_first_epochs:
            config = dataclasses.replace(config, sound_only_probability=1.0, picture_only_probability=0.0)
        return config


# docs/own_clips.md says which answers each preset may falsify. `gentle` keeps left and right, times and durations; its
# noise is at least 10 dB below the sound.
PRESETS = {
    "none": AugmentConfig(
        shift_seconds=(0, 0), speed=(1, 1), chunk_phase_probability=0, freeze_probability=0, flip_probability=0,
        margin=1, zoom=(1, 1), brightness=0, contrast=(1, 1), color_gain=(1, 1), gain_db=(0, 0), noise_probability=0,
        num_time_masks=0, num_mel_masks=0, sound_only_probability=0, picture_only_probability=0,
    ),
    "gentle": AugmentConfig(
        shift_seconds=(0, 0), speed=(1, 1), freeze_probability=0, flip_probability=0, margin=1.05, zoom=(0.9, 1.05),
        brightness=0.08, contrast=(0.85, 1.15), color_gain=(0.97, 1.03), gain_db=(-6, 6), noise_probability=0.2,
        noise_db=(10, 30), num_time_masks=1, num_mel_masks=1, mel_mask_share=0.1, sound_only_probability=0.1,
        picture_only_probability=0.1,
    ),
    "strong": AugmentConfig(),
}  # fmt: skip


def generator(seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    """Return the random generator of one sample in one epoch of one run."""
    return np.random.default_rng([seed, epoch, zlib.crc32(sample_id.encode())])


def draw_tracks(config: AugmentConfig, rng: np.random.Generator, clip: Clip) -> tuple[bool, bool]:
    """Return (use_video, use_audio): at least one is True, and only modalities that the clip has."""
    draw = rng.random()
    if clip.frames is None or clip.waveform is None:
        return clip.frames is not None, clip.waveform is not None
    use_video = draw >= config.sound_only_probability
    use_audio = not use_video or draw < 1 - config.picture_only_probability
    return use_video, use_audio


def move_in_time(
    clip: Clip, word_times: WordTimes, config: AugmentConfig, rng: np.random.Generator, frames_per_second: float
) -> tuple[Clip, WordTimes]:
    """Return the clip and its word times, changed in speed and shifted, with some frames frozen.

    The shift is circular, so that it adds no silence or still picture. It keeps every word inside the clip; a clip
    without known word times is not shifted.
    """
    speed, shift, frozen = rng.uniform(*config.speed), rng.random(), rng.random(2048) < config.freeze_probability
    duration = clip.duration / speed
    low = high = 0.0
    if word_times:
        low = max(config.shift_seconds[0], -word_times[0][0] / speed)
        high = min(config.shift_seconds[1], duration - word_times[-1][1] / speed)
    shift = low + shift * (high - low) if low < high else 0.0
    # Whole frames, so that frames fall on the time grid as in the original clip.
    shift = float(np.trunc(shift * frames_per_second)) / frames_per_second
    if speed == 1 and shift == 0 and not config.freeze_probability:
        return clip, word_times

    frames, frame_times = clip.frames, clip.frame_times
    if clip.frames is not None:
        assert clip.frame_times is not None, "frames come with their times"
        frame_times = np.arange(int(np.ceil(duration * frames_per_second - 1e-6))) / frames_per_second
        source_times = (frame_times - shift) % duration * speed
        source = np.searchsorted(clip.frame_times, source_times + 1e-6, side="right") - 1
        kept = ~np.resize(frozen, len(source))
        kept[0] = True
        last_kept = np.maximum.accumulate(np.where(kept, np.arange(len(source)), 0))
        frames = clip.frames[np.maximum(source[last_kept], 0)]

    waveform, audio_start = clip.waveform, clip.audio_start
    if waveform is not None:
        rate = clip.sampling_rate
        whole = np.zeros(round(clip.duration * rate), np.float32)
        start = round(audio_start * rate)
        heard = waveform[: max(len(whole) - start, 0)]
        whole[start : start + len(heard)] = heard
        if speed != 1:
            whole = soxr.resample(whole, rate, rate / speed, quality="LQ")
        waveform, audio_start = np.roll(whole, round(shift * rate)), 0.0
    turns = [(shift + k * duration, gap) for gap in clip.audio_gaps for k in (-1, 0, 1)]  # a gap may cross the end
    gaps = [(max(start / speed + by, 0.0), min(end / speed + by, duration)) for by, (start, end) in turns]
    moved = dataclasses.replace(
        clip, frames=frames, frame_times=frame_times, waveform=waveform, audio_start=audio_start, duration=duration,
        audio_gaps=[(start, end) for start, end in gaps if start < end], video_end=None,
    )  # fmt: skip
    return moved, [(start / speed + shift, end / speed + shift) for start, end in word_times]


def draw_phase(config: AugmentConfig, rng: np.random.Generator, seconds_per_chunk: float) -> float:
    """Return how many seconds before t = 0 the time grid starts: mostly 0, as in evaluation."""
    shifted, phase = rng.random() < config.chunk_phase_probability, rng.random()
    return phase * seconds_per_chunk if shifted else 0.0


def augment_video(
    frames: UInt8[np.ndarray, "frame height width channel"], size: int, config: AugmentConfig,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "frame size size channel"]:  # fmt: skip
    """Return square frames of `size`, all with the same random crop, zoom, flip and colour.

    The input frames have a border (`margin`) around the `size` pixels that are shown without augmentation.
    """
    available = frames.shape[1]
    box = min(round(size * rng.uniform(*config.zoom)), available)
    top, left = rng.integers(available - box + 1, size=2)
    mirrored = rng.random() < config.flip_probability
    brightness = rng.uniform(-config.brightness, config.brightness)
    gains = rng.uniform(*config.contrast) * rng.uniform(*config.color_gain, size=3)
    shown = torch.from_numpy(frames)[:, top : top + box, left : left + box]
    if box != size:
        shown = rearrange(shown, "frame height width channel -> frame channel height width")
        shown = F.interpolate(shown, size=(size, size), mode="bilinear", antialias=True)
        shown = rearrange(shown, "frame channel height width -> frame height width channel")
    if mirrored:
        shown = shown.flip(2)  # faster than NumPy's
    frames = np.ascontiguousarray(shown.numpy())
    if brightness != 0 or (gains != 1).any():
        # int16 with 5 binary places, one row of gains as long as a frame: faster than a table of levels.
        row = np.tile(np.rint(32 * gains).astype(np.int16), size * size)
        levels = frames.reshape(len(frames), -1) * row
        levels += np.rint(32 * (127.5 + 255 * brightness) - 127.5 * row).astype(np.int16)
        levels >>= 5
        frames = np.clip(levels, 0, 255, out=levels).astype(np.uint8).reshape(frames.shape)
    return frames


def augment_audio(
    waveform: Float32[np.ndarray, " sample"], config: AugmentConfig, rng: np.random.Generator
) -> Float32[np.ndarray, " sample"]:
    """Return the waveform with a random gain, sometimes under white or pink noise."""
    gain = np.float32(10 ** (rng.uniform(*config.gain_db) / 20))
    under_noise, pink, snr_db = rng.random() < config.noise_probability, rng.random(), rng.uniform(*config.noise_db)
    if under_noise:
        waveform = noisy(waveform, snr_db, rng, color="pink" if pink < config.pink_share else "white")
    return waveform if gain == 1 else waveform * gain


def silenced(waveform: Float32[np.ndarray, " sample"], rng: np.random.Generator) -> Float32[np.ndarray, " sample"]:
    """Return digital silence, or the white noise of a quiet recorder: -100 to -50 dB of full scale."""
    level = 10 ** (rng.uniform(-100, -50) / 20) * (rng.random() < 0.5)
    return rng.standard_normal(len(waveform), dtype=np.float32) * np.float32(level)


def noisy(
    waveform: Float32[np.ndarray, " sample"], snr_db: float, seed: int | np.random.Generator, color: str = "white"
) -> Float32[np.ndarray, " sample"]:
    """Return the waveform plus Gaussian noise, 10 log10(signal mean square / noise mean square) = `snr_db`.

    Both mean squares are taken over the whole clip, and the ratio holds exactly. Silence stays silence.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    if color == "pink":
        num_samples = 1 << (len(noise) - 1).bit_length()  # a prime length would be many times slower
        spectrum = np.fft.rfft(noise, num_samples)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum), dtype=np.float32), 1))  # 3 dB less per octave
        noise = np.fft.irfft(spectrum, num_samples)[: len(noise)].astype(np.float32)
    signal_power, noise_power = np.mean(np.square(waveform)), np.mean(np.square(noise))
    return waveform + noise * np.float32(np.sqrt(signal_power / max(noise_power, 1e-20) / 10 ** (snr_db / 10)))


def mask_spectrogram(
    input_features: Float[torch.Tensor, "chunk mel_frame mel"], config: AugmentConfig, rng: np.random.Generator,
    seconds_per_mel_frame: float = 0.01,
) -> Float[torch.Tensor, "chunk mel_frame mel"]:  # fmt: skip
    """Return the log-mel with masks over time and mel bins (SpecAugment), set to 0, the training data's mean."""
    if not config.num_time_masks and not config.num_mel_masks:
        return input_features
    columns = rearrange(input_features.clone(), "chunk mel_frame mel -> (chunk mel_frame) mel")
    longest = round(config.time_mask_seconds / seconds_per_mel_frame)
    widest = int(config.mel_mask_share * columns.shape[1])
    for _ in range(config.num_time_masks):
        length = rng.integers(min(longest, len(columns)) + 1)
        start = rng.integers(len(columns) - length + 1)
        columns[start : start + length] = 0
    for _ in range(config.num_mel_masks):
        width = rng.integers(widest + 1)
        lowest = rng.integers(columns.shape[1] - width + 1)
        columns[:, lowest : lowest + width] = 0
    return rearrange(columns, "(chunk mel_frame) mel -> chunk mel_frame mel", chunk=len(input_features))
