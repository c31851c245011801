"""NExT-QA, multiple choice: why, how, when and what in home videos, one of five answers; see `INFO`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mirasol.tasks.annotations import QuestionTask, find_optional, read_json, read_table, with_mark
from mirasol.tasks.base import PaperNumber, Question, Row, TaskInfo
from mirasol.tasks.media_files import MediaFiles
from mirasol.tasks.metrics.exact import accuracy

INFO = TaskInfo(
    title="NExT-QA, multiple choice (Xiao et al., 2021), home videos of about 44 s",
    source="https://github.com/doc-doc/NExT-QA (questions), https://xdshang.github.io/docs/vidor.html (videos)",
    licence="questions: MIT (repository); videos: YFCC100M, by the licence of each",
    sizes={"train": 34_132, "val": 4_996, "test": 8_564},
    unit="questions",
    layout="ROOT/{train,val,test}.csv, map_vid_vidorID.json, and the videos anywhere below ROOT as ID.mp4 or in "
    "VidOR's folders (0101/ID.mp4)",
    prompt='the question and its five answers, "how do the men play? choose: roll the handle; tap their feet; ..."',
    normalisation="lower case, single spaces, no punctuation at the end; right is the text of the right answer",
    metric="accuracy over all questions (exact_match) and by group: C causal (CW why, CH how), T temporal (TN before "
    "and after, with TP; TC meanwhile), D descriptive (DC count, DL place, DO other), as the official eval_mc.py",
    versions="train.csv gives the number of the answer, some copies (NExT-GQA) its text: both are read. In 3 val and "
    "8 test questions an option occurs twice, in 2 of test the right one: the official script accepts one of them, "
    "here both are right",
    paper=(
        PaperNumber(73.2, "512 frames, TTM Combiner; how answers were chosen is not stated", is_certain=False),
        PaperNumber(72.0, "512 frames", is_certain=False),
    ),
)
OPTIONS = ("a0", "a1", "a2", "a3", "a4")
COLUMNS = ("video", "question", "answer", "qid", "type", *OPTIONS)
GROUPS = {"C": ("CW", "CH"), "T": ("TN", "TP", "TC"), "D": ("DC", "DL", "DO")}
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)


class NextQA(QuestionTask):
    """Questions about home videos of VidOR."""

    file = "{}.csv"

    def find_media(self, root, videos):
        """Return the file of each video by its id or, with the map file, by its path in VidOR."""
        files, path = MediaFiles(root), find_optional(root, "map_vid_vidorID.json")
        places = {} if path is None else read_json(path)
        return {video: files.find(video, *([places[video]] if video in places else [])) for video in videos}


class NextQAMultipleChoice(NextQA):
    """Questions about home videos with five answers to choose from."""

    name = "nextqa_mc"
    info = INFO

    def read(self, path, root, split):
        """Yield the entries of the split's file."""
        for place, line in read_table(path, COLUMNS):
            options = tuple(line[name] for name in OPTIONS)
            answer = options[int(line["answer"])] if line["answer"] in {*"01234"} else line["answer"]
            name, text = f"{line['video']}_{line['qid']}", line["question"] if line["question"].strip() else ""
            entry: Question | str = Question(name, prompt(text, options), answer, line["type"], options=options)
            if answer not in options:
                entry = f"expected an answer from 0 to 4 or one of the five, found {answer!r}."
            elif line["type"] not in KINDS:
                entry = f"expected a type out of {', '.join(KINDS)}, found {line['type']!r}."
            elif not all(option.strip() for option in options):
                entry = "expected five answers to choose from, found an empty one."
            yield place, line["video"], entry

    def sample_questions(
        self, row: Row, rng: np.random.Generator, word_times=(), duration: float = 0.0
    ) -> list[Question]:
        """Return the row's questions in random order, with shuffled options."""
        shuffled = []
        for i in rng.permutation(len(row.questions)):
            question = row.questions[i]
            options = tuple(question.options[j] for j in rng.permutation(len(question.options)))
            text = question.text.rpartition(" choose: ")[0]
            shuffled.append(replace(question, text=prompt(text, options), options=options))
        return shuffled

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return `exact_match` (Acc) over all questions, by group (C, T, D) and by type."""
        kinds = [question.kind for question in questions]
        return accuracy(self.right(questions, predictions), kinds, groups=GROUPS, merged={"TP": "TN"})


def prompt(question: str, options: Sequence[str]) -> str:
    """Return the prompt; semicolons separate the options, because no option contains one."""
    return f"{with_mark(question)} choose: {'; '.join(options)}" if question else ""
