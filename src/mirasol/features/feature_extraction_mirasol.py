"""Sound -> log-mel columns, causally: no column reads a sample later than the end of its own 10 ms."""

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

SAMPLING_RATE = 16_000
WINDOW_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms: one column
LOOKBACK_SAMPLES = WINDOW_SAMPLES - HOP_SAMPLES  # 15 ms that a column reads before its own 10 ms
FFT_SAMPLES = 512
PREEMPHASIS = 0.97
POWER_FLOOR = 1.192092955078125e-07  # Kaldi's: float32 epsilon
MAX_COLUMNS_AT_ONCE = 16_384  # bounds the memory of the windows to some 100 MB


@lru_cache(maxsize=4)
def _mel_filters(num_mel_bins: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the lowest of AST's 128 bands are narrower than one FFT bin, hence empty
        filters = mel_filter_bank(
            num_frequency_bins=FFT_SAMPLES // 2 + 1,
            num_mel_filters=num_mel_bins,
            min_frequency=20,
            max_frequency=SAMPLING_RATE // 2,
            sampling_rate=SAMPLING_RATE,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
    return torch.from_numpy(filters).float()


@lru_cache(maxsize=1)
def _window() -> Tensor:
    return torch.hann_window(WINDOW_SAMPLES, periodic=False)


def _windows_to_mel_power(
    windows: Float[Tensor, "row mel_frame sample"], num_mel_bins: int
) -> Float[Tensor, "row mel_frame mel"]:
    windows = windows - windows.mean(dim=-1, keepdim=True)
    # Kaldi pre-emphasises inside each window, and takes the sample before the first to be equal to the first.
    before = torch.cat([windows[..., :1], windows[..., :-1]], dim=-1)
    windows = (windows - PREEMPHASIS * before) * _window().to(windows.device)
    spectrum = torch.fft.rfft(windows, n=FFT_SAMPLES)
    power = spectrum.real.square() + spectrum.imag.square()
    return power @ _mel_filters(num_mel_bins).to(windows.device)


def mel_power(samples: Float[Tensor, "row sample"], num_mel_bins: int = 128) -> Float[Tensor, "row mel_frame mel"]:
    """Mel power of every 10 ms column (Kaldi/AST filters), before the log.

    Args:
        samples: 16 kHz sound that begins `LOOKBACK_SAMPLES` (15 ms) before the first column. Column k reads samples
            [160 k, 160 k + 400) of it, which end where the column's 10 ms end; a last part of a column is left out.
    """
    windows = samples.unfold(-1, WINDOW_SAMPLES, HOP_SAMPLES)
    columns_at_once = max(1, MAX_COLUMNS_AT_ONCE // max(1, samples.shape[0]))
    pieces = [_windows_to_mel_power(piece, num_mel_bins) for piece in windows.split(columns_at_once, dim=1)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


class MirasolFeatureExtractor(SequenceFeatureExtractor):
    """Makes `input_features`, the causal log-mel of 16 kHz mono sound, with a fixed mean and deviation.

    Column k covers (10 k - 15, 10 k + 10] ms with zeros before the start: the columns of `ASTFeatureExtractor`, 15 ms
    later, so that no chunk reads sound that comes after it.

    Args:
        num_mel_bins: Mel bands a column.
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
                f"Log-mel columns are made of {SAMPLING_RATE} Hz sound, but sampling_rate is {sampling_rate} Hz: "
                f"resample the sound to {SAMPLING_RATE} Hz."
            )
        kwargs.pop("feature_size", None)
        kwargs.pop("padding_value", None)
        super().__init__(feature_size=num_mel_bins, sampling_rate=sampling_rate, padding_value=0.0, **kwargs)
        self.num_mel_bins = num_mel_bins
        self.mean = mean
        self.std = std

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
        """`input_features` [batch mel_frame mel], filled up with the floor, and `attention_mask`, True = real.

        Args:
            raw_speech: One mono waveform or a list of them, in [-1, 1]. A started last column counts.
            sampling_rate: Checked against 16 kHz when given.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"Sound must come at {self.sampling_rate} Hz, but its sampling_rate is {sampling_rate} Hz: "
                f"resample it to {self.sampling_rate} Hz first."
            )
        is_batch = isinstance(raw_speech, (list, tuple)) and not isinstance(raw_speech[0], (int, float))
        waveforms = [check_waveform(item) for item in (raw_speech if is_batch else [raw_speech])]
        columns = [-(-len(waveform) // HOP_SAMPLES) for waveform in waveforms]
        longest = max(columns) * HOP_SAMPLES
        samples = torch.stack([F.pad(waveform, (LOOKBACK_SAMPLES, longest - len(waveform))) for waveform in waveforms])
        features = self.log_mel(mel_power(samples, self.num_mel_bins))
        mask = torch.arange(max(columns)) < rearrange(torch.tensor(columns), "batch -> batch 1")
        features = features.masked_fill(~rearrange(mask, "batch mel_frame -> batch mel_frame 1"), self.floor)
        return BatchFeature({"input_features": features, "attention_mask": mask}, tensor_type=return_tensors)


def check_waveform(waveform: np.ndarray | Tensor | Sequence[float]) -> Float[Tensor, " sample"]:
    """The same sound as a float32 tensor; refuses anything but one channel of floats."""
    tensor = torch.as_tensor(np.asarray(waveform))
    if tensor.ndim != 1 or len(tensor) == 0:
        raise ValueError(
            f"A waveform must have the shape [sample], but this one has {list(tensor.shape)}: "
            "pass one channel (for several channels their mean) with at least one sample."
        )
    if not tensor.is_floating_point():
        raise ValueError(
            f"A waveform must hold floats in [-1, 1], but this one holds {tensor.dtype}: divide int16 by 32768."
        )
    return tensor.float()
