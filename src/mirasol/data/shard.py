"""`mirasol data shard`: a manifest -> WebDataset tars with a byte-offset index each; `index_folder` for other tars.

One process writes a shard: first the tar, then its index, each atomically; `shards.json` is written after the last
shard. A shard with an index is done, so the same command resumes.
"""

import functools
import hashlib
import io
import json
import os
import random
import tarfile
import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mirasol.data.convert import load_rows
from mirasol.data.pool import forked_pool
from mirasol.files import crc32_of, write_whole
from mirasol.media.encode import encode_small
from mirasol.results import Result
from mirasol.tasks import Row
from mirasol.tasks.media_files import SUFFIXES
from mirasol.tasks.shards import lines_of
from mirasol.tasks.tars import FORMAT, LIST, Member, index_name, state_of

CLIPS_PER_SHARD = 256
SHOWN = 3


class Sharded(Result):
    """Result of writing shards: their contents, and the files left out, with the reason."""

    output: str
    shards: int
    files: int
    questions: int
    bytes: int
    encoded: int
    left_out: dict[str, str]
    seconds: float

    def __str__(self) -> str:
        text = (
            f"{self.output}: {self.files:,} files with {self.questions:,} questions in {self.shards} shards, "
            f"{self.bytes / 2**20:,.1f} MiB, in {self.seconds:.1f} s"
        )
        if self.encoded:
            text += f"; {self.encoded:,} encoded anew, {self.files - self.encoded:,} kept as they are"
        if self.left_out:
            first = "; ".join(f"{name}: {reason}" for name, reason in list(self.left_out.items())[:SHOWN])
            text += f"\n{len(self.left_out)} left out, all in {LIST}: {first}"
        return text


class Sample(NamedTuple):
    """One file with the lines of the manifest about it."""

    key: str
    media: Path | Member
    lines: list[dict[str, Any]]


class Encoding(NamedTuple):
    """Re-encoding of video to a shorter side of `height` pixels with a keyframe every `gop` frames."""

    height: int
    gop: int


def shard(
    manifest: str | Path,
    output: str | Path,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
    clips_per_shard: int = CLIPS_PER_SHARD,
    height: int | None = None,
    gop: int | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Sharded:
    """Write the clips of a manifest into `output`, in a random order that is the same in every run.

    Raises:
        ValueError: `output` holds shards of another manifest, of other files or other options.
    """
    if (height is None) != (gop is None):
        raise ValueError(f"Expected height and gop together, found {height} and {gop}. Pass e.g. height 256, gop 25.")
    begun = time.monotonic()
    encoding = None if height is None or gop is None else Encoding(height, gop)
    samples = samples_of(load_rows(manifest, split, columns, question))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = {
        f"shard-{start // clips_per_shard:05d}.tar": samples[start : start + clips_per_shard]
        for start in range(0, len(samples), clips_per_shard)
    }
    sources = {name: _fingerprint(part, encoding) for name, part in jobs.items()}
    done = _already_there(folder, sources, str(manifest))
    waiting = [name for name in jobs if name not in done]
    with (
        tqdm(total=len(samples), desc="writing shards", unit="clip", disable=not progress) as bar,
        ExitStack() as stack,
    ):
        bar.update(len(samples) - sum(len(jobs[name]) for name in waiting))
        write = functools.partial(write_shard, folder, encoding)
        arguments = (waiting, [jobs[name] for name in waiting], [sources[name] for name in waiting])
        counts: Iterable[int] = map(write, *arguments)
        workers = min(processes or os.cpu_count() or 1, len(waiting))
        if workers > 1:
            counts = stack.enter_context(forked_pool(workers)).map(write, *arguments)
        for count in counts:
            bar.update(count)
    return _finish(folder, list(jobs), begun)


def samples_of(rows: Sequence[Row]) -> list[Sample]:
    """Return the files of these rows, in random order, each with its lines."""
    by_media: dict[Path | Member, list[Row]] = {}
    for row in rows:
        by_media.setdefault(row.media, []).append(row)
    order = sorted(by_media, key=str)
    random.Random(0).shuffle(order)
    return [
        Sample(f"{number:09d}", media, [line for row in by_media[media] for line in lines_of(row)])
        for number, media in enumerate(order)
    ]


def write_shard(folder: Path, encoding: Encoding | None, name: str, samples: Sequence[Sample], source: str) -> int:
    """Write one tar and its index; return the number of its samples, with those left out."""
    partial = folder / f"{name}.partial"
    left_out: dict[str, str] = {}
    suffixes: set[str] = set()
    encoded = 0
    with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            try:
                data, suffix = _contents(sample, encoding)
            except (OSError, ValueError) as error:
                left_out[str(sample.media)] = str(error)
                continue
            encoded += data is not None
            suffixes.add(suffix)
            with io.BytesIO(data) if data is not None else sample.media.open("rb") as file:
                _add(tar, f"{sample.key}{suffix}", file)
            _add(tar, f"{sample.key}.json", io.BytesIO(json.dumps(_texts(sample)).encode()))
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, folder / name)
    _write_index(folder, name, suffixes, left_out, source=source, encoded=encoded)
    return len(samples)


