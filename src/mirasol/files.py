"""Default paths, and atomic writing of files and folders."""

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

GRID_ROOT = "data/grid_s1"  # of a checkout: the clips of the default task
REPORT = "report.html"


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically; a kill leaves at most a .partial beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def crc32_of(file: IO[bytes]) -> int:
    """Return the CRC-32 of an open file, from where it stands to its end."""
    checksum = 0
    while block := file.read(1 << 20):
        checksum = zlib.crc32(block, checksum)
    return checksum


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, which replaces `folder` if the block ends without an exception."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    replace_folder(partial, folder)


@contextmanager
def shared_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, as `whole_folder`; if several processes write it at once, the first one's stays."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, folder: Path) -> None:
    """Move a complete folder into place by two renames, between which no folder of that name exists."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    _let_umask_decide(partial)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _let_umask_decide(folder: Path) -> None:
    """Give every file the mode of a new one; safetensors writes its own for the owner alone."""
    new = folder / ".new"
    new.touch()
    mode = new.stat().st_mode
    new.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)
