"""Files and folders that appear whole or not at all, whatever is killed."""

import os
import shutil
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """The file, whole or as it was before: a kill leaves at most a .partial beside it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def replace_folder(partial: Path, folder: Path) -> None:
    """Moves a whole folder into place; only between the two renames is there no folder of that name."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
