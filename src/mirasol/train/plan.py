"""`mirasol train RECIPE --dry-run`: cost of a run in FLOPs, memory and hours, before any clip is read."""

from __future__ import annotations

from pathlib import Path

from mirasol.answer.checkpoint import folder_of
from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.presets import preset
from mirasol.model.sizes import build, measure, parameters_by_part
from mirasol.results import Document
from mirasol.settings import reject_unknown_fields, values_that_fit
from mirasol.train.adapt import adapt
from mirasol.train.changed import changed_config
from mirasol.train.memory import peak_bytes
from mirasol.train.parallel import choose_layout
from mirasol.train.recipe import load_recipe
from mirasol.train.recipe_schema import Recipe
from mirasol.train.resolve import DEFAULT_PRESET, resolve

# Name: bf16 matrix products in TFLOP/s (dense, the maker's number), memory in GiB.
GPUS = {
    "h200": (989, 141), "h100": (989, 80), "a100": (312, 80), "a100-40": (312, 40), "l40s": (362, 48),
    "rtx4090": (165, 24), "rtx3090": (71, 24), "t4": (65, 16),
}  # fmt: skip
GIB = 2**30
RESERVE = 1.10  # factor for blocks that the allocator cannot fill, workspaces, and the formula's error (10 %)
# Share of the maker's number, recomputation counted, that 3b reached on an H100, recomputed and compiled, batch 24.
# Not compiled 0.40; base, not compiled, 0.24 with recomputation and 0.18 without. Compiled without it: not measured.
UTILISATION = 0.49


class Plan(Document):
    """Cost of a recipe on `num_gpus` GPUs; hours are None where the number of clips is not known.

    `memory` is in GiB: parts of one GPU's at the peak of a step, their `total` with the reserve, and the `available`.
    """

    recipe: str
    model: str
    parameters: int
    trained_parameters: int
    parts: dict[str, int]
    gpu: str
    num_gpus: int
    shards: int
    clips_per_step: int
    frames_per_clip: int
    text_tokens: int
    tflop_per_step: float
    utilisation: float
    seconds_per_step: float
    memory: dict[str, float]
    fits: bool
    largest_batch: int
    num_clips: int | None
    num_steps: int | None
    hours: float | None

    def __str__(self) -> str:
        *parts, (_, total), (_, available) = self.memory.items()
        lines = [
            f"{self.recipe}: {self.model}, {self.parameters / 1e6:,.1f} M parameters, "
            f"{self.trained_parameters / 1e6:,.1f} M trained",
            "  " + ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in self.parts.items()),
            f"a step: {self.clips_per_step} clips of {self.frames_per_clip} frames and {self.text_tokens} tokens on "
            f"{self.num_gpus} x {self.gpu}{f' in {self.shards} shards' if self.shards > 1 else ''}, "
            f"{self.tflop_per_step:,.4g} TFLOP, {self.seconds_per_step:.3g} s at {self.utilisation:.0%} of the peak",
            f"memory of a GPU at the peak of a step, GiB: {', '.join(f'{name} {gib:.2f}' for name, gib in parts)}; "
            f"with reserve {total:.2f} of {available:.0f}",
        ]
        if not self.fits and self.largest_batch:
            lines.append(
                f"DOES NOT FIT: schedule.batch_size={self.largest_batch} does (and gradient_accumulation_steps keeps "
                "the step)."
            )
        elif not self.fits:
            lines.append(
                "DOES NOT FIT: not even a batch of 1. Set model.recompute_every=1 and optimizer.ema_decay=null, shard "
                "the weights over more GPUs (--gpus, parallel.shard), or take a larger one."
            )
        if self.hours is None:
            lines.append("hours: not known without data; pass --clips N")
        else:
            lines.append(f"{self.num_clips:,} clips, {self.num_steps:,} steps: {self.hours:,.3g} hours")
        return "\n".join(lines)


