"""VGG-Sound: one of 309 sound events in a 10 s web clip; see `INFO`."""

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
    normalisation="lower case, single spaces, no punctuation at the end; commas inside a name are kept",
    metric="exact match of the generated class name (top-1), and its mean over classes; top-5 with --rank",
    versions="clips vanish from YouTube, so published scores cover the part of test that was still available. The "
    "size of train is stat.csv's 199,176 clips less test",
    paper=(PaperNumber(69.8, "full model, audio and video"), PaperNumber(66.4, "TTM Combiner")),
)


class VGGSound(ClassTask):
    """One of 309 sound events per clip."""

    name = "vggsound"
    info = INFO

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the clips of a split, each with one question; `media` is the actual or expected path.

        The classes are those of stat.csv if it exists, else those of the split.
        """
        check_split(split, INFO.sizes)
        path = find_annotations(root, [f"{split}.csv", "vggsound.csv"], INFO)
        clips = read_clips(path, split)
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


def read_clips(path: Path, split: str) -> list[tuple[str, str, int, str]]:
    """Return (place, YouTube id, start second, class) of each clip of a split.

    A line of a split's file is ID_000030.mp4,class; a line of the file of both splits is ID,30,class,split.
    """
    clips, malformed = [], []
    is_full = path.name.startswith("vggsound")
    columns = ("video", "start", "class", "split") if is_full else ("file", "class")
    for place, line in read_table(path, columns, has_header=False):
        video, _, start = line.get("file", "").strip().rpartition(".")[0].rpartition("_")
        if is_full:
            video, start = line["video"].strip(), line["start"]
        of = line["split"].strip() if is_full else split
        if not video or not start.isdecimal() or of not in INFO.sizes:
            wanted = "ID,start second,class,train or test" if is_full else "a clip such as ID_000030.mp4"
            malformed.append(f"{place}: expected {wanted}, found {','.join(line.values())!r}.")
        elif of == split:
            clips.append((place, video, int(start), line["class"].strip()))
    refuse(path, malformed)
    return clips
