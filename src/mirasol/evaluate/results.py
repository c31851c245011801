"""Typed results of an evaluation, the source of metrics.json, of the terminal output and of the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter

from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.calibration import Abstention, Calibration
from mirasol.evaluate.conditions import CONDITIONS, Condition
from mirasol.results import Document, Number, Result
from mirasol.tasks import Task, get_task

SHOWN_QUESTIONS, LOWEST = 12, 5  # a terminal lists up to 12 questions, or the lowest 5 of more
Score = int | Number | dict[str, Number]


@dataclass(frozen=True)
class Prediction:
    """One answered question; JSON leaves out fields that are None.

    Attributes:
        generated: The scored answer: generated text or, with ranking, the most likely option.
        ranked, ranked_per_token: With ranking, the best five options by the sum and by the mean of token
            log-probabilities.
        option_log_likelihoods: With ranking, the sums in the order of the question's options.
        sound_answer, sound_right: With swapped sound, the right answer for the lender's clip, and whether `generated`
            is right for it.
        file: File of the clip.
        seconds: Start and end of the seconds in which the answer is heard or seen.
        confidence: exp of the mean log-probability of the answer's tokens.
        is_silent: True if the sound that was used has no sample above -70 dB.
        is_cut: True if the answer reached the limit of tokens before an end token.
        credit: Score from 0 to 1 of a graded metric.
    """

    clip: str
    question_id: str
    kind: str
    question: str
    answer: str
    generated: str
    right: bool
    confidence: float
    seconds: tuple[float, float] | None = None
    sound_answer: str | None = None
    sound_right: bool | None = None
    log_likelihood: float | None = None
    seconds_covered: float | None = None
    sound_used: bool | None = None
    ranked: list[str] | None = None
    ranked_per_token: list[str] | None = None
    option_log_likelihoods: list[float] | None = None
    is_cut: bool = False
    is_silent: bool = False
    file: str | None = None
    credit: float | None = None

    @property
    def value(self) -> float:
        """Credit of the answer: 1 or 0 where the metric is not graded."""
        return float(self.right) if self.credit is None else self.credit

    @property
    def unit(self) -> str:
        """Unit of resampling for an interval: the file, which may hold several clips."""
        return self.file or self.clip


PREDICTION = TypeAdapter(Prediction)


class Clips(Result):
    """Counts of clips; `missing` have no file, `unreadable` could not be decoded or answered, with the reason.

    `silent` counts the clips of `with_sound` that have no sample above -70 dB.
    """

    asked: int
    answered: int
    with_sound: int = 0
    silent: int = 0
    with_warnings: int = 0
    missing: list[str] = []
    unreadable: dict[str, str] = {}


class Coverage(Result):
    """How much of a published split was measured, in the split's unit."""

    measured: int
    published: int
    unit: str

    def __str__(self) -> str:
        return f"{self.measured:,} {self.unit} of {self.published:,} published"


class Follows(Result):
    """Shares of answers under swapped sound that follow the picture's clip, the sound's clip, or neither."""

    picture: Interval
    sound: Interval
    neither: Interval


class Comparison(Result):
    """One condition compared with the first at the same noise, on the same questions about clips that have sound.

    Noise seeds are pooled; intervals take the clip as the unit.
    """

    condition: str
    noise_db: float | None
    noise_seeds: list[int]
    questions: int
    right: Interval
    minus_first: Interval
    follows: Follows | None = None

    @property
    def label(self) -> str:
        """Readable name of the condition."""
        return Condition(self.condition, self.noise_db).described(self.noise_seeds)


class Confusion(Result):
    """A right answer, the wrong answer given instead, and how often."""

    answer: str
    generated: str
    count: int


class Group(Result):
    """One question that recurs, or all questions of a kind.

    Attributes:
        name: Text of the question, or the kind.
        questions: Number of answered questions.
        right: Share right, or the mean credit of a graded metric.
        baseline: Share right of `baseline_answer`, the most common answer in train, else of the measured questions.
        comparisons: As in `Metrics`, if several conditions were measured.
        confusions: Most frequent wrong answers.
    """

    name: str
    kind: str
    questions: int
    right: Interval
    baseline: float
    baseline_answer: str
    comparisons: list[Comparison] = []
    confusions: list[Confusion] = []

    def __str__(self) -> str:
        return f"{self.right} of {self.questions}; always {self.baseline_answer!r}: {100 * self.baseline:.1f} %"


class Tops(Result):
    """Share of questions with a right option in first place, and among the first five."""

    top_1: Interval
    top_5: Interval


