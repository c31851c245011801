"""From a recipe to the parts of a run: tokenizer, processor, model, training clips, and validation by generation."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig

from mirasol.chunks import MirasolCollator, MirasolProcessor
from mirasol.data import ClipCache, ClipDataset, ClipMixture
from mirasol.evaluate import runner
from mirasol.evaluate.conditions import Condition
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from mirasol.media import Clip
from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import preset
from mirasol.tasks import Row, get_task
from mirasol.train.adapt import adapt
from mirasol.train.recipe import ProcessorRecipe, Recipe, SourceRecipe, reject_unknown
from mirasol.train.tokenizer import build_tokenizer

SECONDS_PER_MEL_FRAME = 0.01
NEW_PROCESSOR = ProcessorRecipe(
    crop_fraction=1.0, crop_center=(0.5, 0.5), max_chunks=10, vocab_size=512, model_max_length=64
)


def build_parts(recipe: Recipe) -> dict[str, Any]:
    """Everything `fit` needs, by the names of its arguments."""
    check_validation(recipe)
    sources = recipe.data.sources(recipe.validation.conditions)
    train_rows, val_rows = {}, {}
    for source in sources:
        train_rows[source] = runner.load_rows(source.task, source.root, source.train_split)
        train_rows[source] = train_rows[source][: recipe.data.max_train_clips]
        val_rows[source] = runner.load_rows(source.task, source.root, source.val_split)[: recipe.validation.max_clips]
        _require_apart(train_rows[source], val_rows[source], source.root)
    if recipe.model.checkpoint is None:
        texts = [text for source in sources for text in training_texts(recipe, source.task, train_rows[source])]
        processor = build_processor(recipe, texts)
        config = model_config(recipe, processor)
        config._attn_implementation = recipe.model.attn_implementation
        model = MirasolForConditionalGeneration(config)
    else:
        processor = changed_processor(MirasolProcessor.from_pretrained(recipe.model.checkpoint), recipe.processor)
        model = MirasolForConditionalGeneration.from_pretrained(
            recipe.model.checkpoint, dtype="float32", attn_implementation=recipe.model.attn_implementation
        )
    processor.check_model_config(model.config)
    adapt(model, recipe.model)
    datasets = [
        ClipDataset(
            train_rows[source],
            get_task(source.task),
            processor,
            recipe.data.cache,
            augment=source.augmentation,
            seed=recipe.seed,
            questions_per_clip=source.questions_per_clip,
            clips_per_epoch=source.clips_per_epoch,
        )
        for source in sources
    ]
    return {
        "model": model,
        "processor": processor,
        "train_dataset": ClipMixture(datasets) if len(datasets) > 1 else datasets[0],
        "collator": MirasolCollator(processor.pad_token_id),
        "validate": build_validation(recipe, processor, val_rows),
    }


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to the checkpoint or preset (sizes of the processor) and to the hardware (bf16)
    written out."""
    given = recipe.processor
    if recipe.model.checkpoint is None:
        named = preset(recipe.model.preset)
        num_frames = given.num_frames_per_chunk or named.num_frames_per_chunk
        num_mel_frames = given.num_mel_frames_per_chunk or named.num_mel_frames_per_chunk
        default = replace(
            NEW_PROCESSOR,
            num_frames_per_chunk=num_frames,
            num_mel_frames_per_chunk=num_mel_frames,
            frames_per_second=num_frames / (num_mel_frames * SECONDS_PER_MEL_FRAME),
            num_mel_bins=named.num_mel_bins,
            image_size=named.image_size,
        )
    else:
        default = sizes_of(MirasolProcessor.from_pretrained(recipe.model.checkpoint))
    chosen = {name: value for name, value in asdict(given).items() if value is not None}
    for name in ("vocab_size", "model_max_length"):
        if recipe.model.checkpoint is not None and chosen.get(name, getattr(default, name)) != getattr(default, name):
            raise ValueError(
                f"Recipe key processor.{name} is {chosen[name]}, but the tokenizer of {recipe.model.checkpoint} has "
                f"{getattr(default, name)} and is kept: leave the key out."
            )
    sizes = replace(default, **chosen)
    return replace(recipe, processor=sizes, bf16=has_bf16(recipe.device) if recipe.bf16 is None else recipe.bf16)


