"""Arrays that grow while a file is decoded: in memory while short, in a temporary file when long."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from mirasol.media.types import MediaError

IN_MEMORY_BYTES = 64 << 20  # 17 minutes of 16 kHz sound, 1,300 squares of 128 pixels


class Spool:
    """Rows of equal shape, appended one block at a time; `array()` is all of them."""

    def __init__(self) -> None:
        self.length = 0
        self._blocks: list[np.ndarray] = []
        self._num_bytes = 0
        self._file: BinaryIO | None = None

    def append(self, rows: np.ndarray) -> None:
        """Add a copy of these rows."""
        self._shape, self._dtype = rows.shape[1:], rows.dtype
        self.length += len(rows)
        self._num_bytes += rows.nbytes
        if self._file is None:
            self._blocks.append(rows.copy(order="C"))
        if self._num_bytes <= IN_MEMORY_BYTES:
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                for block in self._blocks:
                    self._write(self._file, block)
                self._blocks = []
            else:
                self._write(self._file, np.ascontiguousarray(rows))
        except OSError as error:
            raise MediaError(
                f"Expected room for {self._num_bytes / 2**20:.0f} MiB of a long clip in the folder for temporary "
                f"files, found an error: {error}. Free space there, or set TMPDIR to a larger folder."
            ) from error

    def array(self) -> np.ndarray:
        """All rows; the array of a file is memory-mapped, writable, and gone with its last view."""
        if self._file is None:
            return self._blocks[0] if len(self._blocks) == 1 else np.concatenate(self._blocks)
        self._file.truncate(self._num_bytes)
        mapped = mmap.mmap(self._file.fileno(), self._num_bytes)
        return np.frombuffer(mapped, self._dtype).reshape(self.length, *self._shape)

    @staticmethod
    def _write(file: BinaryIO, rows: np.ndarray) -> None:
        if rows.any():
            file.write(rows.data)
        else:  # a gap of hours takes no room
            file.seek(rows.nbytes, os.SEEK_CUR)


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """All rows of an array: in one block, or a part at a time where they lie in a file and are many."""
    step = len(array)
    if _mapping(array) is not None and array.nbytes > IN_MEMORY_BYTES:
        step = max(1, len(array) * IN_MEMORY_BYTES // array.nbytes // 4)
    for begin in range(0, len(array), step):
        yield array[begin : begin + step]
        release(array)


def release(array: np.ndarray) -> None:
    """Drop the pages of a long memory-mapped array from memory; the next access reads them again from its file."""
    mapping = _mapping(array)
    if mapping is not None and array.nbytes > IN_MEMORY_BYTES and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    return base if isinstance(base, mmap.mmap) else None
