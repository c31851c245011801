"""Fold constants and scales of other architectures into adjacent weights, and split fused matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

Weights = dict[str, Tensor]


def fold_gemma(config: Any, theirs: Weights) -> Weights:
    """Fold the 1 of norms that multiply by 1 + weight, and the scale of embeddings, the root of the width."""
    ours = {name: 1 + weight if name.endswith("norm.weight") else weight for name, weight in theirs.items()}
    return _scale_embedding(config, ours, config.hidden_size**0.5)


def fold_granite(config: Any, theirs: Weights) -> Weights:
    """Fold Granite's four multipliers: of embeddings, attention scores, residuals and (divided) logits."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scales = {
        "q_proj": config.attention_multiplier * head_dim**0.5,
        "o_proj": config.residual_multiplier,
        "down_proj": config.residual_multiplier,
    }
    ours = {name: weight * scales.get(name.split(".")[-2], 1.0) for name, weight in theirs.items()}
    ours["model.norm.weight"] = ours["model.norm.weight"] / config.logits_scaling
    return _scale_embedding(config, ours, config.embedding_multiplier)


def _scale_embedding(config: Any, weights: Weights, scale: float) -> Weights:
    """Multiply the embeddings by `scale`; if the head is the same matrix, divide the last norm by it."""
    scaled = weights | {"model.embed_tokens.weight": scale * weights["model.embed_tokens.weight"]}
    if config.tie_word_embeddings:
        scaled["model.norm.weight"] = weights["model.norm.weight"] / scale
    return scaled


def split_phi3(config: Any, theirs: Weights) -> Weights:
    """Split the fused projections into queries, keys and values, and gate and up, as in Llama."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    fused = {
        "qkv_proj": (("q_proj", "k_proj", "v_proj"), [head_dim * number for number in heads]),
        "gate_up_proj": (("gate_proj", "up_proj"), [config.intermediate_size] * 2),
    }
    ours: Weights = {}
    for name, weight in theirs.items():
        module = name.split(".")[-2]
        names, sizes = fused.get(module, ((module,), [len(weight)]))
        ours |= {name.replace(module, own): piece for own, piece in zip(names, weight.split(sizes), strict=True)}
    return ours


def fold_layer_scale(config: Any, theirs: Weights) -> Weights:
    """Fold DINOv2's scale of each branch into the last linear layer of that branch."""
    if config.use_swiglu_ffn:
        raise ValueError(
            f"Expected MLPs without gate in {config.name_or_path}, found use_swiglu_ffn=True (DINOv2 giant). Pass a "
            "smaller DINOv2."
        )
    branches = {"layer_scale1.lambda1": "attention.o_proj", "layer_scale2.lambda1": "mlp.fc2"}
    ours = dict(theirs)
    for name in theirs:
        layer, _, scale = name.partition(".layer_scale")
        if scale:
            last = f"{layer}.{branches['layer_scale' + scale]}"
            factor = ours.pop(name)
            ours[f"{last}.weight"] = factor[:, None] * theirs[f"{last}.weight"]
            ours[f"{last}.bias"] = factor * theirs[f"{last}.bias"]
    return ours


FOLDS: dict[str, Callable[[Any, Weights], Weights]] = {
    "gemma": fold_gemma,
    "granite": fold_granite,
    "phi3": split_phi3,
    "dinov2": fold_layer_scale,
    "dinov2_with_registers": fold_layer_scale,
}


@torch.no_grad()
def fold(config: PreTrainedConfig, weights: Weights) -> Weights:
    """Return the weights of the equivalent plain ViT or Llama, exact up to the rounding of one product."""
    return FOLDS[config.model_type](config, weights) if config.model_type in FOLDS else weights
