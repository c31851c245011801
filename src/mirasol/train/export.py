"""Export of a run: one folder with safetensors weights, the processor and a model card."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from jinja2 import Template
from pydantic_core import to_json
from torch import nn

from mirasol.answer.known_questions import FILE, KnownQuestions
from mirasol.files import whole_folder, write_whole
from mirasol.train.adapt import merged_state_dict
from mirasol.train.recipe import to_yaml
from mirasol.train.recipe_schema import Recipe
from mirasol.train.record import recipe_hash


def export(
    model: nn.Module, processor: Any, folder: Path, *, recipe: Recipe, record: dict[str, Any],
    known_questions: KnownQuestions | None = None,
) -> Path:  # fmt: skip
    """Write a folder with `model` (adapters merged), `processor` and a model card, atomically."""
    config: Any = copy.deepcopy(model.config)
    config.use_cache = True  # the Trainer turns it off, and generation would then project the clip for every token
    for name in config.sub_configs:  # each part of a loaded model states the dtype that it was loaded in
        getattr(config, name).dtype = None
    exported: Any = type(model)(config)
    exported.load_state_dict(merged_state_dict(model))
    exported.set_objective("finetune")
    with whole_folder(folder) as partial:
        exported.to(getattr(torch, recipe.export.dtype)).save_pretrained(partial)
        processor.save_pretrained(partial)
        if known_questions is not None:
            (partial / FILE).write_text(known_questions.as_json(indent=1) + "\n", encoding="utf-8")
        (partial / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        write_card(partial, recipe, record)
    return folder


def write_card(folder: Path, recipe: Recipe, record: dict[str, Any]) -> None:
    """Write training.json and README.md (the model card) into an exported folder, each atomically."""
    text = to_json({**record, "recipe_sha256": recipe_hash(recipe)}, indent=2, inf_nan_mode="null").decode()
    record = json.loads(text)
    write_whole(folder / "training.json", text + "\n")
    write_whole(folder / "README.md", model_card(recipe, record))


def model_card(recipe: Recipe, record: dict[str, Any]) -> str:
    """Return the model card: origin, validation results, limits."""
    *first, last = dict.fromkeys(source.task for source in recipe.data.sources)
    metrics, rows = record.get("validation", {}), dict[str, dict[str, Any]]()
    for name, value in metrics.items():
        condition = next((c for c in recipe.validation.conditions if name.endswith(f"_{c}")), None)
        if condition is not None and not name.endswith(f"bad_clips_{condition}"):
            rows.setdefault(name.removesuffix(f"_{condition}"), {})[condition] = value
    card = Template((Path(__file__).parent / "card.md").read_text(encoding="utf-8"), trim_blocks=True)
    return card.render(
        recipe=recipe, record=record, tasks=f"{', '.join(first)} and {last}" if first else last, rows=rows,
        means={name: value for name, value in metrics.items() if name.startswith("mean_")},
        yaml=to_yaml(recipe).rstrip(),
    ) + "\n"  # fmt: skip
