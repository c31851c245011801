"""Several sides of a comparison, each in a process of its own, measured in turns.

A machine that others use is not the same from one minute to the next: so every round measures each side once, and
medians of CPU seconds are compared. A side is a command whose process prints one line of facts when it is ready,
and measures its job once for every line it reads; see `serve`. The process that asks imports nothing heavy, because a
process starts with the memory peak of the one that made it.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Side:
    """What was measured of one side: its facts, CPU and wall seconds of every round, and its peak memory in MiB."""

    facts: dict[str, Any]
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak: float = 0.0

    @property
    def seconds(self) -> float:
        """Median CPU seconds."""
        return statistics.median(self.cpu)


def interleave(commands: dict[str, list[str]], rounds: int) -> dict[str, Side]:
    """Starts every side, and measures each once a round."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    processes = {
        name: subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment,
        )
        for name, command in commands.items()
    }  # fmt: skip
    try:
        sides = {name: Side(_answer(name, process)) for name, process in processes.items()}
        for _ in range(rounds):
            for name, process in processes.items():
                process.stdin.write("once\n")
                process.stdin.flush()
                measured = _answer(name, process)
                sides[name].cpu.append(measured["cpu"])
                sides[name].wall.append(measured["wall"])
                sides[name].peak = measured["peak"]
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


def serve(job: Callable[[], Any], facts: dict[str, Any]) -> None:
    """The other end: runs the job once unmeasured, says it is ready, and measures it for every line that it reads."""
    job()
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter(), time.process_time()
        job()
        wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
        print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak}), flush=True)
