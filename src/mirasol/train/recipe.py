"""A training run as one typed value: read from YAML, changed by `key=value`, written back before step 0."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from mirasol.data.augment import AugmentConfig
from mirasol.tasks import get_task


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters on the language model in the text decoder, whose own weights are then frozen."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0


Part = Literal["video_encoder", "audio_encoder", "combiner", "temporal_model", "language_model"]


@dataclass(frozen=True)
class ModelRecipe:
    """Where the weights start, a preset with changed fields or a saved checkpoint, and which of them are trained."""

    preset: str = "nano"
    overrides: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    attn_implementation: str = "eager"  # on CPU, faster than sdpa for sequences of a hundred tokens (docs/log.md)
    freeze: tuple[Part, ...] = ()
    lora: LoraRecipe | None = None


@dataclass(frozen=True)
class ProcessorRecipe:
    """The time grid and the sizes of what the model sees. None: as the checkpoint that is trained on has it, else as
    the preset; a number: a new model follows it."""

    frames_per_second: float | None = None
    num_frames_per_chunk: int | None = None
    num_mel_frames_per_chunk: int | None = None
    num_mel_bins: int | None = None
    image_size: int | None = None
    crop_fraction: float | None = None
    crop_center: tuple[float, float] | None = None  # x, y
    max_chunks: int | None = None
    vocab_size: int | None = None
    model_max_length: int | None = None  # tokens of a question with its answer


@dataclass(frozen=True)
class SourceRecipe:
    """A task's clips: those to train on, and those that choose the best checkpoint, under which conditions."""

    task: str
    root: str
    train_split: str = "train"
    val_split: str = "val"
    conditions: tuple[str, ...] = ("both",)
    clips_per_epoch: int | None = None  # in turn, others each epoch; None: every clip once
    questions_per_clip: int | None = None  # None: all of its own
    augmentation: AugmentConfig | None = None  # None: as `data.augmentation`


@dataclass(frozen=True)
class DataRecipe:
    """Which clips and questions, and how they are varied; `also` names further tasks that are trained jointly."""

    task: str = "grid"
    root: str = "data/grid_s1"
    train_split: str = "train"
    val_split: str = "val"
    also: tuple[SourceRecipe, ...] = ()
    cache: str = "cache"
    clips_per_epoch: int | None = None
    questions_per_clip: int = 14
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    max_train_clips: int | None = None
    num_workers: int = 1

    def sources(self, conditions: tuple[str, ...] = ("both",)) -> tuple[SourceRecipe, ...]:
        """All tasks, the first one validated under these conditions."""
        first = SourceRecipe(
            self.task, self.root, self.train_split, self.val_split, conditions,
            self.clips_per_epoch, self.questions_per_clip, self.augmentation,
        )  # fmt: skip
        also = [replace(source, augmentation=source.augmentation or self.augmentation) for source in self.also]
        return (first, *also)


@dataclass(frozen=True)
class OptimizerRecipe:
    """Muon (or AdamW alone) with linear warmup and a cosine to `final_learning_rate_fraction`, over both phases."""

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8
    weight_decay: float = 0.05
    warmup_fraction: float = 0.05
    final_learning_rate_fraction: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float | None = 0.998


@dataclass(frozen=True)
class ScheduleRecipe:
    """Epochs of each objective (pretrain 1/1/1, then finetune 10/1/1), clips per step, and when to stop early."""

    pretrain_epochs: int = 4
    finetune_epochs: int = 60
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    time_limit_minutes: float | None = None


@dataclass(frozen=True)
class ValidationRecipe:
    """Validation by generation: how often, on how many clips, and the metric that chooses the best checkpoint."""

    every_epochs: int = 4
    batch_size: int = 16
    max_clips: int | None = None
    conditions: tuple[str, ...] = ("both", "sound", "picture")
    metric: str = "mean_slots"


