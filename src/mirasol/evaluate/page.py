"""One self-contained HTML page from measured results: no model, no files read but the template, no outside resources."""

import base64
import html
import io
from dataclasses import dataclass, field
from importlib import resources
from string import Template

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mirasol.evaluate.bootstrap import Interval

WIDTH = 720  # units of every time-aligned drawing; the browser scales them to the column
INFERNO = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)],
    dtype=np.float64,
)


@dataclass
class Answered:
    """One question about a clip with what the model said and where it looked."""

    text: str
    answer: str
    prediction: str
    right: bool
    confidence: float
    weights: np.ndarray  # [chunk], sums to 1 over the real chunks
    seconds: tuple[float, float] | None = None
    swapped: str = ""  # what it said when another clip's sound was put under the picture


@dataclass
class Story:
    """One clip laid out along its seconds."""

    id: str
    sentence: str
    duration: float
    frames: list[UInt8[np.ndarray, "height width channel"]]
    mel: Float[np.ndarray, "mel_frame mel"]  # 100 columns a second, from t = 0
    words: list[tuple[str, float, float]]
    chunk_times: Float[np.ndarray, "chunk 2"]
    surprise: Float[np.ndarray, "chunk"]
    answers: list[Answered] = field(default_factory=list)
    swapped_sentence: str = ""


@dataclass
class AccuracyRow:
    """One condition's line in the table: the mean with its interval and the share right of each kind."""

    label: str
    mean: Interval
    kinds: dict[str, float]
    sentence: float | None = None


def image_uri(pixels: UInt8[np.ndarray, "height width channel"], size: tuple[int, int] | None = None) -> str:
    """The picture as a JPEG data URI, so that the page needs no second file."""
    image = Image.fromarray(pixels)
    if size is not None:
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def spectrogram_uri(mel: Float[np.ndarray, "mel_frame mel"]) -> str:
    """The log-mel energies as a coloured picture, low notes at the bottom, loudest 60 dB of the clip."""
    top = np.quantile(mel, 0.999)
    level = np.clip((mel - top) / max(np.ptp(mel[mel > mel.min()]) if (mel > mel.min()).any() else 1.0, 1e-6) + 1, 0, 1)
    position = level.T[::-1] * (len(INFERNO) - 1)
    below = np.clip(position.astype(int), 0, len(INFERNO) - 2)
    share = (position - below)[..., None]
    return image_uri((INFERNO[below] * (1 - share) + INFERNO[below + 1] * share).astype(np.uint8), (WIDTH, 184))


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f}"


def time_axis(duration: float) -> str:
    """Ticks every half second with a number at each whole or half second."""
    step = next(s for s in (0.5, 1, 2, 5, 10, 30, 60, 300, 1800) if duration / s <= 12)
    ticks = []
    for tick in np.arange(0, duration + 1e-6, step):
        x = tick / duration * WIDTH
        anchor = "start" if x < 8 else "end" if x > WIDTH - 16 else "middle"
        ticks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="5" stroke="var(--faint)"/>')
        ticks.append(f'<text x="{x:.1f}" y="18" text-anchor="{anchor}" font-size="11.5" fill="var(--soft)">{tick:g} s</text>')
    return f'<svg viewBox="0 0 {WIDTH} 24" role="img" aria-label="seconds">{"".join(ticks)}</svg>'


def attention_bars(answered: Answered, chunk_times: np.ndarray, duration: float) -> str:
    """Bars of weight over the chunks' seconds; a frame around the seconds in which the asked word is spoken."""
    height, parts = 40.0, []
    if answered.seconds is not None:
        start, end = (min(s, duration) / duration * WIDTH for s in answered.seconds)
        parts.append(
            f'<rect x="{start:.1f}" y="1" width="{end - start:.1f}" height="{height - 2}" rx="3" fill="var(--asked)" '
            'fill-opacity=".16" stroke="var(--asked)" stroke-width="1.3"/>'
        )
    peak = max(float(np.max(answered.weights, initial=0.0)), 1e-9)
    colour = "var(--accent)" if answered.right else "var(--wrong)"
    for (start, end), weight in zip(chunk_times, answered.weights, strict=True):
        x, right, bar = start / duration * WIDTH, min(end, duration) / duration * WIDTH, weight / peak * (height - 6)
        parts.append(
            f'<rect x="{x + 2:.1f}" y="{height - 1 - bar:.1f}" width="{max(right - x - 4, 1):.1f}" height="{bar:.1f}" '
            f'rx="2" fill="{colour}" fill-opacity="{0.35 + 0.6 * weight / peak:.2f}">'
            f"<title>{start:.2f}-{end:.2f} s: {100 * weight:.0f} %</title></rect>"
        )
    base = f'<line x1="0" x2="{WIDTH}" y1="{height - 0.5}" y2="{height - 0.5}" stroke="var(--line)"/>'
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="weight per chunk">{base}{"".join(parts)}</svg>'


