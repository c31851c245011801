"""`Holds`: which process has a live session, known to all that share the folder, and which ones are wanted."""

import fcntl
import os
import threading
from pathlib import Path


class Holds:
    """Sessions of this process. The system frees those of a process that ends, however it ends.

    A session is one byte of a file, locked at the place that its id names: nothing is left over, and no clock decides
    who is alive.

    Args:
        folder: Of the saved sessions; on a disk of this machine, or one whose locks reach all machines.
    """

    def __init__(self, folder: Path):
        self._wanted = folder / "wanted"
        self._wanted.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / "held", os.O_RDWR | os.O_CREAT, 0o600)
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def take(self, id: str) -> bool:
        """Take a session; False if another process has it, which `want` asks for it."""
        with self._lock:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(id))
            except OSError:
                return False
            self._held.add(id)
        self.want(id, False)
        return True

    def release(self, id: str) -> None:
        """Let others have a session."""
        with self._lock:
            if id in self._held:
                self._held.remove(id)
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _place(id))

    def want(self, id: str, is_wanted: bool) -> None:
        """Ask the process that has a session to give it up, or no longer."""
        wish = self._wanted / id
        wish.touch() if is_wanted else wish.unlink(missing_ok=True)

    def is_wanted(self, id: str) -> bool:
        """Whether another process waits for a session of this one."""
        return (self._wanted / id).exists()

    def close(self) -> None:
        """Let others have all sessions."""
        with self._lock:
            os.close(self._file)
            self._file = -1


def _place(id: str) -> int:
    """Return where the lock of an id is: ids are random, so that 60 bits tell them apart."""
    return int(id.removeprefix("sess_")[:15], 16)