def index_folder(folder: str | Path, progress: bool = True) -> Sharded:
    """Write `shards.json` and the index of every tar in a folder, also of tars of other programs.

    A clip is a media file with a `.json` of the same key, which holds a line of a manifest without `media`.
    """
    begun, folder = time.monotonic(), Path(folder)
    names = sorted(path.name for path in folder.glob("*.tar"))
    if not names:
        raise ValueError(f"Expected tars in {folder}, found none. Name the folder that holds them.")
    for name in tqdm(names, desc="indexing", unit="tar", disable=not progress):
        _write_index(folder, name, SUFFIXES, {}, encoded=0)
    return _finish(folder, names, begun)


def _write_index(folder: Path, name: str, suffixes: Collection[str], left_out: dict[str, str], **facts: Any) -> None:
    """Write the index of a whole tar, whose media files end in `suffixes`."""
    clips, unused = _read_tar(folder / name, suffixes)
    with (folder / name).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    header = {"format": FORMAT, "tar_bytes": size, "sha256": digest, "clips": len(clips), **facts}
    lines = [header | {"left_out": left_out | unused}, *clips]
    write_whole(folder / index_name(name), "".join(f"{json.dumps(line)}\n" for line in lines))


def _already_there(folder: Path, sources: dict[str, str], manifest: str) -> set[str]:
    """Return the finished shards; raise ValueError for shards of another manifest or other options."""
    done = set()
    for index in sorted(folder.glob("*.index.jsonl")):
        name = f"{index.name.removesuffix('.index.jsonl')}.tar"
        with index.open(encoding="utf-8") as file:
            found = json.loads(file.readline()).get("source")
        if found != sources.get(name):
            raise ValueError(
                f"Expected {folder} to be empty or to hold shards of {manifest} with these options, found {name} made "
                f"of {found} instead of {sources.get(name)}: the manifest, its files or an option changed. Choose a "
                "new folder, or remove this one."
            )
        if (folder / name).is_file():
            done.add(name)
    return done


def _fingerprint(samples: Sequence[Sample], encoding: Encoding | None) -> str:
    """Return a hash of a shard's sources: names, sizes and dates of its files, its lines and the options."""
    parts = [[str(sample.media), state_of(sample.media), sample.lines] for sample in samples]
    return hashlib.sha256(json.dumps([FORMAT, encoding, parts]).encode()).hexdigest()[:16]


def _contents(sample: Sample, encoding: Encoding | None) -> tuple[bytes | None, str]:
    """Return the re-encoded bytes of a clip (None to keep its file) and the suffix."""
    if not sample.media.is_file():
        raise FileNotFoundError(f"expected a file at {sample.media}, found none. Check the path in the manifest.")
    data = None if encoding is None else encode_small(sample.media, encoding.height, encoding.gop)
    return data, sample.media.suffix.lower() if data is None else ".mp4"