def has_bf16(device: str = "auto") -> bool:
    """Whether training has bfloat16 at full speed here; a CPU that only imitates it is 20 times slower in it."""
    if torch.cuda.is_available() and device != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def sizes_of(processor: MirasolProcessor) -> ProcessorRecipe:
    """The processor's grid and sizes, as a recipe states them."""
    image, tokenizer = processor.image_processor, processor.tokenizer
    return ProcessorRecipe(
        frames_per_second=processor.frames_per_second,
        num_frames_per_chunk=processor.num_frames_per_chunk,
        num_mel_frames_per_chunk=processor.num_mel_frames_per_chunk,
        num_mel_bins=processor.feature_extractor.num_mel_bins,
        image_size=image.image_size,
        crop_fraction=image.crop_fraction,
        crop_center=(image.crop_center[0], image.crop_center[1]),
        max_chunks=processor.max_chunks,
        vocab_size=len(tokenizer),
        model_max_length=tokenizer.model_max_length,
    )


def changed_processor(processor: MirasolProcessor, sizes: ProcessorRecipe) -> MirasolProcessor:
    """A checkpoint's processor with the recipe's grid, crop and budget; its tokenizer and colours stay.

    What the model cannot follow is refused afterwards, by `check_model_config`.
    """
    for name in ("frames_per_second", "num_frames_per_chunk", "num_mel_frames_per_chunk", "max_chunks"):
        setattr(processor, name, getattr(sizes, name))
    processor.image_processor.image_size = sizes.image_size
    processor.image_processor.crop_fraction = sizes.crop_fraction
    processor.image_processor.crop_center = list(sizes.crop_center or ())
    processor.feature_extractor.num_mel_bins = sizes.num_mel_bins
    return processor


def build_processor(recipe: Recipe, texts: Sequence[str]) -> MirasolProcessor:
    """The processor with the recipe's grid and sizes, and a tokenizer made from the training texts."""
    sizes = recipe.processor
    return MirasolProcessor(
        image_processor=MirasolVideoProcessor(sizes.image_size, sizes.crop_fraction, sizes.crop_center),
        feature_extractor=MirasolFeatureExtractor(num_mel_bins=sizes.num_mel_bins),
        tokenizer=build_tokenizer(texts, sizes.vocab_size, sizes.model_max_length),
        frames_per_second=sizes.frames_per_second,
        num_frames_per_chunk=sizes.num_frames_per_chunk,
        num_mel_frames_per_chunk=sizes.num_mel_frames_per_chunk,
        max_chunks=sizes.max_chunks,
    )


def training_texts(recipe: Recipe, task_name: str, rows: Sequence[Row]) -> list[str]:
    """Questions and answers of a task's training clips, as training asks them."""
    task, rng = get_task(task_name), np.random.default_rng(recipe.seed)
    questions = [question for row in rows for question in row.questions]
    for row in rows:
        questions += task.random_questions(row, rng, row.word_times, _last_second(row))
    return [f"{question.text}\n{question.answer}" for question in questions]


