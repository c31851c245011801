"""Pictures as JPEG data URIs, and SVG drawings whose colours follow the page's light or dark theme."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup

from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.calibration import Bin, Covered

try:
    from PIL import Image
except ModuleNotFoundError as error:
    raise ValueError("Expected Pillow for the report's pictures, found none: pip install 'mirasol[demo]'.") from error

WIDTH = 720  # of every drawing over time, in units that the browser scales to the column
NUM_POINTS = 300  # of a line over steps
INFERNO = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39)],
    dtype=np.float64,
)


def svg(width: float, height: float, label: str, parts: Sequence[str], stretches: bool = False) -> Markup:
    """Return the parts as one drawing, with a label for screen readers.

    A drawing that stretches keeps its height in pixels on narrow pages; it must hold no text.
    """
    label = html.escape(label, quote=True)
    fixed = f' preserveAspectRatio="none" style="height:{height:g}px"' if stretches else ""
    box = f'viewBox="0 0 {width:g} {height:g}"'
    return Markup(f'<svg {box} role="img" aria-label="{label}"{fixed}>{"".join(parts)}</svg>')


def rect(x: float, y: float, width: float, height: float, style: str, inner: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {style}>{inner}</rect>'


def line(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" {style}/>'


def text(x: float, y: float, content: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(content)}</text>'


def image_uri(pixels: UInt8[np.ndarray, "height width channel"], size: tuple[int, int] | None = None) -> str:
    """Return the picture as a JPEG data URI, so that the page needs no second file."""
    image = Image.fromarray(pixels)
    if size is not None:
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def spectrogram_uri(mel: Float[np.ndarray, "mel_frame mel"]) -> str:
    """Return log-mel energies as a picture, low frequencies at the bottom; the quietest 40 % are black."""
    quiet, loud = np.quantile(mel, [0.4, 0.998])
    position = np.clip((mel.T[::-1] - quiet) / max(loud - quiet, 1e-6), 0, 1) * (len(INFERNO) - 1)
    below = np.clip(position.astype(int), 0, len(INFERNO) - 2)
    share = (position - below)[..., None]
    return image_uri((INFERNO[below] * (1 - share) + INFERNO[below + 1] * share).astype(np.uint8), (WIDTH, 184))


def time_axis(duration: float) -> str:
    """Return at most twelve ticks labelled in seconds."""
    step = next(s for s in (0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 86_400) if duration / s <= 12)
    parts = []
    for tick in np.arange(0, duration + 1e-6, step):
        x = tick / duration * WIDTH
        anchor = "start" if x < 8 else "end" if x > WIDTH - 16 else "middle"
        parts.append(line(x, 0, x, 5, 'stroke="var(--faint)"'))
        parts.append(text(x, 18, f"{tick:g} s", f'text-anchor="{anchor}" font-size="11.5" fill="var(--soft)"'))
    return svg(WIDTH, 24, "seconds", parts)


def weight_bars(
    weights: Float[np.ndarray, " chunk"],
    chunk_times: Float[np.ndarray, "chunk 2"],
    duration: float,
    seconds: tuple[float, float] | None,
    right: bool,
) -> str:
    """Draw a bar of weight per chunk, and a box around the seconds of the asked word."""
    height, peak = 40.0, max(float(np.max(weights, initial=0.0)), 1e-9)
    parts = [line(0, height - 0.5, WIDTH, height - 0.5, 'stroke="var(--line)"')]
    for (start, end), weight in zip(chunk_times, weights, strict=True):
        left, stop = start / duration * WIDTH + 2, min(end, duration) / duration * WIDTH - 2
        bar = weight / peak * (height - 6)
        style = f'rx="2" fill="var(--{"accent" if right else "wrong"})" fill-opacity="{0.3 + 0.6 * weight / peak:.2f}"'
        tip = f"<title>{start:.2f} to {end:.2f} s: {100 * weight:.0f} %</title>"
        parts.append(rect(left, height - 1 - bar, max(stop - left, 1), bar, style, tip))
    if seconds is not None:
        start, end = (min(s, duration) / duration * WIDTH for s in seconds)
        style = 'rx="3" fill="var(--asked)" fill-opacity=".14" stroke="var(--asked)" stroke-width="1.6"'
        parts.append(rect(start, 1, end - start, height - 2, style))
    return svg(WIDTH, height, "weight of each chunk", parts, stretches=True)


def curve(values: Float[np.ndarray, " chunk"], chunk_times: Float[np.ndarray, "chunk 2"], duration: float) -> str:
    """Draw a line through the chunks' centres, with the largest and smallest value labelled; nan is left out."""
    height, known = 64.0, np.isfinite(values)
    if not known.any():
        return svg(WIDTH, height, "no values", [])
    shown, xs = values[known], chunk_times[known].mean(axis=1).clip(max=duration) / duration * WIDTH
    low, high = shown.min(), shown.max()
    ys = 12 + (high - shown) / max(high - low, 1e-6) * (height - 24)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    area = f"{xs[0]:.1f},{height} {points} {xs[-1]:.1f},{height}"
    parts = [
        f'<polygon points="{area}" fill="var(--curve)" fill-opacity=".1"/>',
        f'<polyline points="{points}" fill="none" stroke="var(--curve)" stroke-width="2" stroke-linejoin="round"/>',
    ]
    for x, y, value in zip(xs, ys, shown, strict=True):
        style = 'r="3.6" fill="var(--card)" stroke="var(--curve)" stroke-width="2"'
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" {style}><title>{value:.2f}</title></circle>')
    for place, name in ((shown.argmax(), "end"), (shown.argmin(), "start")):
        away = 8 if name == "start" and xs[place] < WIDTH - 40 else -8
        anchor = "start" if away > 0 else "end"
        style = f'text-anchor="{anchor}" font-size="11.5" fill="var(--soft)"'
        parts.append(text(xs[place] + away, ys[place] + 4, f"{shown[place]:.2f}", style))
    return svg(WIDTH, height, "value of each chunk", parts)


