"""Callbacks of the Trainer: phases, averaging, validation, checkpoints, time limit, progress bar."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState

from mirasol.settings import one_line
from mirasol.train.schedule import is_stale

if TYPE_CHECKING:
    from mirasol.train.trainer import MirasolTrainer


class StoppedAgain(Exception):
    """Raised when a signal arrives before the first step, in the validation that an earlier stop left out."""


class MirasolCallback(TrainerCallback):
    """Set phase and epoch, average the weights, decide when to validate, save and stop."""

    def __init__(self, trainer: MirasolTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.trainer.ema is not None:
            self.trainer.ema.to(args.device)
        validated = any("eval_seconds" in line and line["step"] == state.global_step for line in state.log_history)
        if state.global_step and float(state.epoch).is_integer() and self._is_due(state) and not validated:
            # The run was stopped at the end of an epoch, and saved without the validation that was due.
            metrics = self.trainer.evaluate()
            if self.trainer.stopped_by is not None:
                raise StoppedAgain
            self.trainer._determine_best_metric(metrics, None)
            self.trainer.save_validated()

    def on_epoch_begin(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        # accelerate would not set the epoch of the sampler of a run resumed on several processes, nor of a dataset
        # that has epochs too.
        epoch = int(state.epoch or 0)
        self.trainer.sampler.set_epoch(epoch)
        dataset: Any = self.trainer.train_dataset
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        pretraining = epoch < self.trainer.recipe.schedule.pretrain_epochs
        self.trainer.model.set_objective("pretrain" if pretraining else "finetune")
        self.trainer.skipped.begin_epoch(self.trainer.sampler.num_clips)
        unfreeze_epoch = self.trainer.recipe.model.unfreeze_epoch
        for parameter in self.trainer.thawing:
            parameter.requires_grad_(unfreeze_epoch is not None and epoch >= unfreeze_epoch)
        self.trainer._restart_window()

    def on_optimizer_step(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.trainer.ema is not None:
            self.trainer.ema.update_parameters(self.trainer.model)

    def on_step_end(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        limit = self.trainer.recipe.schedule.time_limit_minutes
        is_over = limit is not None and time.monotonic() - self.trainer.started > limit * 60
        control.should_training_stop |= self.trainer.agree_to_stop(is_over)
        ends = control.should_training_stop or float(state.epoch or 0).is_integer() and self._is_due(state)
        if self.trainer.stopped_by is not None:
            control.should_save = True
        elif ends:
            control.should_save = False  # because `on_epoch_end` saves this step, with its validation

    def on_evaluate(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        validation = self.trainer.recipe.validation
        assert validation.metric is not None, "the recipe is resolved"
        control.should_training_stop |= is_stale(state.log_history, validation.metric, validation.patience)

    def on_epoch_end(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.trainer.skipped.count:
            self.trainer.log(dict(self.trainer.skipped.as_logs()))
            warnings.warn(str(self.trainer.skipped), stacklevel=1)
        if self.trainer.stopped_by is not None:
            return  # the step is saved, and there may be no time to validate
        stops = control.should_training_stop or state.global_step >= state.max_steps
        if self._is_due(state) or (stops and self.trainer.validate is not None):
            control.should_evaluate = True
        if stops or control.should_evaluate:
            control.should_save = True

    def _is_due(self, state: TrainerState) -> bool:
        """True if validation belongs to the end of this epoch."""
        is_last = state.global_step >= state.max_steps
        is_due = is_last or round(state.epoch) % self.trainer.recipe.validation.every_epochs == 0
        return self.trainer.validate is not None and is_due


class Pages(TrainerCallback):
    """Rewrite the page of the run at each checkpoint and at the end; an error in it does not end the run."""

    def __init__(self, folder: Path, report: Callable[[Path], Any]) -> None:
        self.folder, self.report = folder, report

    def write(self) -> None:
        try:
            self.report(self.folder)
        except Exception as error:
            warnings.warn(f"Expected to write the page of the run, found {one_line(error)}.", stacklevel=1)

    def on_save(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if not control.should_training_stop:
            self.write()

    def on_train_end(self, args, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.write()


class QuietProgress(ProgressCallback):
    """Progress bar with the losses; only validations are printed as lines."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if self.training_bar is None or not logs:
            return
        if any(name.startswith("eval_") for name in logs):
            prefixes = ("eval_mean_", "eval_words_", "eval_sentence_", "eval_exact_match_", "eval_seconds")
            values = {name: value for name, value in logs.items() if name.startswith(prefixes)}
            super().on_log(args, state, control, logs={"epoch": logs.get("epoch"), **values}, **kwargs)
        else:
            shown = ("loss", "text_loss", "latent_loss", "video_loss", "loader_wait_share")
            self.training_bar.set_postfix({name: f"{logs[name]:.3f}" for name in shown if name in logs}, refresh=False)
