"""Self-contained HTML pages from measured results: templates/*.html, rendered by jinja2 with autoescape."""

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mirasol import __version__
from mirasol.evaluate.results import Prediction
from mirasol.report import drawing

MAX_SHOWN_CHARACTERS = 60
DRAWINGS = (
    "coverage_plot", "curve", "image_uri", "interval_plot", "reliability_plot", "share_bar", "spectrogram_uri",
    "steps_plot", "time_axis", "weight_bars",
)  # fmt: skip
KIND_NAMES = {"said_at": "word at t", "preposition": "prepos."}
BASELINES = {
    "majority": "most common answer",
    "majority_by_kind": "most common answer of each kind",
    "majority_by_question": "most common answer to each question",
    "ceiling": "answers that occur in train",
    "chance": "guessing among the options",
}


@dataclass
class Answered:
    """An answered question, its attribution, and the different answers under other conditions."""

    prediction: Prediction
    weights: Float[np.ndarray, " chunk"]
    otherwise: dict[str, str]

    @property
    def right(self) -> bool:
        return self.prediction.right


@dataclass
class Story:
    """One clip along its time axis."""

    id: str
    sentence: str
    duration: float
    frames: list[UInt8[np.ndarray, "height width channel"]]  # one per chunk
    mel: Float[np.ndarray, "mel_frame mel"]
    words: list[tuple[str, float, float]]
    chunk_times: Float[np.ndarray, "chunk 2"]
    surprise: Float[np.ndarray, " chunk"]  # nan if nothing was predicted
    answers: list[Answered]
    swapped_sentence: str = ""

    def pictures(self) -> Iterator[tuple[UInt8[np.ndarray, "height width channel"], float]]:
        """Return each chunk's frame and its share of the clip's seconds in percent."""
        ends = self.chunk_times[:, 1].clip(max=self.duration)
        return zip(self.frames, (ends - self.chunk_times[:, 0]) / self.duration * 100, strict=True)


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share in percent, a dash if there is none."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:.{digits}f}"


def shorten(words: str, length: int = MAX_SHOWN_CHARACTERS) -> str:
    """Return the text, cut at a word if it is too long; empty text becomes "(nothing)"."""
    return (words if len(words) <= length else words[:length].rsplit(" ", 1)[0] + " …") or "(nothing)"


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
ENVIRONMENT.filters |= {"percent": percent, "shorten": shorten}
ENVIRONMENT.globals |= {name: getattr(drawing, name) for name in DRAWINGS}
ENVIRONMENT.globals |= {"KIND_NAMES": KIND_NAMES, "BASELINES": BASELINES}


def render(template: str, **values: Any) -> str:
    """Render the template; a missing value is an error."""
    software = f"mirasol {__version__}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    return ENVIRONMENT.get_template(template).render(date=time.strftime("%Y-%m-%d"), software=software, **values)
