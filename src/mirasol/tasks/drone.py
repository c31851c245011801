"""Aerial objects: airplane, bird, drone or helicopter in a 10 s video; background, drone or helicopter in 1 s of audio
(Svanstroem, Alonso-Fernandez, Englund, Data in Brief 2021; CC0).

Video and audio were recorded separately: no clip has both. Split: by file, because the seconds of a file are alike,
and by blocks of five neighbouring numbers of a class, because neighbours may show the same flight. Of every five
blocks the fourth is "val", the fifth "test", the others "train"; "test_picture" and "test_sound" are the two parts of
"test", and likewise for the other splits. Sound files are cut into segments of one second. Prompts: "what flies?" and
"which sound is heard?". Answer: the class. Metric: exact match of the generated name, by kind.

Files are named as published: V_DRONE_001.mp4 and DRONE_001.wav, or with other suffixes, anywhere below the root
(github.com/DroneDetectionThesis/Drone-detection-dataset).
"""

import re
from pathlib import Path

from mirasol.tasks.annotations import check_split
from mirasol.tasks.base import Absent, Question, Row, Task
from mirasol.tasks.media_files import MediaFiles

PROMPTS = {"picture": "what flies?", "sound": "which sound is heard?"}
CLASSES = {"picture": ("airplane", "bird", "drone", "helicopter"), "sound": ("background", "drone", "helicopter")}
BLOCK = 5
SPLIT_OF_BLOCK = ("train", "train", "train", "val", "test")
SECONDS = 10  # of every sound file
WHOLE = (1.0, 0.5, 0.5)  # the largest square, because the object is small and may be anywhere


class Drone(Task):
    """Aerial objects, seen or heard."""

    name = "drone"

    def load(self, root: str | Path, split: str = "test") -> list[Row]:
        """Return the existing picture clips and one-second segments of sound of a split, sorted by name."""
        part, _, wanted = split.partition("_")
        check_split(split, [name + half for name in ("train", "val", "test") for half in ("", "_picture", "_sound")])
        rows = []
        for name, paths in sorted(MediaFiles(root).by_name.items()):
            found = re.fullmatch(r"(V_|)([A-Z]+)_(\d{3})", name)
            if found is None or SPLIT_OF_BLOCK[(int(found[3]) - 1) // BLOCK % len(SPLIT_OF_BLOCK)] != part:
                continue
            kind, answer = "picture" if found[1] else "sound", found[2].lower()
            if answer not in CLASSES[kind] or wanted not in ("", kind):
                continue
            segments = [None] if kind == "picture" else [(float(start), start + 1.0) for start in range(SECONDS)]
            for segment in segments:
                clip = f"drone/{name}" + (f"/{segment[0]:.0f}s" if segment else "")
                question = Question(clip, PROMPTS[kind], answer, kind, options=CLASSES[kind])
                rows.append(
                    Row(clip, paths[0], (question,), segment=segment, crop=WHOLE if kind == "picture" else None)
                )
        if not rows:
            raise Absent(
                f"Expected clips such as V_DRONE_001.mp4 and DRONE_001.wav below {root}, found none of split {split}. "
                "Get them from github.com/DroneDetectionThesis/Drone-detection-dataset."
            )
        return rows
