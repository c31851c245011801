"""`Store`: files under unguessable ids, bounded on disk, which several processes find by id or digest."""

import contextlib
import json
import math
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirasol.serve.ids import new_id

TABLE = """CREATE TABLE IF NOT EXISTS entries (
  id TEXT PRIMARY KEY, digest TEXT UNIQUE, num_bytes INTEGER, created REAL, used REAL, facts TEXT)"""
TOUCH_SECONDS = 60.0
LEFT_SECONDS = 3_600.0  # age at which a partial file belongs to a process that was killed
MAX_TOUCHED = 4_096
COLUMNS = "id, digest, num_bytes, created, facts"


@dataclass(frozen=True)
class Entry:
    """A stored file or folder, and the facts about it."""

    id: str
    path: Path
    num_bytes: int
    created: float
    facts: dict[str, Any] = field(default_factory=dict)


class Store:
    """Entries in a folder. When they exceed `max_bytes`, the least recently used entries are removed.

    Several processes may share the folder. SQLite holds the index, and an entry is listed after it is written.

    Args:
        folder: Folder, which is created if it is absent.
        max_bytes: Bound on the bytes of all entries.
        prefix: Prefix of the ids.
    """

    def __init__(self, folder: Path, max_bytes: int, prefix: str):
        self.folder, self.max_bytes, self.prefix = folder, max_bytes, prefix
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock, self._touched = threading.Lock(), dict[str, float]()
        self._index = sqlite3.connect(folder / "index.sqlite", check_same_thread=False, timeout=30.0)
        self._index.isolation_level = None  # each statement is its own transaction
        self._index.execute("PRAGMA journal_mode=WAL")
        self._index.execute("PRAGMA synchronous=NORMAL")
        self._index.execute(TABLE)
        self._tidy()

    def find(self, digest: str) -> Entry | None:
        """Return the entry with this digest."""
        return self._entry("digest", digest)

    def get(self, id: str) -> Entry | None:
        """Return the entry with this id, or None."""
        return self._entry("id", id)

    def put(
        self, write: Callable[[Path], Any], facts: dict[str, Any], digest: str | None = None, id: str | None = None
    ) -> Entry:
        """Store the file or folder that `write` writes to its path.

        If an entry has the same digest, it is kept and returned. An entry with the same `id` is replaced.
        """
        new = id or new_id(self.prefix)
        path = self._path(new)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            write(partial)
            _remove(old := _old(path))
            if path.exists():
                path.rename(old)  # if the process is killed here, `_entry` restores it
            partial.rename(path)
            _remove(old)
        finally:
            _remove(partial)
        now, num_bytes = time.time(), _num_bytes(path)
        row = (new, digest, num_bytes, now, now, json.dumps(facts))
        conflict = "IGNORE" if id is None else "REPLACE"
        with self._lock:
            self._index.execute(f"INSERT OR {conflict} INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
        found = self._entry("id", new)
        if found is None:  # an entry with this digest was first
            _remove(path)
            found = None if digest is None else self.find(digest)
        self._make_room(new)
        return found or Entry(new, path, num_bytes, now, facts)

    def set_facts(self, id: str, facts: dict[str, Any]) -> None:
        """Replace the facts about an entry."""
        with self._lock:
            self._index.execute("UPDATE entries SET facts = ? WHERE id = ?", (json.dumps(facts), id))

    def touch(self, id: str) -> bool:
        """Record the use of an entry, at most once a minute; return False if it was removed."""
        now = time.monotonic()
        if now - self._touched.get(id, -math.inf) < TOUCH_SECONDS:
            return self._path(id).exists()
        if len(self._touched) >= MAX_TOUCHED:
            self._touched.clear()
        self._touched[id] = now
        return self.get(id) is not None

    def remove(self, id: str) -> bool:
        """Remove an entry; return False if there is none."""
        with self._lock:
            gone = self._index.execute("DELETE FROM entries WHERE id = ?", (id,)).rowcount > 0
        if gone:
            _remove(self._path(id))
        return gone

    def entries(self, **facts: Any) -> list[Entry]:
        """Return all entries with these facts, newest first."""
        with self._lock:
            rows = self._index.execute(f"SELECT {COLUMNS} FROM entries ORDER BY created DESC").fetchall()
        found = [self._of_row(row) for row in rows]
        return [entry for entry in found if all(entry.facts.get(name) == value for name, value in facts.items())]

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all entries."""
        with self._lock:
            return self._index.execute("SELECT COALESCE(SUM(num_bytes), 0) FROM entries").fetchone()[0]

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._index.close()

    def _entry(self, column: str, value: str) -> Entry | None:
        with self._lock:
            row = self._index.execute(f"SELECT {COLUMNS} FROM entries WHERE {column} = ?", (value,)).fetchone()
            if row is None:
                return None
            self._index.execute("UPDATE entries SET used = ? WHERE id = ?", (time.time(), row[0]))
        entry = self._of_row(row)
        if not entry.path.exists() and _old(entry.path).exists():
            _old(entry.path).rename(entry.path)
        if entry.path.exists():
            return entry
        with self._lock:  # the file was removed by hand
            self._index.execute("DELETE FROM entries WHERE id = ?", (row[0],))
        return None

    def _of_row(self, row: tuple) -> Entry:
        id, _, num_bytes, created, facts = row
        return Entry(id, self._path(id), num_bytes, created, json.loads(facts))

    def _path(self, id: str) -> Path:
        if not id.replace("_", "").isalnum() or not id.isascii():
            raise ValueError(f"Expected an id of letters and digits, found {id!r}. Send an id of this server.")
        return self.folder / id

    def _make_room(self, kept: str) -> None:
        """Remove the least recently used entries, in a transaction, so that two processes do not remove too many."""
        gone: list[str] = []
        with self._lock:
            self._index.execute("BEGIN IMMEDIATE")
            rows = self._index.execute("SELECT id, num_bytes FROM entries ORDER BY used").fetchall()
            excess = sum(num_bytes for _, num_bytes in rows) - self.max_bytes
            for id, num_bytes in rows:
                if excess > 0 and id != kept:
                    gone.append(id)
                    excess -= num_bytes
            self._index.executemany("DELETE FROM entries WHERE id = ?", [(id,) for id in gone])
            self._index.execute("COMMIT")
        for id in gone:
            _remove(self._path(id))

    def _tidy(self) -> None:
        """Remove files that killed processes left: partial files, and files that are not listed."""
        known = {entry.id for entry in self.entries()}
        for path in self.folder.glob(f"*{self.prefix}_*"):
            id = path.name.removeprefix(".").split(".")[0]
            place = self.folder / id
            is_needed = id in known and (path == place or (path == _old(place) and not place.exists()))
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                if not is_needed and time.time() - path.stat().st_mtime > LEFT_SECONDS:
                    _remove(path)


def _old(path: Path) -> Path:
    """Return the path of an entry while it is replaced."""
    return path.with_name(f".{path.name}.old")


def _num_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
