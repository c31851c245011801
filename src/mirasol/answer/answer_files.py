"""Answers appended to a JSONL or CSV file, clip by clip, so that a killed run resumes at the first missing clip."""

import csv
import fcntl
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mirasol.files import write_whole
from mirasol.media import Crop

COLUMNS = (
    "clip", "start", "end", "crop", "question", "answer", "confidence", "abstained", "ranked", "warnings", "error",
)  # fmt: skip
FORMATS = (".jsonl", ".csv")
Key = tuple[str, float, float | None, str]


class AnswerFile:
    """A file of answers, one row per question and clip; several processes may append to it.

    The rows of a clip are written at once. The next start removes a row that a kill left incomplete.

    Args:
        path: Path that ends with .jsonl or .csv.
        about: Settings that all answers depend on, stored beside the file. A file with other settings is refused.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]):
        self.path = Path(path)
        if self.path.suffix not in FORMATS:
            raise ValueError(
                f"Expected an output that ends with {' or '.join(FORMATS)}, found {str(path)!r}: rename it."
            )
        self.is_csv = self.path.suffix == ".csv"
        kept, now = self.path.with_name(self.path.name + ".run.json"), json.loads(json.dumps(about))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_file() and self.path.stat().st_size:
            before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
            if differing := [name for name in before | now if before.get(name) != now.get(name)]:
                raise self._differs(
                    ", ".join(f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in differing)
                )
        else:
            write_whole(kept, json.dumps(now, indent=1) + "\n")
        with self._locked() as file:
            text = file.read().decode("utf-8", "surrogateescape")  # file names may be any bytes
            header = _csv_text([dict(zip(COLUMNS, COLUMNS, strict=True))])
            if self.is_csv and not header.startswith(text[: len(header)]):
                raise ValueError(
                    f"Expected the columns {header.strip()} in {path}, found others: name another --output."
                )
            try:
                rows, whole = (_csv_rows if self.is_csv else _json_rows)(text)
                self._done = {key_of(row): _outcome(row) for row in rows}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"Expected in {path} rows as mirasol predict writes them, found another ({error!r}). Correct it, "
                    "or name another --output."
                ) from error
            if whole < len(text):
                file.truncate(len(_bytes(text[:whole])))
            if self.is_csv and not whole:
                file.write(_bytes(header))

    def error_of(self, key: Key, crop: Crop | None, options: Sequence[str]) -> str | None:
        """Return the error of a row in the file, "" if it has none, or None if there is no such row.

        Raises:
            ValueError: The row is about another crop, or ranks other options.
        """
        if key not in self._done:
            return None
        error, seen, ranked = self._done[key]
        now_ranked = ranked and tuple(sorted(set(options)))  # a row with an error ranks nothing
        for name, was, now in (("crop", seen, crop), ("options", ranked, now_ranked)):
            if was != now:
                raise self._differs(f"{name} {was!r}, now {now!r}, for {key[3]!r} about {key[0]}")
        return error

    def _differs(self, found: str) -> ValueError:
        return ValueError(
            f"Expected in {self.path} answers with the same settings, found others ({found}). Name another --output, "
            "or delete the file."
        )

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a clip."""
        text = _csv_text(rows) if self.is_csv else json_lines(rows)
        with self._locked() as file:
            file.write(_bytes(text))

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        with open(self.path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            yield file


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the key of a row: clip, start, end, question."""
    return row["clip"], float(row["start"]), None if row["end"] in (None, "") else float(row["end"]), row["question"]


def _outcome(row: Mapping[str, Any]) -> tuple[str, Crop | None, tuple[str, ...]]:
    """Return the error of a row, its crop and its options."""
    crop, ranked = (json.loads(v) if isinstance(v, str) and v else v for v in (row.get("crop"), row.get("ranked")))
    return row.get("error") or "", tuple(crop) if crop else None, tuple(sorted(ranked or ()))


def json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as JSON lines, without empty fields except `end` and `answer`."""
    return "".join(
        json.dumps({k: v for k, v in row.items() if k in ("end", "answer") or v not in (None, [])}) + "\n"
        for row in rows
    )


def _json_rows(text: str) -> tuple[list[dict[str, Any]], int]:
    """Return the complete rows and their number of characters."""
    whole = text.rfind("\n") + 1
    rows = []
    for number, line in enumerate(text[:whole].split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return rows, whole


def _csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        cells = [row.get(name) for name in COLUMNS]
        writer.writerow(
            [
                json.dumps(cell)
                if isinstance(cell, dict | tuple)
                else "; ".join(cell)
                if isinstance(cell, list)
                else cell
                for cell in cells
            ]
        )
    return out.getvalue()


def _csv_rows(text: str) -> tuple[list[dict[str, Any]], int]:
    """Return the complete rows without the header, and their number of characters."""
    lines = io.StringIO(text, newline="").readlines()
    reader, rows, whole, read = csv.reader(lines), [], 0, 0
    for cells in reader:
        length = sum(map(len, lines[read : reader.line_num]))
        read = reader.line_num
        if read == len(lines) and (len(cells) != len(COLUMNS) or not lines[-1].endswith("\n")):
            break  # cut short by a kill
        if len(cells) != len(COLUMNS):
            raise ValueError(f"line {read}: {len(COLUMNS)} cells expected, {len(cells)} found")
        whole += length
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows[1:], whole
