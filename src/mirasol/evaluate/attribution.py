"""Accuracy of attribution: how often the chunk with the most weight contains the asked word."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from mirasol.answer.answerer import Answerer
from mirasol.answer.attribution import overlaps
from mirasol.evaluate.bootstrap import Interval, bootstrap_ratio
from mirasol.results import Number, Result
from mirasol.tasks import Row, get_task
from mirasol.tasks.metrics.exact import mean

BATCH_SIZE = 8


class AttributionShare(Result):
    """Share of right answers whose top chunk overlaps the asked word (+-0.16 s), beside that of a random chunk."""

    method: str = "attention"
    share: Interval
    uniform_choice: Number
    num_answers: int

    def __str__(self) -> str:
        value, low, high = (100 * v for v in (self.share.value, self.share.low, self.share.high))
        return (
            f"{self.method}: top chunk on the asked word in {value:.1f} % [{low:.1f}, {high:.1f}] of "
            f"{self.num_answers} right answers; a chunk chosen uniformly: {100 * self.uniform_choice:.1f} %"
        )


def measure_attribution(answerer: Answerer, rows: Sequence[Row], progress: bool = True) -> AttributionShare:
    """Measure on the questions of GRID that ask for one spoken word."""
    task = get_task("grid")
    hits: list[int] = []
    right: list[int] = []
    expected: list[float] = []
    bar = tqdm(total=len(rows), desc="attributing answers", unit="clip", disable=None if progress else True)
    for first in range(0, len(rows), BATCH_SIZE):
        batch = rows[first : first + BATCH_SIZE]
        asked = [[q for q in row.questions if q.kind in task.headline_kinds] for row in batch]
        texts = [[question.text for question in questions] for questions in asked]
        watched = answerer.watch(*(answerer.processor.read_clip(row.media, warn=False) for row in batch))
        given = answerer.answer(watched, texts)
        shares = answerer.attribute(watched, texts, given)
        outputs = watched.encoder_outputs
        for clip, questions in enumerate(asked):
            real = outputs.chunk_mask[clip]
            hits.append(0)
            right.append(0)
            for place, question in enumerate(questions):
                if not task.is_right(question, given[clip][place].text):
                    continue
                assert question.seconds is not None, f"{question.id} has no seconds to compare with"
                on_word = overlaps(outputs.chunk_times[clip], question.seconds) & real
                right[-1] += 1
                expected.append(float(on_word.sum() / real.sum()))
                hits[-1] += bool(on_word[shares[clip][place].masked_fill(~real, -1).argmax()])
        bar.update(len(batch))
    bar.close()
    share = bootstrap_ratio(np.array(hits, dtype=np.float64), np.array(right, dtype=np.float64))
    return AttributionShare(share=share, uniform_choice=mean(expected), num_answers=sum(right))
