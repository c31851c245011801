"""The small labelled sets beside GRID, whose clips are either seen or heard, as the demo measures and shows them."""

from dataclasses import dataclass
from pathlib import Path

from mirasol.answer.answerer import Answerer
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.runner import evaluate_rows, load_rows
from mirasol.results import Result


@dataclass(frozen=True)
class LabelledSet:
    """A split that no model of `recipes/joint_nano.yaml` is trained on; `folder` lies beside that of GRID."""

    name: str
    task: str
    folder: str
    split: str


SETS = (
    LabelledSet("spoken digits", "fsdd", "fsdd", "test"),
    LabelledSet("environmental sounds", "esc10", "esc10", "fold5"),
    LabelledSet("aerial objects, heard", "drone", "drone_cc0", "test_sound"),
    LabelledSet("aerial objects, seen", "drone", "drone_cc0", "test_picture"),
)


class SetResult(Result):
    """Share of right answers on a set, and that of the most common answer."""

    clips: int
    right: Interval
    most_common_answer: float


def measure_sets(answerer: Answerer, beside: Path, max_clips: int | None) -> dict[str, SetResult]:
    """Return the result on each set that is there."""
    found = {}
    for each in SETS:
        root = beside / each.folder
        if root.is_dir():
            rows = load_rows(each.task, root, each.split)[:max_clips]
            metrics = evaluate_rows(answerer, rows, task=each.task, root=root).metrics
            constant = metrics.baselines["majority"]["exact_match"]
            found[each.name] = SetResult(
                clips=metrics.clips.answered, right=metrics.intervals_95["all"], most_common_answer=constant  # type: ignore[arg-type]
            )
    return found