def _add(tar: tarfile.TarFile, name: str, file: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    tar.addfile(info, file)


def _texts(sample: Sample) -> dict[str, Any]:
    """Return the contents of `KEY.json`, with the same schema in every sample, as `datasets` needs.

    `lines` holds all lines of the manifest as JSON text.
    """
    answers = [answer for line in sample.lines for answer in line["answers"]]
    return {
        "id": sample.lines[0]["id"] if sample.lines else sample.key,
        "file": sample.media.name,
        "questions": [question for line in sample.lines for question in line["questions"]],
        "answers": [answer if isinstance(answer, str) else answer[0] for answer in answers],
        "lines": json.dumps(sample.lines),
    }


def _read_tar(path: Path, suffixes: Collection[str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the lines of the index of a tar, and the members that belong to no clip, with the reason."""
    clips: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # no compressed tar, whose clips have no offset in the file
            for member in tar:
                stem, dot, suffix = Path(member.name).name.partition(".")
                file = tar.extractfile(member) if member.isfile() and stem else None  # "._a.mp4" is macOS's own
                if file is None:
                    continue
                key = str(Path(member.name).with_name(stem))
                clip = clips.setdefault(key, {"key": key})
                is_text, is_media = suffix.lower() == "json", f"{dot}{suffix}".lower() in suffixes
                if ("lines" if is_text else "name") in clip and (is_text or is_media):
                    left_out[member.name] = f"another file of the same key {key} comes before it"
                elif is_text:
                    clip["lines"] = _lines_in(file.read(), f"{path}/{member.name}")
                elif is_media:
                    clip |= {"name": member.name, "offset": member.offset_data, "size": member.size}
                    clip["crc32"] = crc32_of(file)
    except (tarfile.TarError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a whole tar of clips in {path}, found {error}. Copy it again, or decompress it."
        ) from error
    for key in [key for key, clip in clips.items() if not {"name", "lines"} <= clip.keys()]:
        left_out[key] = "no .json with its questions" if "name" in clips.pop(key) else "no media file"
    return list(clips.values()), left_out


def _lines_in(data: bytes, name: str) -> list[dict[str, Any]]:
    """Return the manifest lines in `KEY.json`: the `lines` of `_texts`, or the single line of another program."""
    entry = json.loads(data)
    lines = json.loads(entry["lines"]) if isinstance(entry, dict) and isinstance(entry.get("lines"), str) else [entry]
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError(f"Expected a line of a manifest, {{...}}, in {name}, found {str(lines)[:80]}. Correct it.")
    return lines


def _finish(folder: Path, names: Sequence[str], begun: float) -> Sharded:
    """Write `shards.json`, which marks the shards as complete, and return their summary."""
    headers, questions = [], 0
    for name in names:
        header, *clips = map(json.loads, (folder / index_name(name)).read_text(encoding="utf-8").splitlines())
        headers.append(header)
        questions += sum(len(line.get("questions", [0])) for clip in clips for line in clip["lines"])
    left_out = {name: reason for header in headers for name, reason in header["left_out"].items()}
    if left_out:
        warnings.warn(f"{len(left_out)} files could not be written into the shards of {folder}", stacklevel=3)
    listed = {
        "format": FORMAT, "shards": list(names), "files": sum(header["clips"] for header in headers),
        "sha256": {name: header["sha256"] for name, header in zip(names, headers, strict=True)},
        "left_out": left_out,
    }  # fmt: skip
    write_whole(folder / LIST, json.dumps(listed, indent=1) + "\n")
    return Sharded(
        output=str(folder), shards=len(names), files=listed["files"], questions=questions,
        bytes=sum(header["tar_bytes"] for header in headers), encoded=sum(header["encoded"] for header in headers),
        left_out=left_out, seconds=round(time.monotonic() - begun, 1),
    )  # fmt: skip
