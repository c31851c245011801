"""`mirasol data convert`: convert a manifest of own clips into another format."""

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirasol.files import write_whole
from mirasol.results import Result
from mirasol.tasks import Row
from mirasol.tasks.formats import CLASS_QUESTION, IN_JSON, SUFFIXES, is_dataset
from mirasol.tasks.hub import read_dataset
from mirasol.tasks.jsonl import Jsonl
from mirasol.tasks.shards import Shards, lines_of
from mirasol.tasks.tars import has_shards, is_address


class Converted(Result):
    """Result of a conversion: counts of what was written, and of keys that the format cannot hold (`lost`)."""

    output: str
    clips: int
    questions: int
    files_written: int
    lost: dict[str, int]

    def __str__(self) -> str:
        text = f"{self.output}: {self.clips:,} clips with {self.questions:,} questions"
        if self.files_written:
            text += f"; {self.files_written:,} media files written beside it"
        if self.lost:
            keys = ", ".join(f"{key} ({count})" for key, count in self.lost.items())
            text += f"\nnot written, because the format cannot hold it: {keys}"
        return text


def load_rows(
    source: str | Path, split: str = "train", columns: Mapping[str, str] | None = None, question: str | None = None
) -> list[Row]:
    """Return the rows of a manifest of any kind, of shards, or of a dataset of `datasets`.

    Args:
        source: File, folder, address of shards, or `hf:NAME`.
        split: Split of a source that has several.
        columns: Columns of a dataset, by our keys.
        question: Asked of every clip, where a dataset or a folder of classes has none.
    """
    if is_dataset(source):
        return read_dataset(source, split, columns, question)
    if columns:
        raise ValueError(f"Expected --columns with a dataset (hf:NAME, Parquet), found {source}. Leave it out.")
    if is_address(source) or has_shards(source) or has_shards(Path(source) / split):
        return Shards().load(source, split)
    rows = Jsonl().load(source, split)
    if question is None:
        return rows
    return [
        replace(
            row,
            questions=tuple(
                replace(asked, text=question if asked.text == CLASS_QUESTION else asked.text)
                for asked in row.questions
            ),
        )
        for row in rows
    ]


def convert(
    source: str | Path,
    output: str | Path,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    question: str | None = None,
) -> Converted:
    """Write the clips of `source` as a manifest of the format that the suffix of `output` names.

    Media inside a dataset or a tar are written to a folder beside it. `.json` has the format of LLaVA.
    """
    output = Path(output)
    if output.suffix not in SUFFIXES:
        raise ValueError(
            f"Expected an output that ends in {', '.join(SUFFIXES)}, found {output}. For tar shards: mirasol data "
            f"shard {source} -o {output}"
        )
    if output.exists():
        raise ValueError(f"Expected a new file at {output}, found one. Choose another, or remove it.")
    rows = load_rows(source, split, columns, question)
    output.parent.mkdir(parents=True, exist_ok=True)
    places, written = _place_media(rows, output)
    lines = [{"media": place, **line} for row, place in zip(rows, places, strict=True) for line in lines_of(row)]
    lost: dict[str, int] = {}
    if output.suffix == ".jsonl":
        text = "".join(f"{json.dumps(_short(line), ensure_ascii=False)}\n" for line in lines)
    elif output.suffix == ".json":
        text, lost = _conversations(lines)
    else:
        text = _table(lines, "\t" if output.suffix == ".tsv" else ",")
    write_whole(output, text)
    count = sum(len(row.questions) for row in rows)
    return Converted(output=str(output), clips=len(rows), questions=count, files_written=written, lost=lost)


def _place_media(rows: Sequence[Row], output: Path) -> tuple[list[str], int]:
    """Write media of tars beside the manifest; return the relative path of each row's media, and the files written."""
    places, written = [], dict[Path, Any]()
    for row in rows:
        if isinstance(row.media, Path):
            places.append(os.path.relpath(row.media, output.parent))
            continue
        name = row.media.name.replace("/", "-")  # "a/../../b.mp4" stays in the folder
        file = output.with_suffix("") / f"{Path(row.media.archive).stem.replace(':', '_')}-{name}"
        if written.get(file, row.media) != row.media:
            file = file.with_stem(f"{file.stem}-{row.media.offset}")
        if file not in written:
            file.parent.mkdir(parents=True, exist_ok=True)
            with row.media.open() as held, file.open("wb") as copy:
                shutil.copyfileobj(held, copy)
            written[file] = row.media
        places.append(os.path.relpath(file, output.parent))
    return places, len(written)


def _short(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of one question with `question` and `answer` in place of the lists of them."""
    if len(line["questions"]) != 1:
        return line
    answer = line["answers"][0]
    one = {"question": line["questions"][0], "answers" if isinstance(answer, list) else "answer": answer}
    rest = {key: value for key, value in line.items() if key not in ("media", "questions", "answers")}
    return {"media": line["media"], **one, **rest}


def _table(lines: Sequence[dict[str, Any]], delimiter: str) -> str:
    rows = [_short(line) for line in lines]
    header = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells = [row.get(key, "") for key in header]
        writer.writerow(
            json.dumps(cell, ensure_ascii=False) if key in IN_JSON and cell != "" else cell
            for key, cell in zip(header, cells, strict=True)
        )
    return text.getvalue()


def _conversations(lines: Sequence[dict[str, Any]]) -> tuple[str, dict[str, int]]:
    entries, lost = [], dict[str, int]()
    for line in lines:
        for key in line.keys() - {"media", "questions", "answers", "id"}:
            lost[key] = lost.get(key, 0) + 1
        turns = []
        for number, (question, answer) in enumerate(zip(line["questions"], line["answers"], strict=True)):
            if isinstance(answer, list):
                lost["further answers"] = lost.get("further answers", 0) + len(answer) - 1
                answer = answer[0]
            turns.append({"from": "human", "value": f"<video>\n{question}" if number == 0 else question})
            turns.append({"from": "gpt", "value": answer})
        entries.append({"id": line["id"], "video": line["media"], "conversations": turns})
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n", lost
