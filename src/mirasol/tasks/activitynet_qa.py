"""ActivityNet-QA: ten open-ended questions about each of 5,800 long web videos; see `INFO`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mirasol.tasks.annotations import QuestionTask, find_annotations, read_entries, refuse, with_mark
from mirasol.tasks.base import PaperNumber, Question, Row, TaskInfo
from mirasol.tasks.media_files import MediaFiles
from mirasol.tasks.metrics.exact import accuracy

INFO = TaskInfo(
    title="ActivityNet-QA (Yu et al., 2019), about 180 s a video",
    source="https://github.com/MILVLG/activitynet-qa (questions), http://activity-net.org (videos, by request form)",
    licence="questions: the repository says Apache-2.0, MIT and non-commercial at once; videos: YouTube, research "
    "only. Neither is shipped",
    sizes={"train": 32_000, "val": 18_000, "test": 8_000},
    unit="questions",
    layout="ROOT/{train,val,test}_{q,a}.json and v_ID.mp4 (.mkv, .webm) or ID.mp4 anywhere below ROOT",
    prompt='the question with a question mark, "is the athlete wearing trousers?"',
    normalisation="none: strings are compared unchanged, as in the official script (answers are in lower case)",
    metric="exact match over all test questions and by type: motion, spatial, temporal, yes_no, color, object, "
    "location, number, other; `free` joins the last six",
    versions='one version. Always answering "yes" scores about 13.8 % of test; 84.8 % of the test answers occur in '
    "train. Scores by a language model as judge are not comparable with exact match",
    paper=(
        PaperNumber(51.1, "512 frames, TTM Combiner"),
        PaperNumber(49.9, "TTM Combiner", is_certain=False),
        PaperNumber(48.3, "128 frames", is_certain=False),
    ),
)
KINDS = ("motion", "spatial", "temporal", "yes_no", "color", "object", "location", "number", "other")  # by number


class ActivityNetQA(QuestionTask):
    """Ten open-ended questions about each long web video; answers are compared as they are."""

    name = "activitynet_qa"
    info = INFO
    file = "{}_q.json"

    def normalise(self, answer: str) -> str:
        """Return the answer unchanged."""
        return answer

    def read(self, path, root, split):
        """Yield the entries of the split's question file, with the answers of its answer file."""
        answers = read_answers(find_annotations(root, [f"{split}_a.json"], INFO))
        for place, entry in read_entries(path, {"video_name": str, "question": str, "question_id": str}):
            name = entry["question_id"]
            if name in answers:
                yield place, entry["video_name"], Question(name, with_mark(entry["question"]), *answers[name])
            else:
                yield place, "", f"expected an answer in {split}_a.json, found none for {name!r}."

    def find_media(self, root, videos):
        """Return the actual or expected path of each video."""
        files = MediaFiles(root)
        return {video: files.find(f"v_{video}", video) for video in videos}

    def score(self, questions: Sequence[Question], predictions: Sequence[str], train_rows: Iterable[Row] = ()) -> dict:
        """Return `exact_match` over all questions, by type, and over the six free types together (`free`)."""
        kinds = [question.kind for question in questions]
        return accuracy(self.right(questions, predictions), kinds, groups={"free": KINDS[3:]})


def read_answers(path: Path) -> dict[str, tuple[str, str]]:
    """Return answer and kind by question id."""
    answers: dict[str, tuple[str, str]] = {}
    malformed = []
    for place, entry in read_entries(path, {"answer": str, "type": int, "question_id": str}):
        name, kind = entry["question_id"], entry["type"]
        if not 0 <= kind < len(KINDS):
            malformed.append(f"{place}: expected a type from 0 to {len(KINDS) - 1}, found {kind}.")
        elif name in answers:
            malformed.append(f"{place}: expected one answer for a question, found a second for {name!r}.")
        elif not entry["answer"].strip():
            malformed.append(f"{place}: expected an answer, found none for {name!r}.")
        else:
            answers[name] = (entry["answer"], KINDS[kind])
    refuse(path, malformed)
    return answers
