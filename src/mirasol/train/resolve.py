"""Fill in the keys that a recipe leaves out, from checkpoint, preset, shared keys and hardware."""

from __future__ import annotations

from typing import Any

import torch

from mirasol import MirasolProcessor  # not from mirasol.chunks, because only this import registers its parts
from mirasol.answer.checkpoint import folder_of
from mirasol.chunks.agreement import grid_of_chunk
from mirasol.features.image_processing_mirasol import check_crop
from mirasol.model.presets import preset
from mirasol.train.recipe_schema import ProcessorRecipe, Recipe
from mirasol.train.validation import main_metric

DEFAULT_PRESET = "nano"
NEW_PROCESSOR = ProcessorRecipe(
    crop_fraction=1.0, crop_center=(0.5, 0.5), max_chunks=10, vocab_size=512, model_max_length=64
)


def resolve(recipe: Recipe) -> Recipe:
    """Return the recipe with preset, processor sizes, per-source settings and bf16 filled in."""
    data = recipe.data
    sources = [
        source.model_copy(
            update={
                "conditions": source.conditions or recipe.validation.conditions,
                "augmentation": source.augmentation or data.augmentation,
            }
        )
        for source in data.sources
    ]
    preset_name = None if recipe.model.checkpoint else recipe.model.preset or DEFAULT_PRESET
    sizes = _default_sizes(recipe, preset_name)
    kept = {"vocab_size"} if recipe.model.checkpoint else None
    chosen = recipe.processor.model_dump(exclude_none=True, exclude=kept)
    return recipe.model_copy(
        update={
            "bf16": has_bf16(recipe.device) if recipe.bf16 is None else recipe.bf16,
            "validation": recipe.validation.model_copy(
                update={"metric": recipe.validation.metric or main_metric(recipe.data.sources)}
            ),
            "model": recipe.model.model_copy(update={"preset": preset_name}),
            "processor": sizes.model_copy(update=chosen),
            "data": data.model_copy(update={"sources": tuple(sources)}),
        }
    )


def _default_sizes(recipe: Recipe, preset_name: str | None) -> ProcessorRecipe:
    given = recipe.processor
    if preset_name is not None:
        named = preset(preset_name)
        num_frames = given.num_frames_per_chunk or named.num_frames_per_chunk
        num_mel_frames = given.num_mel_frames_per_chunk or named.num_mel_frames_per_chunk
        sizes = {
            **grid_of_chunk(num_frames, num_mel_frames),
            "num_mel_bins": named.num_mel_bins,
            "image_size": named.image_size,
        }
        return NEW_PROCESSOR.model_copy(update=sizes)
    assert recipe.model.checkpoint is not None, "without a preset there is a checkpoint"
    default = sizes_of(saved_processor(recipe.model.checkpoint))
    for name in ("vocab_size", "model_max_length"):
        wanted, kept = getattr(given, name), getattr(default, name)
        # A trained vocabulary may have fewer tokens than the recipe allows.
        if wanted is not None and (wanted < kept if name == "vocab_size" else wanted != kept):
            raise ValueError(
                f"Recipe key processor.{name} is {wanted}, but the tokenizer of {recipe.model.checkpoint} has "
                f"{kept} and is kept: leave the key out, or set processor.{name}=null."
            )
    return default


def has_bf16(device: str = "auto") -> bool:
    """True if the hardware has bfloat16 instructions; a CPU that emulates them is 20 times slower."""
    if torch.cuda.is_available() and device != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def sizes_of(processor: MirasolProcessor) -> ProcessorRecipe:
    """Return the processor's grid and sizes, as a recipe states them."""
    held = {name: getattr(owner, name) for owner, names in _owners(processor) for name in names}
    crop_center, tokenizer = tuple(held.pop("crop_center")), processor.tokenizer
    return ProcessorRecipe(
        **held, crop_center=crop_center, vocab_size=len(tokenizer), model_max_length=tokenizer.model_max_length
    )


def _owners(processor: MirasolProcessor) -> list[tuple[Any, tuple[str, ...]]]:
    """Return the parts of a processor, each with the recipe's keys that are its attributes."""
    return [
        (processor, ("frames_per_second", "num_frames_per_chunk", "num_mel_frames_per_chunk", "max_chunks")),
        (processor.image_processor, ("image_size", "crop_fraction", "crop_center")),
        (processor.feature_extractor, ("num_mel_bins",)),
    ]


def saved_processor(checkpoint: str) -> MirasolProcessor:
    """Return the processor of a checkpoint: a folder, "shipped", or a name on the Hub, which has one slash."""
    if not folder_of(checkpoint).is_dir() and checkpoint.count("/") != 1:
        raise ValueError(
            f"Recipe key model.checkpoint expects a folder, found nothing at {checkpoint}: train or copy the "
            "checkpoint there, or name another one (model.checkpoint=shipped is the one that comes with mirasol)."
        )
    return MirasolProcessor.from_pretrained(folder_of(checkpoint))


def changed_processor(processor: MirasolProcessor, sizes: ProcessorRecipe) -> MirasolProcessor:
    """Return a checkpoint's processor with the recipe's grid, crop and budget; its tokenizer and colours stay.

    Afterwards `check_model_config` refuses values that do not fit the model.
    """
    check_crop(sizes.crop_fraction or 0.0, sizes.crop_center or ())
    for owner, names in _owners(processor):
        for name in names:
            value = getattr(sizes, name)
            setattr(owner, name, list(value) if isinstance(value, tuple) else value)
    return processor
