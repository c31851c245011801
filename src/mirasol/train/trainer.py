"""transformers' Seq2SeqTrainer, changed only where Mirasol needs it: every loss logged, validation by generation,
the objective by phase, averaged weights, and checkpoints that are either whole or absent."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from accelerate.utils import gather_object
from pydantic_core import to_json
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Sampler
from transformers import ProgressCallback, Seq2SeqTrainer, TrainerCallback

from mirasol.data.sampler import EpochSampler
from mirasol.data.skipped import Skipped
from mirasol.files import replace_folder, write_whole
from mirasol.model.modeling_mirasol_losses import count_targets
from mirasol.model.modeling_mirasol_temporal import collapse_statistics
from mirasol.settings import one_line
from mirasol.train.callbacks import MirasolCallback, QuietProgress
from mirasol.train.checkpoint import digests, files_of, load_state, save_state, seal
from mirasol.train.optimizer import MuonWithAdamW, layer_matrices
from mirasol.train.parallel import (
    Layout,
    apart_by_layout,
    filled,
    gathered,
    local,
    shard_weights,
    skeleton,
    tensors_of,
)
from mirasol.train.recipe_schema import Recipe
from mirasol.train.record import CHECKPOINT_PREFIX, begun_with, find_checkpoints, step_of
from mirasol.train.stop import SIGNALS, STOP

KEPT_CHECKPOINTS = 2  # the older one is for a newest that is torn
MONITOR_EVERY = 20  # steps between two looks at whether the latents collapse, which cost one decomposition each


class MirasolTrainer(Seq2SeqTrainer):
    """Trains a Mirasol model by a recipe; `validate(model)` returns the metrics of generated answers on val.

    A batch holds clips, each with k questions, so rows of text and clips differ in number: nothing here counts rows.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        run_dir: Path,
        started: float,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        keep_best: Callable[[nn.Module, dict[str, float], int], None] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        layout: Layout | None = None,
        **kwargs: Any,
    ) -> None:
        self.recipe, self.run_dir, self.validate, self.keep_best = recipe, run_dir, validate, keep_best
        self.started = started  # time.monotonic() minus what earlier launches of this run took
        self._sums: dict[str, float] = defaultdict(float)
        self._num_batches = self._num_steps = 0
        self._step_losses: list[torch.Tensor] = []
        self._monitor: dict[str, float] = {}
        self._wait_seconds, self._window_start = 0.0, time.perf_counter()
        self._saving_to: Path | None = None
        self.saved_step = 0  # of the newest whole checkpoint
        self.stopped_by: Signals | None = None  # by agreement of all processes
        self.skipped = Skipped(recipe.data.max_skipped_share)
        self._skeleton: nn.Module | None = None
        model, args, decay = kwargs["model"], kwargs["args"], recipe.optimizer.ema_decay
        if layout is not None and layout.shard > 1:
            self._skeleton = skeleton(model)
            shard_weights(model, layout, args.device)
        super().__init__(callbacks=[MirasolCallback(self), *(callbacks or [])], **kwargs)
        # The Trainer then leaves placement and reduction of gradients to the model. It refuses this at its start,
        # because it cannot save such an optimizer; `_save_optimizer_and_scheduler` below can.
        self.is_distributed_loading_by_transformers = self._skeleton is not None
        self.remove_callback(ProgressCallback)
        self.add_callback(QuietProgress())
        self.model_accepts_loss_kwargs = True  # its losses are shares of the step: not to be divided once more
        averaged = filled(self._skeleton, tensors_of(model)) if self._skeleton is not None else self.model
        self.ema = AveragedModel(averaged, multi_avg_fn=_warm_average(decay)) if decay else None

    @property
    def best_weights(self) -> nn.Module:
        """The model that validation sees and that is exported: the averaged one if the recipe asks for it.

        Sharded weights are gathered on every process, and all have to ask. It generates on its own then, so that
        processes with answers of unequal length never wait for each other.
        """
        best = self.ema.module if self.ema is not None and self.ema.n_averaged > 0 else self.model
        if self._skeleton is None:
            return best
        return filled(self._skeleton, [gathered(tensor).clone() for tensor in tensors_of(best)])

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if self._skeleton is None:  # shards lie on their device already
            super()._move_model_to_device(model, device)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the weights of linear and convolution layers; norms, biases, embeddings and tables do not decay."""
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        decaying = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return [
            f"{name}.weight" if name else "weight"
            for name, module in model.named_modules()
            if isinstance(module, decaying) and id(module.weight) not in embeddings
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW as the Trainer makes it, or Muon for the layers' matrices beside it."""
        if self.recipe.optimizer.name == "adamw" or self.optimizer is not None:
            optimizer = super().create_optimizer(model)
            optimizer.param_groups[:] = apart_by_layout(optimizer.param_groups)
            return optimizer
        recipe, names = self.recipe.optimizer, layer_matrices(self.model)
        decaying = self.get_decay_parameter_names(self.model)
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        rest = [(name, parameter) for name, parameter in trained if name not in names]
        self.optimizer = MuonWithAdamW(
            [parameter for name, parameter in trained if name in names],
            [
                {"params": [p for name, p in rest if name in decaying], "weight_decay": recipe.weight_decay},
                {"params": [p for name, p in rest if name not in decaying], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            betas=recipe.betas,
            eps=recipe.epsilon,
        )
        return self.optimizer

    # -- data: order and augmentation follow (seed, epoch), and the time the loader costs is measured

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        self.sampler = sampler_of(self.train_dataset, self.recipe)
        self.skipped.begin_epoch(self.sampler.num_clips)
        return self.sampler

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple:
        start = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._wait_seconds += time.perf_counter() - start
        self.skipped.take(batches)
        num_items, self._num_pairs = self._count_targets(batches)
        self.skipped.refuse_many()
        return batches, num_items

    def _count_targets(self, batches: list) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of answers and pairs of chunks in one step, over its micro-batches and processes.

        The model's losses are shares of these, which add up to the loss of one large batch.
        """
        names = ("labels", "video_chunk_mask", "audio_chunk_mask")
        counts = sum(count_targets(*(batch[name] for name in names)) for batch in batches).to(self.args.device)
        counts = torch.cat([counts, counts.new_tensor([self.skipped.unseen])])
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self.skipped.add(int(counts[-1]))
        return counts[0], counts[1:-1]

    # -- losses

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager:
        """Autocast to bf16 where the recipe asks for it.

        Ours instead of accelerate's, which replaces the model's `forward` and copies every output to float32.
        """
        device = self.args.device.type
        return torch.autocast(device, torch.bfloat16) if self.recipe.bf16 else contextlib.nullcontext()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The micro-batch's share of the step's loss; its parts are summed for the next log line."""
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch, num_pairs_in_batch=self._num_pairs)
        for name, value in outputs.items():
            if name.endswith("_loss") and value is not None:
                self._sums[name] += value.detach().float()
        self._num_batches += 1
        if self.state.global_step % MONITOR_EVERY == 0 and outputs.get("encoder_outputs") is not None:
            self._monitor = self._collapse(outputs.encoder_outputs)
        loss = outputs.loss * self.args.world_size  # of which gradients are averaged
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Forward and backward of one micro-batch, whose loss is kept until the step is known to be finite."""
        loss = super().training_step(*args, **kwargs)
        self._step_losses.append(loss)
        return loss

    @contextlib.contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        """Of all micro-batches but the last, gradients are reduced to shards, but not yet among replicas."""
        self.model.set_requires_all_reduce(False)
        try:
            yield
        finally:
            self.model.set_requires_all_reduce(True)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """The gradient's norm; a step whose losses or gradients are not finite ends the run before it is taken."""
        norm = gathered(super()._clip_grad_norm(model))
        losses = torch.stack([*self._step_losses, torch.as_tensor(norm, device=self.args.device)])
        self._step_losses.clear()
        self._num_steps += 1
        if self._any_process(~losses.isfinite().all()):
            raise ValueError(self._not_finite(losses.tolist()))
        return norm

    def _any_process(self, flag: torch.Tensor | bool) -> bool:
        """True on every process if the flag is set on one; all have to ask."""
        flag = torch.as_tensor(flag, dtype=torch.float32, device=self.args.device)
        return bool((self.accelerator.reduce(flag, reduction="sum") if self.args.world_size > 1 else flag) > 0)

    def _not_finite(self, losses: list[float]) -> str:
        """Return the message of a step that is not finite, after its clips are written to a file; all have to ask."""
        *losses, norm = losses
        args, step, order = self.args, self.state.global_step, list(self.sampler)
        size, world = args.per_device_train_batch_size, args.world_size
        steps_per_epoch = math.ceil(len(order) // size // world / args.gradient_accumulation_steps)
        first = step % steps_per_epoch * args.gradient_accumulation_steps
        batches = []
        for number, loss in enumerate(losses):
            start = ((first + number) * world + args.process_index) * size
            clips = [self.train_dataset.row_id(row) for row in order[start : start + size] if row >= 0]
            batches.append({"process": args.process_index, "loss": loss, "clips": clips})
        batches = gather_object(batches)
        bad = [batch for batch in batches if not math.isfinite(batch["loss"])]
        found = f"a loss of {bad[0]['loss']}" if bad else f"a norm of {norm}"
        file = self.run_dir / "not_finite.json"
        if self.is_world_process_zero():
            about = {"step": step + 1, "epoch": step // steps_per_epoch + 1, "gradient_norm": norm, "batches": batches}
            write_whole(file, to_json(about, indent=2, inf_nan_mode="strings").decode() + "\n")
        return (
            f"Expected a finite loss and gradient, found {found} at step {step + 1} "
            f"(epoch {step // steps_per_epoch + 1}) on the clips "
            f"{', '.join(clip for batch in bad or batches for clip in batch['clips'])}. That step was not taken and "
            f"nothing was saved after it: look at these clips ({file}), or lower optimizer.learning_rate in a new "
            "run; the same command resumes from the last checkpoint."
        )

    def _require_finite(self, model: nn.Module) -> None:
        """Refuses to validate, save or export weights that are not finite; all have to ask."""
        named = list(model.named_parameters())
        broken = torch.stack([~local(weight).isfinite().all() for _, weight in named]).float().to(self.args.device)
        if self.args.world_size > 1:
            broken = self.accelerator.reduce(broken, reduction="sum")
        if names := [name for (name, _), is_broken in zip(named, broken.tolist(), strict=True) if is_broken]:
            raise ValueError(
                f"Expected finite weights, found NaN or infinity in {len(names)} of them after step "
                f"{self.state.global_step}, {names[0]} first; they are not saved. Lower optimizer.learning_rate."
            )

    @torch.no_grad()
    def _collapse(self, encoded: Any) -> dict[str, float]:
        feature_mean = self.model.get_encoder().feature_mean
        statistics = collapse_statistics(encoded.combined_features, encoded.chunk_mask, feature_mean)
        return {name: value.item() for name, value in statistics.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds, to the Trainer's own training line, every loss apart, the loader's share of the time and the speed."""
        if "loss" in logs and self._num_batches:
            seconds = time.perf_counter() - self._window_start
            names = sorted(self._sums)
            means = torch.stack([torch.as_tensor(self._sums[name]) for name in names]) if names else torch.zeros(0)
            means = means.to(self.args.device) / self._num_steps
            if self.args.world_size > 1:
                means = self.accelerator.reduce(means, reduction="sum")
            clips = self._num_batches * self.args.per_device_train_batch_size * self.args.world_size
            logs |= dict(zip(names, means.tolist(), strict=True))
            logs |= {"loader_wait_share": self._wait_seconds / seconds, "clips_per_second": clips / seconds}
            logs["objective_is_pretrain"] = float(self.in_pretraining(self.state.epoch or 0.0))
            logs |= self._monitor
            self._monitor = {}
            self._restart_window()
        logs.pop("total_flos", None)  # the Trainer's estimate, made for text models
        super().log(logs, start_time)
        if self.is_world_process_zero():
            minutes = (time.monotonic() - self.started) / 60
            line = to_json({"step": self.state.global_step, "minutes": minutes, **logs}, inf_nan_mode="null")
            with (self.run_dir / "metrics.jsonl").open("ab") as lines:
                lines.write(line + b"\n")

    def _restart_window(self) -> None:
        self._sums.clear()
        self._num_batches = self._num_steps = 0
        self._wait_seconds, self._window_start = 0.0, time.perf_counter()

    def in_pretraining(self, epoch: float) -> bool:
        """True if the step that ended at this (fractional) epoch belonged to the pretrain phase."""
        return epoch <= self.recipe.schedule.pretrain_epochs and self.recipe.schedule.pretrain_epochs > 0

    # -- validation by generation, in place of the Trainer's evaluation loop

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval", **kwargs) -> dict[str, float]:
        """Metrics of answers generated on val, each under `eval_`."""
        start = time.perf_counter()
        model = self.best_weights
        self._require_finite(model)
        was_training = model.training
        with self._random_state_kept(), torch.no_grad(), self.compute_loss_context_manager():
            model.eval()
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.validate(model).items()}
        model.train(was_training)
        if not metrics:  # asked to stop; the resumed run validates
            self.control.should_training_stop = self.agree_to_stop()
            return metrics
        metrics[f"{metric_key_prefix}_seconds"] = time.perf_counter() - start
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._restart_window()
        return metrics

    def _random_state_kept(self) -> contextlib.AbstractContextManager:
        # Validation and export come at other steps when a run is stopped and resumed; its dropout stays the same.
        return torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else [])

    def agree_to_stop(self, is_over: bool = False) -> bool:
        """True if a process is over its time or was asked to stop, by `stopped_by` then; all have to ask.

        All processes stop at the same step, or the remaining ones would wait for the others for ever.
        """
        wishes = torch.tensor([is_over, *(STOP.signal == number for number in SIGNALS)], device=self.args.device)
        if self.args.world_size > 1:
            wishes = self.accelerator.reduce(wishes.float(), reduction="sum")
        is_over, *signals = (wishes > 0).tolist()
        self.stopped_by = next((number for number, wished in zip(SIGNALS, signals, strict=True) if wished), None)
        return is_over or self.stopped_by is not None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if not metrics:
            return False
        if f"eval_{self.args.metric_for_best_model}" not in metrics:
            known = ", ".join(sorted(n.removeprefix("eval_") for n in metrics if n.startswith("eval_")))
            raise ValueError(
                f"Recipe key validation.metric is {self.args.metric_for_best_model!r}, but validation gives: {known}. "
                "Choose one of these."
            )
        is_best = super()._determine_best_metric(metrics, trial)
        self.state.best_global_step = None  # the Trainer would look for a checkpoint of it; ours is the export
        if is_best and self.keep_best is not None:
            best = self.best_weights  # gathered by all
            if self.is_world_process_zero():
                with self._random_state_kept():
                    self.keep_best(best, metrics, self.state.global_step)
        return is_best

    # -- checkpoints: written beside, then moved, so a kill leaves the last whole one

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_to or self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._require_finite(self.model)
        step = self.state.global_step
        final = Path(self.args.output_dir) / f"{CHECKPOINT_PREFIX}{step}"
        final.parent.mkdir(parents=True, exist_ok=True)
        self._saving_to = self.run_dir / "checkpoints.partial"
        written = self._saving_to / final.name
        parts = (
            lambda: super(MirasolTrainer, self)._save_checkpoint(model, trial),
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

    def _all_wrote(self, write: Callable[[], Any], final: Path) -> bool:
        """True if every process wrote its files; a full disk costs this checkpoint only, and the run continues."""
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
        """Writes the manifest, to which every process adds the checksums of its share of the files."""
        self.accelerator.wait_for_everyone()
        files = files_of(folder)[self.args.process_index :: self.args.world_size]
        found = gather_object(list(digests(folder, files).items()))
        if self.is_world_process_zero():
            seal(folder, dict(found))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Leaves the weights of a checkpoint to `_save_optimizer_and_scheduler`."""
        assert _internal_call, "the export is written by keep_best"

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        save_state(Path(output_dir), self.model, _unwrapped(self.optimizer), self.ema)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Leaves the weights to `_load_optimizer_and_scheduler`, which runs when there is an optimizer."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        load_state(Path(checkpoint), self.model, _unwrapped(self.optimizer), self.ema)
        self.saved_step = step = step_of(Path(checkpoint))
        # The rate is a function of the step. What torch would save of it has an entry for each group of parameters,
        # and sharded weights make other groups than whole ones.
        schedule = self.lr_scheduler
        schedule.last_epoch, schedule._step_count = step, step + 1
        schedule._last_lr = [base * at(step) for base, at in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
            group["lr"] = rate


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer inside accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def sampler_of(dataset: Any, recipe: Recipe) -> EpochSampler:
    """Return the order of a dataset's clips, in whole steps of the processes that the run began with."""
    sources = [getattr(part, "shard_sizes", len(part)) for part in getattr(dataset, "parts", [dataset])]
    num_batches = begun_with(Path(recipe.output)) * recipe.schedule.gradient_accumulation_steps  # of a step
    return EpochSampler(sources, recipe.schedule.batch_size, recipe.seed, num_batches)


def _warm_average(decay: float) -> Callable:
    """An exponential moving average that trusts the first steps less: the decay at update n is (1 + n) / (10 + n)."""

    @torch.no_grad()
    def average(averaged: list[torch.Tensor], current: list[torch.Tensor], num_averaged: torch.Tensor | int) -> None:
        updates = int(num_averaged)
        weight = 1 - min(decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_([local(each) for each in averaged], [local(each) for each in current], weight)

    return average
