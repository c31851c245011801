"""SigLIP, CLIP, ViT, DeiT, DINOv2 and AST checkpoints -> configs and weights of Mirasol's encoders."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
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
PREFIX_NAMES = [f"embeddings.{name}_token" for name in ("cls", "distillation")]
PREFIX_NAMES += ["embeddings.class_embedding", "embeddings.register_tokens"]
POSITION_NAMES = ("embeddings.position_embeddings", "embeddings.position_embedding.weight")
PATCH_NAMES = ("embeddings.patch_embeddings.projection", "embeddings.patch_embedding")
CLIP_NORM = "pre_layrnorm"  # sic
# Names in each family: layers, attention, its output projection, the norms before attention and MLP, the last norm.
NAMES = {
    "SigLIP, CLIP": ("encoder.layers", "self_attn", "out_proj", "layer_norm1", "layer_norm2", "post_layernorm"),
    "DINOv2": ("encoder.layer", "attention", "o_proj", "norm1", "norm2", "layernorm"),
    "ViT, DeiT, AST": ("layers", "attention", "o_proj", "layernorm_before", "layernorm_after", "layernorm"),
}


def vit_values(source: Source) -> dict[str, Any]:
    """Return the config values that every ViT has."""
    config = source.config
    alike = ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps")
    return {name: getattr(config, name) for name in alike} | {
        "intermediate_size": getattr(config, "intermediate_size", None) or int(config.hidden_size * config.mlp_ratio),
        "qkv_bias": getattr(config, "qkv_bias", True),
        "position_code": "learned",
    }


def vit_weights(source: Source) -> dict[str, Tensor]:
    """Return the layers and the last norm by the names of `MirasolTower`; keys and values are one matrix."""
    theirs = source.weights
    layers, attention, o_proj, attention_norm, mlp_norm, last_norm = next(
        names for names in NAMES.values() if f"{names[0]}.0.{names[4]}.weight" in theirs
    )
    pieces = {"norm": [last_norm], "embedding_norm": [CLIP_NORM]}
    for number in range(source.config.num_hidden_layers):
        theirs_in, ours_in = f"{layers}.{number}", f"layers.{number}"
        pieces |= {
            f"{ours_in}.attention.q_proj": [f"{theirs_in}.{attention}.q_proj"],
            f"{ours_in}.attention.kv_proj": [f"{theirs_in}.{attention}.{name}" for name in ("k_proj", "v_proj")],
            f"{ours_in}.attention.o_proj": [f"{theirs_in}.{attention}.{o_proj}"],
            f"{ours_in}.attention_norm": [f"{theirs_in}.{attention_norm}"],
            f"{ours_in}.mlp_norm": [f"{theirs_in}.{mlp_norm}"],
            f"{ours_in}.mlp.0": [f"{theirs_in}.mlp.fc1"],
            f"{ours_in}.mlp.2": [f"{theirs_in}.mlp.fc2"],
        }
    return {
        f"{name}.{kind}": torch.cat([theirs[f"{part}.{kind}"] for part in parts])
        for name, parts in pieces.items()
        for kind in ("weight", "bias")
        if f"{parts[0]}.{kind}" in theirs
    }


def stated(source: Source, read: Callable, what: str) -> dict[str, Any]:
    """Return the checkpoint's preprocessing, as `read` returns it; empty, with a warning, if it states none."""
    try:
        return read(source.name)[0]
    except OSError:
        warnings.warn(f"{source.name} states no {what}", stacklevel=3)
        return {}


