"""Learning rates by step and by part of the model, frozen parts, and early stopping."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mirasol.train.adapt import parameters_of
from mirasol.train.optimizer import MuonWithAdamW
from mirasol.train.recipe_schema import OptimizerRecipe, Part


def scheduler_arguments(recipe: OptimizerRecipe, num_steps: int | None = None) -> dict[str, Any]:
    """Return the schedule as arguments of the Trainer; `wsd` needs the number of steps of the run."""
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
    """Split the optimizer's groups by part, in place; each gets its factor on the learning rate."""
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


def is_stale(log_history: Sequence[Mapping[str, Any]], metric: str, patience: int | None) -> bool:
    """True if none of the last `patience` validations exceeded the best one before them."""
    values = [line[f"eval_{metric}"] for line in log_history if f"eval_{metric}" in line]
    values = [-math.inf if math.isnan(value) else value for value in values]  # nothing was answered
    return patience is not None and len(values) > patience and max(values[-patience:]) <= max(values[:-patience])
