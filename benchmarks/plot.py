"""Line plots on logarithmic axes as a PNG."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

COLORS = ("#1f6feb", "#d1495b", "#2a9d5c")


@dataclass(frozen=True)
class Panel:
    """One plot: its title, the names of its axes, and by name the points of each line."""

    title: str
    x_name: str
    y_name: str
    lines: dict[str, list[tuple[float, float]]]


def draw(path: Path, panels: list[Panel]) -> None:
    """Write the panels side by side."""
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for color, (name, line) in zip(COLORS, panel.lines.items(), strict=False):
            axes.loglog(*zip(*line, strict=True), marker="o", color=color, label=name)
        xs = sorted({x for line in panel.lines.values() for x, _ in line})
        axes.set(title=panel.title, xlabel=panel.x_name, ylabel=panel.y_name)
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(color="#ddd")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200)
