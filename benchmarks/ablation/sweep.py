"""Train a grid of runs and append one line of JSON for each: resumable, in several processes, within a given time.

    python benchmarks/ablation/sweep.py benchmarks/ablation/rows.yaml --clips runs/ablation.npz
        --output runs/ablation.jsonl [--jobs 16] [--minutes 7] [--fit 120] [--only words/] [--device cuda]

Runs start in the order of the file, all seeds of a row before the next row. The same command again does what is
missing. With `--minutes` no run starts after that time, and what is under way then is dropped.
With `--fit N` all processes first time a few steps together; then the steps of every run are multiplied by one factor
(0.4 to 1.5), so that the first N runs just fit. The factor is written into the output and kept when resumed.
A group whose base stays below its floor has learned too little to compare anything: its other rows are left out.
"""

import argparse
import json
import multiprocessing
import queue
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "src" / "mirasol" / "checkpoints" / "nano" / "model.safetensors"
FACTORS = (0.4, 1.5)
TIMED_STEPS = 20
OVERHEAD = 1.3  # evaluation and building, over the seconds of the training steps


def read_rows(path: Path, only: str = ""):
    """Return the runs of the file in order, each row's values over its group's over the defaults; and the floors."""
    import yaml
    from training import Run

    file = yaml.safe_load(path.read_text())
    runs = []
    for row in file["rows"]:
        name, task = row["name"], row["name"].split("/")[0]
        values = {**file["defaults"], **file["tasks"].get(task, {}), **row}
        seeds = values.pop("seeds")
        if not name.startswith(only):
            continue
        try:
            runs += [Run(**{"task": task, **values, "seed": seed}) for seed in range(seeds)]
        except TypeError as error:
            text = f"{path}, row {name}: {error}. Its keys must be fields of Run in {HERE / 'training.py'}."
            raise SystemExit(text) from None
    return runs, file.get("floors", {})


def work(number: int, arguments, todo, results, barrier, first_runs, deadline: float) -> None:
    """Hold one device over many runs: time the first one where asked, then take runs until there are none."""
    import packed
    import torch
    from training import Bank, OutOfTime, build, execute, fit

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    device = torch.device(arguments.device)
    bank = Bank(packed.load(arguments.clips), device)
    if arguments.fit:
        run = first_runs[number % len(first_runs)]
        model = build(run, bank, arguments.encoders)
        fit(run, model, bank, 5, False, float("inf"), 0)
        barrier.wait(timeout=180)
        start = time.time()
        fit(run, model, bank, TIMED_STEPS, False, float("inf"), 0)
        results.put({"timed": run.task, "seconds": (time.time() - start) / TIMED_STEPS})
        del model
    while True:
        run = todo.get()
        if run is None:
            break
        try:
            results.put(execute(run, bank, arguments.encoders, deadline))
        except OutOfTime:
            results.put({"stopped": run.name, "seed": run.seed})
        except Exception:
            results.put({"failed": run.name, "seed": run.seed, "error": traceback.format_exc()})
    results.put({"done": number})


def factor_of(runs, seconds: dict[str, float], jobs: int, budget: float) -> float:
    """Return the factor on all steps that lets these runs fit into `budget` seconds of so many processes."""
    slowest = max(seconds.values())
    needed = sum(run.steps * (1 + run.pretrain) * seconds.get(run.task, slowest) * OVERHEAD for run in runs)
    return round(min(max(jobs * budget / needed, FACTORS[0]), FACTORS[1]), 2)


