"""`Holds`: locks that say which process has a live session, for all processes that share a folder."""

import fcntl
import os
import threading
from pathlib import Path


class Holds:
    """Locks on the sessions of this process.

    A session is one byte of a file, at the offset that its id gives. The system releases the locks of a process that
    ends or is killed, so that no timeout has to decide which process is alive.

    Args:
        folder: Folder of the saved sessions. Its file system must support locks between the processes.
    """

    def __init__(self, folder: Path):
        self._wanted = folder / "wanted"
        self._wanted.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / "held", os.O_RDWR | os.O_CREAT, 0o600)
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def take(self, id: str) -> bool:
        """Lock a session; return False if another process has it. `want` asks that process to release it."""
        with self._lock:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(id))
            except OSError:
                return False
            self._held.add(id)
        self.want(id, False)
        return True

    def release(self, id: str) -> None:
        """Release a session."""
        with self._lock:
            if id in self._held:
                self._held.remove(id)
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(id))

    def want(self, id: str, is_wanted: bool) -> None:
        """Ask the process that has a session to release it, or withdraw the request."""
        wish = self._wanted / id
        wish.touch() if is_wanted else wish.unlink(missing_ok=True)

    def is_wanted(self, id: str) -> bool:
        """Whether another process waits for a session of this one."""
        return (self._wanted / id).exists()

    def close(self) -> None:
        """Release all sessions."""
        with self._lock:
            file, self._file = self._file, -1
            if file >= 0:
                os.close(file)


def _place(id: str) -> int:
    """Return the offset of an id's lock: 60 of its random bits."""
    return int(id.removeprefix("sess_")[:15], 16)
