"""Activation checkpointing and compilation of the repeated layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

VARIANTS = 64  # layer classes x shapes x modes; above its own limit of 8, torch silently stops compiling


def repeated_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Return the transformer layers of every part."""
    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))


def recompute_layers(model: PreTrainedModel, every: int | None = 1) -> None:
    """Keep only the inputs of every n-th layer for the backward pass, and recompute the rest; None keeps all."""
    if every:
        model.activation_checkpointing_enable(every_n_layers=every)
    else:
        model.activation_checkpointing_disable()


def compile_layers(model: nn.Module, backend: str | None = None) -> None:
    """Compile each layer separately, because layers of one shape share kernels: a minute instead of ten."""
    torch._dynamo.config.recompile_limit = VARIANTS
    for layer in repeated_layers(model):
        layer.compile(backend=backend or "inductor")
