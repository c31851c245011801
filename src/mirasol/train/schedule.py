"""Learning rates by step and by part of the model, frozen parts, and early stopping."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mirasol.train.adapt import parameters_of
from mirasol.train.optimizer import MuonWithAdamW
from mirasol.train.recipe_schema import OptimizerRecipe, Part


def scheduler_arguments(recipe: OptimizerRecipe, num_steps: int | None = None) -> dict[str, Any]:
    """Return the schedule in the Trainer's words; `wsd` is whole only with the number of steps of the run."""
    low = recipe.final_learning_rate_fraction
    if recipe.schedule == "cosine":
        return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": low}}
    if recipe.schedule == "constant":
        return {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {}}
    kwargs: dict[str, Any] = {"min_lr_ratio": low, "decay_type": "linear"}
    if num_steps is not None:
        kwargs["num_decay_steps"] = max(1, round(recipe.decay_fraction * num_steps))
    return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": kwargs}


def split_rates(optimizer: torch.optim.Optimizer, model: nn.Module, part_rates: Mapping[Part, float]) -> None:
    """Split the optimizer's groups by part, each with its factor on the learning rate, in place."""
    factors: dict[nn.Parameter, float] = {}
    for part, factor in part_rates.items():
        factors |= dict.fromkeys(parameters_of(model, [part], "optimizer.part_rates"), factor)
    inner_ones = optimizer.parts.values() if isinstance(optimizer, MuonWithAdamW) else [optimizer]
    for inner in inner_ones:
        groups = []
        for group in inner.param_groups:
            by_factor: dict[float, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                by_factor[factors.get(parameter, 1.0)].append(parameter)
            groups += [{**group, "params": chosen, "lr": factor * group["lr"]} for factor, chosen in by_factor.items()]
        inner.param_groups[:] = groups
    if isinstance(optimizer, MuonWithAdamW):
        optimizer._share_groups()


@contextlib.contextmanager
def trained(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Set `requires_grad` in the block, as an optimizer requires of parameters that it will train later."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in zip(parameters, before, strict=True):
            parameter.requires_grad_(wanted)


def is_stale(log_history: Sequence[Mapping[str, Any]], metric: str, patience: int | None) -> bool:
    """True if the last `patience` validations brought no better metric than the best one before them."""
    values = [line[f"eval_{metric}"] for line in log_history if f"eval_{metric}" in line]
    return patience is not None and len(values) > patience and max(values[-patience:]) <= max(values[:-patience])
