"""Tar shards read by byte offset, from local folders or over HTTP: members as media, and an index beside each tar.

A folder of shards holds WebDataset tars (`KEY.mp4`, `KEY.json`), an index `NAME.index.jsonl` for each `NAME.tar`, and
`shards.json`, which lists the tars and is written last. The first line of an index holds the size of its tar. Each
further line is one clip: offset and size of its bytes, their checksum, and the manifest lines about it.
"""

import hashlib
import http.client
import io
import json
import os
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
LIST = "shards.json"
BLOCK = tarfile.BLOCKSIZE
CLIP_KEYS = {"key", "name", "offset", "size", "crc32", "lines"}  # of a line of an index
NAME_BYTES = 100  # longest name in a tar header; longer names are in a block before it
URL_CHARACTERS = "/:?=&%#@+,;~!$'()*[]"  # not quoted in a URL
ATTEMPTS, TIMEOUT_SECONDS, FIRST_WAIT_SECONDS = 4, 30.0, 0.2  # of a request over HTTP
CONNECTIONS = 16


class Damaged(ValueError):
    """Bytes of a tar are missing or differ from its index."""


class NamedBytes(bytes):
    """The bytes of a file, with its name for error messages."""

    name = ""


@dataclass(frozen=True)
class Member:
    """One file inside a tar, used like a path; `archive` is a path or a URL."""

    archive: str
    name: str
    offset: int
    size: int
    crc32: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    @property
    def suffix(self) -> str:
        """Suffix of the name, as of a path."""
        return Path(self.name).suffix

    def is_file(self) -> bool:
        """Return whether the tar exists; a tar over HTTP was checked when its index was read."""
        return is_address(self.archive) or Path(self.archive).is_file()

    def read_bytes(self) -> NamedBytes:
        """Return the file's bytes, checked against the index.

        Raises:
            Damaged: The tar holds fewer or other bytes than its index states.
            OSError: The tar cannot be read.
        """
        data = NamedBytes(read_range(self.archive, self.offset, self.size))
        data.name = str(self)
        if len(data) != self.size or zlib.crc32(data) != self.crc32:
            raise Damaged(
                f"Expected the {self.size} bytes of {self} that its index describes (CRC {self.crc32:08x}), found "
                f"{len(data)} bytes (CRC {zlib.crc32(data):08x}). Copy the tar again, or run: mirasol data index "
                f"{parent(self.archive)}"
            )
        return data

    def open(self, mode: str = "rb") -> io.BytesIO:
        """Return the contents as an open file."""
        return io.BytesIO(self.read_bytes())


def digest_of(media: Path | Member) -> str:
    """Return the SHA-256 of a file's bytes, "" if it cannot be read."""
    try:
        with media.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, Damaged):
        return ""


def state_of(media: Path | Member) -> list[int] | None:
    """Return numbers that change with the file, without reading it; None if there is no file."""
    if isinstance(media, Member):
        return [media.size, media.crc32]
    return [media.stat().st_size, media.stat().st_mtime_ns] if media.is_file() else None


@dataclass(frozen=True)
class Shard:
    """One tar with its index: the first line (`header`) and the lines of the clips."""

    archive: str
    header: dict[str, Any]
    clips: Sequence[dict[str, Any]]

    def member(self, clip: dict[str, Any]) -> Member:
        """Return the media file of a clip in this shard."""
        return Member(self.archive, clip["name"], clip["offset"], clip["size"], clip["crc32"])


def is_address(root: str | Path) -> bool:
    """Return whether a root is an HTTP URL."""
    return str(root).startswith(("http://", "https://"))


def parent(archive: str) -> str:
    """Return the folder of a tar."""
    return archive.rpartition("/")[0] or "."


def index_name(tar: str) -> str:
    """Return the name of the index of a tar."""
    return f"{tar.removesuffix('.tar')}.index.jsonl"


def has_shards(root: str | Path) -> bool:
    """Return whether a local folder holds shards; a URL always names a folder of shards."""
    return is_address(root) or (Path(root) / LIST).is_file() or (Path(root).is_dir() and any(Path(root).glob("*.tar")))


def read_shards(root: str | Path) -> list[Shard]:
    """Return the shards of a folder or URL, each with its index, in the order of their names.

    Raises:
        ValueError: The folder is incomplete, a tar is missing or cut off, or an index belongs to another tar.
    """
    root = str(root).rstrip("/")
    try:
        names = json.loads(read_all(f"{root}/{LIST}"))["shards"]
    except FileNotFoundError:
        raise ValueError(
            f"Expected {LIST} in {root}, which is written when all shards are complete, found none. Run the same "
            f"mirasol data shard command again, or, for tars of other programs: mirasol data index {root}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"Expected in {root}/{LIST} the list of shards that mirasol data shard writes, found other contents "
            f"({error!r}). Copy it again, or index the tars: mirasol data index {root}"
        ) from error
    with ThreadPoolExecutor(CONNECTIONS if is_address(root) else 1) as pool:
        return list(pool.map(lambda name: _read_shard(root, name), names))


