"""From a recipe to the parts of a run: tokenizer, processor, model, training clips."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirasol.answer.checkpoint import folder_of
from mirasol.answer.known_questions import KnownQuestions
from mirasol.chunks import MirasolCollator, MirasolProcessor
from mirasol.chunks.agreement import config_values
from mirasol.data import ClipDataset, ClipMixture
from mirasol.evaluate import runner
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from mirasol.model.configuration_mirasol import MirasolConfig
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.model.presets import preset
from mirasol.settings import reject_unknown_fields, values_that_fit
from mirasol.tasks import Question, Row, get_task
from mirasol.tasks.annotations import SHOWN
from mirasol.tasks.shards import Shards
from mirasol.train.adapt import adapt
from mirasol.train.changed import load_changed
from mirasol.train.efficiency import compile_layers, recompute_layers
from mirasol.train.recipe_schema import Recipe
from mirasol.train.record import PROCESSOR, describe_rows, is_begun
from mirasol.train.resolve import changed_processor, saved_processor
from mirasol.train.tokenizer import build_tokenizer
from mirasol.train.validation import build_validation, check_metric, check_validation


def build_parts(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `fit`, by name."""
    check_validation(recipe)
    sources = recipe.data.sources
    train_rows, val_rows = {}, {}
    for source in sources:
        train_rows[source] = runner.load_rows(source.task, source.root, source.train_split, metric=source.metric)
        train_rows[source] = train_rows[source][: recipe.data.max_train_clips]
        val_rows[source] = runner.load_rows(source.task, source.root, source.val_split, metric=source.metric)
        val_rows[source] = val_rows[source][: recipe.validation.max_clips]
    for source in sources:
        _require_apart([row for rows in train_rows.values() for row in rows], val_rows[source], source.root)
    check_metric(recipe, val_rows)
    asked = [pair for source in sources for pair in training_questions(recipe, source.task, train_rows[source])]
    kept = Path(recipe.output) / PROCESSOR
    if is_begun(Path(recipe.output)) and kept.is_dir():
        processor = MirasolProcessor.from_pretrained(kept)
    elif recipe.model.checkpoint is None:
        processor = build_processor(recipe, [f"{question}\n{answer}" for _, question, answer in asked])
    else:
        processor = changed_processor(saved_processor(recipe.model.checkpoint), recipe.processor)
    processor.decoder = recipe.data.decoder
    if recipe.model.checkpoint is None:
        config = model_config(recipe, processor)
        config._attn_implementation = recipe.model.attn_implementation
        model = MirasolForConditionalGeneration(config)
    else:
        model = load_changed(str(folder_of(recipe.model.checkpoint)), recipe.model)
    processor.check_model_config(model.config)
    for source in sources:
        check_texts(processor, train_rows[source], source.root)
        check_texts(processor, val_rows[source], source.root, with_answers=False)
    adapt(model, recipe.model)
    recompute_layers(model, recipe.model.recompute_every)
    if recipe.model.compile:
        compile_layers(model)
    datasets = [
        ClipDataset(
            train_rows[source],
            get_task(source.task),
            processor,
            None if source.task == Shards.name else recipe.data.cache,
            augment=source.augmentation,
            seed=recipe.seed,
            questions_per_clip=source.questions_per_clip,
            clips_per_epoch=source.clips_per_epoch,
            balance=source.balance is not None,
        )
        for source in sources
    ]
    return {
        "model": model,
        "processor": processor,
        "train_dataset": ClipMixture(datasets) if len(datasets) > 1 else datasets[0],
        "collator": MirasolCollator(processor.pad_token_id),
        "validate": build_validation(recipe, processor, val_rows),
        "known_questions": KnownQuestions.of((question, answer) for _, question, answer in dict.fromkeys(asked)),
        "data": {
            f"{split} of {source.task} below {source.root}": describe_rows(rows)
            for source, dataset in zip(sources, datasets, strict=True)
            for split, rows in ((source.train_split, dataset.rows), (source.val_split, val_rows[source]))
        },
    }


def check_texts(processor: MirasolProcessor, rows: Sequence[Row], root: str, with_answers: bool = True) -> None:
    """Raise ValueError for questions that exceed the decoder's context, with their answer in training."""
    questions = [(row, question) for row in rows for question in row.questions]

    def tokenize(chosen: Sequence[tuple[Row, Question]]) -> None:
        answers = [question.answer for _, question in chosen] if with_answers else None
        processor.tokenize_questions([question.text for _, question in chosen], answers)

    with contextlib.suppress(ValueError):
        return tokenize(questions)
    refused = []
    for row, question in questions:
        try:
            tokenize([(row, question)])
        except ValueError as error:
            place = dict(zip(row.questions, row.places, strict=False)).get(question, f"{question.id} ({row.media})")
            refused.append(f"{place}: {error}")
    listed = "\n  ".join([*refused[:SHOWN], *(["..."] if len(refused) > SHOWN else [])])
    raise ValueError(
        f"Expected texts that fit into the context, found {len(refused)} of {len(questions)} questions below {root} "
        f"that do not. Shorten them, or for a new model raise processor.model_max_length:\n  {listed}"
    )


def build_processor(recipe: Recipe, texts: Sequence[str]) -> MirasolProcessor:
    """Return a processor with the recipe's grid and sizes, and a tokenizer trained on the training texts."""
    sizes: Any = recipe.processor  # `resolve` has filled in all of them
    return MirasolProcessor(
        image_processor=MirasolVideoProcessor(sizes.image_size, sizes.crop_fraction, sizes.crop_center),
        feature_extractor=MirasolFeatureExtractor(num_mel_bins=sizes.num_mel_bins),
        tokenizer=build_tokenizer(texts, sizes.vocab_size, sizes.model_max_length),
        frames_per_second=sizes.frames_per_second,
        num_frames_per_chunk=sizes.num_frames_per_chunk,
        num_mel_frames_per_chunk=sizes.num_mel_frames_per_chunk,
        max_chunks=sizes.max_chunks,
    )


def training_questions(recipe: Recipe, task_name: str, rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return (clip, question, answer) of a task's training clips, as listed and as sampled in training."""
    task, rng = get_task(task_name), np.random.default_rng(recipe.seed)
    asked = [(row.id, question) for row in rows for question in row.questions]
    for row in rows:
        sampled = task.sample_questions(row, rng, row.word_times, _last_second(row))
        asked += [(row.id, question) for question in sampled]
    return [(row_id, question.text, question.answer) for row_id, question in asked]


def model_config(recipe: Recipe, processor: MirasolProcessor) -> MirasolConfig:
    """Return the preset with the recipe's overrides and the processor's sizes."""
    decided = config_values(processor)
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
    assert recipe.model.preset is not None, "a model without a checkpoint has a preset after `resolve`"
    with values_that_fit():
        return preset(recipe.model.preset, **merged)


def _require_apart(train_rows: Sequence[Row], val_rows: Sequence[Row], root: str) -> None:
    trained, validated = (
        {(row.media, question.text) for row in rows for question in row.questions} for rows in (train_rows, val_rows)
    )
    if both := len(trained & validated):
        raise ValueError(
            f"Expected other questions about clips in val than in train, found {both} of {len(validated)} in both "
            f"below {root}: questions of training cannot choose the best checkpoint. Split them, for task jsonl into "
            "train.jsonl and val.jsonl of one folder."
        )


def _last_second(row: Row) -> float:
    return max((end for _, end in row.word_times), default=0.0) + 0.5
