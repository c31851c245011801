"""The small labelled sets beside GRID, whose clips are either seen or heard, as the demo measures and shows them."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirasol.answer.answerer import Answerer
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.runner import evaluate_rows, load_rows
from mirasol.report.drawing import interval_plot
from mirasol.report.page import percent, table
from mirasol.report.run import cell


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


def measure_sets(answerer: Answerer, beside: Path, max_clips: int | None) -> dict[str, dict[str, Any]]:
    """Of each set that is there: the share of right answers with its interval, and that of the most common answer."""
    found = {}
    for each in SETS:
        root = beside / each.folder
        if not root.is_dir():
            continue
        rows = load_rows(each.task, root, each.split)[:max_clips]
        metrics = evaluate_rows(answerer, rows, Condition(), task=each.task, root=root).metrics
        found[each.name] = metrics["intervals_95"]["all"] | {
            "clips": metrics["clips"]["answered"],
            "most_common_answer": metrics["baselines"]["majority"]["exact_match"]
        }
    return found


def sets_html(found: dict[str, dict[str, Any]]) -> str:
    """A section of the demo's page, nothing where no set is there."""
    if not found:
        return ""
    head = ["<th>what it got</th>", "<th>clips</th>", "<th>right</th>"]
    head += ['<th class="plot">0 to 100 %, dashed: most common answer</th>', "<th>most common answer</th>"]
    lines = []
    for name, entry in found.items():
        interval = Interval(entry["value"], entry["low"], entry["high"], entry["clips"])
        cells = [f"<td>{html.escape(name)}</td>", f"<td>{entry['clips']}</td>", cell(entry)]
        cells += [f'<td class="plot">{interval_plot(interval, entry["most_common_answer"])}</td>']
        lines.append(("", [*cells, f"<td>{percent(entry['most_common_answer'], 1)} %</td>"]))
    return (
        "<h2>Sounds without a picture, pictures without sound</h2>"
        "<p>The same weights also name spoken digits, environmental sounds, and what flies, by its sound or by its "
        "picture. None of these clips has both senses, and none of them was trained on.</p>"
        f'<div class="panel scroll">{table(head, lines)}</div>'
    )
