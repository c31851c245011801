"""Free Spoken Digit Dataset: one digit by one of six speakers, 0.1 to 2.3 s long (github.com/Jakobovski).

Split (the official one is by recording number): "test" 0-4 (300 clips), "val" 5-9 and "train" 10-49 of the official
training recordings (300 and 2,400). Prompt: "which digit is spoken?". Answer: the digit as a word, "seven". Metric:
exact match of the generated word, and its mean over classes. Licence: CC BY-SA 4.0.

Recordings are named DIGIT_SPEAKER_NUMBER (7_theo_31.wav, or another sound file) anywhere below the root.
"""

import re
from pathlib import Path

from mirasol.tasks.annotations import check_split
from mirasol.tasks.base import Absent, ClassTask, Row
from mirasol.tasks.class_names import class_row
from mirasol.tasks.media_files import MediaFiles

PROMPT = "which digit is spoken?"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUMBERS = {"test": range(5), "val": range(5, 10), "train": range(10, 50)}


class Fsdd(ClassTask):
    """One of ten spoken digits per recording."""

    name = "fsdd"

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the existing recordings of a split, sorted by name, each with one question."""
        check_split(split, NUMBERS)
        rows = []
        for name, paths in sorted(MediaFiles(root).by_name.items()):
            found = re.fullmatch(r"(\d)_([a-z]+)_(\d+)", name)
            if found and int(found[3]) in NUMBERS[split]:
                rows.append(class_row(f"fsdd/{name}", paths[0], PROMPT, DIGITS[int(found[1])], DIGITS))
        if not rows:
            raise Absent(
                f"Expected recordings such as 7_theo_31.wav below {root}, found none of split {split}. Get them from "
                "github.com/Jakobovski/free-spoken-digit-dataset."
            )
        return rows
