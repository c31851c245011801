"""`mirasol train RECIPE --dry-run`: cost of a run in FLOPs, memory and hours, before any clip is read."""

from __future__ import annotations

from pathlib import Path

from mirasol.answer.checkpoint import folder_of
from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import preset
from mirasol.model.sizes import build, measure, parameters_by_part
from mirasol.results import Document, Result
from mirasol.settings import reject_unknown_fields, values_that_fit
from mirasol.train.adapt import adapt
from mirasol.train.changed import changed_config
from mirasol.train.memory import peak_bytes, state_bytes
from mirasol.train.recipe import load_recipe
from mirasol.train.recipe_schema import Recipe
from mirasol.train.resolve import DEFAULT_PRESET, resolve

# Name: bf16 matrix products in TFLOP/s (dense, the maker's number), memory in GiB.
GPUS = {
    "h200": (989, 141), "h100": (989, 80), "a100": (312, 80), "a100-40": (312, 40), "l40s": (362, 48),
    "rtx4090": (165, 24), "rtx3090": (71, 24), "t4": (65, 16),
}  # fmt: skip
GIB = 2**30
RESERVE = 1.10  # of the sum, for blocks that the allocator cannot fill, workspaces, and the formula's own error (10 %)
# Of the maker's number, recomputation counted, measured on an H100 for 3b: recomputed and compiled, batch 24. Not
# compiled 0.40; base, not compiled, 0.24 with recomputation and 0.18 without. Compiled without it: not measured.
UTILISATION = 0.49


class Memory(Result):
    """GiB of one GPU at the peak of a step (`mirasol.train.memory`)."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    total: float
    available: float


class Plan(Document):
    """Cost of a recipe on `num_gpus` GPUs; hours are None where the number of clips is not known."""

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
    memory: Memory
    fits: bool
    largest_batch: int
    num_clips: int | None
    num_steps: int | None
    hours: float | None

    def __str__(self) -> str:
        memory = self.memory
        lines = [
            f"{self.recipe}: {self.model}, {self.parameters / 1e6:,.1f} M parameters, "
            f"{self.trained_parameters / 1e6:,.1f} M trained",
            "  " + ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in self.parts.items()),
            f"a step: {self.clips_per_step} clips of {self.frames_per_clip} frames and {self.text_tokens} tokens on "
            f"{self.num_gpus} x {self.gpu}{f' in {self.shards} shards' if self.shards > 1 else ''}, "
            f"{self.tflop_per_step:,.4g} TFLOP, {self.seconds_per_step:.3g} s at {self.utilisation:.0%} of the peak",
            f"memory of a GPU, GiB: weights {memory.weights:.2f}, gradients {memory.gradients:.2f}, optimizer "
            f"{memory.optimizer:.2f}, average {memory.average:.2f}, activations {memory.activations:.2f} "
            f"at the peak of a step; with reserve {memory.total:.2f} of {memory.available:.0f}",
        ]
        if not self.fits:
            lines.append(f"DOES NOT FIT: {self._remedy()}")
        if self.hours is None:
            lines.append("hours: not known without data; pass --clips N")
        else:
            lines.append(f"{self.num_clips:,} clips, {self.num_steps:,} steps: {self.hours:,.3g} hours")
        return "\n".join(lines)

    def _remedy(self) -> str:
        if self.largest_batch:
            return f"schedule.batch_size={self.largest_batch} does (and gradient_accumulation_steps keeps the step)."
        return (
            "not even a batch of 1. Set model.recompute_every=1 and optimizer.ema_decay=null, shard the weights over "
            "more GPUs (--gpus, parallel.shard), or take a larger one."
        )


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
        utilisation: share of the GPU's peak that training reaches, recomputation counted; by default what was
            measured for 3b (`benchmarks/gpu.py`), and smaller models reach less.
        num_clips: clips of an epoch, where the recipe does not say (`data.sources.N.clips_per_epoch`).
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
    shards = shards_of(recipe, model, num_gpus, GPUS[gpu][1])
    batch = recipe.schedule.batch_size
    available = GPUS[gpu][1] * GIB

    def held(clips: int) -> dict[str, float]:
        return peak_bytes(model, recipe, clips, (chunks, tokens * questions), kept, shards)

    def total(clips: int) -> float:
        return RESERVE * sum(held(clips).values())

    clips_per_step = batch * recipe.schedule.gradient_accumulation_steps * num_gpus
    # Backward is twice forward: also for frozen weights behind trained ones, so this is an upper bound.
    recomputed = flops / recipe.model.recompute_every if recipe.model.recompute_every else 0
    seconds = clips_per_step * (3 * flops + recomputed) / (num_gpus * GPUS[gpu][0] * 1e12 * utilisation)
    named = [source.clips_per_epoch for source in recipe.data.sources]
    clips = num_clips or (sum(filter(None, named)) if all(named) else None)
    epochs = recipe.schedule.pretrain_epochs + recipe.schedule.finetune_epochs
    steps = None if clips is None else clips // clips_per_step * epochs
    parts = parameters_by_part(model)
    memory = {name: value / GIB for name, value in held(batch).items()}
    return Plan(
        recipe=str(recipe_path), model=recipe.model.checkpoint or str(recipe.model.preset),
        parameters=parts.pop("total"), parts=parts,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        gpu=gpu, num_gpus=num_gpus, shards=shards, clips_per_step=clips_per_step,
        frames_per_clip=chunks * config.num_frames_per_chunk, text_tokens=tokens * questions,
        tflop_per_step=clips_per_step * 3 * flops / 1e12, utilisation=utilisation, seconds_per_step=seconds,
        memory=Memory(**memory, total=total(batch) / GIB, available=available / GIB),
        fits=total(batch) <= available,
        largest_batch=next((size for size in range(batch, 0, -1) if total(size) <= available), 0),
        num_clips=clips, num_steps=steps, hours=None if steps is None else steps * seconds / 3600,
    )  # fmt: skip


def planned_config(recipe: Recipe) -> MirasolConfig:
    """Return the model's config: the checkpoint's or the preset's, with overrides and the processor's vocabulary."""
    if recipe.model.checkpoint is not None:
        folder = folder_of(recipe.model.checkpoint)
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"Recipe key model.checkpoint expects a checkpoint, found no config.json in {folder}: train it first, "
                "or plan with model.checkpoint=null model.preset=NAME."
            )
        return changed_config(str(folder), recipe.model)
    overrides = recipe.model.overrides
    reject_unknown_fields(overrides, "model.overrides.")
    if (vocab_size := recipe.processor.vocab_size) is not None:
        overrides = {**overrides, "text_config": {**overrides.get("text_config", {}), "vocab_size": vocab_size}}
    with values_that_fit():
        return preset(recipe.model.preset or DEFAULT_PRESET, **overrides)


def shards_of(recipe: Recipe, model: MirasolForConditionalGeneration, num_gpus: int, gib: int) -> int:
    """Return over how many GPUs the weights are split: the recipe's number, else a machine's 8 if they must be."""
    wanted = recipe.parallel.shard
    if wanted is None:
        state: float = sum(state_bytes(model, recipe, 1).values())
        wanted = min(num_gpus, 8) if state > 0.5 * gib * GIB else 1
    if num_gpus % wanted:
        raise ValueError(
            f"Expected a number of GPUs that is a multiple of the {wanted} shards, found {num_gpus}: change --gpus or "
            "parallel.shard."
        )
    return wanted