class Metrics(Document):
    """Contents of metrics.json."""

    checkpoint: str
    task: str
    split: str
    condition: str
    noise_db: float | None = None
    noise_seed: int | None = None
    answers: Literal["generated", "ranked"] = "generated"
    clips: Clips
    cut_answers: int = 0
    coverage: Coverage | None = None
    scores: dict[str, Score]
    scores_missing_wrong: dict[str, Score]
    intervals_95: dict[str, Interval]
    ranking: dict[str, Tops] = {}
    class_ranking: dict[str, Number] = {}
    follows: dict[str, Follows] = {}
    comparisons: list[Comparison] = []
    baselines: dict[str, dict[str, Score]] = {}
    kinds: list[Group] = []
    questions: list[Group] = []
    calibration: Calibration | None = None
    abstention: Abstention | None = None

    @property
    def label(self) -> str:
        """Readable name of the first condition."""
        return Condition(self.condition, self.noise_db, self.noise_seed or 0).label

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, seconds: float | None = None) -> list[str]:
        """Return a short table for a terminal."""
        clips, task = self.clips, get_task(self.task)
        took = "" if seconds is None else f" in {seconds:.0f} s"
        lines = [f"{self.label}: {clips.answered} of {clips.asked} clips answered{took}"]
        lines += [f"  {name:17s} {self._interval(task, name)}" for name in self.intervals_95 if self._measured(name)]
        for name in ("numbers", "label_sets", "captions"):
            if isinstance(more := self.scores.get(name), dict):
                lines.append(f"  {name}: " + ", ".join(f"{part} {value:.3f}" for part, value in more.items()))
        there, all_asked = self.scores.get(task.headline), self.scores_missing_wrong.get(task.headline)
        if clips.answered < clips.asked and isinstance(there, float) and isinstance(all_asked, float):
            lines.append(
                f"  {task.headline}: {100 * there:.1f} % on answered clips, {100 * all_asked:.1f} % with the others "
                "counted as wrong"
            )
        if clips.silent:
            lines.append(f"  {clips.silent} of {clips.with_sound} clips with sound are silent")
        if self.coverage is not None and self.coverage.measured < self.coverage.published:
            lines.append(f"  measured on {self.coverage}")
        lines += question_lines(self.questions) if len(self.questions) > 1 else []
        if self.calibration is not None:
            lines.append(f"  {self.calibration}")
        if self.abstention is not None:
            lines.append(f"  {self.abstention}")
        if self.cut_answers:
            lines.append(f"  {cut_sentence(self.cut_answers)}: raise --max-new-tokens")
        for way, tops in self.ranking.items():
            how = "sum" if way == "sum" else "mean"
            lines.append(f"  ranked by {how} of token log-probabilities: top-1 {tops.top_1}, top-5 {tops.top_5}")
        if classes := self.class_ranking:
            values = ", ".join(f"{name} {classes[name]:.3f}" for name in ("mAP", "mAUC", "d_prime"))
            lines.append(f"  ranked classes, by sum: {values}, mean accuracy {classes['mean_class_accuracy']:.3f}")
        for name, parts in self.follows.items():
            shares = ", ".join(f"{part} {100 * interval.value:.1f} %" for part, interval in parts)
            lines.append(f"  follows, {name}: {shares}")
        return lines + comparison_lines(self.comparisons)

    def _measured(self, name: str) -> bool:
        return not np.isnan(self.intervals_95[name].value)

    def _interval(self, task: Task, kind: str) -> str:
        interval, entry = self.intervals_95[kind], self.scores.get(kind)
        if kind not in task.time_kinds or not isinstance(entry, dict):
            return str(interval)
        constant = entry.get("constant_median_error_seconds")
        beside = "" if constant is None else (
            f"; best constant {constant:.3f} s, {100 * entry['constant_within_0.1_seconds']:.0f} %"
        )  # fmt: skip
        within = 100 * entry["within_0.1_seconds"]
        return f"median error {interval.value:.3f} s, {within:.0f} % within 0.1 s{beside}"


def cut_sentence(count: int) -> str:
    """Return a sentence about answers that reached the token limit."""
    return f"{count:,} answer{'s' * (count > 1)} reached the limit of tokens and {'were' if count > 1 else 'was'} cut"


def question_lines(questions: Sequence[Group]) -> list[str]:
    """Return a line per recurring question, or only for the lowest of many."""
    head = "  by question:"
    if len(questions) > SHOWN_QUESTIONS:
        head = f"  the lowest of {len(questions)} recurring questions:"
        questions = sorted(questions, key=lambda group: group.right.value)[:LOWEST]
    return [head, *(f"    {group.name[:40]:40s} {group}" for group in questions)]


def comparison_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """Return the comparison of conditions as lines for a terminal, or the reason why there is none."""
    if not comparisons:
        return []
    if not any(entry.questions for entry in comparisons[1:]):
        return ["  conditions compared: nothing to measure, because no answered clip has both picture and sound"]
    first = comparisons[0]
    pooled = " with all noise seeds" if len(first.noise_seeds) > 1 else ""
    lines = [f"  conditions compared, on the clips that have sound{pooled}:"]
    for entry in comparisons:
        if not entry.questions:
            lines.append(f"    {entry.label:21s} nothing to measure: no clip with sound allows this condition")
            continue
        gain = "" if entry is first else f", {entry.minus_first.points} points to {CONDITIONS[first.condition]}"
        lines.append(f"    {entry.label:21s} {entry.right} of {entry.questions} questions{gain}")
    return lines


class Evaluation(Result):
    """Metrics of one checkpoint on one split, the predictions under the first condition, and the rows."""

    metrics: Metrics
    predictions: list[Prediction]
    rows: list[Any] = Field(default=[], exclude=True)
    looks_at: Any = Field(default=None, exclude=True)  # the image processor, for pictures of the model's input
    output: str | None = None
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics, for JSON."""
        return self.metrics.as_dict() | ({"output": self.output} if self.output else {})

    def __str__(self) -> str:
        lines = self.metrics.lines(self.seconds)
        return "\n".join(lines + ([f"written to {self.output}"] if self.output else []))
