"""Sound -> causal log-mel frames: a mel frame reads no sample after the end of its own 10 ms."""

from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature, FeatureExtractionMixin

from mirasol.media.types import SAMPLING_RATE

WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms: one mel frame
LOOKBACK_SAMPLES = WINDOW_SAMPLES - HOP_SAMPLES  # 15 ms that a mel frame reads before its own 10 ms
FFT_SAMPLES = 512
MIN_HERTZ = 20
PREEMPHASIS = 0.97
POWER_FLOOR = 1.192092955078125e-07  # Kaldi's: float32 epsilon
MAX_MEL_FRAMES_AT_ONCE = 16_384  # bounds the memory of the windows to some 100 MB
# Saved by checkpoints made before the class left transformers' SequenceFeatureExtractor
FORMER_FIELDS = ("feature_size", "padding_value", "padding_side", "return_attention_mask")
MAX_AMPLITUDE = 100.0  # 40 dB above full scale, more than any gain or added noise; int16 samples pass it at once


@lru_cache(maxsize=4)
def _mel_filters(num_mel_bins: int) -> Tensor:
    """Kaldi's triangles, even on the mel scale; the lowest of 128 are narrower than an FFT bin, hence empty."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    low, high = mel(np.array([MIN_HERTZ, SAMPLING_RATE / 2]))
    edges = np.linspace(low, high, num_mel_bins + 2)
    bins = mel(np.arange(FFT_SAMPLES // 2 + 1) * (SAMPLING_RATE / FFT_SAMPLES))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.minimum(rising, falling).clip(min=0)).float()


@lru_cache(maxsize=1)
def _window() -> Tensor:
    return torch.hann_window(WINDOW_SAMPLES, periodic=False)


def _windows_to_mel_power(
    windows: Float[Tensor, "row mel_frame sample"], num_mel_bins: int
) -> Float[Tensor, "row mel_frame mel"]:
    windows = windows - windows.mean(dim=-1, keepdim=True)
    before = F.pad(windows[..., :-1], (1, 0))  # inside each window, as Kaldi; the first sample has the weight 0
    windows = (windows - PREEMPHASIS * before) * _window().to(windows.device)
    spectrum = torch.fft.rfft(windows, n=FFT_SAMPLES)
    power = spectrum.real.square() + spectrum.imag.square()
    return power @ _mel_filters(num_mel_bins).to(windows.device)


def mel_power(samples: Float[Tensor, "row sample"], num_mel_bins: int = 128) -> Float[Tensor, "row mel_frame mel"]:
    """Return the mel power of every 10 ms (Kaldi/AST filters), before the log.

    Args:
        samples: 16 kHz sound that begins `LOOKBACK_SAMPLES` (15 ms) before the first mel frame. Mel frame k reads
            samples [160 k, 160 k + 400) of it, which end where its 10 ms end; a last started one is left out.
        num_mel_bins: Mel bands.
    """
    windows = samples.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES)
    at_once = max(1, MAX_MEL_FRAMES_AT_ONCE // max(1, samples.shape[0]))
    pieces = [_windows_to_mel_power(piece, num_mel_bins) for piece in windows.split(at_once, dim=1)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


class MirasolFeatureExtractor(FeatureExtractionMixin):
    """Makes `input_features`, the causal log-mel of 16 kHz mono sound, with a fixed mean and deviation.

    Mel frame k covers (10 k - 15, 10 k + 10] ms with zeros before the start: frames of `ASTFeatureExtractor`, 15 ms
    later, so that no chunk reads later sound.

    Args:
        num_mel_bins: Mel bands.
        sampling_rate: 16,000 Hz, the only one; transformers reads it here.
        mean: Subtracted from the log; AudioSet's, as in the AST family.
        std: The log is divided by twice this, as in the AST family.
    """

    model_input_names = ["input_features"]

    def __init__(
        self,
        num_mel_bins: int = 128,
        sampling_rate: int = SAMPLING_RATE,
        mean: float = -4.2677393,
        std: float = 4.5689974,
        **kwargs,
    ):
        if sampling_rate != SAMPLING_RATE:
            raise ValueError(
                f"Log-mel is made of {SAMPLING_RATE} Hz sound, but sampling_rate is {sampling_rate} Hz: "
                f"resample the sound to {SAMPLING_RATE} Hz."
            )
        for name in FORMER_FIELDS:
            kwargs.pop(name, None)
        super().__init__(**kwargs)
        self.num_mel_bins = num_mel_bins
        self.sampling_rate = sampling_rate
        self.mean = mean
        self.std = std

    def fetch_audio(self, audio: Any, sampling_rate: int | None = None) -> Any:
        """Return the sound unchanged: pipelines call this, and the processor reads files itself."""
        return audio

    @property
    def floor(self) -> float:
        """The value of every band where there is no sound."""
        return float(self.log_mel(torch.zeros(1, 1, 1)))

    def log_mel(self, power: Float[Tensor, "*row mel_frame mel"]) -> Float[Tensor, "*row mel_frame mel"]:
        """Normalised log of mel power."""
        return (power.clamp_min(POWER_FLOOR).log() - self.mean) / (2 * self.std)

    def __call__(
        self,
        raw_speech: np.ndarray | Tensor | Sequence,
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        **kwargs,
    ) -> BatchFeature:
        """Return `input_features` [batch mel_frame mel], filled up with the floor, and `attention_mask`, True = real.

        Args:
            raw_speech: One mono waveform or a list of them, in [-1, 1]. A started last mel frame counts.
            sampling_rate: Of the waveforms; must be 16,000.
            return_tensors: As transformers has it.
        """
        check_sampling_rate(sampling_rate)
        waveforms = [check_waveform(item) for item in ([raw_speech] if is_waveform(raw_speech) else raw_speech)]
        lengths = [-(-len(waveform) // HOP_SAMPLES) for waveform in waveforms]
        longest = max(lengths) * HOP_SAMPLES
        samples = torch.stack([F.pad(waveform, (LOOKBACK_SAMPLES, longest - len(waveform))) for waveform in waveforms])
        features = self.log_mel(mel_power(samples, self.num_mel_bins))
        mask = torch.arange(max(lengths)) < rearrange(torch.tensor(lengths), "batch -> batch 1")
        features = features.masked_fill(~rearrange(mask, "batch mel_frame -> batch mel_frame 1"), self.floor)
        return BatchFeature({"input_features": features, "attention_mask": mask}, tensor_type=return_tensors)


def is_waveform(value: Any) -> bool:
    """True if `value` is one waveform, as an array or as a list of numbers, rather than a list of waveforms."""
    if isinstance(value, (list, tuple)):
        return bool(value) and isinstance(value[0], Real)
    return isinstance(value, (np.ndarray, Tensor))


def check_sampling_rate(sampling_rate: int | None) -> None:
    """Raises ValueError unless the rate of a waveform is stated and is 16 kHz."""
    if sampling_rate != SAMPLING_RATE:
        found = "it is not given" if sampling_rate is None else f"it is {sampling_rate} Hz"
        raise ValueError(
            f"A waveform needs its sampling_rate, {SAMPLING_RATE} Hz, but {found}: resample the sound to "
            f"{SAMPLING_RATE} Hz if it has another rate, and pass sampling_rate={SAMPLING_RATE}."
        )


def check_waveform(waveform: np.ndarray | Tensor | Sequence, begin: int = 0) -> Float[Tensor, " sample"]:
    """Return the sound as a float32 tensor. A message counts seconds from `begin` samples before it.

    Raises:
        ValueError: It is not one channel of finite floats around [-1, 1].
    """
    if isinstance(waveform, Tensor):
        waveform = (waveform.detach().float() if waveform.is_floating_point() else waveform).cpu().numpy()
    array = np.asarray(waveform)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(
            f"A waveform must have the shape [sample], but this one has {list(array.shape)}: "
            "pass one channel (for several channels their mean) with at least one sample."
        )
    if array.dtype.kind != "f":
        raise ValueError(
            f"A waveform must hold floats in [-1, 1], but this one holds {array.dtype}: divide int16 by 32768."
        )
    with np.errstate(over="ignore"):
        samples = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    low, high = (float(value) for value in samples.aminmax())
    limit = MAX_AMPLITUDE
    if max(-low, high) > 1 and torch.equal(samples, samples.round()):
        limit = 1.0  # quiet sound in int16 range: whole numbers
    if not -limit <= low <= high <= limit:  # NaN too
        first = int((~(samples.abs() <= limit)).nonzero()[0])
        raise ValueError(
            f"A waveform must hold finite floats in [-1, 1], but this one holds {array[first]:g} at "
            f"{(begin + first) / SAMPLING_RATE:.3f} s: divide samples in int16 range by 32768, and repair or cut out "
            "damage."
        )
    return samples