def steps_plot(points: Sequence[tuple[float, float]], label: str) -> Markup:
    """Draw a line over steps with its smallest, largest and last value; many points are averaged in groups."""
    height, left = 170.0, 4.0
    groups = np.array_split(np.array(points, dtype=float), min(len(points), NUM_POINTS))
    steps, values = np.array([group.mean(axis=0) for group in groups]).T
    low, high = values.min(), values.max()
    xs = left + (steps - steps[0]) / max(steps[-1] - steps[0], 1e-9) * (WIDTH - 2 * left)
    ys = 34 + (high - values) / max(high - low, 1e-12) * (height - 68)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    soft = 'font-size="21" fill="var(--soft)"'
    parts = [
        line(left, height - 26, WIDTH - left, height - 26, 'stroke="var(--line)" stroke-width="1.5"'),
        f'<polyline points="{path}" fill="none" stroke="var(--curve)" stroke-width="2.5" stroke-linejoin="round"/>',
        f'<circle cx="{xs[-1]:.1f}" cy="{ys[-1]:.1f}" r="4" fill="var(--curve)"/>',
        text(left, 18, f"{low:.4g} to {high:.4g}, last {points[-1][1]:.4g}", soft),
        text(left, height - 3, f"step {points[0][0]:,.0f}", soft),
        text(WIDTH - left, height - 3, f"{points[-1][0]:,.0f}", f'text-anchor="end" {soft}'),
    ]
    return svg(WIDTH, height, f"{label}: {points[0][1]:.4g} at first, {points[-1][1]:.4g} at last", parts)


