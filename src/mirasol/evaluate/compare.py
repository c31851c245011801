"""`mirasol compare`: paired differences of two runs on the same rows, by question, with intervals."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.by_question import MAX_GROUPS, MIN_ASKED
from mirasol.evaluate.results import SHOWN_QUESTIONS, Metrics, Prediction
from mirasol.evaluate.run_folder import ABOUT, METRICS, PREDICTIONS, read_results
from mirasol.evaluate.summary import paired_difference, share, value_of
from mirasol.results import Document, Result
from mirasol.tasks import get_task

SHOWN = 3  # questions named in a refusal
FEWEST_CLIPS = 6  # of fewer clips, no interval tells a difference from chance
ROWS = ("task", "split", "clips_and_questions")  # keys of run.json that must be equal


class Run(Result):
    """One run, with its share right on the questions that both runs answered."""

    folder: str
    checkpoint: str
    condition: str
    right: Interval


class Difference(Result):
    """The second run minus the first on one group of questions, resampled by clip.

    `only_first` and `only_second` count the questions that only that run answered right.
    """

    name: str
    questions: int
    first: Interval
    second: Interval
    difference: Interval
    only_first: int
    only_second: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero and there are at least six clips."""
        excludes_zero = self.difference.low > 0 or self.difference.high < 0
        return excludes_zero and self.difference.num_clips >= FEWEST_CLIPS


class RunComparison(Document):
    """Result of `mirasol compare`."""

    task: str
    split: str
    first: Run
    second: Run
    left_out: int
    whole: Difference
    kinds: list[Difference]
    questions: list[Difference]
    page: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.task} {self.split}, {self.whole.questions} questions that both runs answered"]
        lines += [f"  {name:6s} {run.folder}: {run.checkpoint}, {run.condition}" for name, run in self.named()]
        if self.left_out:
            lines.append(f"  {self.left_out} questions are left out, because only one run answered them")
        lines.append(f"  {'':34s} {'first':>7s} {'second':>8s}   second minus first, points")
        questions = self.questions[:SHOWN_QUESTIONS] if len(self.questions) > len(self.kinds) else []
        groups = [self.whole, *self.kinds, *questions]
        for group in groups:
            values = f"{100 * group.first.value:5.1f} % {100 * group.second.value:6.1f} %"
            counts = f"{group.only_second} better, {group.only_first} worse of {group.questions}"
            mark = "" if group.is_clear else "  (may be chance)"
            lines.append(f"  {group.name[:34]:34s} {values}   {group.difference.points}  {counts}{mark}")
        if more := len(self.questions) - len(questions) if questions else 0:
            lines.append(f"  and {more} more questions, asked less often: --json, or --output for a page")
        return "\n".join(lines + ([f"page: {self.page}"] if self.page else []))

    def named(self) -> list[tuple[str, Run]]:
        """Return both runs with their names."""
        return [("first", self.first), ("second", self.second)]


def compare_runs(first: str | Path, second: str | Path) -> RunComparison:
    """Compare the folders of two finished evaluations of the same rows.

    Raises:
        ValueError: If a folder holds no finished run, or the runs have different rows.
    """
    runs = [read_run(Path(first)), read_run(Path(second))]
    refuse_other_rows(*runs)
    names = set.intersection(*({p.question_id for p in found} for _, _, found in runs))
    sides = [[p for p in found if p.question_id in names] for _, _, found in runs]
    metrics = runs[0][1]
    task = get_task(metrics.task)
    matched = [[p for p in side if p.kind not in task.time_kinds] for side in sides]
    kinds = list(dict.fromkeys(p.kind for p in matched[0]))
    headline = task.headline_among(kinds)
    texts = Counter(p.question for p in matched[0])
    often = [text for text, count in texts.most_common(MAX_GROUPS) if count >= MIN_ASKED]
    described = [
        Run(folder=str(folder), checkpoint=m.checkpoint, condition=m.label, right=share(side, value_of, headline))
        for folder, (_, m, _), side in zip((first, second), runs, matched, strict=True)
    ]
    return RunComparison(
        task=metrics.task,
        split=metrics.split,
        first=described[0],
        second=described[1],
        left_out=len(set.union(*({p.question_id for p in found} for _, _, found in runs)) - names),
        whole=difference(task.headline_group, matched, headline),
        kinds=[difference(kind, matched, [kind]) for kind in kinds],
        questions=[
            difference(text, [[p for p in side if p.question == text] for side in matched], kinds) for text in often
        ],
    )


def difference(name: str, sides: Sequence[Sequence[Prediction]], kinds: Collection[str]) -> Difference:
    """Return the difference on the questions of these kinds."""
    first, second = ({p.question_id: p for p in side if p.kind in kinds} for side in sides)
    pairs = [(first[key].right, second[key].right) for key in first]
    return Difference(
        name=name,
        questions=len(first),
        first=share([*first.values()], value_of, kinds),
        second=share([*second.values()], value_of, kinds),
        difference=paired_difference([[*second.values()]], [[*first.values()]], kinds),
        only_first=pairs.count((True, False)),
        only_second=pairs.count((False, True)),
    )


def read_run(folder: Path) -> tuple[Mapping[str, Any], Metrics, list[Prediction]]:
    """Return the settings, metrics and predictions of a finished run."""
    absent = [name for name in (ABOUT, METRICS, PREDICTIONS) if not (folder / name).is_file()]
    if absent:
        raise ValueError(
            f"Expected the folder of a finished `mirasol evaluate --output` at {folder}, found "
            f"{'no ' + ' and no '.join(absent) + ' there' if folder.is_dir() else 'no such folder'}. Run it first."
        )
    try:
        return json.loads((folder / ABOUT).read_text(encoding="utf-8")), *read_results(folder)
    except (ValidationError, json.JSONDecodeError) as error:
        raise ValueError(
            f"Expected results of this version of mirasol in {folder}, found others ({str(error).splitlines()[0]}). "
            "Evaluate again, into another folder."
        ) from error


def refuse_other_rows(first: tuple, second: tuple) -> None:
    """Raise ValueError if the clips, questions or right answers of the runs differ."""
    if all(first[0].get(key) == second[0].get(key) for key in ROWS):
        return
    ways = [
        f"{key} {first[0].get(key)!r} against {second[0].get(key)!r}"
        for key in ("task", "split")
        if first[0].get(key) != second[0].get(key)
    ]
    mine, theirs = ({p.question_id: p for p in found} for _, _, found in (first, second))
    for one, other, name in ((mine, theirs, "first"), (theirs, mine, "second")):
        if alone := [key for key in one if key not in other]:
            ways.append(f"{len(alone)} of {len(one)} questions only in the {name}, such as {', '.join(alone[:SHOWN])}")
    asked = [(key, p, theirs[key]) for key, p in mine.items() if key in theirs]
    for field, name in (("question", "text"), ("answer", "right answer")):
        if changed := [(key, a, b) for key, a, b in asked if getattr(a, field) != getattr(b, field)]:
            key, a, b = changed[0]
            values = f"{getattr(a, field)!r} against {getattr(b, field)!r}"
            ways.append(f"{len(changed)} questions with another {name}, such as {key}: {values}")
    found = "; ".join(ways) or "other options, metrics or segments of the same questions"
    raise ValueError(
        f"Expected two runs of the same rows, found {found}. "
        "Evaluate both checkpoints with the same --task, --root, --split and --max-clips."
    )