def main() -> None:
    """Run what is missing and print each result as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--clips", type=Path, required=True, help="made by benchmarks/ablation/packed.py")
    parser.add_argument("--output", type=Path, required=True, help="the .jsonl to append to")
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=0.0, help="0: no limit")
    parser.add_argument("--fit", type=int, default=0, metavar="N", help="scale steps so that N runs fit")
    parser.add_argument("--only", default="", metavar="PREFIX", help="rows whose name starts so")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--encoders",
        type=Path,
        default=SHIPPED,
        help="model.safetensors that warm encoders start from; default: the shipped one",
    )
    arguments = parser.parse_args()
    start = time.time()
    deadline = start + 60 * arguments.minutes if arguments.minutes else float("inf")
    runs, floors = read_rows(arguments.rows, arguments.only)
    lines = (
        [json.loads(line) for line in arguments.output.read_text().splitlines()] if arguments.output.exists() else []
    )
    factor = next((line["factor"] for line in lines if "factor" in line), None)
    done = {(line["name"], line["seed"]) for line in lines if "right" in line}
    base: dict[str, float] = {}  # best seed of each group
    for line in lines:
        if line.get("name", "").endswith("/base"):
            group = line["name"].split("/")[0]
            base[group] = max(base.get(group, 0.0), line["mean"])
    runs = [run for run in runs if (run.name, run.seed) not in done]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if factor is not None:
        arguments.fit = 0
    print(f"{len(runs)} runs to do, {len(done)} done", flush=True)
    if not runs:
        return

    context = multiprocessing.get_context("spawn")
    todo, results = context.Queue(), context.Queue()
    todo.cancel_join_thread()  # so that a failure ends the program at once
    jobs = min(arguments.jobs, len(runs))
    barrier = context.Barrier(jobs)
    first_runs = list({run.task: run for run in reversed(runs)}.values())
    workers = [
        context.Process(target=work, args=(i, arguments, todo, results, barrier, first_runs, deadline), daemon=True)
        for i in range(jobs)
    ]
    for worker in workers:
        worker.start()

    def receive(timeout: float) -> dict[str, Any]:
        while True:
            try:
                return results.get(timeout=min(timeout, 5.0))
            except queue.Empty:
                if dead := [worker.exitcode for worker in workers if worker.exitcode not in (None, 0)]:
                    raise SystemExit(
                        f"{len(dead)} of {jobs} processes died with {dead}: see their output above."
                    ) from None

    with arguments.output.open("a") as output:

        def write(line: dict[str, Any]) -> None:
            output.write(json.dumps(line) + "\n")
            output.flush()

        if arguments.fit:
            timed: dict[str, list[float]] = {}
            for _ in range(jobs):
                line = receive(float("inf"))
                timed.setdefault(line["timed"], []).append(line["seconds"])
            seconds = {task: sum(values) / len(values) for task, values in timed.items()}
            factor = factor_of(runs[: arguments.fit], seconds, jobs, max(deadline - time.time(), 60.0))
            write({"factor": factor, "seconds_per_step": seconds, "jobs": jobs, "start_seconds": time.time() - start})
            print(f"seconds a step, {jobs} processes together: {seconds}; steps x {factor}", flush=True)
        waiting = [replace(run, steps=max(1, round(run.steps * (factor or 1.0)))) for run in runs]

        def feed() -> None:
            """Give the next run to whoever asks first, or the end."""
            while waiting and time.time() < deadline:
                run = waiting.pop(0)
                group = run.name.split("/")[0]
                if base.get(group, 1.0) >= floors.get(group, 0.0) or run.name == f"{group}/base":
                    return todo.put(run)
                print(f"left out: {run.name} seed {run.seed}, {group}/base has {100 * base[group]:.1f} %", flush=True)
            return todo.put(None)

        for _ in workers:
            feed()
        finished = count = failed = 0
        while finished < jobs:
            line = receive(float("inf"))
            if "done" in line:
                finished += 1
                continue
            if line.get("name", "").endswith("/base"):
                group = line["name"].split("/")[0]
                base[group] = max(base.get(group, 0.0), line["mean"])
            feed()
            if "failed" in line:
                print(f"FAILED {line['failed']} seed {line['seed']}\n{line['error']}", flush=True)
                failed += 1
                if failed == jobs and not count:
                    raise SystemExit(f"The first {failed} runs failed: see above.")
            elif "right" in line:
                count += 1
                write(line)
                shown = " ".join(f"{kind} {100 * value:.0f}" for kind, value in line["accuracy"].items())
                print(
                    f"{time.time() - start:5.0f} s  {count:3d}/{len(runs)}  {line['name']:<28} seed {line['seed']}  "
                    f"{100 * line['mean']:5.1f}  ({shown})  {line['seconds']} s, loss {line['loss']:.2f}",
                    flush=True,
                )
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