def surprise_curve(story: Story) -> str:
    """Line through the chunks' centres: 1 - cos(predicted, actual next chunk); the first chunk has no prediction."""
    height = 64.0
    points = [
        ((start + end) / 2 / story.duration * WIDTH, value)
        for (start, end), value in zip(story.chunk_times, story.surprise, strict=True)
        if np.isfinite(value)
    ]
    if not points:
        return f'<svg viewBox="0 0 {WIDTH} {height:g}"></svg>'
    low, high = min(v for _, v in points), max(v for _, v in points)
    span = max(high - low, 1e-6)
    places = [(x, 12 + (high - v) / span * (height - 24), v) for x, v in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="var(--card)" stroke="var(--curve)" stroke-width="2">'
        f"<title>{v:.2f}</title></circle>"
        for x, y, v in places
    )
    scale = "".join(
        f'<text x="{WIDTH - 2}" y="{y}" font-size="11" text-anchor="end" fill="var(--soft)">{value:.2f}</text>'
        for value, y in ((high, 11), (low, height - 2))
    )
    area = f"{places[0][0]:.1f},{height} {line} {places[-1][0]:.1f},{height}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="surprise over seconds">'
        f'<polygon points="{area}" fill="var(--curve)" fill-opacity=".10"/>'
        f'<polyline points="{line}" fill="none" stroke="var(--curve)" stroke-width="2" stroke-linejoin="round"/>{dots}{scale}</svg>'
    )


def lane(name: str, track: str, quiet: bool = False) -> str:
    return f'<div class="lane{" quiet" if quiet else ""}"><div class="name">{name}</div><div class="track">{track}</div></div>'


def question_name(answered: Answered) -> str:
    """The question, a sign for right or wrong, the answer, and its confidence, in words that need no colour."""
    mark = '<span class="mark ok">✓</span>' if answered.right else '<span class="mark no">✗</span>'
    said = html.escape(answered.prediction) or "(nothing)"
    truth = "" if answered.right else f' <span class="was">true: {html.escape(answered.answer)}</span>'
    sure = f"confidence {percent(answered.confidence)} %"
    if answered.swapped:
        sure += f" · with swapped sound: {html.escape(answered.swapped)}"
    return (
        f"{html.escape(answered.text)}<br>{mark}"
        f'<span class="answer">{said}</span>{truth}<small>{sure}</small>'
    )


def story_html(story: Story) -> str:
    """One clip: picture, sound, words, every question's weights, and surprise, all on one axis of seconds."""
    ends = np.minimum(story.chunk_times[:, 1], story.duration)
    shares = (ends - story.chunk_times[:, 0]) / story.duration * 100
    pictures = "".join(
        f'<img src="{image_uri(frame, (112, 112))}" alt="" style="width:{share:.3f}%">'
        for frame, share in zip(story.frames, shares, strict=True)
    )
    words = "".join(
        f'<span style="left:{start / story.duration * 100:.2f}%;width:{(end - start) / story.duration * 100:.2f}%">'
        f"{html.escape(word)}</span>"
        for word, start, end in story.words
    )
    right = sum(answered.right for answered in story.answers)
    lanes = [
        lane("picture<small>the middle frame of each chunk</small>", f'<div class="strip">{pictures}</div>'),
        lane("sound<small>spectrogram, low notes at the bottom</small>", f'<img class="sound" src="{spectrogram_uri(story.mel)}" alt="spectrogram">', True),
        lane("words<small>true seconds, not shown to the model</small>", f'<div class="words">{words}</div>', True),
        *(
            lane(question_name(answered), attention_bars(answered, story.chunk_times, story.duration))
            for answered in story.answers
        ),
        lane("surprise<small>1 − cos(predicted, actual chunk)</small>", surprise_curve(story)),
        lane("", time_axis(story.duration), True),
    ]
    swapped = (
        f' · swapped sound: <q>{html.escape(story.swapped_sentence)}</q>' if story.swapped_sentence else ""
    )
    return (
        f'<section class="panel clip"><h3><q>{html.escape(story.sentence)}</q></h3>'
        f'<div class="note">clip {html.escape(story.id)} · {right} of {len(story.answers)} right{swapped}</div>'
        f'<div class="scroll">{"".join(lanes)}</div></section>'
    )


