"""Trainer of Mirasol: logs every loss, validates by generation, samples by (seed, epoch), stops at NaN.

Averaged weights, shards and checkpoints are in `ShardedTrainer`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from pydantic_core import to_json
from torch import nn
from torch.utils.data import Sampler
from transformers import ProgressCallback, TrainerCallback

from mirasol.data.sampler import EpochSampler
from mirasol.data.skipped import Skipped
from mirasol.files import write_whole
from mirasol.model.modeling_mirasol_losses import count_targets
from mirasol.model.modeling_mirasol_temporal import collapse_statistics
from mirasol.train.adapt import parameters_of
from mirasol.train.callbacks import MirasolCallback, QuietProgress
from mirasol.train.optimizer import MuonWithAdamW, layer_matrices
from mirasol.train.parallel import Layout, apart_by_layout, gathered
from mirasol.train.recipe_schema import Recipe
from mirasol.train.record import begun_with
from mirasol.train.schedule import scheduler_arguments, split_rates
from mirasol.train.sharded_trainer import ShardedTrainer

MONITOR_EVERY = 20  # steps between measurements of collapse, because each costs an SVD


class MirasolTrainer(ShardedTrainer):
    """Trainer of a Mirasol model by a recipe; `validate(model)` returns the metrics of generated answers on val.

    A batch holds clips with k questions each, so the number of text rows is not the number of clips.
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
        self.recipe, self.validate, self.keep_best = recipe, validate, keep_best
        self.started = started  # time.monotonic() minus the seconds of this run's earlier launches
        self._sums: dict[str, float] = defaultdict(float)
        self._num_batches = self._num_steps = 0
        self._step_losses: list[torch.Tensor] = []
        self._monitor: dict[str, float] = {}
        self._wait_seconds, self._window_start = 0.0, time.perf_counter()
        frozen = recipe.model.freeze if recipe.model.unfreeze_epoch is not None else ()
        self.thawing = parameters_of(kwargs["model"], frozen, "model.freeze")  # frozen now, trained later
        self.skipped = Skipped(recipe.data.max_skipped_share)
        super().__init__(
            run_dir=run_dir,
            layout=layout,
            ema_decay=recipe.optimizer.ema_decay,
            callbacks=[MirasolCallback(self), *(callbacks or [])],
            **kwargs,
        )
        self.remove_callback(ProgressCallback)
        self.add_callback(QuietProgress())
        self.model_accepts_loss_kwargs = True  # its losses are shares of the step already

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the names of the weights of linear and convolution layers; all other parameters do not decay."""
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        decaying = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return [
            f"{name}.weight" if name else "weight"
            for name, module in model.named_modules()
            if isinstance(module, decaying) and id(module.weight) not in embeddings
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the recipe's optimizer, also for parts that are thawed later, with a learning rate for each part."""
        if self.optimizer is None:
            for parameter in self.thawing:  # until the first epoch begins, because an optimizer takes trained weights
                parameter.requires_grad_(True)
            self.optimizer = self._new_optimizer(model)
            split_rates(self.optimizer, self.model, self.recipe.optimizer.part_rates)
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        arguments = scheduler_arguments(self.recipe.optimizer, num_training_steps)
        self.args.lr_scheduler_kwargs = arguments["lr_scheduler_kwargs"]
        return super().create_scheduler(num_training_steps, optimizer)

    def _new_optimizer(self, model: nn.Module | None) -> torch.optim.Optimizer:
        """Return AdamW as the Trainer makes it, or Muon for the layers' matrices and AdamW for the rest."""
        if self.recipe.optimizer.name == "adamw":
            optimizer = super().create_optimizer(model)
            optimizer.param_groups[:] = apart_by_layout(optimizer.param_groups)
            return optimizer
        recipe, names = self.recipe.optimizer, layer_matrices(self.model)
        decaying = self.get_decay_parameter_names(self.model)
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        rest = [(name, parameter) for name, parameter in trained if name not in names]
        return MuonWithAdamW(
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

    # -- data: order and augmentation follow (seed, epoch); the time spent waiting for the loader is measured

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
        """Count answer tokens and pairs of chunks of one step, over its micro-batches and processes.

        The model divides its losses by these, so that they add up to the loss of one large batch.
        """
        names = ("labels", "video_chunk_mask", "audio_chunk_mask")
        counted = torch.stack([count_targets(*(batch[name] for name in names)) for batch in batches]).sum(dim=0)
        counts = counted.to(self.args.device)
        counts = torch.cat([counts, counts.new_tensor([self.skipped.unseen])])
        counts = self.accelerator.reduce(counts, reduction="sum")
        self.skipped.add(int(counts[-1]))
        return counts[0], counts[1:-1]

    # -- losses

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager:  # type: ignore[override]  # theirs is an ExitStack
        """Autocast to bf16 where the recipe asks for it.

        Instead of accelerate's autocast, which replaces the model's `forward` and copies every output to float32.
        """
        device = self.args.device.type
        return torch.autocast(device, torch.bfloat16) if self.recipe.bf16 else contextlib.nullcontext()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the micro-batch's share of the step's loss; add its parts to the sums of the next log line."""
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch, num_pairs_in_batch=self._num_pairs)
        for name, value in outputs.items():
            if name.endswith("_loss") and value is not None:
                self._sums[name] += value.detach().float()
        self._num_batches += 1
        if self.state.global_step % MONITOR_EVERY == 0 and outputs.get("encoder_outputs") is not None:
            self._monitor = self._collapse(outputs.encoder_outputs)
        loss = outputs.loss * self.args.world_size  # because gradients are averaged over the processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run one micro-batch forward and backward; keep its loss for the check of the step."""
        loss = super().training_step(*args, **kwargs)
        self._step_losses.append(loss)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Return the gradient norm; raise ValueError before a step with a loss or gradient that is not finite."""
        norm = gathered(super()._clip_grad_norm(model))
        losses = torch.stack([*self._step_losses, torch.as_tensor(norm, device=self.args.device)])
        self._step_losses.clear()
        self._num_steps += 1
        if self._any_process(~losses.isfinite().all()):
            raise ValueError(self._not_finite(losses.tolist()))
        return norm

    def _not_finite(self, losses: list[float]) -> str:
        """Write the clips of a step that is not finite to a file, and return the error message; a collective call."""
        *losses, norm = losses
        args, step, order = self.args, self.state.global_step, list(self.sampler)
        dataset: Any = self.train_dataset
        size, world = args.per_device_train_batch_size, args.world_size
        steps_per_epoch = math.ceil(len(order) // size // world / args.gradient_accumulation_steps)
        first = step % steps_per_epoch * args.gradient_accumulation_steps
        batches = []
        for number, loss in enumerate(losses):
            start = ((first + number) * world + args.process_index) * size
            clips = [dataset.row_id(row) for row in order[start : start + size] if row >= 0]
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

    @torch.no_grad()
    def _collapse(self, encoded: Any) -> dict[str, float]:
        feature_mean = self.model.get_encoder().feature_mean
        statistics = collapse_statistics(encoded.combined_features, encoded.chunk_mask, feature_mean)
        return {name: value.item() for name, value in statistics.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each loss, the loader's share of the time and the speed to the Trainer's log line."""
        if "loss" in logs and self._num_batches:
            seconds = time.perf_counter() - self._window_start
            names = sorted(self._sums)
            means = torch.stack([torch.as_tensor(self._sums[name]) for name in names]) if names else torch.zeros(0)
            means = self.accelerator.reduce(means.to(self.args.device) / self._num_steps, reduction="sum")
            clips = self._num_batches * self.args.per_device_train_batch_size * self.args.world_size
            logs |= dict(zip(names, means.tolist(), strict=True))
            logs |= {"loader_wait_share": self._wait_seconds / seconds, "clips_per_second": clips / seconds}
            logs["objective_is_pretrain"] = float((self.state.epoch or 0.0) <= self.recipe.schedule.pretrain_epochs)
            logs |= self._monitor
            self._monitor = {}
            self._restart_window()
        logs.pop("total_flos", None)  # the Trainer's estimate, made for text models
        super().log(logs, start_time)
        minutes = (time.monotonic() - self.started) / 60
        self._append("metrics.jsonl", {"step": self.state.global_step, "minutes": minutes, **logs})

    def _append(self, name: str, line: dict[str, Any]) -> None:
        if self.is_world_process_zero():
            with (self.run_dir / name).open("ab") as lines:
                lines.write(to_json(line, inf_nan_mode="null") + b"\n")

    def _restart_window(self) -> None:
        self._sums.clear()
        self._num_batches = self._num_steps = 0
        self._wait_seconds, self._window_start = 0.0, time.perf_counter()

    # -- validation by generation, in place of the Trainer's evaluation loop

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval", **kwargs) -> dict[str, float]:
        """Return the metrics of answers generated on val, with the prefix `eval_`; none if asked to stop."""
        assert self.validate is not None, "evaluated only where there is validation"
        start = time.perf_counter()
        model = self.best_weights
        self._require_finite(model)
        was_training = model.training
        # Not compiled, because each length of a growing answer would be compiled anew.
        eager = torch.compiler.set_stance("force_eager")
        with self._random_state_kept(), torch.no_grad(), self.compute_loss_context_manager(), eager:
            model.eval()
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.validate(model).items()}
        model.train(was_training)
        if not metrics:  # asked to stop; the resumed run validates
            self.control.should_training_stop = self.agree_to_stop()
            return metrics
        metrics[f"{metric_key_prefix}_seconds"] = time.perf_counter() - start
        self.log(metrics)
        if samples := getattr(self.validate, "samples", None):
            self._append("samples.jsonl", {"step": self.state.global_step, "samples": samples})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._restart_window()
        return metrics

    def _random_state_kept(self) -> contextlib.AbstractContextManager:
        # So that dropout does not depend on when a stopped and resumed run validates and exports.
        return torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else [])

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if not metrics:
            return False
        is_best = super()._determine_best_metric(metrics, trial)
        self.state.best_global_step = None  # the Trainer would look for its checkpoint; ours is the export
        if is_best and self.keep_best is not None:
            best = self.best_weights  # a collective call
            if self.is_world_process_zero():
                with self._random_state_kept():
                    self.keep_best(best, metrics, self.state.global_step)
        return is_best


def sampler_of(dataset: Any, recipe: Recipe) -> EpochSampler:
    """Return the sampler of a dataset's clips, in whole steps of the processes that the run began with."""
    sources = [getattr(part, "shard_sizes", len(part)) for part in getattr(dataset, "parts", [dataset])]
    num_batches = begun_with(Path(recipe.output)) * recipe.schedule.gradient_accumulation_steps  # of a step
    return EpochSampler(sources, recipe.schedule.batch_size, recipe.seed, num_batches)