def model_config(recipe: Recipe, processor: MirasolProcessor) -> MirasolConfig:
    """The preset with the recipe's overrides; what the processor decides is taken from the processor."""
    tokenizer = processor.tokenizer
    decided: dict[str, Any] = {
        "seconds_per_chunk": processor.grid.seconds_per_chunk,
        "video_config": {
            "image_size": processor.image_processor.image_size,
            "num_frames": processor.num_frames_per_chunk,
        },
        "audio_config": {
            "num_mel_frames": processor.num_mel_frames_per_chunk,
            "num_mel_bins": processor.feature_extractor.num_mel_bins,
        },
        "text_config": {"vocab_size": len(tokenizer)},
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,
    }
    overrides = copy.deepcopy(recipe.model.overrides)
    reject_unknown_fields(overrides, "model.overrides.")
    for name, value in decided.items():
        mine = overrides.get(name)
        clash = mine is not None and (not isinstance(value, dict) or set(value) & set(mine))
        if clash:
            raise ValueError(
                f"Recipe key model.overrides.{name} sets what the processor decides ({value}), found {mine}: "
                "change the recipe's processor section instead."
            )
    merged = {
        name: {**overrides.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in (overrides | decided).items()
    }
    with values_that_fit():
        return preset(recipe.model.preset, **merged)


def reject_unknown_fields(overrides: dict[str, Any], prefix: str = "") -> None:
    """Refuses keys that `MirasolConfig` and its parts do not have, which transformers would accept in silence."""
    known = MirasolConfig()
    reject_unknown(overrides, _fields(known), prefix)
    for name, value in overrides.items():
        part = getattr(known, name)
        if isinstance(part, PreTrainedConfig):
            if not isinstance(value, dict):
                raise ValueError(
                    f"{prefix}{name} holds values of its own, found {value!r}: write {prefix}{name}.KEY=VALUE."
                )
            reject_unknown(value, _fields(part), f"{prefix}{name}.")


@contextlib.contextmanager
def values_that_fit() -> Iterator[None]:
    """Turns a config's refusal of values that do not fit together into the ValueError that it means."""
    try:
        yield
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


MEAN_OF_TASKS = "mean_tasks"


def check_validation(recipe: Recipe) -> None:
    """Refuses, before anything is decoded or trained, what the first validation could not measure."""
    sources = recipe.data.sources(recipe.validation.conditions)
    metric, mean = recipe.validation.metric, f"mean_{get_task(sources[0].task).METRIC}"
    mean = MEAN_OF_TASKS if len(sources) > 1 else mean
    if metric.startswith("mean_") and metric != mean:
        raise ValueError(
            f"Recipe key validation.metric is {metric!r}, but validation on "
            f"{', '.join(source.task for source in sources)} gives {mean!r}: set validation.metric={mean}."
        )
    for name in {name for source in sources for name in source.conditions}:
        if Condition(name).name == "swapped":
            raise ValueError(
                "Expected validation.conditions that leave one answer right, found 'swapped': measure it afterwards, "
                "with mirasol evaluate --condition swapped."
            )


def build_validation(
    recipe: Recipe, processor: MirasolProcessor, val_rows: Mapping[SourceRecipe, Sequence[Row]]
) -> Callable[[nn.Module], dict[str, float]]:
    """A function from a model to the metrics of its greedy answers on the rows of each source.

    Of several sources each metric has the task's name before it (with its split, where a task comes twice), and
    `mean_tasks` is the mean of their main ones.
    """
    parts = {}
    for source, rows in val_rows.items():
        cache = ClipCache.build(
            rows, recipe.data.cache, processor.image_processor, frames_per_second=processor.grid.frames_per_second
        )
        parts[source] = partial(
            runner.score,
            processor=processor,
            rows=[row for row in rows if row.id in cache],
            task=source.task,
            conditions=source.conditions,
            read=partial(_from_cache, cache),
            batch_size=recipe.validation.batch_size,
        )
    if len(parts) == 1:
        return next(iter(parts.values()))

    tasks = [source.task for source in parts]
    names = {s: s.task if tasks.count(s.task) == 1 else f"{s.task}_{s.val_split}" for s in parts}

    def validate(model: nn.Module) -> dict[str, float]:
        found = {source: score(model) for source, score in parts.items()}
        flat = {f"{names[source]}_{name}": value for source, scores in found.items() for name, value in scores.items()}
        main = [scores[f"mean_{get_task(source.task).METRIC}"] for source, scores in found.items()]
        return flat | {MEAN_OF_TASKS: float(np.mean(main))}

    return validate


def _from_cache(cache: ClipCache, row: Row, condition: Condition) -> Clip:
    return condition.apply(cache[row.id], row.id)


def _require_apart(train_rows: Sequence[Row], val_rows: Sequence[Row], root: str) -> None:
    trained, validated = (
        {(row.media, question.text) for row in rows for question in row.questions} for rows in (train_rows, val_rows)
    )
    if both := len(trained & validated):
        raise ValueError(
            f"Expected other questions about clips in val than in train, found {both} of {len(validated)} in both "
            f"below {root}: what was trained on cannot choose the best checkpoint. Split them, for task jsonl into "
            "train.jsonl and val.jsonl of one folder."
        )


def _fields(config: PreTrainedConfig) -> list[str]:
    return [name for name in config.to_dict() if not name.startswith("_")]


def _last_second(row: Row) -> float:
    return max((end for _, end in row.word_times), default=0.0) + 0.5