def interval_plot(interval: Interval, chance: float, colour: str = "var(--accent)") -> str:
    """A dot with its interval on a scale from 0 to 100 %, the chance level as a dashed line."""
    width = 240.0
    spot, low, high = ((0 if np.isnan(v) else v) * (width - 16) + 8 for v in (interval.value, interval.low, interval.high))
    at = chance * (width - 16) + 8
    return (
        f'<svg viewBox="0 0 {width:g} 26" width="{width:g}" role="img" aria-label="{percent(interval.value, 1)} percent">'
        f'<line x1="8" x2="{width - 8}" y1="13" y2="13" stroke="var(--line)" stroke-width="2"/>'
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="24" stroke="var(--faint)" stroke-width="1.5" stroke-dasharray="3 3"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="13" y2="13" stroke="{colour}" stroke-width="6" stroke-linecap="round" stroke-opacity=".38"/>'
        f'<circle cx="{spot:.1f}" cy="13" r="5.5" fill="{colour}"/></svg>'
    )


def accuracy_table(rows: list[AccuracyRow], chance: dict[str, float]) -> str:
    """Conditions down, the kinds across, the mean with its interval drawn on a 0-100 scale; chance in the last line."""
    kinds = list(chance)
    mean_chance = float(np.mean(list(chance.values())))
    head = "".join(f"<th>{html.escape(kind)}</th>" for kind in kinds)
    body = []
    for row in rows:
        cells = "".join(f"<td>{percent(row.kinds.get(kind))}</td>" for kind in kinds)
        body.append(
            f'<tr><td>{html.escape(row.label)}</td><td class="main">{percent(row.mean.value, 1)} %'
            f'<span class="ci">{percent(row.mean.low, 1)} to {percent(row.mean.high, 1)}</span></td>'
            f'<td class="plot">{interval_plot(row.mean, mean_chance)}</td>{cells}<td>{percent(row.sentence)}</td></tr>'
        )
    floor = "".join(f"<td>{percent(value)}</td>" for value in chance.values())
    return (
        '<table><thead><tr><th>what the model got</th><th>word slots</th><th class="plot">0 … 100 %, dashed: chance</th>'
        f'{head}<th>sentence</th></tr></thead><tbody>{"".join(body)}<tr class="chance"><td>chance</td>'
        f'<td>{percent(mean_chance, 1)} %</td><td></td>{floor}<td>0</td></tr></tbody></table>'
    )


def swapped_bars(shares: dict[str, tuple[float, float, float]]) -> str:
    """One stacked bar per kind: the answer follows the sound, the picture, or neither. Every share is written out."""
    names = ("sound", "picture", "neither")
    rows = []
    for kind, values in shares.items():
        x, cells = 0.0, []
        for name, value in zip(names, values, strict=True):
            if value > 0:
                label = f"{percent(value)}" if value > 0.06 else ""
                ink = "#1d2129" if name == "neither" else "var(--card)"
                cells.append(
                    f'<rect x="{x * WIDTH:.1f}" width="{value * WIDTH:.1f}" y="3" height="24" fill="var(--{name})"/>'
                    f'<text x="{(x + value / 2) * WIDTH:.1f}" y="20" text-anchor="middle" font-size="13" font-weight="600" fill="{ink}">{label}</text>'
                )
            x += value
        drawing = f'<svg viewBox="0 0 {WIDTH} 30" role="img" aria-label="{kind}">{"".join(cells)}</svg>'
        name = f"<b>{html.escape(kind)}</b>" if kind == next(iter(shares)) else html.escape(kind)
        rows.append(lane(name, drawing, True))
    legend = "".join(
        f'<span><span class="swatch" style="background:var(--{name})"></span>{text}</span>'
        for name, text in zip(names, ("follows the sound", "follows the picture", "neither of the two"), strict=True)
    )
    return "".join(rows) + f'<div class="legend">{legend}<span>numbers in percent</span></div>'


def facts_html(facts: list[tuple[str, str]]) -> str:
    return "".join(f"<li><b>{html.escape(value)}</b><span>{html.escape(name)}</span></li>" for value, name in facts)


def render(**blocks: str) -> str:
    """The page with its blocks filled in; a missing block is an error, so that no hole is published."""
    return Template(resources.files("mirasol.evaluate").joinpath("page.html").read_text("utf-8")).substitute(blocks)
