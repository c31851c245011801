"""`mirasol train RECIPE [key=value ...]`: build the parts that a recipe names, train, export the best model."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import Seq2SeqTrainingArguments, TrainerState, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.utils import logging

from mirasol.answer.checkpoint import folder_of
from mirasol.answer.known_questions import KnownQuestions
from mirasol.files import write_whole
from mirasol.results import Result
from mirasol.train.callbacks import Pages, StoppedAgain
from mirasol.train.checkpoint import newest_whole
from mirasol.train.device import use_device
from mirasol.train.export import export
from mirasol.train.parallel import agreed_by_all, choose_layout, num_processes, share_of_step
from mirasol.train.recipe import load_recipe
from mirasol.train.recipe_schema import Recipe
from mirasol.train.record import LAUNCHES, begun_with, check_data, check_run, open_run, step_of, written_bf16
from mirasol.train.schedule import is_stale, scheduler_arguments
from mirasol.train.stop import STOP, SurvivingCollator
from mirasol.train.trainer import MirasolTrainer, sampler_of

Report = Callable[[Path], Any]
Validate = Callable[[nn.Module], dict[str, float]]


class TrainResult(Result):
    """Result of a run: its folder, the steps done, and its best validation."""

    output: str
    export: str | None
    step: int
    num_steps: int
    best_metric: float | None
    metric: str
    num_bad_clips: int
    minutes: float
    stopped_by: str | None = None
    next_start: str = ""
    is_stale: bool = False

    def __str__(self) -> str:
        how_far = f"{self.step} of {self.num_steps} steps in {self.minutes:.1f} minutes"
        best = "no validation" if self.best_metric is None else f"best {self.metric} on val {self.best_metric:.4f}"
        bad = f"; {self.num_bad_clips} unreadable clip(s) left out" if self.num_bad_clips else ""
        where = f"checkpoint: {self.export}" if self.export else f"run: {self.output}"
        if self.stopped_by:
            bad += f"; stopped by {self.stopped_by}: the same command {self.next_start}"
        elif self.is_stale:
            bad += "; stopped by validation.patience, because no validation since was better"
        elif self.step < self.num_steps:
            bad += "; stopped by schedule.time_limit_minutes: raise it, and the same command resumes"
        return f"trained {how_far}; {best}{bad}\n{where}"


def train(
    recipe_path: str | Path, overrides: list[str] | tuple[str, ...] = (), report: Report | None = None
) -> TrainResult | None:
    """Train by the recipe, or resume the run in its folder; the best checkpoint is in `<output>/best`.

    `report(folder)` writes a page of the run (`mirasol.report.training`) at each checkpoint and at the end.
    Of several processes that torchrun starts, the first one returns the result, the others None.
    """
    from mirasol.train.build import build_parts
    from mirasol.train.resolve import resolve

    recipe = load_recipe(recipe_path, overrides)
    use_device(recipe.device)
    if recipe.bf16 is None:  # a resumed run keeps its number format on any hardware
        recipe = recipe.model_copy(update={"bf16": written_bf16(recipe)})
    recipe = resolve(recipe)
    check_run(recipe)  # before anything is decoded
    set_seed(recipe.seed)
    parts = build_parts(recipe)
    result = fit(recipe, **parts, report=report)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result if _is_main() else None


def fit(
    recipe: Recipe,
    *,
    model: nn.Module,
    processor: Any,
    train_dataset: Any,
    collator: Callable,
    validate: Validate | None = None,
    data: dict[str, Any] | None = None,
    report: Report | None = None,
    known_questions: KnownQuestions | None = None,
) -> TrainResult:
    """Train `model` in the recipe's run folder, from its newest whole checkpoint if there is one."""
    logging.disable_progress_bar()  # of written files; the bar of the steps stays
    origin = started_from(recipe.model.checkpoint)  # read now, because another run may replace that folder
    folder = Path(recipe.output)
    check_data(folder, data or {})
    check_reporters(recipe)
    sampler_of(train_dataset, recipe)  # refuses a source without clips before there is a run folder
    layout = choose_layout(recipe.parallel, sum(p.numel() for p in model.parameters()), memory_of_device(recipe))
    args = training_arguments(recipe, folder)  # joins the processes
    if _is_main():
        open_run(recipe, processor, data, layout)
    resume_from = agreed_by_all(newest_whole, folder / "checkpoints")
    resumed_step = step_of(resume_from) if resume_from else 0
    minutes_before = _forget_after(folder / "metrics.jsonl", resumed_step) if _is_main() else 0.0
    if args.process_index:
        torch.manual_seed(recipe.seed + args.process_index)  # so that processes draw different dropout
    started = time.monotonic() - 60 * minutes_before

    def keep_best(best: nn.Module, metrics: dict[str, float], step: int) -> None:
        launch = json.loads((folder / LAUNCHES).read_text(encoding="utf-8"))[-1]
        record = {
            **launch,
            "step": step,
            "train_minutes": (time.monotonic() - started) / 60,
            "num_parameters": sum(parameter.numel() for parameter in best.parameters()),
            "num_bad_clips": num_bad_clips(train_dataset),
            "started_from": origin,
            "validation": {name.removeprefix("eval_"): value for name, value in metrics.items()},
        }
        export(best, processor, folder / "best", recipe=recipe, record=record, known_questions=known_questions)

    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1) if _is_main() else None
    pages = [Pages(folder, report)] if writer and report else []
    trainer = MirasolTrainer(
        recipe=recipe,
        run_dir=folder,
        started=started,
        validate=validate,
        keep_best=keep_best,
        model=model,
        args=args,
        layout=layout,
        train_dataset=train_dataset,
        data_collator=SurvivingCollator(collator),
        callbacks=[TensorBoardCallback(writer), *pages] if writer else [],
    )
    if resume_from is not None:
        trainer.state = TrainerState.load_from_json(str(resume_from / "trainer_state.json"))
    validation = recipe.validation
    if not is_stale(trainer.state.log_history, str(validation.metric), validation.patience):
        with STOP.listening(), contextlib.suppress(StoppedAgain):
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    if trainer.stopped_by == signal.SIGINT:
        step = trainer.state.global_step
        raise KeyboardInterrupt(f"training stopped after step {step}; the same command {next_start(trainer)}")
    best = folder / "best"
    return TrainResult(
        output=str(folder),
        export=str(best) if best.is_dir() else None,
        step=trainer.state.global_step,
        num_steps=trainer.state.max_steps,
        best_metric=trainer.state.best_metric,
        metric=str(recipe.validation.metric),
        num_bad_clips=num_bad_clips(train_dataset),
        minutes=(time.monotonic() - started) / 60,
        stopped_by=trainer.stopped_by.name if trainer.stopped_by else None,
        next_start=next_start(trainer),
        is_stale=is_stale(trainer.state.log_history, str(validation.metric), validation.patience),
    )