def interval_plot(interval: Interval, chance: float) -> str:
    """Draw a value and its interval on a scale from 0 to 100 %, and the chance level as a dashed line."""
    width = 200.0
    spot, low, high, at = (
        8 + (width - 16) * (0.0 if np.isnan(v) else v) for v in (interval.value, interval.low, interval.high, chance)
    )
    parts = [
        line(8, 13, width - 8, 13, 'stroke="var(--line)" stroke-width="2"'),
        line(at, 2, at, 24, 'stroke="var(--faint)" stroke-width="1.5" stroke-dasharray="3 3"'),
        f'<circle cx="{spot:.1f}" cy="13" r="5.5" fill="var(--accent)"/>',
    ]
    if not np.isnan(interval.low):
        band = 'stroke="var(--accent)" stroke-width="6" stroke-linecap="round" stroke-opacity=".4"'
        parts.insert(2, line(low, 13, high, 13, band))
    return svg(width, 26, f"{100 * interval.value:.1f} percent", parts)


def share_bar(shares: Sequence[tuple[str, float]]) -> Markup:
    """Return one bar divided by the shares (name of colour, 0 to 1), labelled where there is room."""
    parts = []
    for name, share in shares:
        width = 0.0 if np.isnan(share) else 100 * share
        written = f"{width:.0f}" if width > 5 else ""
        style = f"width:{width:.2f}%;background:var(--{name});color:var(--on-{name})"
        parts.append(f'<span style="{style}">{written}</span>')
    label = ", ".join(f"{name} {100 * share:.0f} percent" for name, share in shares)
    return Markup(f'<div class="shares" role="img" aria-label="{label}">{"".join(parts)}</div>')


def reliability_plot(bins: Sequence[Bin]) -> str:
    """Draw the share right against confidence in bins, with the diagonal; bars below count the answers."""
    side, foot = 300.0, 60.0
    most = max([entry.count for entry in bins], default=1) or 1
    parts = [
        rect(0, 0, side, side, 'fill="none" stroke="var(--line)"'),
        line(0, side, side, 0, 'stroke="var(--faint)" stroke-width="1.5" stroke-dasharray="4 4"'),
    ]
    for entry in bins:
        x, width, high = entry.low * side, (entry.high - entry.low) * side, foot * entry.count / most
        tip = f"<title>{entry.count} answers of confidence {100 * entry.low:.0f} to {100 * entry.high:.0f} %</title>"
        parts.append(rect(x + 2, side + 8 + foot - high, width - 4, high, 'fill="var(--neither)"', tip))
        if entry.count:
            style = f'r="{3 + 5 * (entry.count / most) ** 0.5:.1f}" fill="var(--accent)"'
            spot = f'cx="{entry.confidence * side:.1f}" cy="{(1 - entry.accuracy) * side:.1f}"'
            parts.append(f"<circle {spot} {style}><title>{100 * entry.accuracy:.0f} % right</title></circle>")
    parts += corner_labels(side)
    return svg(side, side + foot + 10, "share right against confidence", parts)


def coverage_plot(curve: Sequence[Covered]) -> str:
    """Draw the accuracy of the most confident answers against coverage."""
    side = 300.0
    points = [(point.coverage * side, (1 - point.accuracy) * side) for point in curve]
    style = 'fill="none" stroke="var(--accent)" stroke-width="2.5" stroke-linejoin="round"'
    parts = [rect(0, 0, side, side, 'fill="none" stroke="var(--line)"')]
    parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" {style}/>')
    for (x, y), point in zip(points, curve, strict=True):
        tip = f"{100 * point.coverage:.0f} % answered, at least {100 * point.confidence:.0f} % sure: "
        tip += f"{100 * point.accuracy:.1f} % right"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="var(--accent)"><title>{tip}</title></circle>')
    parts += corner_labels(side)
    return svg(side, side, "share right against coverage", parts)


def corner_labels(side: float) -> list[str]:
    """Return the labels of a vertical axis from 0 to 100 % right; the upper one lies above the drawing."""
    style = 'font-size="12" fill="var(--soft)"'
    return [text(0, -5, "100 % right", style), text(6, side - 6, "0 %", style)]
