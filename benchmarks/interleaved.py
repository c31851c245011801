"""Several sides of a comparison, each in a process of its own, measured in turns.

A machine that others use is not the same from one minute to the next: so every round measures each side once, and
medians of CPU seconds are compared. A side is a command whose process prints one line of facts when it is ready, and
runs one case for every line that it reads; see `serve`. The process that asks imports nothing heavy, because a process
starts with the memory peak of the one that made it.
"""

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Case:
    """What was measured of one case of one side: facts, CPU and wall seconds of every round, peak memory in MiB."""

    facts: dict[str, Any]
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def seconds(self) -> float:
        """Median CPU seconds."""
        return statistics.median(self.cpu)


def interleave(
    commands: dict[str, list[str]], rounds: int, cases: Sequence[str] = ("",)
) -> dict[str, dict[str, Case]]:
    """Starts every side and measures each case of each side once a round: `[side][case]`."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    processes = {
        name: subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        for name, command in commands.items()
    }
    try:
        facts = {name: _answer(name, process) for name, process in processes.items()}
        sides = {name: {case: Case(dict(facts[name])) for case in cases} for name in processes}
        for case in cases:
            for _ in range(rounds):
                for name, process in processes.items():
                    process.stdin.write(f"{case}\n")
                    process.stdin.flush()
                    measured, row = _answer(name, process), sides[name][case]
                    row.cpu.append(measured.pop("cpu"))
                    row.wall.append(measured.pop("wall"))
                    row.peak = max(row.peak, measured.pop("peak"))
                    row.facts.update(measured)
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    return sides


def _answer(name: str, process: subprocess.Popen) -> dict[str, Any]:
    for line in process.stdout:
        if line.startswith("{"):  # libraries print too
            return json.loads(line)
    raise SystemExit(
        f"Side {name} ended with code {process.wait()}. Run it alone to see why: {' '.join(process.args)}"
    )


def serve(job: Callable[[str], dict[str, Any] | None], facts: dict[str, Any]) -> None:
    """The other end: says it is ready, then measures the job for every case that it reads.

    A new case runs once unmeasured. The job may return facts of its own about the case.
    """
    print(json.dumps(facts), flush=True)
    seen = set()
    for line in sys.stdin:
        case = line.strip()
        if case not in seen:
            seen.add(case)
            job(case)
        reset_peak()
        begin = time.perf_counter(), time.process_time()
        found = job(case)
        wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
        print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak_mebibytes(), **(found or {})}), flush=True)


def reset_peak() -> None:
    """Starts the peak anew where the system can (Linux); elsewhere it is that of the process so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mebibytes() -> float:
    """The largest resident memory of this process since `reset_peak`."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def machine() -> str:
    """The processor, for the head of a table."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}, one thread a process"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
