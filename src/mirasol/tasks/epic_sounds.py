"""EPIC-SOUNDS: one of 44 sound classes in a short segment of a kitchen video; see `INFO`."""

import re
import warnings
from pathlib import Path

from mirasol.tasks.annotations import check_split, find_annotations, read_table, refuse, warn_if_other_size
from mirasol.tasks.base import ClassTask, PaperNumber, Row, TaskInfo
from mirasol.tasks.class_names import check_clips, class_row
from mirasol.tasks.media_files import MediaFiles

PROMPT = "which sound is made?"
INFO = TaskInfo(
    title="EPIC-SOUNDS (Huh et al., 2023), sounds of EPIC-KITCHENS-100, median 1.0 s, 44 classes",
    source="https://github.com/epic-kitchens/epic-sounds-annotations (labels), https://epic-kitchens.github.io "
    "(videos)",
    licence="CC BY-NC 4.0 (labels and videos): not shipped",
    sizes={"val": 8_035},
    unit="clips",
    layout="ROOT/EPIC_Sounds_{train,validation}.csv, and videos as P01_11.MP4 (P01/P01_11.MP4, P01/videos/) or their "
    "sound as P01_11.wav (.flac, .m4a) anywhere below ROOT; an HDF5 file of sounds is not read",
    prompt=f'"{PROMPT}", of the annotated seconds of the video',
    normalisation='lower case, single spaces, no punctuation at the end; " / " inside a name is kept',
    metric="exact match of the generated class name (top-1) over all segments, and its mean over classes; top-5 with "
    "--rank",
    versions="numbers of segments differ between releases of the labels; this one has 79.2 thousand in all. "
    "Labels of the test segments are not published: val is compared",
    paper=(
        PaperNumber(79.4, "TTM Combiner", is_certain=False),
        PaperNumber(78.2, "full model", is_certain=False),
    ),
)
FILES = {"train": "EPIC_Sounds_train.csv", "val": "EPIC_Sounds_validation.csv"}
COLUMNS = ("annotation_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "class", "class_id")


class EpicSounds(ClassTask):
    """One of 44 kitchen sounds per segment."""

    name = "epic_sounds"
    info = INFO
    reported_split = "val"

    def load(self, root: str | Path, split: str = "val") -> list[Row]:
        """Return the segments of a split, each with one question; `media` is its video's actual or expected path."""
        check_split(split, FILES, "The labels of the test segments are not published." if split == "test" else "")
        path = find_annotations(root, [FILES[split]], INFO)
        lines, segments, numbers, malformed = [], [], dict[str, str](), []
        for place, line in read_table(path, COLUMNS):
            segment = (seconds(line["start_timestamp"]), seconds(line["stop_timestamp"]))
            number = numbers.setdefault(line["class"], line["class_id"])
            if not segment[0] < segment[1]:
                stamps = f"{line['start_timestamp']} to {line['stop_timestamp']}"
                malformed.append(f"{place}: expected hh:mm:ss.mmm to a later hh:mm:ss.mmm, found {stamps}.")
            elif number != line["class_id"] or not number.isdecimal():
                malformed.append(
                    f"{place}: expected class_id {number} for {line['class']!r} as before, found {line['class_id']!r}."
                )
            lines.append((place, line))
            segments.append(segment)
        refuse(path, malformed)
        check_clips(path, [(place, line["annotation_id"], line["class"]) for place, line in lines])
        if len(set(numbers.values())) < len(numbers):
            raise ValueError(
                f"Expected a class_id of its own for each class in {path}, found {len(numbers)} classes and "
                f"{len(set(numbers.values()))} numbers. Take the published file."
            )
        warn_if_other_size(INFO, split, len(lines), path)
        files = MediaFiles(root)
        if not files.by_name and any(Path(root).rglob("*.hdf5")):
            warnings.warn(
                f"The HDF5 file of sounds below {root} is not read. Put the videos, or a sound file of each, there.",
                stacklevel=2,
            )
        classes = tuple(sorted(numbers, key=lambda name: int(numbers[name])))
        return [
            class_row(row["annotation_id"], files.find(row["video_id"]), PROMPT, row["class"], classes, segment=span)
            for (_, row), span in zip(lines, segments, strict=True)
        ]


def seconds(stamp: str) -> float:
    """Return hh:mm:ss.mmm in seconds, nan for other text."""
    found = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)", stamp)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else float("nan")