class VisionTower:
    """A SigLIP, CLIP, ViT, DeiT or DINOv2 with square pictures and patches, and positions on a square grid."""

    def __init__(self, source: Source):
        self.source, config, theirs = source, source.config, source.weights
        self.patch_size = config.patch_size
        empty = torch.zeros(0, config.hidden_size)
        self.prefix = torch.cat(
            [theirs[n].reshape(-1, config.hidden_size) for n in PREFIX_NAMES if n in theirs] or [empty]
        )
        positions = next(theirs[name] for name in POSITION_NAMES if name in theirs).reshape(-1, config.hidden_size)
        num_registers = getattr(config, "num_register_tokens", 0)  # the last prefix tokens, without positions
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
        """Return values of `MirasolVideoConfig` for chunks of `num_frames`."""
        return vit_values(self.source) | {
            "num_prefix_tokens": len(self.prefix),
            "embedding_norm": f"{CLIP_NORM}.weight" in self.source.weights,
            "image_size": self.image_size,
            "num_frames": num_frames,
            "tubes": default_tubes(num_frames, self.patch_size),
        }

    def weights(self, config: MirasolVideoConfig) -> dict[str, Tensor]:
        """Return the weights of `MirasolVideoEncoder`, for any tubes and picture size."""
        places = []
        for window in config.tubes:
            centres = window_centres(config.input_size, *window)[:, 1:]
            pixels = (centres + 0.5) * (self.image_size / config.image_size) - 0.5  # of the pretrained picture
            places.append((pixels - (self.patch_size - 1) / 2) / self.patch_size)
        return tower_weights(self, config.tubes, places)

    def statistics(self) -> dict[str, list[float]]:
        """Return `image_mean` and `image_std` of the checkpoint's image processor."""
        default = "image_mean and image_std: 0.5 is used for both."
        found = stated(self.source, BaseImageProcessor.get_image_processor_dict, default)
        if not found.get("do_normalize", True):
            return {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        return {name: found.get(name) or [0.5] * 3 for name in ("image_mean", "image_std")}


def default_tubes(num_frames: int, patch_size: int) -> tuple:
    """Return patches of the chunk's middle frame, and tubes of half a chunk that cover every pixel of every frame."""
    p, length = patch_size, num_frames // 2 if num_frames % 2 == 0 else num_frames
    still = ((1, p, p), (num_frames, p, p), (num_frames // 2, 0, 0))
    return (still,) if num_frames == 1 else (((length, p, p), (length, p, p), (0, 0, 0)), still)


class AudioTower:
    """An AST, with overlapping patches of `num_mel_bins` x `max_length` log-mel, a CLS and a distillation token."""

    def __init__(self, source: Source):
        self.source, config, theirs = source, source.config, source.weights
        self.patch_size, self.num_mel_bins = config.patch_size, config.num_mel_bins
        self.strides = config.time_stride, config.frequency_stride
        self.prefix = torch.cat([theirs["embeddings.cls_token"][0], theirs["embeddings.distillation_token"][0]])
        positions = theirs["embeddings.position_embeddings"][0]
        self.prefix_positions, positions = positions.split([2, len(positions) - 2])
        # In AST's positions and kernels, the mel axis comes before the time axis.
        self.positions = rearrange(
            positions, "(mel mel_frame) dim -> mel_frame mel dim", mel=self._num_patches(config.num_mel_bins, 1)
        )
        kernel = theirs["embeddings.patch_embeddings.projection.weight"]
        self.kernel = rearrange(kernel, "dim channel mel mel_frame -> dim channel mel_frame mel")
        self.bias = theirs["embeddings.patch_embeddings.projection.bias"]

    def _num_patches(self, size: int, axis: int) -> int:
        return num_positions(size, self.patch_size, self.strides[axis], 0)

    def values(self, num_mel_frames: int) -> dict[str, Any]:
        """Return values of `MirasolAudioConfig` for chunks of `num_mel_frames`."""
        return vit_values(self.source) | {
            "num_prefix_tokens": len(self.prefix),
            "num_mel_frames": num_mel_frames,
            "num_mel_bins": self.num_mel_bins,
            "patches": (((self.patch_size, self.patch_size), self.strides, (0, 0)),),
        }

    def weights(self, config: MirasolAudioConfig) -> dict[str, Tensor]:
        """Return the weights of `MirasolAudioEncoder`; short chunks get the middle positions."""
        before, now = len(self.positions), self._num_patches(config.num_mel_frames, 0)
        if now > before:
            raise ValueError(
                f"Expected chunks of at most {self.source.config.max_length} mel frames, for which {self.source.name} "
                f"has positions, found {config.num_mel_frames}. Use shorter chunks."
            )
        first = torch.tensor([(before - now) // 2, 0])
        places = [
            (window_centres(config.input_size, *window) - (self.patch_size - 1) / 2) / torch.tensor(self.strides)
            + first
            for window in config.patches
        ]
        return tower_weights(self, config.patches, places)

    def statistics(self) -> dict[str, Any]:
        """Return `mean` and `std` of the checkpoint's feature extractor, its mel bins and sampling rate."""
        default = "mean and std of its log-mel: those of AudioSet are used."
        found = stated(self.source, FeatureExtractionMixin.get_feature_extractor_dict, default)
        values = {name: found[name] for name in ("mean", "std", "sampling_rate") if name in found}
        if not found.get("do_normalize", True):
            values |= {"mean": 0.0, "std": 0.5}
        return values | {"num_mel_bins": self.num_mel_bins}


def tower_weights(
    tower: VisionTower | AudioTower, windows: Sequence, places: Sequence[Float[Tensor, "token 2"]]
) -> dict[str, Tensor]:
    """Return the weights of a `MirasolTower` with windows centred at these places of the pretrained grid."""
    positions = torch.cat([tower.prefix_positions, sample_positions(tower.positions, torch.cat(list(places)))])
    weights = vit_weights(tower.source) | {"embedding.position_embedding": positions}
    if len(tower.prefix):
        weights["embedding.prefix_tokens"] = tower.prefix
    for number, (kernel, _, _) in enumerate(windows):
        weights[f"embedding.projections.{number}.weight"] = inflate_kernel(tower.kernel, kernel)
        weights[f"embedding.projections.{number}.bias"] = tower.bias
    return weights
