"""ESC-10: one of ten environmental sounds in a 5 s clip, with five folds (K. J. Piczak, ACM MM 2015).

Splits: "fold1" ... "fold5" are the published folds, each the test set of a model trained on the other four.
"not_foldN" and "val_foldN" are the training and validation clips of a model that holds out fold N: every eighth clip
of the other four folds is for validation. "train", "val" and "test" hold out fold 5. Prompt: "which sound is heard?".
Answer: the class in words ("dog bark"). Metric: exact match of the generated name, and its mean over classes.
Published: people 95.7 %; a CNN trained from scratch about 80 % (recalled).

Reads meta.csv with columns file, fold, label, or esc50.csv of ESC-50 (filename, fold, category, esc10), of which the
ten classes are used. Licence of ESC-10: CC BY 3.0 (github.com/karolpiczak/ESC-50).
"""

import re
from pathlib import Path

from mirasol.tasks.annotations import read_table
from mirasol.tasks.base import Absent, ClassTask, Row
from mirasol.tasks.class_names import check_clips, class_row
from mirasol.tasks.media_files import MediaFiles

PROMPT = "which sound is heard?"
FOLDS = ("1", "2", "3", "4", "5")
ALIASES = {"train": "not_fold5", "val": "val_fold5", "test": "fold5"}
VAL_EVERY = 8


class Esc10(ClassTask):
    """One of ten environmental sounds per clip, in five folds."""

    name = "esc10"

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the clips of a split, each with one question; `media` is the actual or expected path."""
        chosen = re.fullmatch(r"(not_|val_|)fold([1-5])", ALIASES.get(split, split))
        if chosen is None:
            raise ValueError(
                f"Expected split train, val, test, or foldN, not_foldN, val_foldN with N from 1 to 5, found {split!r}."
            )
        part, fold = chosen.groups()
        path, clips = read_clips(Path(root))
        check_clips(path, [(place, name, label) for place, name, _, label in clips])
        classes = tuple(sorted({label for *_, label in clips}))
        inside = [(name, label) for _, name, its_fold, label in clips if its_fold == fold]
        others = [(name, label) for _, name, its_fold, label in clips if its_fold != fold]
        # Sorted by class, so that every class has equally many validation clips.
        val = sorted(others, key=lambda clip: (clip[1], clip[0]))[::VAL_EVERY]
        taken = {"": inside, "val_": val, "not_": [clip for clip in others if clip not in set(val)]}[part]
        if not taken:
            raise Absent(
                f"Expected clips of {split} in {path}, found none, but {len(clips)} of other folds. Get all from "
                "github.com/karolpiczak/ESC-50."
            )
        files = MediaFiles(root)
        return [class_row(f"esc10/{name}", files.find(name), PROMPT, label, classes) for name, label in taken]


def read_clips(root: Path) -> tuple[Path, list[tuple[str, str, str, str]]]:
    """Return the table's path, and (place, clip, fold, class in words) of each ESC-10 clip."""
    for path, name, label in (
        (root / "meta.csv", "file", "label"),
        (root / "esc50.csv", "filename", "category"),
        (root / "meta" / "esc50.csv", "filename", "category"),
    ):
        if path.is_file():
            lines = [
                item for item in read_table(path, (name, "fold", label)) if item[1].get("esc10", "True") == "True"
            ]
            if wrong := [place for place, line in lines if line["fold"] not in FOLDS]:
                raise ValueError(f"{wrong[0]}: expected a fold from 1 to 5, found another. Take the published file.")
            return path, [
                (place, Path(line[name]).stem, line["fold"], line[label].replace("_", " ")) for place, line in lines
            ]
    raise ValueError(
        f"Expected meta.csv or esc50.csv in {root}, found neither. Get the clips from github.com/karolpiczak/ESC-50."
    )
