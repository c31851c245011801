"""SigLIP, CLIP, ViT, DeiT, DINOv2 and AST checkpoints -> configs and weights of Mirasol's encoders."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import FeatureExtractionMixin
from transformers.image_processing_utils import BaseImageProcessor

from mirasol.convert.sources import Source
from mirasol.convert.windows import inflate_kernel, sample_positions
from mirasol.model.configuration_mirasol import MirasolAudioConfig, MirasolVideoConfig, num_positions
from mirasol.model.modeling_mirasol_encoders import window_centres

NUM_CHANNELS = 3  # frames are RGB
KINDS = ("weight", "bias")
PREFIX_NAMES = [f"embeddings.{name}_token" for name in ("cls", "distillation")]
PREFIX_NAMES += ["embeddings.class_embedding", "embeddings.register_tokens"]
POSITION_NAMES = ("embeddings.position_embeddings", "embeddings.position_embedding.weight")
PATCH_NAMES = ("embeddings.patch_embeddings.projection", "embeddings.patch_embedding")
CLIP_NORM = "pre_layrnorm"  # sic
SIGLIP_NAMES = {
    "layers": "encoder.layers",
    "attention": "self_attn",
    "o_proj": "out_proj",
    "attention_norm": "layer_norm1",
    "mlp_norm": "layer_norm2",
    "norm": "post_layernorm",
}
DINO_NAMES = {
    "layers": "encoder.layer",
    "attention": "attention",
    "o_proj": "o_proj",
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "norm": "layernorm",
}
VIT_NAMES = {
    "layers": "layers",
    "attention": "attention",
    "o_proj": "o_proj",
    "attention_norm": "layernorm_before",
    "mlp_norm": "layernorm_after",
    "norm": "layernorm",
}


def vit_values(source: Source) -> dict[str, Any]:
    """The config values that every ViT has."""
    config = source.config
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": getattr(config, "intermediate_size", None) or int(config.hidden_size * config.mlp_ratio),
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
        "qkv_bias": getattr(config, "qkv_bias", True),
        "position_code": "learned",
    }


def vit_weights(source: Source) -> dict[str, Tensor]:
    """Weights of the layers and the last norm, by the names of `MirasolTower`; keys and values in one matrix."""
    theirs = source.weights
    known = (SIGLIP_NAMES, DINO_NAMES, VIT_NAMES)
    names = next(names for names in known if f"{names['layers']}.0.{names['mlp_norm']}.weight" in theirs)
    ours = {f"norm.{kind}": theirs[f"{names['norm']}.{kind}"] for kind in KINDS}
    if f"{CLIP_NORM}.weight" in theirs:
        ours |= {f"embedding_norm.{kind}": theirs[f"{CLIP_NORM}.{kind}"] for kind in KINDS}
    for number in range(source.config.num_hidden_layers):
        layer, attention = f"{names['layers']}.{number}", f"{names['layers']}.{number}.{names['attention']}"
        pieces = {
            "attention.q_proj": [f"{attention}.q_proj"],
            "attention.kv_proj": [f"{attention}.k_proj", f"{attention}.v_proj"],
            "attention.o_proj": [f"{attention}.{names['o_proj']}"],
            "attention_norm": [f"{layer}.{names['attention_norm']}"],
            "mlp_norm": [f"{layer}.{names['mlp_norm']}"],
            "mlp.0": [f"{layer}.mlp.fc1"],
            "mlp.2": [f"{layer}.mlp.fc2"],
        }
        for name, parts in pieces.items():
            for kind in KINDS:
                if f"{parts[0]}.{kind}" in theirs:
                    ours[f"layers.{number}.{name}.{kind}"] = torch.cat([theirs[f"{part}.{kind}"] for part in parts])
    return ours


class VisionTower:
    """A SigLIP, CLIP, ViT, DeiT or DINOv2: square pictures and patches, positions on a square grid."""

    def __init__(self, source: Source):
        self.source, config, theirs = source, source.config, source.weights
        self.patch_size = config.patch_size
        empty = torch.zeros(0, config.hidden_size)
        self.prefix = torch.cat(
            [theirs[n].reshape(-1, config.hidden_size) for n in PREFIX_NAMES if n in theirs] or [empty]
        )
        positions = next(theirs[name] for name in POSITION_NAMES if name in theirs).reshape(-1, config.hidden_size)
        num_registers = getattr(config, "num_register_tokens", 0)  # the last of the prefix, without positions
        num_placed = len(self.prefix) - num_registers
        placed, positions = positions.split([num_placed, len(positions) - num_placed])
        self.prefix_positions = F.pad(placed, (0, 0, 0, num_registers))
        patch = next(name for name in PATCH_NAMES if f"{name}.weight" in theirs)
        grid = math.isqrt(len(positions))
        self.image_size = getattr(config, "image_size", None) or grid * self.patch_size  # NaFlex: its grid's size
        if not isinstance(self.image_size, int) or not isinstance(self.patch_size, int) or grid**2 != len(positions):
            raise ValueError(
                f"Expected square pictures and square patches in {source.name}, found image_size={self.image_size}, "
                f"patch_size={self.patch_size} and {len(positions)} positions. Pass a tower of square pictures."
            )
        self.positions = rearrange(positions, "(row column) dim -> row column dim", row=grid)
        self.kernel = theirs[f"{patch}.weight"]
        self.bias = theirs.get(f"{patch}.bias", torch.zeros(config.hidden_size))  # CLIP has none
        if (channels := getattr(config, "num_channels", 3)) != NUM_CHANNELS:
            raise ValueError(
                f"Expected a vision tower of {NUM_CHANNELS} channels (RGB), found num_channels={channels} in "
                f"{source.name}. Pass a tower that was trained on colour pictures."
            )
        if self.kernel.ndim == 2:  # NaFlex models get patches already cut out, colours last
            p = self.patch_size
            self.kernel = rearrange(self.kernel, "dim (h w channel) -> dim channel h w", h=p, w=p)

    def values(self, num_frames: int) -> dict[str, Any]:
        """Values of `MirasolVideoConfig` for chunks of `num_frames`."""
        return vit_values(self.source) | {
            "num_prefix_tokens": len(self.prefix),
            "embedding_norm": f"{CLIP_NORM}.weight" in self.source.weights,
            "image_size": self.image_size,
            "num_frames": num_frames,
            "tubes": default_tubes(num_frames, self.patch_size),
        }

    def weights(self, config: MirasolVideoConfig) -> dict[str, Tensor]:
        """Weights of `MirasolVideoEncoder`, whatever its tubes and picture size."""
        places = []
        for window in config.tubes:
            centres = window_centres(config.input_size, *window)[:, 1:]
            pixels = (centres + 0.5) * (self.image_size / config.image_size) - 0.5  # of the pretrained picture
            places.append((pixels - (self.patch_size - 1) / 2) / self.patch_size)
        kernels = [inflate_kernel(self.kernel, kernel) for kernel, _, _ in config.tubes]
        positions = sample_positions(self.positions, torch.cat(places))
        return vit_weights(self.source) | embedding_weights(
            self.prefix, kernels, self.bias, torch.cat([self.prefix_positions, positions])
        )

    def statistics(self) -> dict[str, list[float]]:
        """`image_mean` and `image_std` of the checkpoint's image processor."""
        try:
            stated = BaseImageProcessor.get_image_processor_dict(self.source.name)[0]
        except OSError:
            warnings.warn(
                f"{self.source.name} states no image_mean and image_std: 0.5 is taken for both.", stacklevel=2
            )
            stated = {}
        if not stated.get("do_normalize", True):
            return {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        return {name: stated.get(name) or [0.5] * 3 for name in ("image_mean", "image_std")}


def default_tubes(num_frames: int, patch_size: int) -> tuple:
    """Patches of the chunk's middle frame, and tubes of half a chunk that see every pixel of every frame."""
    p, length = patch_size, num_frames // 2 if num_frames % 2 == 0 else num_frames
    still = ((1, p, p), (num_frames, p, p), (num_frames // 2, 0, 0))
    return (still,) if num_frames == 1 else (((length, p, p), (length, p, p), (0, 0, 0)), still)


class AudioTower:
    """An AST: overlapping patches of `num_mel_bins` x `max_length` log-mel, a CLS and a distillation token."""

    def __init__(self, source: Source):
        self.source, config, theirs = source, source.config, source.weights
        self.patch_size, self.num_mel_bins = config.patch_size, config.num_mel_bins
        self.strides = config.time_stride, config.frequency_stride
        self.prefix = torch.cat([theirs["embeddings.cls_token"][0], theirs["embeddings.distillation_token"][0]])
        positions = theirs["embeddings.position_embeddings"][0]
        self.prefix_positions, positions = positions.split([2, len(positions) - 2])
        # AST counts bands before columns, in its positions and in its kernels.
        self.positions = rearrange(
            positions, "(mel mel_frame) dim -> mel_frame mel dim", mel=self._num_patches(config.num_mel_bins, 1)
        )
        kernel = theirs["embeddings.patch_embeddings.projection.weight"]
        self.kernel = rearrange(kernel, "dim channel mel mel_frame -> dim channel mel_frame mel")
        self.bias = theirs["embeddings.patch_embeddings.projection.bias"]

    def _num_patches(self, size: int, axis: int) -> int:
        return num_positions(size, self.patch_size, self.strides[axis], 0)

    def values(self, num_mel_frames: int) -> dict[str, Any]:
        """Values of `MirasolAudioConfig` for chunks of `num_mel_frames` columns."""
        return vit_values(self.source) | {
            "num_prefix_tokens": len(self.prefix),
            "num_mel_frames": num_mel_frames,
            "num_mel_bins": self.num_mel_bins,
            "patches": (((self.patch_size, self.patch_size), self.strides, (0, 0)),),
        }

    def weights(self, config: MirasolAudioConfig) -> dict[str, Tensor]:
        """Weights of `MirasolAudioEncoder`; a chunk shorter than AST's window has the positions of its middle."""
        before, now = len(self.positions), self._num_patches(config.num_mel_frames, 0)
        if now > before:
            raise ValueError(
                f"A chunk must not have more log-mel columns than {self.source.name} knows positions for, found "
                f"{config.num_mel_frames} and {self.source.config.max_length}. Use shorter chunks."
            )
        first = torch.tensor([(before - now) // 2, 0])
        places = [
            (window_centres(config.input_size, *window) - (self.patch_size - 1) / 2) / torch.tensor(self.strides)
            + first
            for window in config.patches
        ]
        kernels = [inflate_kernel(self.kernel, kernel) for kernel, _, _ in config.patches]
        positions = sample_positions(self.positions, torch.cat(places))
        return vit_weights(self.source) | embedding_weights(
            self.prefix, kernels, self.bias, torch.cat([self.prefix_positions, positions])
        )

    def statistics(self) -> dict[str, Any]:
        """`mean` and `std` of the checkpoint's feature extractor, and its bands and sampling rate."""
        try:
            stated = FeatureExtractionMixin.get_feature_extractor_dict(self.source.name)[0]
        except OSError:
            warnings.warn(
                f"{self.source.name} states no mean and std of its log-mel: AudioSet's are taken.", stacklevel=2
            )
            stated = {}
        values = {name: stated[name] for name in ("mean", "std", "sampling_rate") if name in stated}
        if not stated.get("do_normalize", True):
            values |= {"mean": 0.0, "std": 0.5}
        return values | {"num_mel_bins": self.num_mel_bins}


def embedding_weights(
    prefix: Float[Tensor, "token dim"],
    kernels: Sequence[Float[Tensor, "dim _window"]],
    bias: Float[Tensor, " dim"],
    positions: Float[Tensor, "all_tokens dim"],
) -> dict[str, Tensor]:
    """Weights of `MirasolWindowEmbedding`, under its name in a tower."""
    weights = {"position_embedding": positions}
    if len(prefix):
        weights["prefix_tokens"] = prefix
    for number, kernel in enumerate(kernels):
        weights |= {f"projections.{number}.weight": kernel, f"projections.{number}.bias": bias}
    return {f"embedding.{name}": weight for name, weight in weights.items()}
