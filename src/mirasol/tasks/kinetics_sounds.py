"""Kinetics-Sounds: one of 31 actions, heard and seen in a 10 s clip of Kinetics; see `INFO`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mirasol.tasks.annotations import check_split, find_annotations, read_table, refuse, warn_if_other_size
from mirasol.tasks.base import ClassTask, PaperNumber, Row, TaskInfo
from mirasol.tasks.class_names import check_clips, class_row
from mirasol.tasks.media_files import MediaFiles, youtube_names

PROMPT = "which action is it?"
SECONDS = 10
INFO = TaskInfo(
    title="Kinetics-Sounds (Arandjelovic & Zisserman, 2017), 10 s clips of Kinetics, the list of 31 classes of OGM-GE",
    source="https://github.com/GeWu-Lab/OGM-GE_CVPR2022 data/KineticSound (lists), "
    "https://github.com/cvdfoundation/kinetics-dataset (clips)",
    licence="lists: the repository says MIT and GPL-3.0 at once; clips: YouTube, research only. Neither is shipped",
    sizes={"train": 14_799, "test": 2_597},
    unit="clips",
    layout="ROOT/my_{train,test}.txt, classes.csv (or --classes FILE), and clips as ID_000030_000040.mp4 (or "
    "ID_000030, ID_30) anywhere below ROOT, in folders by class or not",
    prompt=f'"{PROMPT}"',
    normalisation="lower case, single spaces, no punctuation at the end",
    metric="exact match of the generated class name (top-1), and its mean over classes; top-5 with --rank",
    versions="several lists of 30 to 34 Kinetics classes are called Kinetics-Sounds, because Kinetics renamed and "
    "merged classes (34 in the first paper; 32 with Kinetics-400, likely the paper's; 31 here). Their scores are not "
    "exactly comparable. The lists here hold only numbers",
    paper=(
        PaperNumber(90.1, "full model, its class list is not stated", is_certain=False),
        PaperNumber(88.3, "TTM Combiner", is_certain=False),
    ),
)
FORMAT = 'one line "number,name" for each class, with the numbers that the lists use'


class KineticsSounds(ClassTask):
    """One of 31 actions per clip."""

    name = "kinetics_sounds"
    info = INFO
    uses_classes = True

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the clips of a split, each with one question; `media` is the actual or expected path.

        The file `classes`, by default `root`/classes.csv, holds the names of the classes.
        """
        check_split(split, INFO.sizes)
        path = find_annotations(root, [f"my_{split}.txt"], INFO)
        names_file = Path(root) / "classes.csv" if self.classes is None else Path(self.classes)
        names = read_classes(names_file)
        clips, malformed = [], []
        for place, line in read_table(path, ("clip", "seconds", "label"), has_header=False):
            video, start = video_and_start(line["clip"].strip())
            label = line["label"].strip()
            if not video or not label.isdecimal():
                malformed.append(f"{place}: expected ID_start,seconds,number, found {','.join(line.values())}.")
            else:
                clips.append((place, line["clip"].strip(), video, start, int(label)))
        refuse(path, malformed)
        check_clips(path, [(place, clip, str(number)) for place, clip, *_, number in clips])
        numbers = {number for *_, number in clips}
        is_whole = len(clips) == INFO.sizes[split]
        if numbers - set(names) or (is_whole and set(names) - numbers):
            raise ValueError(
                f"Expected names for the {len(numbers)} classes {min(numbers)} to {max(numbers)} of {path}, found "
                f"{len(names)} in {names_file}: none for {sorted(numbers - set(names))[:5]}, and for "
                f"{sorted(set(names) - numbers)[:5]} beyond them. There are several lists of Kinetics-Sounds: use the "
                "class names of this one."
            )
        warn_if_other_size(INFO, split, len(clips), path)
        files = MediaFiles(root)
        options = tuple(names[label] for label in sorted(names))
        rows = []
        for _, clip, video, start, number in clips:
            media = files.find(clip, *youtube_names(video, start, start + SECONDS))
            rows.append(class_row(clip, media, PROMPT, names[number], options))
        check_folders(rows, set(options), names_file)
        return rows


def video_and_start(clip: str) -> tuple[str, int]:
    """Return YouTube id (11 characters, also underscores) and start second of ID_30 or ID_000030_000040."""
    video, separator, times = clip[:11], clip[11:12], clip[12:].split("_")
    if len(video) < 11 or separator != "_" or len(times) > 2 or not all(time.isdecimal() for time in times):
        return "", 0
    return video, int(times[0])


def read_classes(path: Path) -> dict[int, str]:
    """Return the name of each class number."""
    if not path.is_file():
        raise ValueError(
            f"Expected the names of the classes in {path}, found no such file. The lists of Kinetics-Sounds hold only "
            f"numbers: write the names into that file, or into another for --classes, {FORMAT}."
        )
    names: dict[int, str] = {}
    malformed = []
    for place, line in read_table(path, ("number", "name"), has_header=False):
        number, name = line["number"].strip(), line["name"].strip()
        if not number.isdecimal() or not name or int(number) in names or name in names.values():
            malformed.append(f"{place}: expected a number and a name of its own, found {number},{name}.")
        else:
            names[int(number)] = name
    try:
        refuse(path, malformed)
    except ValueError as error:
        raise ValueError(f"{error} The file has {FORMAT}.") from error
    return names


def check_folders(rows: Sequence[Row], names: set[str], names_file: Path) -> None:
    """Raise ValueError if clips lie in folders by class ("playing_piano/") that contradict the names."""
    wrong: Counter[tuple[str, str]] = Counter()
    for row in rows:
        folder, name = Path(str(row.media)).parent.name.replace("_", " "), row.questions[0].answer
        if folder in names and folder != name and row.media.is_file():
            wrong[name, folder] += 1
    if wrong:
        (name, folder), count = wrong.most_common(1)[0]
        raise ValueError(
            f"Expected class names that agree with the folders of the clips, found {sum(wrong.values())} clips "
            f"elsewhere: {count} of {name!r} lie in {folder!r}. Correct the numbers in {names_file}."
        )
