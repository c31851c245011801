"""`mirasol new`: a folder with a recipe for own clips, two sample clips and their manifest."""

import shutil
from pathlib import Path

from mirasol.results import Document

STARTER = Path(__file__).parents[1] / "starter"


class NewFolder(Document):
    """Result of `mirasol new`."""

    folder: str
    files: list[str]

    def __str__(self) -> str:
        first = f"cd {self.folder}; mirasol train recipe.yaml schedule.finetune_epochs=2 output=runs/try"
        listed = ", ".join(self.files)
        return f"{self.folder}: {listed}\ntry it:  {first}\nthen replace the sample clips, see README.md"


def new(folder: str | Path) -> NewFolder:
    """Write a new folder with everything to train on own clips.

    Raises:
        ValueError: The folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        kind = "a folder with files" if folder.is_dir() else "a file"
        raise ValueError(f"Expected a new or empty folder at {folder}, found {kind}: name another one.")
    shutil.copytree(STARTER, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return NewFolder(folder=str(folder), files=files)
