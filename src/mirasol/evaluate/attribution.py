"""Accuracy of attribution: how often the chunk with the most weight contains the asked word."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from mirasol.answer.answerer import Answerer
from mirasol.answer.attribution import METHODS, overlaps
from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio
from mirasol.results import Number, Result
from mirasol.tasks import Row, get_task


class AttributionShare(Result):
    """Share of right answers whose top chunk overlaps the asked word (+-0.16 s), beside that of a random chunk."""

    method: str
    share: Interval
    uniform_choice: Number
    num_answers: int

    def __str__(self) -> str:
        value, low, high = (100 * v for v in (self.share.value, self.share.low, self.share.high))
        return (
            f"{self.method}: top chunk on the asked word in {value:.1f} % [{low:.1f}, {high:.1f}] of "
            f"{self.num_answers} right answers; a chunk chosen uniformly: {100 * self.uniform_choice:.1f} %"
        )


def measure_attribution(
    answerer: Answerer, rows: Sequence[Row], *, task: str = "grid", methods: Sequence[str] = tuple(METHODS),
    batch_size: int = 8, progress: bool = True,
) -> list[AttributionShare]:  # fmt: skip
    """Measure each method on questions of the task's headline kinds (in GRID, each asks for one spoken word)."""
    asker = get_task(task)
    hits: dict[str, list[float]] = {method: [] for method in methods}
    right_per_clip: list[int] = []
    expected: list[float] = []
    bar = tqdm(total=len(rows), desc="attributing answers", unit="clip", disable=None if progress else True)
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        asked = [[q for q in row.questions if q.kind in asker.headline_kinds] for row in batch]
        texts = [[question.text for question in questions] for questions in asked]
        watched = answerer.watch(*(answerer.processor.read_clip(row.media, warn=False) for row in batch))
        given = answerer.answer(watched, texts)
        shares = {method: answerer.attribute(watched, texts, given, method) for method in methods}
        outputs = watched.encoder_outputs
        for clip, questions in enumerate(asked):
            tops, right, real = dict.fromkeys(methods, 0), 0, outputs.chunk_mask[clip]
            for place, question in enumerate(questions):
                if not asker.is_right(question, given[clip][place].text):
                    continue
                assert question.seconds is not None, f"{question.id} has no seconds to compare with"
                on_word = overlaps(outputs.chunk_times[clip], question.seconds) & real
                right += 1
                expected.append(float(on_word.sum() / real.sum()))
                for method in methods:
                    tops[method] += bool(on_word[shares[method][clip][place].masked_fill(~real, -1).argmax()])
            right_per_clip.append(right)
            for method in methods:
                hits[method].append(tops[method])
        bar.update(len(batch))
    bar.close()
    counts = np.array(right_per_clip, dtype=np.float64)
    uniform = float(np.mean(expected)) if expected else float("nan")
    return [
        AttributionShare(
            method=method,
            share=bootstrap_ratio(np.array(hits[method], dtype=np.float64), counts),
            uniform_choice=uniform,
            num_answers=int(counts.sum()),
        )
        for method in methods
    ]
