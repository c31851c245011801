"""Ids that cannot be guessed and that name their owner: an id of one API key is unknown to every other key."""

import re
import secrets
from hashlib import sha256

RANDOM = 32  # hexadecimal digits: 128 bits
PATTERN = "_[0-9a-f]{32}(?:[0-9a-f]{16})?"
SESSION = re.compile(f"sess{PATTERN}")


def new_id(kind: str, owner: str = "") -> str:
    """Return a new id such as clip_0123...; with an owner, it ends in a digest of the random digits and the owner."""
    random = secrets.token_hex(RANDOM // 2)
    return f"{kind}_{random}{_mark(random, owner)}"


def belongs(id: str, owner: str) -> bool:
    """Return whether an id was made for this owner. Without API keys, every owner is ""."""
    rest = id.partition("_")[2]
    return rest[RANDOM:] == _mark(rest[:RANDOM], owner)


def _mark(random: str, owner: str) -> str:
    return sha256(f"{owner} {random}".encode()).hexdigest()[:16] if owner else ""
