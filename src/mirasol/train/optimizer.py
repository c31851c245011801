"""Muon for the weight matrices of the layers, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mirasol.train.parallel import any_of_shards, apart_by_layout, is_sharded, local, on_whole_matrices


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with "match_rms_adamw" that batches all matrices of one shape, in float32 on CPU.

    torch updates them one by one in bfloat16, which is 20 times slower than float32 on a CPU without bf16
    instructions: the optimizer then took longer than forward and backward (docs/log.md).

    Each process orthogonalises its share of sharded matrices. A matrix whose gradient is all zeros is not updated,
    because its tower had no real chunk in this batch, and old momentum, once orthogonalised, would move it by a whole
    step.
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            by_shape: dict[Any, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape, is_sharded(parameter)].append(parameter)
            for (shape, _), parameters in by_shape.items():
                gradients = torch.stack([local(p.grad) for p in parameters if p.grad is not None])
                is_used = gradients.flatten(1).any(dim=1).to(gradients.dtype)  # a factor: asking it would wait
                is_used = any_of_shards(is_used, parameters[0])[:, None, None]
                buffers = [local(self._momentum_buffer(parameter)) for parameter in parameters]
                momentum = torch.stack(buffers).lerp_(gradients, (1 - group["momentum"]) * is_used)
                torch._foreach_copy_(buffers, list(momentum.unbind()))
                update = gradients.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = on_whole_matrices(lambda whole: orthogonalised(whole, group), update, parameters[0])  # noqa: B023
                rate = group["lr"] * 0.2 * max(shape) ** 0.5  # the update's root mean square is AdamW's
                kept = 1 - group["lr"] * group["weight_decay"] * is_used
                weights = [local(parameter) for parameter in parameters]
                torch._foreach_mul_(weights, list(kept.unbind()))
                torch._foreach_sub_(weights, list((rate * is_used * update).unbind()))
        return loss

    def _momentum_buffer(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            assert parameter.grad is not None, "step() takes parameters with a gradient"
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        return state["momentum_buffer"]


def orthogonalised(stacked: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the Newton-Schulz iterate of each matrix: nearly U V' where the matrix is U S V'."""
    first, coefficient, of_cube = group["ns_coefficients"]
    update = stacked.float() if stacked.device.type == "cpu" else stacked.bfloat16()
    is_tall = update.shape[1] > update.shape[2]
    update = update.mT if is_tall else update
    update = update / update.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = update @ update.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=coefficient, alpha=of_cube)
        update = torch.baddbmm(update, polynomial, update, beta=first)
    return (update.mT if is_tall else update).to(stacked.dtype)


class MuonWithAdamW(torch.optim.Optimizer):
    """`BatchedMuon` on the matrices inside layers and `torch.optim.AdamW` on the rest, at one learning rate.

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
            "muon": BatchedMuon(matrices, lr=lr, weight_decay=weight_decay),
            "adamw": torch.optim.AdamW(apart_by_layout(others), lr=lr, betas=betas, eps=eps),
        }
        self._share_groups()

    def _share_groups(self) -> None:
        # The same group objects, so that a learning-rate schedule and `zero_grad` act on both parts.
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
    """Return the names of the weights that Muon updates: linear layers inside a list of layers.

    Frozen weights are left out, and LoRA's factors, because their update is not the update of their product.
    """
    return {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and ".layers." in f".{name}"
        and ".lora_" not in name
        and module.weight.requires_grad
    }
