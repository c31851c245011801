"""Tables and plots of a sweep: each row against its group's base, with paired intervals over clips.

    python benchmarks/ablation/table.py runs/ablation.jsonl [--kind agree] [--plots docs/figures/ablation.png]

Accuracy is the mean over the kinds of questions, then over seeds; beside it stand the lowest and the highest seed. The
difference is paired: each question's share of right answers over the seeds of the row, less that of the base, with a
95 % bootstrap interval over clips (films and sequences for `films` and `order`). A difference is called clear only if
its interval excludes zero and the seeds of row and base do not overlap. Only seeds that both have are compared.
"""

import argparse
import json
import lzma
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio

TITLES = {
    "words": "GRID words at -5 dB", "films": "films of ten sentences", "order": "order of sounds and objects",
    "agree": "voice and lips", "few": "120 labelled clips, from scratch", "scratch": "all from scratch",
    "last": "words at -5 dB, the decoder reads the last chunk alone",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row: its runs by seed."""

    name: str
    runs: dict[int, dict[str, Any]]

    def mean(self, kind: str | None = None) -> list[float]:
        """Accuracy of each seed, of a kind or of all."""
        return [run["mean"] if kind is None else run["accuracy"][kind] for run in self.runs.values()]

    def cost(self, key: str) -> float:
        """Median over the seeds for which a number was measured; nan if it was for none."""
        values = [run[key] for run in self.runs.values() if run[key] is not None]
        return float(np.median(values)) if values else float("nan")


def read(path: Path) -> dict[str, Row]:
    """Return the rows of a sweep's output by name."""
    rows: dict[str, dict[int, dict]] = defaultdict(dict)
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
        for line in map(json.loads, file):
            if "right" in line:
                rows[line["name"]][line["seed"]] = line
    return {name: Row(name, dict(sorted(runs.items()))) for name, runs in rows.items()}


def difference(row: Row, base: Row, kind: str | None = None) -> Interval:
    """Return the paired difference in accuracy, row less base, over the seeds that both have."""
    seeds = sorted(set(row.runs) & set(base.runs))
    if not seeds:
        return Interval(np.nan, np.nan, np.nan, 0)
    first = base.runs[seeds[0]]
    kinds = np.array(first["kinds"])
    right = [
        np.mean([[answer == "1" for answer in side.runs[seed]["right"]] for seed in seeds], axis=0)
        for side in (row, base)
    ]
    counted = {name: (kinds == name).sum() for name in set(kinds) if kind in (None, name)}
    weight = np.array([1 / counted[name] if name in counted else 0.0 for name in kinds])
    units, place = np.unique(first["units"], return_inverse=True)
    totals, counts = (np.bincount(place, values, len(units)) for values in (weight * (right[0] - right[1]), weight))
    return bootstrap_ratio(totals, counts)


def is_clear(row: Row, base: Row, interval: Interval, kind: str | None = None) -> bool:
    """Whether the interval excludes zero and the seeds do not overlap, two seeds of each at least."""
    ours, theirs = row.mean(kind), base.mean(kind)
    apart = min(ours) > max(theirs) or max(ours) < min(theirs)
    return apart and min(len(ours), len(theirs)) > 1 and (interval.low > 0 or interval.high < 0)


def table(rows: dict[str, Row], group: str, kind: str | None = None) -> str:
    """Return the Markdown table of a group, accuracy and difference those of one kind of question or of all."""
    base = rows[f"{group}/base"]
    kinds = list(next(iter(base.runs.values()))["accuracy"])
    head = [
        "row",
        "seeds",
        "accuracy (lowest, highest)",
        "less base",
        "clear",
        *kinds,
        "M param.",
        "GFLOP",
        "s",
        "MiB",
    ]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        if name.split("/")[0] != group:
            continue
        values = row.mean(kind)
        interval = None if row is base else difference(row, base, kind)
        lines.append([
            name.split("/", 1)[1], str(len(values)),
            f"{100 * np.mean(values):.1f} ({100 * min(values):.1f}, {100 * max(values):.1f})",
            "" if interval is None else interval.points,
            "" if interval is None else "yes" if is_clear(row, base, interval, kind) else "no",
            *(f"{100 * np.mean(row.mean(kind)):.0f}" for kind in kinds),
            f"{row.cost('parameters') / 1e6:.2f}", f"{row.cost('flops') / 1e9:.2f}",
            f"{row.cost('seconds'):.0f}", f"{row.cost('peak_mib'):.0f}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(path: Path, rows: dict[str, Row], groups: list[str]) -> None:
    """Write one panel a group: differences from the base with their intervals, seeds as points."""
    from matplotlib.figure import Figure

    shown = {
        group: [row for name, row in rows.items() if name.startswith(f"{group}/") and not name.endswith("/base")]
        for group in groups
    }
    shown = {group: members for group, members in shown.items() if members}
    height = [len(members) + 1 for members in shown.values()]
    figure = Figure(figsize=(8, 0.3 * sum(height) + 0.6 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=height)[:, 0]
    for axes, (group, members) in zip(panels, shown.items(), strict=True):
        base = rows[f"{group}/base"]
        for place, row in enumerate(reversed(members)):
            interval = difference(row, base)
            color = "#1f6feb" if is_clear(row, base, interval) else "#888"
            axes.plot([100 * interval.low, 100 * interval.high], [place, place], color=color, lw=2)
            axes.plot(100 * interval.value, place, "o", color=color)
            seeds = [100 * (value - np.mean(base.mean())) for value in row.mean()]
            axes.plot(seeds, [place] * len(seeds), "|", color="#d1495b", ms=8)
        axes.set_yticks(range(len(members)), [row.name.split("/", 1)[1] for row in reversed(members)])
        axes.set_ylim(-0.7, len(members) - 0.3)
        axes.axvline(0, color="#ddd", zorder=0)
        axes.set_title(f"{TITLES.get(group, group)}: base {100 * np.mean(base.mean()):.1f} %", loc="left", fontsize=10)
    panels[-1].set_xlabel("points of accuracy less base; bar: 95 % over clips, blue: clear; red: single seeds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print the tables and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="output of sweep.py")
    parser.add_argument("--plots", type=Path, metavar="FILE", help="the PNG to write")
    parser.add_argument("--kind", help="only this kind of question, in the groups that have it")
    arguments = parser.parse_args()
    rows = read(arguments.results)
    groups = list(dict.fromkeys(name.split("/")[0] for name in rows))
    lost = [group for group in groups if f"{group}/base" not in rows]
    groups = [group for group in groups if group not in lost]
    if arguments.kind:
        groups = [group for group in groups if arguments.kind in rows[f"{group}/base"].runs[0]["accuracy"]]
    for group in groups:
        print(f"\n**{TITLES.get(group, group)}** (`{group}`)\n\n{table(rows, group, arguments.kind)}")
    for group in lost:
        print(f"\n{group}: no row {group}/base to compare with. Run it: sweep.py --only {group}/base")
    if arguments.plots:
        draw(arguments.plots, rows, groups)


if __name__ == "__main__":
    main()
