"""A processor with a tiny tokenizer, and clips made of numbers."""

from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import install_import_hook
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# Before they are imported: the shapes in these modules' signatures are checked while testing. The processor's are
# not, because transformers reads the arguments of its `__init__` from the bare function.
install_import_hook([f"mirasol.chunks.{name}" for name in ("placement", "sound", "time_grid")], "beartype.beartype")

from mirasol.chunks import MirasolProcessor  # noqa: E402
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor  # noqa: E402
from mirasol.media import Clip  # noqa: E402


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with a context of 37."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(["which digit is named? two", "which letter is named? b", "what is said?"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=37
    )


@pytest.fixture
def make_processor(tokenizer) -> Callable[..., MirasolProcessor]:
    """Builds a processor on GRID's grid (25 frames a second, 0.32 s) with 13 x 13 pixels and 17 mel bands."""

    def make(**options) -> MirasolProcessor:
        grid = {"frames_per_second": 25.0, "num_frames_per_chunk": 8, "num_mel_frames_per_chunk": 32}
        return MirasolProcessor(
            MirasolVideoProcessor(13), MirasolFeatureExtractor(num_mel_bins=17), tokenizer, **(grid | options)
        )

    return make


@pytest.fixture
def processor(make_processor) -> MirasolProcessor:
    return make_processor()


@pytest.fixture
def make_clip() -> Callable[..., Clip]:
    """Builds a clip whose frame k is evenly grey with value k, and whose sound is noise."""

    def make(
        seconds: float = 3.0,
        frame_rate: float = 25.0,
        frame_times: np.ndarray | None = None,
        sound: tuple[float, float] | None = (0.0, 3.0),
        picture: bool = True,
        seed: int = 0,
    ) -> Clip:
        times = np.arange(round(seconds * frame_rate)) / frame_rate if frame_times is None else np.asarray(frame_times)
        grey = np.arange(len(times), dtype=np.uint8)[:, None, None, None]
        frames = np.broadcast_to(grey, (len(times), 17, 19, 3)).copy() if picture else None
        waveform, start, end = None, 0.0, 0.0
        if sound is not None:
            start, end = sound
            noise = np.random.default_rng(seed).standard_normal(round((end - start) * 16_000))
            waveform = (0.1 * noise).astype(np.float32)
        duration = max(seconds if picture else 0.0, end)
        return Clip(frames, times if picture else None, waveform, audio_start=start, duration=duration)

    return make


@pytest.fixture
def shown() -> Callable[..., list[list[int]]]:
    """Which frame each slot shows: undoes the normalisation of the grey values of `make_clip`."""

    def read(pixel_values) -> list[list[int]]:
        return ((pixel_values[:, :, 0, 0, 0] * 0.5 + 0.5) * 255).round().int().tolist()

    return read
