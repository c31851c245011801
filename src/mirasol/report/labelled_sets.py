"""Results of the demo on the small labelled sets beside GRID, whose clips have one modality."""

from pathlib import Path

from mirasol.answer.answerer import Answerer
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.runner import evaluate_here, load_rows
from mirasol.results import Result

# Task, folder beside GRID's, and a split that `recipes/joint_nano.yaml` does not train on.
SETS = {
    "spoken digits": ("fsdd", "fsdd", "test"),
    "environmental sounds": ("esc10", "esc10", "fold5"),
    "aerial objects, heard": ("drone", "drone_cc0", "test_sound"),
    "aerial objects, seen": ("drone", "drone_cc0", "test_picture"),
}


class SetResult(Result):
    """Share right on a set, beside that of the most common answer."""

    clips: int
    right: Interval
    most_common_answer: float


def measure_sets(answerer: Answerer, beside: Path, max_clips: int | None) -> dict[str, SetResult]:
    """Return the result on each set whose folder exists."""
    found = {}
    for name, (task, folder, split) in SETS.items():
        root = beside / folder
        if root.is_dir():
            rows = load_rows(task, root, split)[:max_clips]
            metrics = evaluate_here(answerer, rows, task=task, root=root).metrics
            constant: float = metrics.baselines["majority"]["exact_match"]  # type: ignore[assignment]  # a share
            right = metrics.intervals_95["all"]
            found[name] = SetResult(clips=metrics.clips.answered, right=right, most_common_answer=constant)
    return found
