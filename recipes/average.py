"""Write the mean of the weights of several checkpoints (arXiv 2203.05482).

The recipe of the last one validates it:

    python recipes/average.py runs/robust_nano_2/best runs/robust_nano_3/best runs/average
"""

import json
import sys
from pathlib import Path

import torch

from mirasol.answer.checkpoint import load_checkpoint
from mirasol.answer.known_questions import KnownQuestions
from mirasol.evaluate import runner
from mirasol.train.export import export
from mirasol.train.recipe import load_recipe
from mirasol.train.resolve import resolve
from mirasol.train.validation import build_validation


def average(checkpoints: list[Path], output: Path) -> dict[str, float]:
    """Write the checkpoint and return its validation."""
    weights = [load_checkpoint(folder)[0].state_dict() for folder in checkpoints]
    model, processor = load_checkpoint(checkpoints[-1])
    model.load_state_dict({name: torch.stack([each[name] for each in weights]).mean(0) for name in weights[0]})
    recipe = resolve(load_recipe(checkpoints[-1] / "recipe.yaml"))
    rows = {source: runner.load_rows(source.task, source.root, source.val_split) for source in recipe.data.sources}
    *others, last = [json.loads((folder / "training.json").read_text(encoding="utf-8")) for folder in checkpoints]
    averaged = [{name: value for name, value in each.items() if name != "validation"} for each in others]
    record = {**last, "averaged_with": averaged, "validation": build_validation(recipe, processor, rows)(model)}
    known = KnownQuestions.load(checkpoints[-1])
    export(model, processor, output, recipe=recipe, record=record, known_questions=known)
    return record["validation"]


if __name__ == "__main__":
    *folders, target = map(Path, sys.argv[1:])
    for name, value in average(folders, target).items():
        print(f"{name:<50} {value:.4f}")
