"""Arrays that grow while a file is decoded: in memory while short, in a temporary file when long."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from mirasol.media.types import MediaError

SILENCE = 10 ** (-70 / 20)  # peak; digital silence after a lossy codec stays far below, the quietest room far above
IN_MEMORY_BYTES = 64 << 20  # 17 minutes of 16 kHz sound, 1,300 squares of 128 pixels


class Spool:
    """Rows of equal shape, appended one block at a time; `array()` is all of them."""

    def __init__(self) -> None:
        self.length = 0
        # One buffer that doubles: small blocks between large frames would leave the heap full of holes.
        self._memory = np.empty(0, np.uint8)
        self._num_bytes = 0
        self._file: BinaryIO | None = None

    def append(self, rows: np.ndarray) -> None:
        """Add a copy of these rows."""
        self._shape, self._dtype = rows.shape[1:], rows.dtype
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        begin, end = self._num_bytes, self._num_bytes + len(data)
        self.length, self._num_bytes = self.length + len(rows), end
        if end <= IN_MEMORY_BYTES:
            if end > len(self._memory):
                larger = np.empty(max(end, 2 * begin), np.uint8)
                larger[:begin] = self._memory[:begin]
                self._memory = larger
            self._memory[begin:end] = data
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                self._write(self._file, self._memory[:begin])
                self._memory = self._memory[:0].copy()
            self._write(self._file, data)
        except OSError as error:
            raise MediaError(
                f"Expected room for {end / 2**20:.0f} MiB of a long clip in the folder for temporary files, found an "
                f"error: {error}. Free space there, or set TMPDIR to a larger folder."
            ) from error

    def array(self) -> np.ndarray:
        """All rows; the array of a file is memory-mapped, writable, and gone with its last view."""
        if self._file is None:
            data = self._memory[: self._num_bytes].view(self._dtype)
        else:
            self._file.truncate(self._num_bytes)
            data = np.frombuffer(mmap.mmap(self._file.fileno(), self._num_bytes), self._dtype)
        return data.reshape(self.length, *self._shape)

    @staticmethod
    def _write(file: BinaryIO, data: np.ndarray) -> None:
        if data.any():
            file.write(data.data)
        else:  # a gap of hours takes no room
            file.seek(data.nbytes, os.SEEK_CUR)


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """All rows of an array: in one block, or a part at a time where they lie in a file and are many."""
    step = len(array)
    if _mapping(array) is not None and array.nbytes > IN_MEMORY_BYTES:
        step = max(1, len(array) * IN_MEMORY_BYTES // array.nbytes // 4)
    for begin in range(0, len(array), step):
        yield array[begin : begin + step]
        release(array)


def is_silent(waveform: np.ndarray) -> bool:
    """True if no sample is above -70 dB of full scale."""
    return all(np.abs(block).max(initial=0.0) <= SILENCE for block in blocks(waveform))


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
