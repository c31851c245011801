"""How often the seconds an answer rests on are those in which the asked word is spoken: the test of `attention.py`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mirasol.answer.attribution import METHODS, attention_weights, leave_one_out_weights, overlaps
from mirasol.answer.generation import generate_answers, split_inputs, with_answers
from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio
from mirasol.tasks import Row, get_task


@dataclass(frozen=True)
class RestsOnShare:
    """Among right answers, how often the heaviest chunk touches the asked word (+-0.16 s), and by chance."""

    method: str
    share: Interval
    uniform_choice: float
    num_answers: int

    def as_dict(self) -> dict[str, Any]:
        """The same, for JSON."""
        return asdict(self) | {"share": self.share.as_dict()}

    def __str__(self) -> str:
        value, low, high = (100 * v for v in (self.share.value, self.share.low, self.share.high))
        return (
            f"{self.method}: top chunk on the asked word in {value:.1f} % [{low:.1f}, {high:.1f}] of "
            f"{self.num_answers} right answers; a chunk chosen uniformly: {100 * self.uniform_choice:.1f} %"
        )


def measure_rests_on(
    model, processor, rows: Sequence[Row], *, task: str = "grid", methods: Sequence[str] = METHODS,
    batch_size: int = 8, progress: bool = True,
) -> list[RestsOnShare]:  # fmt: skip
    """Return one share per method, over the questions of the task's headline kinds (in GRID: one spoken word each)."""
    asker = get_task(task)
    hits: dict[str, list[float]] = {method: [] for method in methods}
    right_per_clip: list[int] = []
    expected: list[float] = []
    bar = tqdm(total=len(rows), desc="what answers rest on", unit="clip", disable=None if progress else True)
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        asked = [[q for q in row.questions if q.kind in asker.headline_kinds] for row in batch]
        texts = [question.text for questions in asked for question in questions]
        clips = [processor.read_clip(row.media) for row in batch]
        media, text = split_inputs(processor(text=texts, videos=clips), model.device)
        with torch.no_grad():
            encoder_outputs = model.get_encoder()(**media)
        given = generate_answers(model, processor, encoder_outputs, text)
        text = with_answers(text, given)
        weights = {
            "attention": lambda e=encoder_outputs, t=text: attention_weights(model, e, t),
            "leave_one_out": lambda m=media, t=text: leave_one_out_weights(model, m, t),
        }
        found = {method: weights[method]() for method in methods}
        real = media["video_chunk_mask"] | media["audio_chunk_mask"]
        number = 0
        for clip, questions in enumerate(asked):
            tops = dict.fromkeys(methods, 0)
            right = 0
            for question in questions:
                if asker.normalise(given[number].text) == asker.normalise(question.answer):
                    on_word = overlaps(encoder_outputs.chunk_times[clip], question.seconds) & real[clip]
                    right += 1
                    expected.append(float(on_word.sum() / real[clip].sum()))
                    for method in methods:
                        tops[method] += bool(on_word[found[method][number].masked_fill(~real[clip], -1).argmax()])
                number += 1
            right_per_clip.append(right)
            for method in methods:
                hits[method].append(tops[method])
        bar.update(len(batch))
    bar.close()
    counts = np.array(right_per_clip, dtype=np.float64)
    uniform = float(np.mean(expected)) if expected else float("nan")
    return [
        RestsOnShare(
            method, bootstrap_ratio(np.array(hits[method], dtype=np.float64), counts), uniform, int(counts.sum())
        )
        for method in methods
    ]
