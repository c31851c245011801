"""The run folder: recipe, commit, packages, hardware and data of a run, written before step 0."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mirasol.files import write_whole
from mirasol.tasks import Row
from mirasol.train.parallel import Layout, num_processes, share_of_step
from mirasol.train.recipe import flatten, load_recipe, to_yaml
from mirasol.train.recipe_schema import Recipe

PACKAGES = ("mirasol", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "av", "numpy")
CHECKPOINT_PREFIX = "checkpoint-"
LAUNCHES = "environment.json"
PROCESSOR = "processor"
# These keys do not change what a run computes, so a resumed run may have other values.
FREE_TO_CHANGE = {
    "output", "device", "logging_steps", "save_steps", "schedule.time_limit_minutes", "data.cache", "data.num_workers",
    "parallel.data", "parallel.shard",
    "export.dtype", "export.license", "model.compile", "model.recompute_every", "report_to", "validation.samples",
}  # fmt: skip


def check_run(recipe: Recipe) -> None:
    """Raise ValueError for a run folder of another recipe, or if these processes cannot divide its steps evenly."""
    folder = Path(recipe.output)
    if (folder / "recipe.yaml").is_file():
        _require_same(recipe, folder / "recipe.yaml")
    begun = begun_with(folder)
    if begun != num_processes():
        share_of_step(recipe.schedule.batch_size, recipe.schedule.gradient_accumulation_steps, begun, num_processes())


def begun_with(folder: Path) -> int:
    """Return the number of processes that the run began with, each of which took `schedule.batch_size` clips."""
    launches = _launches(folder) if is_begun(folder) else []
    return launches[-1].get("begun_with", launches[-1]["num_processes"]) if launches else num_processes()


def check_data(folder: Path, data: dict[str, Any]) -> None:
    """Raise ValueError if the rows changed since the run began, because its epochs would have other clips."""
    written = folder / "data.json"
    if not is_begun(folder) or not written.is_file():
        return
    began = json.loads(written.read_text(encoding="utf-8"))
    for name in sorted(began | data):
        then, now = began.get(name) or {}, data.get(name) or {}
        if not (then and now) or any(now.get(key) != value for key, value in then.items()):  # older runs lack "crops"
            described = [
                f"{rows['clips']} clips with {rows['questions']} questions" if rows else "nothing"
                for rows in (then, now)
            ]
            raise ValueError(
                f"{folder} holds a run on other data: {name} had {described[0]} when it began, and has {described[1]} "
                "now, or texts or files differ. Restore the data, or begin a new run from it with "
                f"output=NEW_FOLDER model.checkpoint={folder / 'best'}."
            )


def describe_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the number of clips and questions, and a hash of their ids, files and texts."""
    texts: list[list[Any]] = [
        [row.id, row.media.name, row.segment, [[q.text, q.answer] for q in row.questions]] for row in rows
    ]
    texts += [[row.id, [part.media.name for part in row.parts]] for row in rows if row.parts]
    return {
        "clips": len(rows),
        "questions": sum(len(row.questions) for row in rows),
        "sha256": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "crops": hashlib.sha256(json.dumps([row.crop for row in rows]).encode()).hexdigest(),
    }


def is_begun(folder: Path) -> bool:
    """True if the run folder has a checkpoint to resume from."""
    return bool(find_checkpoints(folder / "checkpoints"))


def written_bf16(recipe: Recipe) -> bool | None:
    """Return whether the run in the recipe's folder computes in bfloat16, None where there is no run."""
    written = Path(recipe.output) / "recipe.yaml"
    return load_recipe(written).bf16 if written.is_file() else None


def open_run(
    recipe: Recipe, processor: Any = None, data: dict[str, Any] | None = None, layout: Layout | None = None
) -> Path:
    """Write recipe, environment, rows (data.json) and processor into the run folder; return it.

    The processor is saved at the start, because a resumed run must have the same tokens.
    """
    check_run(recipe)
    folder = Path(recipe.output)
    written = folder / "recipe.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "checkpoints.partial", ignore_errors=True)
    write_whole(written, to_yaml(recipe))
    launch = environment() | {"begun_with": begun_with(folder), "layout": str(layout or "one process")}
    write_whole(folder / LAUNCHES, json.dumps([*_launches(folder), launch], indent=2) + "\n")
    if not is_begun(folder):
        write_whole(folder / "data.json", json.dumps(data or {}, indent=2) + "\n")
        if processor is not None:
            processor.save_pretrained(folder / PROCESSOR)
    return folder


def _launches(folder: Path) -> list[dict[str, Any]]:
    file = folder / LAUNCHES
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest step first."""
    found = folder.glob(f"{CHECKPOINT_PREFIX}*")
    return sorted((each for each in found if each.name.removeprefix(CHECKPOINT_PREFIX).isdigit()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step at which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix(CHECKPOINT_PREFIX))


def recipe_hash(recipe: Recipe) -> str:
    """Return the SHA-256 of the keys that change what a run computes."""
    values = {key: value for key, value in flatten(recipe).items() if key not in FREE_TO_CHANGE}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Return commit, command line, package versions, hardware and time of this launch."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "hardware": hardware(),
        "num_threads": torch.get_num_threads(),
        "num_processes": num_processes(),
    }


def commit() -> str:
    """Return the git commit of this source, with "+changes" if tracked files differ; "unknown" outside a checkout."""
    folder = str(Path(__file__).resolve().parent)
    git = ["git", "-C", folder, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """Return the name of the device that this process trains on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s) used)"


def _require_same(recipe: Recipe, written: Path) -> None:
    # Read as recipes, so that a key newer than the run has its default.
    now, then = (flatten(each) for each in (recipe, load_recipe(written)))
    differing = [key for key in sorted(now | then) if now.get(key) != then.get(key) and key not in FREE_TO_CHANGE]
    if differing:
        listed = ", ".join(f"{key} ({then.get(key)!r} there, {now.get(key)!r} now)" for key in differing)
        best = written.parent / "best"
        longer = best.is_dir() and any(key.endswith("_epochs") for key in differing)
        raise ValueError(
            f"{written.parent} holds a run of another recipe; it differs in {listed}. "
            "Give a new folder with output=..., or delete the old one."
            + f" To train longer, begin from it: model.checkpoint={best} output=NEW; epochs count anew."
            * longer
        )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
