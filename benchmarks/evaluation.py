"""Clips per second of evaluation beside the decoder's own rate on the same clips, and where the CPU time goes.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py CLIP [CLIP ...] [--copies 8] [--workers 2] [--questions 1]

Three passes over the same files with the shipped checkpoint: decoding alone (`read_clip` in as many worker processes),
loading (decoding, and cutting into chunks), and evaluation (loading, encoding, answering). Evaluation cannot be faster
than decoding; the aim is 0.9 of it on 2 cores. On a busy machine trust the CPU seconds: the bound is the decoder's CPU
seconds by those of all of evaluation. --questions is the number asked of each clip.
"""

import argparse
import os
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from torch.utils.data import DataLoader

from mirasol.answer.answerer import Answerer
from mirasol.data.ahead import ITEMS_AHEAD, load_ahead
from mirasol.evaluate.batches import Job, answer_batches
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.loader import ShownClips
from mirasol.tasks import Question, Row

QUESTION = "which color is named?"


class DecodedClips:
    """Item i is the number of frames of file i, decoded as the model needs them."""

    def __init__(self, rows, processor):
        self.rows, self.processor = rows, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clip = self.processor.read_clip(self.rows[index].media)
        return 0 if clip.frames is None else len(clip.frames)


def cpu_seconds() -> float:
    """Used by this process and by its finished workers."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of `run`, its workers included."""
    begin = time.perf_counter(), cpu_seconds()
    run()
    return time.perf_counter() - begin[0], cpu_seconds() - begin[1]


def main() -> None:
    """Prints one row per pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--copies", type=int, default=8, help="how often each file is used")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--questions", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    rows = [
        Row(f"{number}/{path.name}", path, tuple(
            Question(f"{number}/{path.name}/{i}", QUESTION, "x", "open") for i in range(arguments.questions)
        ))
        for number in range(arguments.copies) for path in arguments.clips
    ]  # fmt: skip
    answerer = Answerer.load()
    job = Job(rows, "jsonl", (Condition(),), arguments.batch_size)

    def decode() -> None:
        clips = DecodedClips(rows, answerer.processor)
        ahead = ITEMS_AHEAD if arguments.workers else None
        for _ in DataLoader(clips, batch_size=None, num_workers=arguments.workers, prefetch_factor=ahead):
            pass

    def load() -> None:
        clips = ShownClips(rows, answerer.processor, job.conditions)
        for clip in load_ahead(clips, range(len(rows)), arguments.workers):
            assert clip.error is None, clip.error

    def evaluate() -> None:
        for _ in answer_batches(answerer, job, range(job.num_batches), arguments.workers):
            pass

    evaluate_once = Job(rows[: arguments.batch_size], "jsonl", (Condition(),), arguments.batch_size)
    list(answer_batches(answerer, evaluate_once, [0], 0))  # what only the first batch costs
    print(
        f"{len(rows)} clips of {len(arguments.clips)} files, {arguments.questions} question(s) each, "
        f"{arguments.workers} worker(s), batches of {arguments.batch_size}, load average {os.getloadavg()[0]:.1f}"
    )
    print(f"{'pass':<10} {'clips/s':>8} {'of decoding':>12} {'CPU s/clip':>11} {'of decoding':>12}")
    first = None
    for name, run in (("decoding", decode), ("loading", load), ("evaluation", evaluate)):
        wall, cpu = measure(run)
        first = first or (wall, cpu)
        print(
            f"{name:<10} {len(rows) / wall:>8.2f} {first[0] / wall:>12.2f} {cpu / len(rows):>11.3f} "
            f"{first[1] / cpu:>12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
