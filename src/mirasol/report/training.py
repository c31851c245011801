"""Page of a training run: curves of losses and validation, and sample answers, from the files in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirasol.files import write_whole
from mirasol.report.page import render

CURVES = {  # besides the validation metrics
    "loss": "loss (weighted sum)", "text_loss": "text loss", "latent_loss": "latent loss (next chunk's features)",
    "video_loss": "video loss (next chunk's picture)", "audio_loss": "audio loss (next chunk's sound)",
    "learning_rate": "learning rate", "grad_norm": "gradient norm", "clips_per_second": "clips per second",
    "loader_wait_share": "share of time waiting for clips", "effective_rank": "effective rank of the features",
}  # fmt: skip


def write_training_report(folder: Path) -> Path:
    """Write `report.html` into a run folder, during the run or after it."""
    lines = read_lines(folder / "metrics.jsonl")
    recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
    launches = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    last = lines[-1] if lines else {}
    validated = [line for line in lines if "eval_seconds" in line]
    names = sorted({name for line in validated for name in line if name.startswith("eval_mean_")})
    facts = {
        "steps": f"{last.get('step', 0):,}",
        "epochs": f"{last.get('epoch', 0.0):.1f}",
        "minutes": f"{last.get('minutes', 0.0):.1f}",
        "validations": len(validated),
        "launches": len(launches),
        "process(es)": launches[-1]["num_processes"],
    }
    page = render(
        "training.html",
        checkpoint=str(folder),
        title=folder.name,
        facts=facts,
        curves={
            **{name.removeprefix("eval_").replace("_", " "): series(validated, name) for name in names},
            **{title: series(lines, name) for name, title in CURVES.items() if series(lines, name)},
        },
        **samples_side_by_side(read_lines(folder / "samples.jsonl")),
        hardware=launches[-1]["hardware"],
        recipe=recipe,
    )
    write_whole(folder / "report.html", page)
    return folder / "report.html"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a growing JSONL file, without an incomplete last line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def series(lines: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of every line with a value."""
    return [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]


def samples_side_by_side(validations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first, middle and last validated step, and each question with its answer at these steps."""
    by_step = {entry["step"]: entry["samples"] for entry in validations}  # of a repeated step, the last validation
    steps = sorted(by_step)
    steps = sorted({steps[i] for i in (0, len(steps) // 2, -1)}) if steps else []
    rows: dict[tuple, dict[str, Any]] = {}
    for step in steps:
        for sample in by_step[step]:
            key = sample["source"], sample["condition"], sample["id"]
            rows.setdefault(key, {**sample, "said": {}})["said"][step] = sample["generated"]
    return {"steps": steps, "samples": list(rows.values())}
