"""Schema of a recipe: every key of a training run, its type, range and default."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mirasol.data.augment import PRESETS, AugmentConfig
from mirasol.files import GRID_ROOT
from mirasol.tasks import get_task
from mirasol.tasks.jsonl import check_metric

AtLeastOne = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


def _known_task(name: str) -> str:
    get_task(name)
    return name


def _known_metric(name: str) -> str:
    check_metric(name, "a metric")
    return name


def _device_name(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"Recipe key device must be auto, cpu, cuda, cuda:N or mps, found {name!r}.")
    return name


class Section(BaseModel):
    """Base of all sections: frozen; refuses unknown keys, other types and values out of range."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LoraRecipe(Section):
    """Low-rank adapters on the language model in the text decoder, whose own weights are then frozen."""

    rank: AtLeastOne = 16
    alpha: Positive = 32.0
    dropout: BelowOne = 0.0


Part = Literal["video_encoder", "audio_encoder", "combiner", "temporal_model", "language_model"]


class ModelRecipe(Section):
    """Initial weights, a preset or a saved checkpoint, with changed fields, and the parts that are not trained."""

    preset: str | None = None  # None: nano, unless there is a checkpoint
    overrides: dict[str, Any] = {}
    checkpoint: str | None = None  # a folder, a name on the Hub, or "shipped"
    attn_implementation: str = "eager"  # on CPU, faster than sdpa for sequences of a hundred tokens (docs/log.md)
    freeze: tuple[Part, ...] = ()
    unfreeze_epoch: AtLeastOne | None = None  # epoch from which frozen parts are trained; None: never
    lora: LoraRecipe | None = None
    recompute_every: AtLeastOne | None = None  # activation checkpointing of every n-th layer; None: keep activations
    compile: bool = False  # torch.compile of the repeated layers: a minute at start, for faster steps on a GPU

    @model_validator(mode="after")
    def _unfreezes_something(self) -> ModelRecipe:
        if self.unfreeze_epoch is not None and not self.freeze:
            raise ValueError(
                f"Recipe key model.unfreeze_epoch is {self.unfreeze_epoch}, but model.freeze names no part: name the "
                "parts there (model.freeze=[video_encoder]), or leave it out."
            )
        if self.unfreeze_epoch is not None and self.lora is not None and "language_model" in self.freeze:
            raise ValueError(
                "Recipe key model.unfreeze_epoch would train the language model whose weights model.lora keeps: take "
                "language_model out of model.freeze, or leave out model.lora."
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> ModelRecipe:
        if self.checkpoint is not None and self.preset is not None:
            raise ValueError(
                f"Recipe key model.preset is {self.preset!r}, but the model is that of model.checkpoint, "
                f"{self.checkpoint}: leave one of the two out (model.preset=null or model.checkpoint=null)."
            )
        return self


class ProcessorRecipe(Section):
    """Time grid and input sizes. None inherits from the checkpoint, or from the preset when training from scratch."""

    frames_per_second: Positive | None = None
    num_frames_per_chunk: AtLeastOne | None = None
    num_mel_frames_per_chunk: AtLeastOne | None = None
    num_mel_bins: AtLeastOne | None = None
    image_size: AtLeastOne | None = None
    crop_fraction: Positive | None = None
    crop_center: tuple[Share, Share] | None = None  # x, y
    max_chunks: AtLeastOne | None = None
    vocab_size: AtLeastOne | None = None
    model_max_length: AtLeastOne | None = None  # tokens of a question with its answer


class SourceRecipe(Section):
    """Clips of one task: a split to train on, and a split that chooses the best checkpoint."""

    task: Annotated[str, AfterValidator(_known_task)]
    root: str
    train_split: str = "train"
    val_split: str = "val"
    metric: Annotated[str, AfterValidator(_known_metric)] | None = None  # default metric of own data
    conditions: tuple[str, ...] | None = None  # conditions of its validation; None: `validation.conditions`
    clips_per_epoch: AtLeastOne | None = None  # clips of an epoch, of a reshuffled stream; None: all
    questions_per_clip: AtLeastOne | None = None  # None: all questions of the clip
    balance: Literal["answer"] | None = None  # answer: samples all answers to a question equally often
    augmentation: AugmentConfig | None = None  # None: `data.augmentation`


class DataRecipe(Section):
    """Sources that are trained jointly, and how their clips are cached, augmented and loaded."""

    sources: Annotated[tuple[SourceRecipe, ...], Field(min_length=1)] = (SourceRecipe(task="grid", root=GRID_ROOT),)
    cache: str | None = "cache"  # folder of decoded clips; None, and for shards always: decode on access
    max_skipped_share: Share = 0.01  # largest share of undecodable clips in an epoch; more end the run
    augmentation: AugmentConfig = PRESETS["gentle"]  # a preset, or a mapping with `preset` and changed keys
    max_train_clips: AtLeastOne | None = None  # per source
    num_workers: Annotated[int, Field(ge=0)] = 1
    decoder: Literal["pyav", "torchcodec"] = "pyav"


class OptimizerRecipe(Section):
    """Muon, or AdamW alone; linear warmup, then decay to `final_learning_rate_fraction`, over both phases."""

    name: Literal["muon", "adamw"] = "muon"
    learning_rate: Positive = 1e-3
    part_rates: dict[Part, Positive] = {}  # factors on the learning rate of parts, such as {video_encoder: 0.1}
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"  # wsd: constant, then linear over `decay_fraction`
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.98)
    epsilon: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_fraction: BelowOne = 0.05
    final_learning_rate_fraction: Share = 0.01
    gradient_clip: Positive = 1.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.998  # None: no averaging

    @model_validator(mode="after")
    def _phases_fit(self) -> OptimizerRecipe:
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"Recipe keys optimizer.warmup_fraction and decay_fraction must sum to at most 1, found "
                f"{self.warmup_fraction:g} and {self.decay_fraction:g}: lower one of them."
            )
        return self


