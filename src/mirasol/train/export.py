"""Export of a run: one folder with safetensors weights, the processor and a model card."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
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
    config.use_cache = True  # the Trainer turns it off; generation would project the clip for every token
    for name in config.sub_configs:  # of a model that was loaded, the parts name the format it was loaded in
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
    """Writes training.json and README.md (the model card) into an exported folder, each in one move."""
    text = to_json({**record, "recipe_sha256": recipe_hash(recipe)}, indent=2, inf_nan_mode="null").decode()
    record = json.loads(text)
    write_whole(folder / "training.json", text + "\n")
    write_whole(folder / "README.md", model_card(recipe, record))


def model_card(recipe: Recipe, record: dict[str, Any]) -> str:
    """The text of the model card: what made this checkpoint, how it did on val, what it cannot do."""
    sources = recipe.data.sources
    *first, last = dict.fromkeys(source.task for source in sources)
    tasks = f"{', '.join(first)} and {last}" if first else last
    origin = "from scratch" if recipe.model.checkpoint is None else f"from `{recipe.model.checkpoint}`"
    facts = {
        "Tasks and data": "; ".join(f"{source.task}, {source.train_split} of `{source.root}`" for source in sources),
        "Parameters": f"{record.get('num_parameters', 0):,}",
        "Optimiser steps at this checkpoint": record.get("step"),
        "Training time until then": f"{record.get('train_minutes', 0):.1f} minutes",
        "Hardware": record.get("hardware"),
        "Git commit": record.get("commit"),
        "Command": f"`{record.get('command')}`",
        "Recipe SHA-256": record.get("recipe_sha256"),
        "Packages": ", ".join(f"{name} {version}" for name, version in record.get("packages", {}).items()),
        "Clips left out (unreadable)": record.get("num_bad_clips", 0),
    }
    if before := record.get("started_from"):
        facts["Started from"] = (
            f"commit {before.get('commit')}, recipe SHA-256 {before.get('recipe_sha256')}, "
            f"{before.get('train_minutes', 0):.1f} minutes, `{before.get('command')}`"
        )
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: any-to-any",
            *([f"license: {recipe.export.license}"] if recipe.export.license else []),
            "tags: [mirasol, video, audio, question-answering]",
            "---",
            f"# Mirasol, {f'{recipe.model.preset}, ' if recipe.model.preset else ''}trained on {tasks}",
            "",
            f"Answers questions about a clip from its picture and its sound. It was trained {origin} on the data "
            "below and knows only their questions and words: asked anything else, it answers with the words it "
            "knows.",
            "",
            "## Validation",
            "Share of generated answers that match exactly on the val split, and errors in seconds. "
            f"`{recipe.validation.metric}` chose this checkpoint among those of its run, on val alone.",
            "",
            *_table(record.get("validation", {}), recipe.validation.conditions),
            "",
            "## How it was made",
            *(f"- {name}: {value}" for name, value in facts.items()),
            "",
            "```yaml",
            to_yaml(recipe).rstrip(),
            "```",
            "",
        ]
    )


def _table(metrics: dict[str, Any], conditions: Sequence[str]) -> list[str]:
    """Rows of a Markdown table: one line a metric, one column a condition; metrics of no condition stand below."""
    cells: dict[str, dict[str, Any]] = {}
    for name, value in metrics.items():
        condition = next((condition for condition in conditions if name.endswith(f"_{condition}")), None)
        if condition is not None and not name.endswith(f"bad_clips_{condition}"):
            cells.setdefault(name.removesuffix(f"_{condition}"), {})[condition] = value
    shown = [
        f"| {name} | " + " | ".join("-" if values.get(c) is None else f"{values[c]:.4f}" for c in conditions) + " |"
        for name, values in cells.items()
    ]
    whole = [f"- {name}: {value:.4f}" for name, value in metrics.items() if name.startswith("mean_")]
    return [f"| metric | {' | '.join(conditions)} |", "|---" * (len(conditions) + 1) + "|", *shown, "", *whole]
