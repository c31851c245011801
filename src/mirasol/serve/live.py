"""`LiveSession`: a `StreamSession` whose media are cut by callers' threads and watched by the engine's."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirasol.answer.session import ChunkResult, StreamSession
from mirasol.chunks.stream import ClosedChunk
from mirasol.serve.batches import View

OnChunks = Callable[[list[ChunkResult]], None]
KEPT_PART = 0.5  # of the lag that is allowed, after chunks were skipped


class LiveSession:
    """One live session. `push` and `flush` cut chunks, in one thread at a time; the engine calls the rest.

    Args:
        id: Its unguessable name.
        session: Whose chunks the engine watches.
        may_skip: Whether chunks are skipped when the model is behind.
        on_chunks: Called by the engine's thread with the results of chunks that were watched.
    """

    def __init__(self, id: str, session: StreamSession, may_skip: bool = False, on_chunks: OnChunks | None = None):
        self.id, self.session, self.may_skip, self.on_chunks = id, session, may_skip, on_chunks
        self.is_closed = False
        self.saved_at, self._num_saved = time.monotonic(), session.chunks.num_closed  # the save, its closed chunks
        self.late_seconds = 0.0  # since the media that are being cut were received
        self._cutting = threading.Lock()
        self._inbox: deque[ClosedChunk] = deque()

    @property
    def seconds_per_chunk(self) -> float:
        """Seconds of a chunk."""
        return self.session.chunks.grid.seconds_per_chunk

    @property
    def num_waiting(self) -> int:
        """Chunks that are cut and not watched."""
        return len(self._inbox) + len(self.session.waiting)

    @property
    def lag_seconds(self) -> float:
        """Seconds of media that were received and are not watched."""
        return self.num_waiting * self.seconds_per_chunk + self.late_seconds

    @property
    def has_media(self) -> bool:
        """Whether anything has been pushed."""
        chunks = self.session.chunks
        return chunks.num_closed > 0 or chunks.video.last_time is not None or chunks.audio.end is not None

    @property
    def has_unsaved(self) -> bool:
        """Whether chunks have closed since the session was saved."""
        return self.session.chunks.num_closed > self._num_saved

    @property
    def reached(self) -> float:
        """Session time up to which sound or else video has arrived."""
        chunks = self.session.chunks
        return max(chunks.next_start, chunks.audio.end or 0.0, chunks.video.last_time or 0.0)

    def push(self, **media: Any) -> None:
        """Cut media into chunks, which wait for the engine; arguments of `ChunkStream.push`."""
        with self._cutting:
            if self.is_closed:
                raise ValueError("Expected an open session, found one that is closed. Open a new one.")
            self._inbox += self.session.chunks.push(**media)

    def flush(self) -> None:
        """Close the open chunk with what has arrived of it."""
        with self._cutting:
            self._inbox += self.session.chunks.flush()

    def is_watched(self, num_chunks: int) -> bool:
        """Whether the engine has watched so many chunks."""
        results = self.session.results
        return bool(results) and results[-1].index + 1 >= num_chunks or num_chunks == 0

    def collect(self, max_lag_seconds: float) -> int:
        """Move cut chunks to those that the model takes next; skip the oldest of too many, and return how many."""
        self._collect()
        waiting = self.session.waiting
        if not self.may_skip or len(waiting) * self.seconds_per_chunk + self.late_seconds <= max_lag_seconds:
            return 0
        kept_seconds = max(max_lag_seconds * KEPT_PART - self.late_seconds, 0.0)
        count = len(waiting) - int(kept_seconds / self.seconds_per_chunk)
        self.session.skip(count)
        return count

    def save(self, folder: Path) -> None:
        """Write the session, with the chunks that wait; media that come meanwhile wait for it."""
        with self._cutting:
            self._collect()
            self.session.save(folder)
            self._num_saved = self.session.chunks.num_closed

    def _collect(self) -> None:
        while self._inbox:
            self.session.waiting.append(self._inbox.popleft())

    def view(self) -> View:
        """Return the chunks that a question is about now."""
        watched, seen = self.session.retained()
        return View(watched, seen)
