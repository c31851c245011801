"""`LiveSession`: a `StreamSession` whose chunks callers' threads cut and the engine's thread watches."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mirasol.answer.session import CHUNKS_AT_ONCE, ChunkResult, StreamSession, advance
from mirasol.chunks.stream import ClosedChunk
from mirasol.serve.batches import View

OnChunks = Callable[[list[ChunkResult]], None]
KEPT_PART = 0.5  # part of the allowed lag that remains after chunks were skipped


class LiveSession:
    """A live session. `push` and `flush` may be called from any thread; the engine's thread calls the other methods.

    Args:
        id: Id of the session.
        session: Stream whose chunks the engine watches.
        may_skip: Whether chunks are skipped when the model is behind.
        on_chunks: The engine's thread calls it with the results of watched chunks.
    """

    def __init__(self, id: str, session: StreamSession, may_skip: bool = False, on_chunks: OnChunks | None = None):
        self.id, self.session, self.may_skip, self.on_chunks = id, session, may_skip, on_chunks
        self.is_closed = False
        self.saved_at, self._num_saved = time.monotonic(), session.chunks.num_closed  # of the last save
        self.late_seconds = 0.0  # age of the media that are cut now
        self._cutting = threading.Lock()
        self._inbox: deque[ClosedChunk] = deque()

    @property
    def seconds_per_chunk(self) -> float:
        """Duration of a chunk."""
        return self.session.chunks.grid.seconds_per_chunk

    @property
    def num_waiting(self) -> int:
        """Number of chunks that are closed and not watched."""
        return len(self._inbox) + len(self.session.waiting)

    @property
    def lag_seconds(self) -> float:
        """Seconds of media that are received and not watched."""
        return self.num_waiting * self.seconds_per_chunk + self.late_seconds

    @property
    def has_media(self) -> bool:
        """Whether media have been pushed."""
        chunks = self.session.chunks
        return chunks.num_closed > 0 or chunks.video.last_time is not None or chunks.audio.end is not None

    @property
    def has_unsaved(self) -> bool:
        """Whether chunks have closed since the session was saved."""
        return self.session.chunks.num_closed > self._num_saved

    @property
    def reached(self) -> float:
        """Latest second of the session for which media have arrived."""
        chunks = self.session.chunks
        return max(chunks.next_start, chunks.audio.end or 0.0, chunks.video.last_time or 0.0)

    def push(self, **media: Any) -> None:
        """Cut media into chunks, which wait for the engine. See `ChunkStream.push`."""
        with self._cutting:
            if self.is_closed:
                raise ValueError("Expected an open session, found a closed one. Open a new session.")
            self._inbox += self.session.chunks.push(**media)

    def flush(self) -> None:
        """Close the open chunk with the media that it has."""
        with self._cutting:
            self._inbox += self.session.chunks.flush()

    def is_watched(self, num_chunks: int) -> bool:
        """Return whether the first `num_chunks` chunks are watched."""
        results = self.session.results
        return bool(results) and results[-1].index + 1 >= num_chunks or num_chunks == 0

    def collect(self, max_lag_seconds: float) -> int:
        """Queue closed chunks for the model, skip the oldest if the lag is too large, and return how many."""
        self._collect()
        waiting = self.session.waiting
        if not self.may_skip or len(waiting) * self.seconds_per_chunk + self.late_seconds <= max_lag_seconds:
            return 0
        kept_seconds = max(max_lag_seconds * KEPT_PART - self.late_seconds, 0.0)
        count = len(waiting) - int(kept_seconds / self.seconds_per_chunk)
        self.session.skip(count)
        return count

    def save(self, folder: Path) -> None:
        """Write the session with its waiting chunks; `push` waits meanwhile."""
        with self._cutting:
            self._collect()
            self.session.save(folder)
            self._num_saved = self.session.chunks.num_closed

    def _collect(self) -> None:
        while self._inbox:
            self.session.waiting.append(self._inbox.popleft())

    def view(self) -> View:
        """Return the chunks that a question is about at this moment."""
        watched, seen = self.session.retained()
        return View(watched, seen)


def advance_together(sessions: Sequence[LiveSession]) -> list[tuple[list[ChunkResult], Exception | None]]:
    """Watch the next chunks of all sessions in batches.

    Returns:
        For each session, its new results, and the exception with which the model failed on its next chunk.
    """
    before = [each.session.results[-1].index if each.session.results else -1 for each in sessions]
    errors: list[Exception | None] = [None for _ in sessions]
    try:
        advance([each.session for each in sessions], max(1, CHUNKS_AT_ONCE // len(sessions)))
    except Exception:  # one session must not fail the others; the rounds before the failure keep their results
        errors = [_advance_alone(each) for each in sessions]
    results = [
        [found for found in each.session.results if found.index > last]
        for each, last in zip(sessions, before, strict=True)
    ]
    return list(zip(results, errors, strict=True))


def _advance_alone(live: LiveSession) -> Exception | None:
    try:
        advance([live.session], 1)
    except Exception as error:
        return error
    return None