def plan(
    recipe_path: str | Path,
    overrides: list[str] | tuple[str, ...] = (),
    num_gpus: int = 1,
    gpu: str = "h100",
    utilisation: float = UTILISATION,
    num_clips: int | None = None,
) -> Plan:
    """Return the cost of a recipe; the model is built on the meta device, and no data are read.

    Args:
        utilisation: Share of the GPU's peak that training reaches, recomputation counted; by default the measured
            share of 3b (`benchmarks/gpu.py`). Smaller models reach less.
        num_clips: Clips of an epoch, where the recipe does not state them (`data.sources.N.clips_per_epoch`).
    """
    if gpu not in GPUS:
        raise ValueError(f"Expected --gpu to be one of {', '.join(GPUS)}, found {gpu!r}.")
    if num_gpus < 1 or not 0 < utilisation <= 1:
        raise ValueError(
            f"Expected --gpus of at least 1 and --utilisation in (0, 1], found {num_gpus} and {utilisation:g}."
        )
    recipe = load_recipe(recipe_path, overrides)
    config = planned_config(recipe)
    recipe = resolve(recipe)
    model = build(config)
    adapt(model, recipe.model)
    chunks, tokens = recipe.processor.max_chunks or 1, recipe.processor.model_max_length or 1
    questions = max(source.questions_per_clip or 1 for source in recipe.data.sources)
    flops, kept = measure(model, chunks, tokens * questions)
    parts = parameters_by_part(model)
    peak, gib = GPUS[gpu]
    shards = choose_layout(recipe.parallel, parts["total"], gib * GIB, num_gpus, min(num_gpus, 8)).shard
    batch = recipe.schedule.batch_size

    def held(clips: int) -> dict[str, float]:
        parts = peak_bytes(model, recipe, clips, (chunks, tokens * questions), kept, shards)
        return {name: value / GIB for name, value in parts.items()} | {"total": RESERVE * sum(parts.values()) / GIB}

    clips_per_step = batch * recipe.schedule.gradient_accumulation_steps * num_gpus
    # Backward costs twice forward. Frozen weights are counted as trained ones, so this is an upper bound.
    recomputed = flops / recipe.model.recompute_every if recipe.model.recompute_every else 0
    seconds = clips_per_step * (3 * flops + recomputed) / (num_gpus * peak * 1e12 * utilisation)
    named = [source.clips_per_epoch for source in recipe.data.sources]
    clips = num_clips or (sum(filter(None, named)) if all(named) else None)
    epochs = recipe.schedule.pretrain_epochs + recipe.schedule.finetune_epochs
    steps = None if clips is None else clips // clips_per_step * epochs
    largest = next((size for size in range(batch, 0, -1) if held(size)["total"] <= gib), 0)
    return Plan(
        recipe=str(recipe_path), model=recipe.model.checkpoint or str(recipe.model.preset),
        parameters=parts.pop("total"), parts=parts,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        gpu=gpu, num_gpus=num_gpus, shards=shards, clips_per_step=clips_per_step,
        frames_per_clip=chunks * config.num_frames_per_chunk, text_tokens=tokens * questions,
        tflop_per_step=clips_per_step * 3 * flops / 1e12, utilisation=utilisation, seconds_per_step=seconds,
        memory=held(batch) | {"available": gib}, fits=largest == batch, largest_batch=largest,
        num_clips=clips, num_steps=steps, hours=None if steps is None else steps * seconds / 3600,
    )  # fmt: skip


def planned_config(recipe: Recipe) -> MirasolConfig:
    """Return the model's config: the checkpoint's or the preset's, with overrides and the processor's vocabulary."""
    if recipe.model.checkpoint is not None:
        folder = folder_of(recipe.model.checkpoint)
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"Recipe key model.checkpoint expects a checkpoint, found no config.json in {folder}: train one "
                "first, or plan with model.checkpoint=null model.preset=NAME."
            )
        return changed_config(str(folder), recipe.model)
    overrides = recipe.model.overrides
    reject_unknown_fields(overrides, "model.overrides.")
    if (vocab_size := recipe.processor.vocab_size) is not None:
        overrides = {**overrides, "text_config": {**overrides.get("text_config", {}), "vocab_size": vocab_size}}
    with values_that_fit():
        return preset(recipe.model.preset or DEFAULT_PRESET, **overrides)
