"""MSRVTT-QA: short open-ended questions about short web clips; see `INFO`."""

from mirasol.tasks.annotations import QuestionTask, read_entries, with_mark
from mirasol.tasks.base import PaperNumber, Question, TaskInfo

INFO = TaskInfo(
    title="MSRVTT-QA (Xu et al., 2017), 10-30 s clips of MSR-VTT",
    source="https://github.com/xudejing/video-question-answering (questions); the clips come with MSR-VTT",
    licence="questions: made from MSR-VTT's captions, none stated; clips: YouTube, research only. Neither is shipped",
    sizes={"train": 158_581, "val": 12_278, "test": 72_821},
    unit="questions",
    layout="ROOT/{train,val,test}_qa.json and video7020.mp4 ... anywhere below ROOT (TrainValVideo/, TestVideo/)",
    prompt='the question, "what is a man doing?"',
    normalisation="none: strings are compared unchanged, as in the official script (answers are in lower case)",
    metric="exact match over all test questions, and by question word (what, who, how, when, where)",
    versions="one version, 6,513 / 497 / 2,990 videos. All test questions count, also those whose answer is "
    "not in a list of frequent answers",
    paper=(PaperNumber(50.4, "open-ended, video and text"),),
)
KEYS = {"id": (int, str), "question": str, "answer": str, "video_id": (int, str)}
WORDS = ("what", "who", "how", "when", "where")


class MsrvttQA(QuestionTask):
    """Short open-ended questions about web clips; answers are compared as they are."""

    name = "msrvtt_qa"
    info = INFO
    file = "{}_qa.json"

    def normalise(self, answer: str) -> str:
        """Return the answer unchanged."""
        return answer

    def read(self, path, root, split):
        """Yield the entries of the split's file."""
        for place, entry in read_entries(path, KEYS):
            word = entry["question"].split()[:1]
            kind = word[0].lower() if word and word[0].lower() in WORDS else "other"
            question = Question(f"{entry['id']}", with_mark(entry["question"]), entry["answer"], kind)
            yield place, f"video{str(entry['video_id']).removeprefix('video')}", question
