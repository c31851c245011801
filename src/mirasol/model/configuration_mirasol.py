"""Configuration of every part of Mirasol; relations between parts are checked here, at construction."""

from math import isclose, prod
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

OBJECTIVES = {  # text, latent and video weight (paper: equal in pretraining, text x10 in finetuning)
    "pretrain": (1.0, 1.0, 1.0),
    "finetune": (10.0, 1.0, 1.0),
}
SECONDS_PER_MEL_FRAME = 0.01  # as in chunks/time_grid.py, which model/ may not import
POSITION_CODES = ("sincos", "learned")
COMBINER_TYPES = ("transformer", "ttm", "perceiver", "learned_tokens", "mean_pool")
SUMMARIZERS = ("token_learner", "multi_head", "add_erase")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those that do not depend on the length of the text


def _require_heads_divide(name: str, hidden_size: int, num_attention_heads: int) -> None:
    if hidden_size % num_attention_heads:
        raise ValueError(
            f"{name}: hidden_size must be a multiple of num_attention_heads, found hidden_size={hidden_size} and "
            f"num_attention_heads={num_attention_heads}. Change one of the two."
        )


def _require_even_heads(name: str, hidden_size: int, num_attention_heads: int) -> None:
    if hidden_size // num_attention_heads % 2:
        raise ValueError(
            f"{name}: heads must be of even size for rotary positions, found hidden_size={hidden_size} and "
            f"num_attention_heads={num_attention_heads}, so heads of size {hidden_size // num_attention_heads}. "
            f"Change one of the two."
        )


def _require_activation(name: str, hidden_act: str) -> None:
    if hidden_act not in ACT2FN:
        raise ValueError(f"{name}: hidden_act must be one of {sorted(ACT2FN)}, found {hidden_act!r}.")


def _require_window(name: str, window_chunks: int | None) -> None:
    if window_chunks is not None and window_chunks < 1:
        raise ValueError(
            f"{name}: window_chunks must be at least 1, or None for all chunks, found window_chunks={window_chunks}."
        )


