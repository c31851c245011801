"""Files of a benchmark's clips: one walk over the user's folder finds every clip by any of its usual names.

Data sets are distributed in many layouts: all clips in one folder, or one folder per class, participant or part; with
or without seconds in the names. A clip is found by its name without suffix anywhere below the root, also behind links;
a name with a folder ("0101/2909445186") must lie in that folder.
"""

import os
from pathlib import Path

# In order of preference if a clip has several files: picture with sound before sound alone.
SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts", ".3gp",
    ".mts", ".m2ts", ".wmv", ".asf", ".vob", ".3g2", ".ogv", ".f4v", ".m2v", ".mxf", ".dv", ".rm", ".gif",
    ".wav", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".aac",
    ".wma", ".aif", ".aiff", ".aifc", ".amr", ".au", ".caf", ".ac3", ".eac3", ".ape", ".dts", ".mka", ".mp2", ".m4b",
    ".oga", ".spx", ".tta", ".w64", ".wv",
)  # fmt: skip


class MediaFiles:
    """The media files below a folder that are not hidden, found once."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.by_name: dict[str, list[Path]] = {}
        seen = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:  # a link to a parent folder
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES and not name.startswith("."):  # "._a.mp4" holds macOS's attributes
                    self.by_name.setdefault(stem, []).append(Path(folder, name))
        for paths in self.by_name.values():
            paths.sort(key=lambda path: SUFFIXES.index(path.suffix.lower()))

    def find(self, *names: str) -> Path:
        """Return the file with the first of these names that exists, else the expected path of the first name."""
        for name in names:
            folder, _, stem = name.rpartition("/")
            for path in self.by_name.get(stem, ()):
                if not folder or path.parent.name == folder:
                    return path
        return self.root / "videos" / f"{names[0]}.mp4"


def youtube_names(video: str, start: int, end: int) -> tuple[str, ...]:
    """Return the usual names of a segment of a YouTube video; the id alone may name the whole video.

    The names have seconds with six digits as in VGG-Sound ("ID_000030") and Kinetics ("ID_000030_000040"), seconds
    without leading zeros, or milliseconds ("ID_30000_40000").
    """
    return (
        f"{video}_{start:06d}",
        f"{video}_{start:06d}_{end:06d}",
        f"{video}_{start}",
        f"{video}_{start}_{end}",
        f"{video}_{start * 1000}_{end * 1000}",
    )
