"""NExT-OE, the open-ended questions of NExT-QA: short answers, scored by word similarity (WUPS); see `INFO`."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from mirasol.tasks.annotations import find_optional, read_json, read_table, with_mark
from mirasol.tasks.base import Question, Row, TaskInfo
from mirasol.tasks.metrics.exact import accuracy
from mirasol.tasks.metrics.wups import GROUPS, MERGED, Wups, wups
from mirasol.tasks.nextqa_mc import NextQA

INFO = TaskInfo(
    title="NExT-OE, NExT-QA open-ended (Xiao et al., 2021), home videos of about 44 s",
    source="https://github.com/doc-doc/NExT-OE (questions), https://xdshang.github.io/docs/vidor.html (videos)",
    licence="questions: MIT (repository); videos: YFCC100M, by the licence of each",
    sizes={"train": 37_523, "val": 5_343, "test": 9_178},
    unit="questions",
    layout="ROOT/{train,val,test}.csv, add_reference_answer_test.json, map_vid_vidorID.json (of NExT-QA), and the "
    "videos anywhere below ROOT as ID.mp4 or in VidOR's folders (0101/ID.mp4)",
    prompt='the question, "what did the baby do at the end of the video?"',
    normalisation="lower case, single spaces, no punctuation at the end; WUPS computes base forms itself",
    metric="WUPS@0 and @0.9 as the official eval_oe.py: Wu-Palmer similarity of the words after lemmatising and "
    "without stop words, exact match for counting (DC) and yes/no (DB), by type and group; 4,632 questions of test "
    "have a second reference. Needs WordNet, see docs/evaluation.md. exact_match beside it",
    versions="one version. Three train questions share their number with another: the id of the second ends in /2. "
    "Elsewhere WUPS depends on the version of NLTK; here it equals the published scores and needs no NLTK",
    paper=(),
)
SECOND_REFERENCES = "add_reference_answer_test.json"
COLUMNS = ("video", "question", "answer", "qid", "type")
KINDS = (*(kind for kinds in GROUPS.values() for kind in kinds), *MERGED)


class NextQAOpenEnded(NextQA):
    """Open-ended questions about home videos, scored by WUPS."""

    name = "nextqa_oe"
    info = INFO
    headline = "wups_0"

    def read(self, path, root, split):
        """Yield the entries of the split's file."""
        second = second_references(root) if split == "test" else {}
        texts: dict[str, str] = {}
        for place, line in read_table(path, COLUMNS):
            if line["type"] not in KINDS:
                yield place, "", f"expected a type out of {', '.join(KINDS)}, found {line['type']!r}."
                continue
            name = f"{line['video']}_{line['qid']}"
            if texts.setdefault(name, line["question"]) != line["question"]:
                name = f"{name}/2"  # another question with the number of an earlier one, as train has three
            reference = second.get(line["video"], {}).get(line["qid"])
            references = () if reference is None else (reference,)
            text = with_mark(line["question"])
            yield place, line["video"], Question(name, text, line["answer"], line["type"], references=references)

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return WUPS and `exact_match` over all questions, by group and by type; without WordNet only the latter."""
        right, kinds = self.right(questions, predictions), [question.kind for question in questions]
        scores: dict[str, float] = {}
        for name, value in accuracy(right, kinds, GROUPS, MERGED).items():
            scores[f"exact_match_{name}" if name in GROUPS or name in KINDS else name] = value
        references = [(question.answer, *question.references) for question in questions]
        return scores | wups(predictions, references, kinds, scorer) if (scorer := self.find_scorer()) else scores

    def find_scorer(self) -> Wups | None:
        """Return the scorer of WUPS; without WordNet or the tagger, warn and return None."""
        try:
            return Wups()
        except ValueError as error:
            warnings.warn(f"{error} Until then only exact_match is computed.", stacklevel=3)
            return None

    def check_requirements(self) -> None:
        """Warn if WordNet or the tagger is missing."""
        self.find_scorer()


def second_references(root: str | Path) -> dict[str, dict[str, str]]:
    """Return the second right answers of test by video and question number; without the file, warn and return none."""
    path = find_optional(root, SECOND_REFERENCES)
    if path is None:
        warnings.warn(
            f"Expected {SECOND_REFERENCES} in {root}, found no such file: without second right answers, WUPS is lower "
            f"than the official one. Get the file from {INFO.source}.",
            stacklevel=3,
        )
    return {} if path is None else read_json(path)