def next_start(trainer: MirasolTrainer) -> str:
    """Return from which step the same command resumes, in words."""
    return f"resumes from step {trainer.saved_step}" if trainer.saved_step else "begins anew: no checkpoint is whole"


def training_arguments(recipe: Recipe, folder: Path) -> Seq2SeqTrainingArguments:
    """Return the recipe as arguments of the Trainer."""
    optimizer, schedule = recipe.optimizer, recipe.schedule
    step = schedule.batch_size, schedule.gradient_accumulation_steps
    batch_size, accumulation = share_of_step(*step, begun_with(folder), num_processes())
    return Seq2SeqTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=schedule.pretrain_epochs + schedule.finetune_epochs,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=optimizer.learning_rate,
        adam_beta1=optimizer.betas[0],
        adam_beta2=optimizer.betas[1],
        adam_epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.gradient_clip,
        **scheduler_arguments(optimizer),
        warmup_steps=optimizer.warmup_fraction,
        use_cpu=recipe.device == "cpu" or not torch.accelerator.is_available(),
        seed=recipe.seed,
        logging_strategy="steps",
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        eval_strategy="no",
        metric_for_best_model=recipe.validation.metric,
        greater_is_better=True,
        dataloader_num_workers=recipe.data.num_workers,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available() and recipe.device != "cpu",
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        report_to=list(recipe.report_to) or "none",
    )


def memory_of_device(recipe: Recipe) -> int | None:
    """Return the bytes of memory of this process's GPU, None where it trains on a CPU."""
    is_cpu = recipe.device == "cpu" or not torch.cuda.is_available()
    return None if is_cpu else torch.cuda.get_device_properties(0).total_memory


def check_reporters(recipe: Recipe) -> None:
    """Raise ValueError for a service whose package is not installed, and for thawing in several processes."""
    for name in recipe.report_to:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"Recipe key report_to names {name}, whose package is not installed: pip install {name}, or leave it "
                "out; metrics.jsonl and tensorboard/ are written in any case."
            )
    if recipe.model.unfreeze_epoch is not None and num_processes() > 1:
        raise ValueError(
            f"Recipe key model.unfreeze_epoch works in one process, found {num_processes()}: DDP and FSDP fix at the "
            "start which weights get gradients. Train frozen, then begin a second run from its best checkpoint with "
            "model.freeze=[] model.checkpoint=BEST."
        )


def started_from(checkpoint: str | None) -> dict[str, Any] | None:
    """Return the record (`training.json`) of the checkpoint that a run started from, None if it has none."""
    file = folder_of(checkpoint) / "training.json"
    if checkpoint is None or not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    return {name: value for name, value in record.items() if name not in ("validation", "packages")}


def num_bad_clips(dataset: Any) -> int:
    """Return the number of clips of a `ClipDataset` or `ClipMixture` that could not be read."""
    return sum(len(part.cache.bad) for part in getattr(dataset, "parts", [dataset]) if part.cache is not None)


def _forget_after(metrics: Path, step: int) -> float:
    """Drop the lines of steps after `step`, which a resumed run writes again; return the minutes trained up to it."""
    if not metrics.is_file():
        return 0.0
    lines = [line for line in metrics.read_text(encoding="utf-8").splitlines() if _step_in(line) <= step]
    write_whole(metrics, "".join(f"{line}\n" for line in lines))
    return max((json.loads(line)["minutes"] for line in lines), default=0.0)


def _step_in(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # a kill cut the line short
        return float("inf")


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0
