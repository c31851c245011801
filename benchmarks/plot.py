"""Line plots on logarithmic axes as a PNG, drawn with Pillow: no plotting library for three lines."""

from dataclasses import dataclass
from math import floor, log10
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLORS = ("#1f6feb", "#d1495b", "#2a9d5c")
SIZE, LEFT, TOP, RIGHT, BOTTOM, SCALE = (420, 320), 62, 40, 16, 46, 2


@dataclass(frozen=True)
class Panel:
    """One plot: its title, the names of its axes, and by name the points of each line."""

    title: str
    x_name: str
    y_name: str
    lines: dict[str, list[tuple[float, float]]]


def draw(path: Path, panels: list[Panel]) -> None:
    """Writes the panels side by side."""
    image = Image.new("RGB", (SCALE * SIZE[0] * len(panels), SCALE * SIZE[1]), "white")
    for index, panel in enumerate(panels):
        _draw_panel(ImageDraw.Draw(image), panel, SCALE * SIZE[0] * index)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(64).save(path, optimize=True)


def _draw_panel(canvas: ImageDraw.ImageDraw, panel: Panel, shift: int) -> None:
    font, small = (ImageFont.load_default(size=SCALE * points) for points in (13, 11))
    xs = sorted({x for line in panel.lines.values() for x, _ in line})
    ys = [y for line in panel.lines.values() for _, y in line]
    low, high = log10(min(ys)) - 0.08, log10(max(ys)) + 0.08
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = log10(x / xs[0]) / max(log10(xs[-1] / xs[0]), 1e-9)
        up = (log10(y) - low) / (high - low)
        return shift + SCALE * (LEFT + width * across), SCALE * (TOP + height * (1 - up))

    canvas.text((shift + SCALE * LEFT, SCALE * 10), panel.title, fill="black", font=font)
    canvas.text((shift + SCALE * (LEFT + width), SCALE * 12), panel.y_name, fill="#555", font=small, anchor="ra")
    canvas.text(
        (place(xs[-1], min(ys))[0], SCALE * (SIZE[1] - 20)), panel.x_name, fill="#555", font=small, anchor="ra"
    )
    for x in xs:
        at, bottom = place(x, 10**low)
        canvas.line([(at, SCALE * TOP), (at, bottom)], fill="#eee", width=SCALE)
        canvas.text((at, bottom + 4 * SCALE), f"{x:g}", fill="#555", font=small, anchor="ma")
    ticks = [step * 10**decade for decade in range(floor(low), floor(high) + 1) for step in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= log10(tick) <= high]
    for value in inside if len(inside) > 1 else [min(ys)]:
        left, at = place(xs[0], value)
        canvas.line([(left, at), (left + SCALE * width, at)], fill="#ddd", width=SCALE)
        canvas.text((left - 6 * SCALE, at), f"{value:.3g}", fill="#555", font=small, anchor="rm")
    for index, (name, line) in enumerate(panel.lines.items()):
        points = [place(*point) for point in line]
        canvas.line(points, fill=COLORS[index], width=2 * SCALE, joint="curve")
        for x, y in points:
            canvas.ellipse([x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE], fill=COLORS[index])
        corner = (shift + SCALE * (LEFT + 10), SCALE * (TOP + 6 + 16 * index))
        canvas.text(corner, name, fill=COLORS[index], font=small)