@dataclass(frozen=True)
class Recipe:
    """One training run, complete: the same recipe, commit and data give the same checkpoint on the same hardware."""

    output: str = "runs/grid_nano"
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"
    bf16: bool | None = None  # None: where the hardware computes in bfloat16 itself, float32 elsewhere
    logging_steps: int = 1
    save_steps: int = 200
    model: ModelRecipe = field(default_factory=ModelRecipe)
    processor: ProcessorRecipe = field(default_factory=ProcessorRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)

    def __post_init__(self) -> None:
        epochs = self.schedule.pretrain_epochs + self.schedule.finetune_epochs
        if epochs < 1:
            raise ValueError(
                f"A run needs at least 1 epoch, found schedule.pretrain_epochs={self.schedule.pretrain_epochs} and "
                f"schedule.finetune_epochs={self.schedule.finetune_epochs}: raise one of them."
            )
        sources = self.data.sources()
        for source in sources:
            get_task(source.task)
        places = [(source.task, source.root, source.train_split, source.val_split) for source in sources]
        if len(set(places)) < len(places):
            raise ValueError(
                f"Recipe key data.also lists a task of the same root and splits twice, found {places}: "
                "leave one out, and give the other more clips_per_epoch."
            )
        shares = {
            f"{name} of {source.task}": getattr(source, name)
            for source in sources
            for name in ("clips_per_epoch", "questions_per_clip")
            if getattr(source, name) is not None
        }
        at_least_one = {
            **shares,
            "logging_steps": self.logging_steps,
            "save_steps": self.save_steps,
            "schedule.batch_size": self.schedule.batch_size,
            "schedule.gradient_accumulation_steps": self.schedule.gradient_accumulation_steps,
            "validation.every_epochs": self.validation.every_epochs,
            "model.lora.rank": self.model.lora.rank if self.model.lora else 1,
        }
        for key, value in at_least_one.items():
            if value < 1:
                raise ValueError(f"Recipe key {key} must be at least 1, found {value}: raise it.")
        for source in sources:
            if (source.clips_per_epoch or 0) % self.schedule.batch_size:
                raise ValueError(
                    f"clips_per_epoch of {source.task} must be a multiple of schedule.batch_size, found "
                    f"{source.clips_per_epoch} and {self.schedule.batch_size}: the rest of a batch would be left out."
                )
        if self.optimizer.ema_decay is not None and not 0 < self.optimizer.ema_decay < 1:
            raise ValueError(
                f"Recipe key optimizer.ema_decay must lie between 0 and 1, found {self.optimizer.ema_decay}: "
                "use e.g. 0.998, or null to train without averaging."
            )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the YAML file at `path`, with `key=value` overrides such as `optimizer.learning_rate=3e-4`."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Expected a recipe file, found nothing at {path}: pass the path of a YAML recipe.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected YAML in {path}, found: {error}. Correct that line.") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected key: value lines in {path}, found {str(values)[:40]!r}. Write e.g. seed: 1.")
    values = json.loads(json.dumps(values, default=str))  # what a YAML alias shares becomes two values
    apply_overrides(values, overrides)
    return build(Recipe, values)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets each `key=value` in the nested mapping; dots go one mapping (or, by number, list) down, values are YAML."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f'Expected an override as key=value, found "{override}": write e.g. seed=1.')
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f'Expected YAML behind "=" in the override "{override}", found: {error}.') from error
        _set(values, key.strip(), value, override)


def build(kind: type, values: Any, prefix: str = "") -> Any:
    """An instance of the dataclass `kind` from nested mappings; unknown keys and wrong types are refused by name."""
    if not isinstance(values, dict):
        raise ValueError(f"Recipe key {prefix or '(top)'} expects a mapping of keys, found {values!r}: indent keys.")
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    reject_unknown(values, known, prefix)
    return kind(**{key: _convert(value, hints[key], f"{prefix}{key}") for key, value in values.items()})


def reject_unknown(keys: typing.Iterable[str], known: typing.Iterable[str], prefix: str = "") -> None:
    """Nothing, if every key is known; otherwise a ValueError that names the nearest valid key."""
    known = sorted(known)
    for key in map(str, keys):
        if key in known:
            continue
        everywhere = list(flatten(Recipe()))
        same_leaf = [dotted for dotted in everywhere if dotted.rsplit(".", 1)[-1] == key]
        holding = [name for name in known if key in name]
        here = [f"{prefix}{near}" for near in holding or difflib.get_close_matches(key, known, n=1)]
        anything = difflib.get_close_matches(f"{prefix}{key}", [f"{prefix}{name}" for name in known], n=1, cutoff=0)
        nearest = (here or same_leaf or anything)[0]
        raise ValueError(
            f'Recipe key "{prefix}{key}" is not known; the nearest valid key is "{nearest}". '
            f"Known here: {', '.join(known)}. Rename or remove it."
        )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a recipe by its dotted key."""
    items = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    flat: dict[str, Any] = {}
    for key, item in items.items():
        if isinstance(item, dict) and item:
            flat.update(flatten(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to an equal recipe."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return yaml.safe_dump(plain(dataclasses.asdict(recipe)), sort_keys=False)


def _set(values: dict[str, Any], key: str, value: Any, override: str) -> None:
    *parents, last = key.split(".")
    held: Any = values
    for parent in parents:
        held = held[_place(parent, held, override)] if isinstance(held, list) else held.setdefault(parent, {})
        if not isinstance(held, dict | list):
            raise ValueError(f'Override "{override}" goes into {parent}, which holds {held!r}, not keys.')
    held[_place(last, held, override) if isinstance(held, list) else last] = value


def _place(name: str, held: list, override: str) -> int:
    if name.isdecimal() and int(name) < len(held):
        return int(name)
    raise ValueError(
        f'Override "{override}" names entry {name} of a list of {len(held)}: number them from 0 to {len(held) - 1}.'
    )


def _convert(value: Any, hint: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, f"{key}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(value, hint, key)
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"Recipe key {key} must be one of {', '.join(map(str, arguments))}, found {value!r}.")
    if origin is tuple:
        open_ended = len(arguments) == 2 and arguments[1] is Ellipsis
        if not isinstance(value, list | tuple) or not (open_ended or len(value) == len(arguments)):
            length = "" if open_ended else f"{len(arguments)} "
            raise ValueError(f"Recipe key {key} expects a list of {length}values, found {value!r}: write [a, b].")
        inner = [arguments[0]] * len(value) if open_ended else arguments
        pairs = zip(value, inner, strict=True)
        return tuple(_convert(item, kind, f"{key}[{index}]") for index, (item, kind) in enumerate(pairs))
    kind = origin or hint
    if kind is float and not isinstance(value, bool):
        # YAML 1.1 reads 3e-4 (no dot) as text, because its floats need a dot.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text", dict: "a mapping"}
    raise ValueError(f"Recipe key {key} expects {names.get(kind, kind)}, found {value!r} ({type(value).__name__}).")
