"""Results by kind of question and by recurring question, because a mean can hide one that is always wrong."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mirasol.evaluate.baselines import best
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.results import Confusion, Group, Prediction
from mirasol.evaluate.summary import compare, share, value_of
from mirasol.tasks import Question, Row, Task

MIN_ASKED = 2  # a question that is asked less often has no line of its own
MAX_GROUPS = 60
NUM_CONFUSIONS = 5


def groups(
    task: Task, found: Mapping[Condition, Sequence[Prediction]], rows: Sequence[Row], train: Sequence[Row],
    name: Callable[[Prediction], str], min_asked: int = 1,
) -> list[Group]:  # fmt: skip
    """Group the predictions by `name` and kind, in the order of appearance, and return the results of each group."""
    asked = {question.id: question for row in rows for question in row.questions}
    known = [question for row in train for question in row.questions]
    members: dict[tuple[str, str], dict[Condition, list[Prediction]]] = {}
    for condition, predictions in found.items():
        for prediction in predictions:
            if prediction.kind not in task.time_kinds:
                empty: dict[Condition, list[Prediction]] = {c: [] for c in found}
                members.setdefault((name(prediction), prediction.kind), empty)[condition].append(prediction)
    first = next(iter(found))
    counts = Counter({key: len(own[first]) for key, own in members.items() if len(own[first]) >= min_asked})
    kept = dict(counts.most_common(MAX_GROUPS))
    return [group(task, own, key, asked, known) for key, own in members.items() if key in kept]


# One group per kind of question, except kinds that are scored in seconds.
by_kind = partial(groups, name=lambda prediction: prediction.kind)
# One group per question text that is asked at least twice; of many, the most frequent.
by_question = partial(groups, name=lambda prediction: prediction.question, min_asked=MIN_ASKED)


def group(
    task: Task, found: Mapping[Condition, Sequence[Prediction]], key: tuple[str, str], asked: Mapping[str, Question],
    known: Sequence[Question],
) -> Group:  # fmt: skip
    """Return the results of one group; `known` are the questions of train."""
    own = next(iter(found.values()))
    questions = [asked[prediction.question_id] for prediction in own]
    constant = most_common(task, questions, known)
    wrong = Counter((p.answer, p.generated) for p in own if not p.right and p.credit is None)
    return Group(
        name=key[0],
        kind=key[1],
        questions=len(own),
        right=share(own, value_of, {key[1]}),
        baseline=round(sum(task.credit(question, constant) for question in questions) / len(questions), 6),
        baseline_answer=constant,
        comparisons=compare(found, task.name) if len(found) > 1 else [],
        confusions=[
            Confusion(answer=answer, generated=generated, count=count)
            for (answer, generated), count in wrong.most_common(NUM_CONFUSIONS)
        ],
    )


def most_common(task: Task, questions: Sequence[Question], known: Sequence[Question]) -> str:
    """Return the most common answer in train to the same questions, else to their kind, else of the questions."""
    texts, kinds = {question.text for question in questions}, {question.kind for question in questions}
    alike = [question for question in known if question.kind in kinds]
    chosen = [question for question in alike if question.text in texts] or alike or questions
    return best(Counter(task.normalise(question.answer) for question in chosen))
