"""VGG-Sound: one of 309 sound events in a 10 s web clip. `INFO` states its facts."""

from pathlib import Path

from mirasol.tasks.annotations import (
    check_split,
    find_annotations,
    find_optional,
    read_table,
    refuse,
    warn_if_other_size,
)
from mirasol.tasks.base import ClassTask, PaperNumber, Row, TaskInfo
from mirasol.tasks.class_names import check_clips, class_row
from mirasol.tasks.media_files import MediaFiles, youtube_names

PROMPT = "which sound event is it?"
SECONDS = 10
INFO = TaskInfo(
    title="VGG-Sound (Chen et al., 2020), 10 s web clips, 309 classes",
    source="https://github.com/hche11/VGGSound (labels), https://www.robots.ox.ac.uk/~vgg/data/vggsound (clips)",
    licence="labels: CC BY 4.0; clips: YouTube, research only, not shipped",
    sizes={"train": 183_730, "test": 15_446},
    unit="clips",
    layout="ROOT/{train,test}.csv or vggsound.csv, stat.csv, and clips as ID_000030.mp4 (start second, six digits; or "
    "ID_000030_000040, ID_30, ID_30000_40000) anywhere below ROOT",
    prompt=f'"{PROMPT}"',
    normalisation="lower case, single spaces, no punctuation at the end; commas inside a name stay",
    metric="exact match of the generated class name (top-1), and its mean over classes; top-5 with --rank",
    versions="clips vanish from YouTube, so published scores cover the part of test that was still available. The "
    "size of train is stat.csv's 199,176 clips less test",
    paper=(PaperNumber(69.8, "full model, audio and video"), PaperNumber(66.4, "TTM Combiner")),
)


class VGGSound(ClassTask):
    """One of 309 sound events a clip."""

    name = "vggsound"
    info = INFO

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the clips of a split, each with one question; `media` is where a clip is or is expected.

        The classes are those of stat.csv where it is there, else those that the split names.
        """
        check_split(split, INFO.sizes)
        path = find_annotations(root, [f"{split}.csv", "vggsound.csv"], INFO)
        clips = read_full_list(path, split) if path.name.startswith("vggsound") else read_split(path)
        check_clips(path, [(place, f"{video}_{start:06d}", name) for place, video, start, name in clips])
        classes = tuple(sorted({name for *_, name in clips}))
        stated = find_optional(root, "stat.csv")
        if stated is not None:
            classes = tuple(
                line["class"] for _, line in read_table(stated, ("class", "clips", "group"), has_header=False)
            )
            unknown = [
                f"{place}: expected a class of {stated}, found {name!r}."
                for place, *_, name in clips
                if name not in classes
            ]
            refuse(path, unknown)
        warn_if_other_size(INFO, split, len(clips), path)
        files = MediaFiles(root)
        rows = []
        for _, video, start, name in clips:
            media = files.find(*youtube_names(video, start, start + SECONDS))
            rows.append(class_row(f"{video}_{start:06d}", media, PROMPT, name, classes))
        return rows


def read_split(path: Path) -> list[tuple[str, str, int, str]]:
    """Return (place, YouTube id, start second, class) of a split's file: ID_000030.mp4,class."""
    clips, malformed = [], []
    for place, line in read_table(path, ("file", "class"), has_header=False):
        video, _, start = line["file"].strip().rpartition(".")[0].rpartition("_")
        if video and start.isdecimal():
            clips.append((place, video, int(start), line["class"].strip()))
        else:
            malformed.append(f"{place}: expected a clip such as ID_000030.mp4, found {line['file']!r}.")
    refuse(path, malformed)
    return clips


def read_full_list(path: Path, split: str) -> list[tuple[str, str, int, str]]:
    """Return (place, YouTube id, start second, class) of the file of both splits: ID,30,class,split."""
    clips, malformed = [], []
    for place, line in read_table(path, ("video", "start", "class", "split"), has_header=False):
        if not line["start"].isdecimal() or line["split"].strip() not in INFO.sizes:
            malformed.append(
                f"{place}: expected ID,start second,class,train or test, found {','.join(line.values())}."
            )
        elif line["split"].strip() == split:
            clips.append((place, line["video"].strip(), int(line["start"]), line["class"].strip()))
    refuse(path, malformed)
    return clips