def _read_shard(root: str, name: str) -> Shard:
    archive, index = (
        f"{root}/{urllib.parse.quote(file) if is_address(root) else file}" for file in (name, index_name(name))
    )
    remedy = f"Copy it again, or index the tars: mirasol data index {root}"
    try:
        text = read_all(index).decode()
        header, *clips = map(json.loads, text.splitlines())
        size = size_of(archive)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"Expected {archive} and its index {index}, found not both ({error}). {remedy}") from error
    try:
        form, num_clips, tar_bytes = (header[key] for key in ("format", "clips", "tar_bytes"))
        shard = Shard(archive, header, clips)
        if incomplete := [clip for clip in clips if not clip.keys() >= CLIP_KEYS]:
            raise KeyError(*sorted(CLIP_KEYS - incomplete[0].keys()))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"Expected an index of a tar in {index}, found other lines ({error!r}). {remedy}") from error
    if form != FORMAT or len(clips) != num_clips:
        raise ValueError(
            f"Expected an index of format {FORMAT} with {num_clips} clips in {index}, found format {form} with "
            f"{len(clips)}. {remedy}"
        )
    if size != tar_bytes:
        what = "cut off" if size < tar_bytes else "younger than its index"
        raise ValueError(
            f"Expected {archive} to have the {tar_bytes} bytes that its index describes, found {size}: it is {what}. "
            f"{remedy}"
        )
    if not is_address(root):
        is_younger = os.path.getmtime(archive) > os.path.getmtime(index)
        _require_same_members(shard, clips if is_younger else [*clips[:1], *clips[-1:]], index, remedy)
    return shard


def _require_same_members(shard: Shard, clips: Sequence[dict[str, Any]], index: str, remedy: str) -> None:
    """Raise ValueError unless the tar has these clips at their offsets; a copied tar is younger but has them."""
    with open(shard.archive, "rb") as file:
        for clip in clips:
            file.seek(clip["offset"] - BLOCK)
            try:
                found = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                found = tarfile.TarInfo("no file")
            is_in_header = clip["name"].isascii() and len(clip["name"]) <= NAME_BYTES
            if found.size != clip["size"] or (is_in_header and found.name != clip["name"]):
                dates = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(os.path.getmtime(path)))
                         for path in (index, shard.archive)]  # fmt: skip
                raise ValueError(
                    f"Expected {shard.archive} to hold {clip['name']} of {clip['size']} bytes at {clip['offset']}, as "
                    f"its index of {dates[0]} states, found {found.name} of {found.size} bytes in the tar of "
                    f"{dates[1]}. {remedy}"
                )


def read_range(archive: str, offset: int, size: int) -> bytes:
    """Return a range of bytes of a local file or URL, cut at its end."""
    if is_address(archive):
        span = {"Range": f"bytes={offset}-{offset + size - 1}"}
        return _request(archive, span, lambda answer: _ranged(answer, size))
    with open(archive, "rb") as file:
        file.seek(offset)
        return file.read(size)


def read_all(path: str) -> bytes:
    """Return all bytes of a local file or URL."""
    return _request(path, {}, lambda answer: answer.read()) if is_address(path) else Path(path).read_bytes()


def size_of(archive: str) -> int:
    """Return the size of a local file or URL in bytes."""
    if not is_address(archive):
        return os.path.getsize(archive)
    first = {"Range": "bytes=0-0"}
    span = _request(archive, first, lambda answer: _ranged(answer, 1) and str(answer.headers["Content-Range"]))
    total = span.rpartition("/")[2]
    if not total.isdecimal():
        raise ValueError(f"expected the size of {archive} in the server's Content-Range, found {span!r}")
    return int(total)


def _ranged(answer: Any, size: int) -> bytes:
    if answer.status != 206:
        raise ValueError(
            f"Expected {answer.url} to answer a range request with status 206, found {answer.status}. Serve the "
            "shards from a server with range requests, or copy them to a local folder."
        )
    return answer.read(size)


def _request(address: str, headers: dict[str, str], take: Callable[[Any], Any]) -> Any:
    """Return the result of `take` on the response, retrying if the network or the server fails."""
    for attempt in range(ATTEMPTS):
        try:
            request = urllib.request.Request(urllib.parse.quote(address, URL_CHARACTERS), headers=headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                data = take(answer)
                length = answer.headers["Content-Length"]
                if isinstance(data, bytes) and length is not None and len(data) < int(length):
                    raise ConnectionError(f"{len(data)} of {length} bytes arrived")
                return data
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise FileNotFoundError(f"{address} answers 404: no such file") from error
            if error.code < 500 and error.code != 429:
                raise OSError(f"Expected access to {address}, found status {error.code}. Check the URL.") from error
            failure: Exception = error
        except (OSError, http.client.HTTPException) as error:  # timeouts, lost connections, answers cut short
            failure = error
        if attempt < ATTEMPTS - 1:
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise OSError(
        f"Expected {address} to answer within {ATTEMPTS} attempts, found {failure}. Check the network and the server; "
        "the same command resumes."
    ) from failure
