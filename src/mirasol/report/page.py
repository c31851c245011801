"""One self-contained HTML page from measured results: blocks of HTML that `page.html` puts in order."""

import html
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from mirasol.evaluate.bootstrap import Interval
from mirasol.report.drawing import (
    curve,
    image_uri,
    interval_plot,
    share_bar,
    spectrogram_uri,
    time_axis,
    weight_bars,
)

KIND_NAMES = {"said_at": "word at t", "preposition": "prepos."}
MAX_SHOWN_CHARACTERS = 60


@dataclass
class Answered:
    """One question about a clip with what the model said, what it said under other conditions, and where it looked."""

    text: str
    answer: str
    prediction: str
    right: bool
    confidence: float
    weights: Float[np.ndarray, " chunk"]
    seconds: tuple[float, float] | None = None
    otherwise: dict[str, str] = field(default_factory=dict)


@dataclass
class Story:
    """One clip laid out along its seconds."""

    id: str
    sentence: str
    duration: float
    frames: list[UInt8[np.ndarray, "height width channel"]]  # one a chunk
    mel: Float[np.ndarray, "mel_frame mel"]
    words: list[tuple[str, float, float]]
    chunk_times: Float[np.ndarray, "chunk 2"]
    surprise: Float[np.ndarray, " chunk"]  # nan where there is none
    answers: list[Answered]
    swapped_sentence: str = ""


@dataclass
class AccuracyRow:
    """One condition's line in the table: the mean with its interval and the share right of each kind."""

    label: str
    mean: Interval
    kinds: dict[str, float | None]


def percent(value: float | None, digits: int = 0) -> str:
    """The share as a number of percent, a dash where there is none."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f}"


def shorten(words: str, length: int = MAX_SHOWN_CHARACTERS) -> str:
    """The text escaped for HTML, cut where it would not fit, in words when it is empty."""
    cut = words if len(words) <= length else words[:length].rsplit(" ", 1)[0] + " …"
    return html.escape(cut) or "(nothing)"


def lane(name: str, track: str, kind: str = "") -> str:
    """One line of a clip: its name on the left, its drawing along the seconds on the right."""
    name, track = f'<div class="name">{name}</div>', f'<div class="track">{track}</div>'
    return f'<div class="lane {kind}">{name}{track}</div>'


def question_name(answered: Answered) -> str:
    """The question, a sign for right or wrong, the answer, and its confidence, in words that need no colour."""
    mark = '<span class="mark ok">✓</span>' if answered.right else '<span class="mark no">✗</span>'
    truth = "" if answered.right else f' <span class="was">true: {html.escape(answered.answer)}</span>'
    notes = [f"confidence {percent(answered.confidence)} %"]
    notes += [f"{how}: {shorten(said)}" for how, said in answered.otherwise.items()]
    said = f'<span class="answer">{shorten(answered.prediction)}</span>{truth}'
    return f"{html.escape(answered.text)}<br>{mark}{said}<small>{' · '.join(notes)}</small>"


def story_html(story: Story) -> str:
    """One clip: picture, sound, words, every question's weights, and surprise, all on one axis of seconds."""
    times, duration = story.chunk_times, story.duration
    shares = (times[:, 1].clip(max=duration) - times[:, 0]) / duration * 100
    pictures = "".join(
        f'<img src="{image_uri(frame, (128, 128))}" alt="" style="width:{share:.3f}%">'
        for frame, share in zip(story.frames, shares, strict=True)
    )
    words = "".join(
        f'<span style="left:{start / duration * 100:.2f}%;width:{(end - start) / duration * 100:.2f}%">'
        f"{html.escape(word)}</span>"
        for word, start, end in story.words
    )
    sound = f'<img class="sound" src="{spectrogram_uri(story.mel)}" alt="spectrogram">'
    lanes = [
        lane("picture<small>the middle frame of each chunk</small>", f'<div class="strip">{pictures}</div>'),
        lane("sound<small>spectrogram, low notes at the bottom</small>", sound, "quiet"),
        lane(
            "words<small>their true seconds, unknown to the model</small>",
            f'<div class="words">{words}</div>',
            "quiet",
        ),
    ]
    for answered in story.answers:
        bars = weight_bars(answered.weights, times, duration, answered.seconds, answered.right)
        lanes.append(lane(question_name(answered), bars))
    lanes.append(
        lane("surprise<small>1 − cos(predicted, actual chunk)</small>", curve(story.surprise, times, duration))
    )
    lanes.append(lane("", time_axis(duration), "quiet"))
    right = f"{sum(answered.right for answered in story.answers)} of {len(story.answers)} answers right"
    swapped = f" · swapped sound says <q>{html.escape(story.swapped_sentence)}</q>" if story.swapped_sentence else ""
    return (
        f'<section class="panel clip"><h3><q>{html.escape(story.sentence)}</q></h3>'
        f'<div class="note">clip {html.escape(story.id)} · {right}{swapped}</div>'
        f'<div class="scroll">{"".join(lanes)}</div></section>'
    )


