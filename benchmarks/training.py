"""Clips per second in training, and the share of the time in which training waits for its loader, by attention.

    OMP_NUM_THREADS=1 python benchmarks/training.py [RECIPE] [--steps 20] [--attention eager sdpa] [key=value ...]

Runs the recipe's own training loop (`MirasolTrainer`: losses, backward, optimizer, averaged weights, loader with its
workers) in a temporary folder, once for each attention implementation, each in a process of its own so that each has
its own peak memory. Steps are those of the bulk of training: picture and sound, all noise, objective `finetune`.
"Waits" is the loader's share of the wall time of a step inside an epoch (aim: under 5 %); "at start" is the wait for
an epoch's first batch, because workers start anew, and "epoch waits" the share with that counted in over an epoch.
"CPU" is the training process alone, which a busy machine changes less than wall time; workers come on top of it.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BULK_OF_TRAINING = (
    "data.augmentation.sound_first_epochs=0",
    "data.augmentation.noise_ramp_epochs=[0, 0]",
    "schedule.pretrain_epochs=0",
    "schedule.gradient_accumulation_steps=1",
    "schedule.time_limit_minutes=null",
    "validation.max_clips=1",
    "logging_steps=1",
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One implementation's row of the table; seconds are medians of one step."""

    clips_per_second: float
    step_seconds: float
    step_cpu_seconds: float
    wait_share: float
    start_seconds: float
    epoch_wait_share: float
    peak_mebibytes: float
    worker_peak_mebibytes: float


def measure(recipe_path: str, overrides: list[str], attention: str, num_steps: int, num_warmup: int) -> Measured:
    """Trains `num_warmup + num_steps` steps and measures the last `num_steps`."""
    # Imported here: a process starts with the memory peak of the one that made it, which therefore stays small.
    import torch
    from transformers import TrainerCallback, set_seed
    from transformers.utils import logging

    from mirasol.train.build import build_parts
    from mirasol.train.recipe import load_recipe
    from mirasol.train.resolve import resolve
    from mirasol.train.run import training_arguments
    from mirasol.train.trainer import MirasolTrainer

    class CpuClock(TrainerCallback):
        """CPU seconds of this process at the end of every step."""

        seconds: list[float] = []

        def on_step_end(self, args, state, control, **kwargs) -> None:
            self.seconds.append(time.process_time())

    logging.disable_progress_bar()
    chosen = [*BULK_OF_TRAINING, *overrides, f"model.attn_implementation={attention}"]
    recipe = resolve(load_recipe(recipe_path, chosen))
    set_seed(recipe.seed)
    parts = build_parts(recipe)
    batch_size, num_all = recipe.schedule.batch_size, num_warmup + num_steps
    steps_per_epoch = len(parts["train_dataset"]) // batch_size
    with tempfile.TemporaryDirectory() as folder:
        arguments = dataclasses.replace(training_arguments(recipe, Path(folder)), max_steps=num_all)
        trainer = MirasolTrainer(
            recipe=recipe, run_dir=Path(folder), started=time.monotonic(), callbacks=[CpuClock()], args=arguments,
            model=parts["model"], train_dataset=parts["train_dataset"], data_collator=parts["collator"],
        )  # fmt: skip
        trainer.train()
        lines = map(json.loads, (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        logged = {line["step"]: line for line in lines if "clips_per_second" in line}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worker_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unit = 1024**2 if sys.platform == "darwin" else 1024
    if torch.cuda.is_available() and recipe.device != "cpu":
        peak, unit = torch.cuda.max_memory_allocated(), 1024**2

    seconds = {step: batch_size / line["clips_per_second"] for step, line in logged.items()}
    waits = {step: line["loader_wait_share"] * seconds[step] for step, line in logged.items()}
    starts = [step for step in logged if (step - 1) % steps_per_epoch == 0]
    inside = [step for step in logged if step > num_warmup and step not in starts]
    step_seconds = statistics.mean(seconds[step] for step in inside)
    wait_seconds = statistics.mean(waits[step] for step in inside)
    start_seconds = statistics.mean(waits[step] for step in starts)
    work = step_seconds - wait_seconds
    epoch_wait = start_seconds + (steps_per_epoch - 1) * wait_seconds
    cpu = CpuClock.seconds
    return Measured(
        clips_per_second=batch_size / step_seconds,
        step_seconds=statistics.median(seconds[step] for step in inside),
        step_cpu_seconds=statistics.median(cpu[step - 1] - cpu[step - 2] for step in inside),
        wait_share=wait_seconds / step_seconds,
        start_seconds=start_seconds,
        epoch_wait_share=epoch_wait / (epoch_wait + steps_per_epoch * work),
        peak_mebibytes=peak / unit,
        worker_peak_mebibytes=worker_peak / (1024**2 if sys.platform == "darwin" else 1024),
    )


def main() -> None:
    """Prints one row per attention implementation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default=str(REPOSITORY / "recipes" / "grid_nano.yaml"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change the recipe, as `mirasol train` does")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=2, help="steps before those, not measured; at least 1")
    parser.add_argument("--attention", nargs="+", default=["eager", "sdpa"], choices=["eager", "sdpa"])
    parser.add_argument("--json", action="store_true", help="measure the first attention in this process, print JSON")
    arguments = parser.parse_intermixed_args()
    if "=" in arguments.recipe:
        arguments.overrides.insert(0, arguments.recipe)
        arguments.recipe = parser.get_default("recipe")
    if arguments.steps < 1 or arguments.warmup < 1:
        parser.error(f"--steps and --warmup must be at least 1, found {arguments.steps} and {arguments.warmup}.")
    if arguments.json:
        row = measure(arguments.recipe, arguments.overrides, arguments.attention[0], arguments.steps, arguments.warmup)
        print(json.dumps(dataclasses.asdict(row)))
        return
    print(f"{arguments.recipe} {' '.join(arguments.overrides)}: {arguments.steps} steps each")
    print(
        f"{'attention':<10} {'clips/s':>8} {'s/step':>7} {'CPU s/step':>11} {'waits %':>8} {'at start s':>11} "
        f"{'epoch waits %':>14} {'peak MiB':>9} {'worker MiB':>11}"
    )
    for attention in arguments.attention:
        # Not multiprocessing: its children would start the loader's workers otherwise than training does.
        command = [sys.executable, __file__, arguments.recipe, *arguments.overrides, "--json"]
        command += ["--attention", attention, "--steps", str(arguments.steps), "--warmup", str(arguments.warmup)]
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        row = Measured(**json.loads(printed.splitlines()[-1]))
        print(
            f"{attention:<10} {row.clips_per_second:>8.1f} {row.step_seconds:>7.2f} {row.step_cpu_seconds:>11.2f} "
            f"{100 * row.wait_share:>8.1f} {row.start_seconds:>11.2f} {100 * row.epoch_wait_share:>14.1f} "
            f"{row.peak_mebibytes:>9.0f} {row.worker_peak_mebibytes:>11.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
