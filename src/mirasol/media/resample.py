"""Resampling to 16 kHz in pieces of any size, with a state that can be saved."""

import numpy as np
import soxr
from jaxtyping import Float32

from mirasol.media.types import SAMPLING_RATE

BLOCK_SECONDS = 10
CONTEXT_SECONDS = 1  # before and after a block; soxr's filter reaches 0.12 s at most


class Resampler:
    """Resampler of one gapless track to 16 kHz. The result does not depend on the sizes of the pieces, bit for bit.

    soxr does not expose its filter state. So each block of ten seconds has its own soxr stream, which starts one
    second early, and the state is the native sound since then: it can be saved and is bounded.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self._recent = np.zeros(0, np.float32)  # native sound since one second before the block
        self._received = 0  # native samples of the track
        self._pending = np.zeros(0, np.float32)  # certain, not yet returned: only after a state was loaded
        self._begin(0)

    def push(self, samples: Float32[np.ndarray, " sample"], last: bool = False) -> Float32[np.ndarray, " sample"]:
        """Return the 16 kHz sound that later samples cannot change; after the `last` ones, all of it."""
        if self.rate == SAMPLING_RATE:
            return samples
        self._recent = np.concatenate([self._recent, samples])
        self._received += len(samples)
        certain = [self._pending]
        self._pending = self._pending[:0]
        while True:
            certain.append(self._feed(last))
            if self._left or (last and self._block_end >= self._received):
                return np.concatenate(certain)
            self._begin(self._block + 1)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays from which `from_state` continues the track."""
        numbers = [self.rate, self._block, self._received, self._left + len(self._pending)]
        return {"numbers": np.array(numbers, np.int64), "recent": self._recent}

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> "Resampler":
        """The resampler whose `state()` this is; it continues with the same bits."""
        rate, block, received, left = state["numbers"].tolist()
        self = cls(rate)
        self._recent, self._received = state["recent"], received
        self._begin(block)
        if rate != SAMPLING_RATE:
            certain = self._feed(last=False)
            self._pending = certain[self._left + len(certain) - left :]
        return self

    @property
    def _block_end(self) -> int:
        return (self._block + 1) * BLOCK_SECONDS * self.rate

    def _begin(self, block: int) -> None:
        self._block, self._left = block, BLOCK_SECONDS * SAMPLING_RATE  # samples that the block still has to give
        start = max(block * BLOCK_SECONDS - CONTEXT_SECONDS, 0) * self.rate
        self._recent = self._recent[max(start - (self._received - len(self._recent)), 0) :].copy()
        self._stream = soxr.ResampleStream(self.rate, SAMPLING_RATE, 1, dtype="float32")
        self._fed, self._skip = start, CONTEXT_SECONDS * SAMPLING_RATE if block else 0

    def _feed(self, last: bool) -> Float32[np.ndarray, " sample"]:
        """Resample the native sound that the block's stream has not seen."""
        stop = min(self._received, self._block_end + CONTEXT_SECONDS * self.rate)
        first = self._received - len(self._recent)
        given = self._stream.resample_chunk(
            self._recent[self._fed - first : stop - first], last=last and stop == self._received
        )
        self._fed = stop
        skipped = min(self._skip, len(given))
        self._skip -= skipped
        given = given[skipped : skipped + self._left]
        self._left -= len(given)
        return given