def num_positions(size: int, kernel: int, stride: int, offset: int) -> int:
    """Return the number of strided windows that fit along one axis."""
    return max(0, (size - offset - kernel) // stride + 1)


def count_tokens(windows, size: tuple[int, ...]) -> int:
    """Return the number of tokens that a set of (kernel, stride, offset) windows cuts out of a chunk of `size`."""
    return sum(prod(num_positions(*axis) for axis in zip(size, *window, strict=True)) for window in windows)


@strict
class MirasolTransformerConfig(PreTrainedConfig):
    """Sizes of one pre-norm transformer tower, the base of the configs below."""

    model_type = "mirasol_transformer"

    hidden_size: int = 128
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 512
    layer_norm_eps: float = 1e-6
    dropout: float = 0.0
    hidden_act: str = "gelu"
    qkv_bias: bool = True

    def validate_architecture(self):
        _require_heads_divide(type(self).__name__, self.hidden_size, self.num_attention_heads)
        _require_activation(type(self).__name__, self.hidden_act)


@strict
class MirasolEncoderConfig(MirasolTransformerConfig):
    """A ViT over the windows of one chunk; the defaults are ours, the options let it hold other ViTs' weights."""

    model_type = "mirasol_encoder"

    position_code: str = "sincos"  # of the windows' centres, fixed; or "learned": one row a token
    num_prefix_tokens: int = 0  # learned tokens before the windows': 1 for CLS, 2 for CLS and distillation
    embedding_norm: bool = False  # a LayerNorm between embedding and layers (CLIP); a shared ViT has its video's

    def validate_architecture(self):
        super().validate_architecture()
        if self.position_code not in POSITION_CODES:
            raise ValueError(f"position_code must be one of {POSITION_CODES}, found {self.position_code!r}.")


@strict
class MirasolVideoConfig(MirasolEncoderConfig):
    """Sparse tubes and image patches over one chunk of frames (TubeViT, arXiv 2212.03229), then one ViT.

    `tubes` lists (kernel, stride, offset), each in (frame, height, width). The set is ours, since the published one
    leaves most of frames 4-7 of an 8-frame chunk unseen (docs/deviations.md).
    """

    model_type = "mirasol_video"

    image_size: int = 64
    num_channels: int = 3
    num_frames: int = 8
    motion_gain: float = 1.0  # of what moves within a chunk, over what stands still
    tubes: list | tuple = (
        ((4, 16, 16), (4, 16, 16), (0, 0, 0)),
        ((8, 8, 8), (8, 32, 32), (0, 0, 0)),
        ((1, 16, 16), (8, 16, 16), (0, 0, 0)),
    )

    @property
    def input_size(self) -> tuple[int, int, int]:
        return self.num_frames, self.image_size, self.image_size

    @property
    def num_tokens(self) -> int:
        return self.num_prefix_tokens + count_tokens(self.tubes, self.input_size)

    def validate_architecture(self):
        super().validate_architecture()
        _require_windows_fit("video tube", self.tubes, self.input_size)


@strict
class MirasolAudioConfig(MirasolEncoderConfig):
    """Overlapping patches over one chunk of log-mel, then a ViT.

    `patches` lists (kernel, stride, offset), each in (mel_frame, mel).
    """

    model_type = "mirasol_audio"

    num_mel_frames: int = 64
    num_mel_bins: int = 128
    patches: list | tuple = (((16, 16), (10, 10), (0, 0)),)

    @property
    def input_size(self) -> tuple[int, int]:
        return self.num_mel_frames, self.num_mel_bins

    @property
    def num_tokens(self) -> int:
        return self.num_prefix_tokens + count_tokens(self.patches, self.input_size)

    def validate_architecture(self):
        super().validate_architecture()
        _require_windows_fit("audio patch", self.patches, self.input_size)


def _require_equal_vits(video: MirasolVideoConfig, audio: MirasolAudioConfig) -> None:
    for name in MirasolTransformerConfig.__annotations__:
        if getattr(video, name) != getattr(audio, name):
            raise ValueError(
                f"With share_encoder=True video_config.{name} and audio_config.{name} must be equal, found "
                f"{getattr(video, name)} and {getattr(audio, name)}. Set both, or share_encoder=False."
            )


def _require_windows_fit(name: str, windows, size: tuple[int, ...]) -> None:
    for kernel, stride, offset in windows:
        if not len(kernel) == len(stride) == len(offset) == len(size):
            raise ValueError(
                f"A {name} needs kernel, stride and offset of {len(size)} numbers each, "
                f"found {kernel, stride, offset}."
            )
        if min(num_positions(*axis) for axis in zip(size, kernel, stride, offset, strict=True)) < 1:
            raise ValueError(
                f"A {name} of kernel {tuple(kernel)} at offset {tuple(offset)} does not fit into a chunk of size "
                f"{size}: it would give no token. Make the kernel smaller or the chunk larger."
            )


@strict
class MirasolCombinerConfig(MirasolTransformerConfig):
    """Fusion of one chunk's video and audio tokens into `num_latents` (m) vectors.

    Args:
        combiner_type: "transformer", "ttm" (Token Turing Machine), or one of the ablation: "perceiver" (m learned
            queries), "learned_tokens" (m learned tokens among the slots), "mean_pool" (the floor).
        num_history_chunks: transformer: earlier chunks that every layer attends to.
        rope_theta: transformer: base of the rotary distance to these chunks.
        memory_size: ttm: tokens of the memory.
        summarizer: ttm: how memory is read and written, "token_learner", "multi_head" or "add_erase".
        summarizer_hidden_size: ttm: hidden units of the summarisers' MLPs.
        num_write_tokens: ttm: tokens through which "add_erase" writes.
    """

    model_type = "mirasol_combiner"

    combiner_type: str = "transformer"
    num_latents: int = 32
    num_hidden_layers: int = 2
    num_history_chunks: int = 0
    rope_theta: float = 10_000.0
    memory_size: int = 64
    summarizer: str = "token_learner"
    summarizer_hidden_size: int = 64
    num_write_tokens: int = 8

    def validate_architecture(self):
        super().validate_architecture()
        for name, known in (("combiner_type", COMBINER_TYPES), ("summarizer", SUMMARIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, found {getattr(self, name)!r}.")
        for name, least in (
            ("num_latents", 1),
            ("num_history_chunks", 0),
            ("memory_size", 1),
            ("summarizer_hidden_size", 1),
            ("num_write_tokens", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {name}={getattr(self, name)}. Raise it.")
        if self.num_history_chunks:
            if self.combiner_type != "transformer":
                raise ValueError(
                    f"num_history_chunks belongs to the transformer Combiner, found num_history_chunks="
                    f"{self.num_history_chunks} and combiner_type={self.combiner_type!r}. Set num_history_chunks=0, "
                    f"or combiner_type='transformer'."
                )
            _require_even_heads(type(self).__name__, self.hidden_size, self.num_attention_heads)
        if self.combiner_type == "ttm" and self.memory_size < self.num_latents:
            raise ValueError(
                f"The memory must hold at least what one chunk gives, found memory_size={self.memory_size} and "
                f"num_latents={self.num_latents}. Raise memory_size or lower num_latents."
            )


@strict
class MirasolTemporalConfig(MirasolTransformerConfig):
    """Autoregressive model over chunks, and its next-chunk prediction heads.

    Args:
        window_chunks: chunks, the current one included, that each layer attends to; None is all earlier ones. A window
            bounds the memory of a stream.
    """

    model_type = "mirasol_temporal"

    rope_theta: float = 10_000.0
    combined_mask_probability: float = 0.1  # not stated in the paper: "0.75 %" or 75 %, unclear
    predicted_video_size: list | tuple = (2, 16, 16)  # frames, height, width of the small next-chunk video
    predicted_audio_size: list | tuple = (8, 16)  # columns, bands of the small next-chunk log-mel
    variance_weight: float = 1.0  # keeps combined_features from collapsing to one point; not stated in the paper
    covariance_weight: float = 0.04  # keeps them from collapsing to one direction; not stated in the paper
    feature_mean_momentum: float = 0.01
    window_chunks: int | None = None

    def validate_architecture(self):
        super().validate_architecture()
        _require_window(type(self).__name__, self.window_chunks)
        _require_even_heads(type(self).__name__, self.hidden_size, self.num_attention_heads)


@strict
class MirasolTextConfig(PreTrainedConfig):
    """Llama-shaped decoder with gated cross-attention to the latents.

    The options let it hold the weights of Llama (biases, scaled rotary positions), Qwen2 (`qkv_bias`), Qwen3
    (`qk_norm`), SmolLM (tied embeddings) and SmolLM3 (`layers_without_rotary`).

    Args:
        layers_without_rotary: indices of the layers whose self-attention has no positions (NoPE).
        rope_parameters: rotary positions as transformers writes them, by default
            `{"rope_type": "default", "rope_theta": 10000.0}`; `rope_theta` alone may be given in its place.
        window_chunks: number of last real chunks that the text attends to, with seconds counted from the oldest of
            them; None is all chunks, at their own seconds.
    """

    model_type = "mirasol_text"

    vocab_size: int = 512
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    intermediate_size: int = 384
    max_position_embeddings: int = 512
    rope_parameters: dict | None = None
    rms_norm_eps: float = 1e-6
    dropout: float = 0.0
    hidden_act: str = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    layers_without_rotary: list | tuple = ()
    cross_attention_gate_init: float = 1.0  # 0.0 when a pretrained language model is loaded: step 0 equals it
    time_code_size: int = 64
    tie_word_embeddings: bool = True
    use_cache: bool = True
    window_chunks: int | None = None

    def validate_architecture(self):
        _require_window(type(self).__name__, self.window_chunks)
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads must be a multiple of num_key_value_heads, found "
                f"num_attention_heads={self.num_attention_heads} and num_key_value_heads={self.num_key_value_heads}. "
                f"Change one of the two."
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, found head_dim={self.head_dim}.")
        if other := sorted(set(self.layers_without_rotary) - set(range(self.num_hidden_layers))):
            raise ValueError(
                f"layers_without_rotary must be numbers of layers, 0 to {self.num_hidden_layers - 1}, found {other}."
            )
        _require_activation(type(self).__name__, self.hidden_act)
        assert self.rope_parameters, "filled in by __post_init__"
        if (rope_type := self.rope_parameters["rope_type"]) not in ROPE_TYPES:
            raise ValueError(f"rope_type must be one of {ROPE_TYPES}, found {rope_type!r}.")
        if (factor := self.rope_parameters.get("partial_rotary_factor", 1.0)) != 1.0:
            raise ValueError(f"Rotary positions must turn whole heads, found partial_rotary_factor={factor}.")


@strict
class MirasolConfig(PreTrainedConfig):
    """Everything that builds a Mirasol model.

    Args:
        share_encoder: one ViT for picture and sound, each with its own input projection, positions and prefix tokens.
        use_audio: False builds a video-only model, without audio encoder, audio slots and audio head.
        seconds_per_chunk: length of a chunk on the time grid; the processor's grid must agree.
        text_weight, latent_weight, video_weight, audio_weight: weights of the losses, see `set_objective`.
    """

    model_type = "mirasol"
    is_encoder_decoder: bool = True
    keys_to_ignore_at_inference = ["past_key_values", "encoder_outputs"]
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "video_config": MirasolVideoConfig,
        "audio_config": MirasolAudioConfig,
        "combiner_config": MirasolCombinerConfig,
        "temporal_config": MirasolTemporalConfig,
        "text_config": MirasolTextConfig,
    }

    if TYPE_CHECKING:  # a dict, or None for the defaults, is made a config before anybody reads it
        video_config: MirasolVideoConfig = MirasolVideoConfig()
        audio_config: MirasolAudioConfig = MirasolAudioConfig()
        combiner_config: MirasolCombinerConfig = MirasolCombinerConfig()
        temporal_config: MirasolTemporalConfig = MirasolTemporalConfig()
        text_config: MirasolTextConfig = MirasolTextConfig()
    else:
        video_config: dict | PreTrainedConfig | None = None
        audio_config: dict | PreTrainedConfig | None = None
        combiner_config: dict | PreTrainedConfig | None = None
        temporal_config: dict | PreTrainedConfig | None = None
        text_config: dict | PreTrainedConfig | None = None

    use_audio: bool = True
    share_encoder: bool = False
    seconds_per_chunk: float = 0.64
    text_weight: float = 10.0
    latent_weight: float = 1.0
    video_weight: float = 1.0
    audio_weight: float = 0.0
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1

    @property
    def num_frames_per_chunk(self) -> int:
        return self.video_config.num_frames

    @property
    def num_mel_frames_per_chunk(self) -> int:
        return self.audio_config.num_mel_frames

    @property
    def num_mel_bins(self) -> int:
        return self.audio_config.num_mel_bins

    @property
    def image_size(self) -> int:
        return self.video_config.image_size

    @property
    def num_latents(self) -> int:
        return self.combiner_config.num_latents

    @property
    def slot_sizes(self) -> tuple[int, int]:
        """The Combiner's slots of a chunk: video tokens and, after them, audio tokens."""
        return self.video_config.num_tokens, self.audio_config.num_tokens if self.use_audio else 0

    def set_objective(self, objective: str) -> None:
        """Sets the loss weights of `pretrain` (1, 1, 1) or `finetune` (10, 1, 1)."""
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {sorted(OBJECTIVES)}, found {objective!r}.")
        self.text_weight, self.latent_weight, self.video_weight = OBJECTIVES[objective]

    def validate_architecture(self):
        seconds = self.num_mel_frames_per_chunk * SECONDS_PER_MEL_FRAME
        if not isclose(self.seconds_per_chunk, seconds, rel_tol=1e-6):
            raise ValueError(
                f"A chunk's mel frames of 10 ms must last as long as the chunk, found seconds_per_chunk="
                f"{self.seconds_per_chunk} and audio_config.num_mel_frames={self.num_mel_frames_per_chunk}, which "
                f"last {seconds:g} s. Change one of the two."
            )
        if self.tie_word_embeddings and not self.text_config.tie_word_embeddings:
            raise ValueError(
                "tie_word_embeddings is a choice of the whole model, found text_config.tie_word_embeddings=False and "
                "tie_word_embeddings=True, which would tie them. Set it to False in both."
            )
        slots = sum(self.slot_sizes)
        if self.num_latents > slots:
            raise ValueError(
                f"num_latents must not exceed the Combiner's slots, found num_latents={self.num_latents} and {slots} "
                f"slots (video and audio tokens of one chunk). Lower num_latents or use finer tubes or patches."
            )
        if not self.use_audio and self.audio_weight:
            raise ValueError(
                f"audio_weight must be 0 in a video-only model, found audio_weight={self.audio_weight} and "
                f"use_audio={self.use_audio}. Set audio_weight=0, or use_audio=True."
            )
        if self.share_encoder and self.use_audio:
            _require_equal_vits(self.video_config, self.audio_config)
        widths = self.combiner_config.hidden_size, self.temporal_config.hidden_size
        if widths[0] != widths[1]:
            raise ValueError(
                f"combiner_config.hidden_size and temporal_config.hidden_size must be equal, "
                f"found {widths[0]} and {widths[1]}."
            )
        for name, part in (("predicted_video_size", self.video_config), ("predicted_audio_size", self.audio_config)):
            small = tuple(getattr(self.temporal_config, name))
            if len(small) != len(part.input_size) or any(
                size % n for size, n in zip(part.input_size, small, strict=True)
            ):
                raise ValueError(
                    f"temporal_config.{name}={small} must divide the chunk {part.input_size} on each axis. "
                    f"Choose divisors."
                )
