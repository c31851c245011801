"""Memory and speed of training: recompute activations in the backward pass, compile the repeated layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

VARIANTS = 64  # layer classes times shapes times modes; above torch's limit of 8 it stops compiling without an error


def repeated_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The transformer layers of every part."""
    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))


def recompute_layers(model: PreTrainedModel, every: int | None = 1) -> None:
    """Keep only the input of every n-th layer for the backward pass and recompute the rest; None keeps everything."""
    if every:
        model.activation_checkpointing_enable(every_n_layers=every)
    else:
        model.activation_checkpointing_disable()


def compile_layers(model: nn.Module, backend: str | None = None) -> None:
    """Compile each layer apart: layers of one shape share their kernels, so that this takes a minute and not ten."""
    torch._dynamo.config.recompile_limit = VARIANTS
    for layer in repeated_layers(model):
        layer.compile(backend=backend or "inductor")
