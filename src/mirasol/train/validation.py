"""Validation by generation: metrics of greedy answers on the val rows of every source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from torch import nn

from mirasol.chunks import MirasolProcessor
from mirasol.data import ClipCache
from mirasol.evaluate import runner
from mirasol.evaluate.conditions import Condition
from mirasol.media import Clip
from mirasol.tasks import Question, Row, get_task, nearest
from mirasol.train.recipe_schema import Recipe, SourceRecipe
from mirasol.train.stop import STOP

MEAN_OF_TASKS = "mean_tasks"


def main_metric(sources: Sequence[SourceRecipe]) -> str:
    """Return the name of the metric that chooses the best checkpoint: the mean over conditions, and over tasks."""
    return MEAN_OF_TASKS if len(sources) > 1 else f"mean_{get_task(sources[0].task).headline}"


def conditions_of(source: SourceRecipe) -> tuple[str, ...]:
    """Return the conditions of a source's validation, which `resolve` has filled in."""
    assert source.conditions is not None, "the recipe is resolved"
    return source.conditions


def check_validation(recipe: Recipe) -> None:
    """Raise ValueError for a condition that validation cannot measure."""
    for name in {name for source in recipe.data.sources for name in conditions_of(source)}:
        if Condition(name).name == "swapped":
            raise ValueError(
                "Expected validation.conditions that leave one answer right, found 'swapped': measure it afterwards, "
                "with mirasol evaluate --condition swapped."
            )


def check_metric(recipe: Recipe, val_rows: Mapping[SourceRecipe, Sequence[Row]]) -> None:
    """Raise ValueError for an unknown metric, with the nearest known one."""
    known: list[str] = [MEAN_OF_TASKS] if len(val_rows) > 1 else []
    for source, name in zip(val_rows, source_names([*val_rows]), strict=True):
        task, questions = get_task(source.task), [question for row in val_rows[source] for question in row.questions]
        scores = task.score(questions, [question.answer for question in questions])
        flat = {key: value for c in conditions_of(source) for key, value in runner.flat_scores(scores, c).items()}
        flat |= runner.mean_scores(flat, task, conditions_of(source))
        known += flat if len(val_rows) == 1 else [f"{name}_{key}" for key in flat]
    metric = recipe.validation.metric
    assert metric is not None, "the recipe is resolved"
    if metric not in known:
        raise ValueError(
            f"Recipe key validation.metric is {metric!r}, but validation gives: {', '.join(sorted(known))}. "
            f"Did you mean {nearest(metric, known)!r}?"
        )


def source_names(sources: Sequence[SourceRecipe]) -> list[str]:
    """Return a name for each source: its task, with the split, or else a number, where a task occurs twice."""
    tasks = [source.task for source in sources]
    names = [s.task if tasks.count(s.task) == 1 else f"{s.task}_{s.val_split}" for s in sources]
    return [name if names.count(name) == 1 else f"{name}_{number}" for number, name in enumerate(names)]


class Validation:
    """Metrics of a model's greedy answers on the rows of each source, as a function of the model.

    With several sources, metrics are prefixed with the task's name (and split, if a task occurs twice), and
    `mean_tasks` is the mean of their main metrics. The result is empty if the run is asked to stop. `samples` holds a
    few answers of the last call, to the same questions in each call.
    """

    def __init__(self, recipe: Recipe, parts: Mapping[SourceRecipe, Callable[..., dict[str, float]]]) -> None:
        self.parts, self.num_samples = parts, recipe.validation.samples
        self.names = dict(zip(parts, source_names([*parts]), strict=True))
        self.samples: list[dict[str, str]] = []

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.samples = []
        found = {}
        for source, score in self.parts.items():
            found[source] = score(model, keep=partial(self._keep, source))
            if not found[source]:  # asked to stop
                return {}
        if len(found) == 1:
            return next(iter(found.values()))
        named = [(self.names[source], scores) for source, scores in found.items()]
        flat = {f"{name}_{key}": value for name, scores in named for key, value in scores.items()}
        main = [scores[f"mean_{get_task(source.task).headline}"] for source, scores in found.items()]
        return flat | {MEAN_OF_TASKS: float(np.mean(main))}

    def _keep(
        self, source: SourceRecipe, condition: str, questions: Sequence[Question], generated: Sequence[str]
    ) -> None:
        """Keep answers to questions spread evenly over the split."""
        count = min(self.num_samples, len(questions))
        for i in (len(questions) * n // count for n in range(count)):
            self.samples.append({
                "source": self.names[source], "condition": condition, "id": questions[i].id,
                "question": questions[i].text, "answer": questions[i].answer, "generated": generated[i],
            })  # fmt: skip


def build_validation(
    recipe: Recipe, processor: MirasolProcessor, val_rows: Mapping[SourceRecipe, Sequence[Row]]
) -> Validation:
    """Return the validation of the rows of each source, which reads clips from the cache if the recipe has one."""
    parts = {}
    for source, rows in val_rows.items():
        read = None
        if recipe.data.cache is not None:
            rate, decoder = processor.grid.frames_per_second, processor.decoder
            cache = ClipCache.build(rows, recipe.data.cache, processor.image_processor, 1.0, rate, decoder)
            rows, read = [row for row in rows if cache.holds(row)], partial(_from_cache, cache)
        parts[source] = partial(
            runner.score,
            processor=processor,
            rows=rows,
            task=source.task,
            conditions=conditions_of(source),
            read=read,
            batch_size=recipe.validation.batch_size,
            should_stop=lambda: STOP.signal is not None,
        )
    return Validation(recipe, parts)


def _from_cache(cache: ClipCache, row: Row, condition: Condition) -> Clip:
    return condition.apply(cache.clip_of(row), row.id)
