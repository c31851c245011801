"""A Trainer for sharded or replicated weights: averaging, agreement among processes, checkpoints."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim.swa_utils import AveragedModel
from transformers import Seq2SeqTrainer

from mirasol.files import replace_folder
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration
from mirasol.settings import one_line
from mirasol.train.checkpoint import digests, files_of, load_state, save_state, seal
from mirasol.train.parallel import Layout, filled, gathered, local, shard_weights, skeleton, tensors_of
from mirasol.train.record import CHECKPOINT_PREFIX, find_checkpoints, step_of
from mirasol.train.stop import SIGNALS, STOP

KEPT_CHECKPOINTS = 2  # the older one is a fallback if the newest is torn


class ShardedTrainer(Seq2SeqTrainer):
    """transformers' Seq2SeqTrainer over the processes of a layout.

    Args:
        run_dir: Folder of the run.
        layout: Shards and replicas; None for one process or replicas.
        ema_decay: Decay of the averaged weights; None keeps none.
    """

    model: MirasolForConditionalGeneration

    def __init__(self, *, run_dir: Path, layout: Layout | None, ema_decay: float | None, **kwargs: Any) -> None:
        self.run_dir = run_dir
        self._saving_to: Path | None = None
        self.saved_step = 0  # of the newest whole checkpoint
        self.stopped_by: Signals | None = None  # the same on all processes
        self._skeleton: nn.Module | None = None
        model, args = kwargs["model"], kwargs["args"]
        if layout is not None and layout.shard > 1:
            self._skeleton = skeleton(model)
            shard_weights(model, layout, args.device)
        super().__init__(**kwargs)
        # The Trainer then leaves placement and reduction of gradients to the model. Set after `__init__`, which
        # refuses it because the Trainer cannot save such an optimizer; `_save_optimizer_and_scheduler` below can.
        self.is_distributed_loading_by_transformers = self._skeleton is not None
        averaged = filled(self._skeleton, tensors_of(model)) if self._skeleton is not None else self.model
        self.ema = AveragedModel(averaged, multi_avg_fn=_warm_average(ema_decay)) if ema_decay else None

    @property
    def best_weights(self) -> nn.Module:
        """The model that is validated and exported: the averaged one if the recipe asks for it.

        Sharded weights are gathered on every process (a collective call), so that each generates alone, because
        answers of unequal length would make the processes wait for each other.
        """
        best = self.ema.module if self.ema is not None and self.ema.n_averaged > 0 else self.model
        if self._skeleton is None:
            return best
        return filled(self._skeleton, [gathered(tensor).clone() for tensor in tensors_of(best)])

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if self._skeleton is None:  # shards are on their device already
            super()._move_model_to_device(model, device)

    @contextlib.contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Reduce the gradients to shards, but not among replicas, for all micro-batches but the last."""
        self.model.set_requires_all_reduce(False)  # type: ignore[operator]  # of FSDPModule
        try:
            yield
        finally:
            self.model.set_requires_all_reduce(True)  # type: ignore[operator]  # of FSDPModule

    # -- agreement among processes

    def _any_process(self, flag: torch.Tensor | bool) -> bool:
        """Return whether the flag is set on any process; a collective call."""
        flag = torch.as_tensor(flag, dtype=torch.float32, device=self.args.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def agree_to_stop(self, is_over: bool = False) -> bool:
        """Return whether any process is over time or got a signal (`stopped_by`); a collective call.

        All processes stop at the same step, because the remaining ones would wait for the others for ever.
        """
        wishes = torch.tensor([is_over, *(STOP.signal == number for number in SIGNALS)], device=self.args.device)
        wishes = self.accelerator.reduce(wishes.float(), reduction="sum")
        is_over, *signals = (wishes > 0).tolist()
        self.stopped_by = next((number for number, wished in zip(SIGNALS, signals, strict=True) if wished), None)
        return is_over or self.stopped_by is not None

    def _require_finite(self, model: nn.Module) -> None:
        """Raise ValueError if weights are not finite, before they are validated or saved; a collective call."""
        named = list(model.named_parameters())
        broken = torch.stack([~local(weight).isfinite().all() for _, weight in named]).float().to(self.args.device)
        broken = self.accelerator.reduce(broken, reduction="sum")
        if names := [name for (name, _), is_broken in zip(named, broken.tolist(), strict=True) if is_broken]:
            raise ValueError(
                f"Expected finite weights, found NaN or infinity in {len(names)} of them after step "
                f"{self.state.global_step}, {names[0]} first; they are not saved. Lower optimizer.learning_rate."
            )

    # -- checkpoints: written to another folder, then moved, so that a kill leaves the last whole one

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_to or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._require_finite(self.model)
        assert self.args.output_dir is not None
        step = self.state.global_step
        final = Path(self.args.output_dir) / f"{CHECKPOINT_PREFIX}{step}"
        final.parent.mkdir(parents=True, exist_ok=True)
        self._saving_to = self.run_dir / "checkpoints.partial"
        written = self._saving_to / final.name
        parts = (
            lambda: super(ShardedTrainer, self)._save_checkpoint(model, trial),
            lambda: self._seal(written),
            lambda: replace_folder(written, final) if self.is_world_process_zero() else None,
        )
        is_saved = all(self._all_wrote(write, final) for write in parts)
        if self.is_world_process_zero():
            shutil.rmtree(self._saving_to, ignore_errors=True)
            if is_saved:
                earlier = [checkpoint for checkpoint in find_checkpoints(final.parent) if step_of(checkpoint) < step]
                for older in earlier[: 1 - KEPT_CHECKPOINTS]:
                    shutil.rmtree(older)
        self._saving_to = None
        self.saved_step = step if is_saved else self.saved_step
        self.accelerator.wait_for_everyone()

    def save_validated(self) -> None:
        """Save the resumed checkpoint again, with the validation that it lacked."""
        assert self.args.output_dir is not None
        self._load_rng_state(f"{self.args.output_dir}/{CHECKPOINT_PREFIX}{self.state.global_step}")
        self._save_checkpoint(self.model, None)

    def _all_wrote(self, write: Callable[[], Any], final: Path) -> bool:
        """Return whether every process wrote its files; a full disk costs only this checkpoint."""
        error = None
        try:
            write()
        except (OSError, RuntimeError, CheckpointException) as caught:
            error = caught
        if self._any_process(error is not None):
            if error is not None:
                last = f"step {self.saved_step} stays the last one" if self.saved_step else "there is none so far"
                warnings.warn(
                    f"{final} could not be written ({one_line(error)}) and is left out: {last}. Free "
                    "disk space; the run continues and the next checkpoint tries again.",
                    stacklevel=2,
                )
            return False
        return True

    def _seal(self, folder: Path) -> None:
        """Write the manifest; every process computes the checksums of its share of the files."""
        self.accelerator.wait_for_everyone()
        files = files_of(folder)[self.args.process_index :: self.args.world_size]
        found = gather_object(list(digests(folder, files).items()))
        if self.is_world_process_zero():
            seal(folder, dict(found))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Leave the weights of a checkpoint to `_save_optimizer_and_scheduler`."""
        assert _internal_call, "the export is written by keep_best"

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_state(Path(output_dir), self.model, _unwrapped(self.optimizer), self.ema)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Leave the weights to `_load_optimizer_and_scheduler`, which runs when there is an optimizer."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        load_state(Path(checkpoint), self.model, _unwrapped(self.optimizer), self.ema)
        self.saved_step = step = step_of(Path(checkpoint))
        # The rate is computed from the step, because a saved scheduler has an entry for each group of parameters, and
        # sharded weights have other groups than whole ones.
        schedule, optimizer = self.lr_scheduler, self.optimizer
        assert schedule is not None and optimizer is not None, "made before a checkpoint is loaded"
        schedule.last_epoch, schedule._step_count = step, step + 1
        schedule._last_lr = [base * at(step) for base, at in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _warm_average(decay: float) -> Callable:
    """Return an exponential moving average with warm-up: the decay at update n is at most (1 + n) / (10 + n)."""

    @torch.no_grad()
    def average(averaged: list[torch.Tensor], current: list[torch.Tensor], num_averaged: torch.Tensor | int) -> None:
        updates = int(num_averaged)
        weight = 1 - min(decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_([local(each) for each in averaged], [local(each) for each in current], weight)

    return average