def table(head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """A table of ready cells; each row comes with its class."""
    body = "".join(f'<tr class="{kind}">{"".join(cells)}</tr>' for kind, cells in rows)
    return f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{body}</tbody></table>"


def accuracy_table(rows: list[AccuracyRow], chance: dict[str, float]) -> str:
    """Conditions down, the kinds across, the mean with its interval drawn from 0 to 100 %; chance in the last line."""
    mean_chance = float(np.mean(list(chance.values())))
    kinds = list(dict.fromkeys([*chance, *(kind for row in rows for kind in row.kinds)]))
    head = ["<th>what it got</th>", "<th>word slots</th>", '<th class="plot">0 to 100 %, dashed: chance</th>']
    lines = []
    for row in rows:
        interval = f'<span class="ci">{percent(row.mean.low, 1)} to {percent(row.mean.high, 1)}</span>'
        mean = f'<td class="main">{percent(row.mean.value, 1)} %{interval}</td>'
        plot = f'<td class="plot">{interval_plot(row.mean, mean_chance)}</td>'
        cells = [f"<td>{percent(row.kinds.get(kind))}</td>" for kind in kinds]
        lines.append(("", [f"<td>{html.escape(row.label)}</td>", mean, plot, *cells]))
    floor = [f"<td>{percent(chance.get(kind))}</td>" for kind in kinds]
    lines.append(("chance", ["<td>chance</td>", f"<td>{percent(mean_chance, 1)} %</td>", "<td></td>", *floor]))
    return table([*head, *(f"<th>{html.escape(KIND_NAMES.get(kind, kind))}</th>" for kind in kinds)], lines)


def times_table(entries: dict[str, dict[str, Any]]) -> str:
    """Errors of "when does the letter begin?" by slot, beside those of the best constant answer."""
    head = ["<th>when does it begin?</th>", *(f"<th>{html.escape(slot)}</th>" for slot in entries)]
    lines = []
    for name, key in (("median error", "median_error_seconds"), ("within 0.1 s", "within_0.1_seconds")):
        for who, prefix in (("model", ""), ("best constant", "constant_")):
            values = [entry.get(prefix + key) for entry in entries.values()]
            shown = [f"{percent(v)} %" if "within" in key or v is None else f"{v:.2f} s" for v in values]
            cells = [f"<td>{name}, {who}</td>", *(f"<td>{value}</td>" for value in shown)]
            lines.append(("chance" if prefix else "", cells))
    return table(head, lines)


def swapped_bars(shares: dict[str, dict[str, float]]) -> str:
    """One divided bar per kind (the first is the mean): the answer follows the sound, the picture, or neither."""
    texts = {"sound": "follows the sound", "picture": "follows the picture", "neither": "neither of the two"}
    rows = [
        lane(
            f"<b>{html.escape(kind)}</b>" if place == 0 else html.escape(kind), share_bar(list(parts.items())), "quiet"
        )
        for place, (kind, parts) in enumerate(shares.items())
    ]
    swatches = [
        f'<span><i class="swatch" style="background:var(--{n})"></i>{text}</span>' for n, text in texts.items()
    ]
    return f'{"".join(rows)}<div class="legend">{"".join(swatches)}<span>numbers in percent</span></div>'


def facts_html(facts: dict[str, str]) -> str:
    """The few numbers to see first, each with its name below."""
    return "".join(
        f"<li><b>{html.escape(value)}</b><span>{html.escape(name)}</span></li>" for name, value in facts.items()
    )


def render(template: str = "page.html", **blocks: str) -> str:
    """The page with its blocks filled in; a missing block is an error, so that no hole is published."""
    files = resources.files("mirasol.evaluate")
    blocks["style"] = files.joinpath("style.css").read_text("utf-8")
    return Template(files.joinpath(template).read_text("utf-8")).substitute(blocks)