class ScheduleRecipe(Section):
    """Epochs of each objective (pretrain 1/1/1, then finetune 10/1/1), clips per step, and when to stop early."""

    pretrain_epochs: Annotated[int, Field(ge=0)] = 4
    finetune_epochs: Annotated[int, Field(ge=0)] = 60
    batch_size: AtLeastOne = 16  # clips per process; a resumed run keeps the clips of a step
    gradient_accumulation_steps: AtLeastOne = 1
    time_limit_minutes: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _some_epoch(self) -> ScheduleRecipe:
        if self.pretrain_epochs + self.finetune_epochs < 1:
            raise ValueError(
                f"A run needs at least 1 epoch, found schedule.pretrain_epochs={self.pretrain_epochs} and "
                f"schedule.finetune_epochs={self.finetune_epochs}: raise one of them."
            )
        return self


class ValidationRecipe(Section):
    """Validation by generation: how often, on how many clips, and the metric that chooses the best checkpoint."""

    every_epochs: AtLeastOne = 4
    batch_size: AtLeastOne = 16
    max_clips: AtLeastOne | None = None  # per source
    patience: AtLeastOne | None = None  # validations without improvement after which the run ends; None: never
    samples: Annotated[int, Field(ge=0)] = 6  # answers per source and condition in samples.jsonl
    conditions: Annotated[tuple[str, ...], Field(min_length=1)] = ("both", "sound", "picture")
    metric: str | None = None  # None: the task's headline, or mean_tasks of several tasks


class ExportRecipe(Section):
    """Number format and licence of the exported checkpoint."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    license: str | None = None  # the Hub's identifier, such as apache-2.0; None: the card names no licence


class ParallelRecipe(Section):
    """Replicas of the model and shards of each; their product is the number of processes. None: chosen by memory."""

    data: AtLeastOne | None = None
    shard: AtLeastOne | None = None


class Recipe(Section):
    """One training run, complete: the same recipe, commit and data give the same checkpoint on the same hardware."""

    output: str = "runs/grid_nano"
    seed: Annotated[int, Field(ge=0)] = 0
    device: Annotated[str, AfterValidator(_device_name)] = "auto"  # auto, cpu, cuda, cuda:1, mps
    bf16: bool | None = None  # None: on if the hardware has bfloat16 instructions
    logging_steps: AtLeastOne = 1
    report_to: tuple[Literal["wandb", "trackio"], ...] = ()  # in addition to TensorBoard and metrics.jsonl
    save_steps: AtLeastOne = 200
    model: ModelRecipe = ModelRecipe()
    processor: ProcessorRecipe = ProcessorRecipe()
    data: DataRecipe = DataRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    parallel: ParallelRecipe = ParallelRecipe()
    validation: ValidationRecipe = ValidationRecipe()
    export: ExportRecipe = ExportRecipe()

    @model_validator(mode="after")
    def _sources_fit(self) -> Recipe:
        places = [(source.task, source.root, source.train_split, source.val_split) for source in self.data.sources]
        if len(set(places)) < len(places):
            raise ValueError(
                f"Recipe key data.sources lists a task of the same root and splits twice, found {places}: "
                "leave one out, and give the other more clips_per_epoch."
            )
        return self
