"""Muon for the weight matrices of the layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` on the matrices inside layers and `torch.optim.AdamW` on the rest, at one learning rate.

    Muon (K. Jordan, 2024) orthogonalises each matrix's update; its step is scaled to AdamW's (arXiv 2502.16982), so
    that one learning rate and one schedule serve both. On GRID's 720 clips a nano model learns from the sound within a
    few hundred steps where AdamW alone stays at the answer's prior (docs/log.md).

    Args:
        matrices: weights of two axes inside the layers.
        others: groups of the remaining parameters, each with its own `weight_decay`.
    """

    def __init__(
        self, matrices: list[nn.Parameter], others: list[dict], lr: float, weight_decay: float, betas, eps: float
    ):
        super().__init__([{"params": matrices}, *({"params": group["params"]} for group in others)], {})
        self.parts = {
            "muon": torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            "adamw": torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps),
        }
        self._share_groups()

    def _share_groups(self) -> None:
        # A learning-rate schedule and `zero_grad` see the groups of both parts; what they change, the parts see.
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._share_groups()


def layer_matrices(model: nn.Module) -> set[str]:
    """Names of the weights that Muon takes: linear layers inside a list of layers, so no embedding, window or head.

    Frozen weights are left out, and LoRA's factors, whose update is not the update of the matrix they make.
    """
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and ".layers." in f".{name}"
        and ".lora_" not in name
        and module.weight.requires_grad
    }
