"""Own clips in a dataset of Hugging Face `datasets`: a saved folder, Parquet, or a name on the Hub.

Media cells may be paths, bytes, decoder objects, or arrays with a sampling rate. They are read when needed.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mirasol.tasks.annotations import refuse
from mirasol.tasks.base import Row, nearest, repeated
from mirasol.tasks.formats import PREFIX
from mirasol.tasks.jsonl import KEYS, Line, join_lines, read_entry
from mirasol.tasks.tars import Member, NamedBytes


@dataclass(frozen=True)
class Cell(Member):
    """The media of one row of a dataset, stored in a cell rather than in a file."""

    dataset: Any = field(default=None, compare=False, repr=False)
    column: str = ""

    def is_file(self) -> bool:
        """Return True, because the cell exists."""
        return True

    def read_bytes(self) -> NamedBytes:
        """Return the cell as the bytes of a media file."""
        data = NamedBytes(bytes_of_cell(self.dataset[self.offset][self.column], str(self)))
        data.name = str(self)
        return data


def read_dataset(
    source: str | Path, split: str = "train", columns: Mapping[str, str] | None = None, question: str | None = None
) -> list[Row]:
    """Return the rows of a dataset as clips with questions.

    Args:
        source: `hf:NAME` or `hf:NAME:CONFIG` on the Hub, a `.parquet` file, or a folder of `save_to_disk`.
        split: Split of a dataset that has several.
        columns: Name of the column for each of our keys; by default the key itself.
        question: Question about every row, if the dataset has no column of questions.
    """
    dataset = _load(str(source), split)
    chosen = {key: (columns or {}).get(key, key) for key in KEYS}
    for key, column in (columns or {}).items():
        if key not in KEYS or column not in dataset.column_names:
            known = KEYS if key not in KEYS else dataset.column_names
            wrong = key if key not in KEYS else column
            raise ValueError(
                f"Expected columns as KEY=COLUMN with KEY out of {', '.join(KEYS)} and COLUMN out of "
                f"{', '.join(dataset.column_names)}, found {key}={column}. Did you mean {nearest(wrong, known)!r}?"
            )
    media = chosen["media"]
    if media not in dataset.column_names:
        raise ValueError(
            f"Expected a column {media!r} with the clips of {source}, found {', '.join(dataset.column_names)}. Name "
            f"one: --columns media={dataset.column_names[0]}"
        )
    dataset = _undecoded(dataset, media)
    present = {key: column for key, column in chosen.items() if column in dataset.column_names and key != "media"}
    texts = dataset.select_columns(list(present.values()))
    lines: list[tuple[str, Line]] = []
    malformed, first = list[str](), dict[str, str]()
    for number, row in enumerate(texts if present else [{}] * len(dataset)):
        entry = {key: _plain(texts, column, row[column]) for key, column in present.items()}
        entry = {key: value for key, value in entry.items() if value is not None}
        if question is not None:
            entry.setdefault("question", question)
        try:
            line = read_entry({"media": "cell", **entry}, f"{split}:{number}")
            if fault := repeated(line.id, f"row {number}", first):
                raise ValueError(fault)
            lines.append((f"{source}: row {number}", replace(line, media=_media(dataset, media, number, str(source)))))
        except ValueError as error:
            malformed.append(f"{source}: row {number}: {error}")
    refuse(Path(str(source)), malformed)
    return join_lines(lines)


def _load(source: str, split: str):
    import datasets

    try:
        if source.startswith(PREFIX):
            name, _, config = source.removeprefix(PREFIX).partition(":")
            return datasets.load_dataset(name, config or None, split=split)
        if source.endswith(".parquet"):
            return datasets.Dataset.from_parquet(source)
        loaded = datasets.load_from_disk(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a dataset at {source} with split {split!r}, found none that can be read ({error}). Check the "
            "name, the split and the network."
        ) from error
    return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded


def _undecoded(dataset: Any, column: str):
    """Return the dataset with media cells {bytes, path}, because our reader decodes them."""
    import datasets

    feature = dataset.features[column]
    if isinstance(feature, datasets.Audio | datasets.Video):
        dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def _plain(dataset: Any, column: str, value: Any) -> Any:
    """Return the value of a text column; for a class label, its name."""
    names = getattr(dataset.features[column], "names", None)
    if names and isinstance(value, int):
        return names[value].replace("_", " ") if value >= 0 else None
    return value


def _media(dataset: Any, column: str, number: int, source: str) -> Path | Member:
    """Return the path in a media cell, or the cell itself if it holds the media."""
    cell = dataset[number][column]
    folder = Path(source).parent if source.endswith(".parquet") else Path()
    if isinstance(cell, str):
        return folder / cell
    path = cell.get("path") if isinstance(cell, dict) else None
    if path and cell.get("bytes") is None and "array" not in cell:
        return folder / path
    suffix = Path(path).suffix if path else ".wav" if isinstance(cell, dict) and "array" in cell else ".mp4"
    bytes_of_cell(cell, f"{source}: row {number}")  # raises now for a cell that cannot be read later
    name = f"{number:06d}{suffix}"
    return Cell(source, name, number, 0, 0, dataset=dataset, column=column)


def bytes_of_cell(cell: Any, place: str) -> bytes:
    """Return a media cell as the bytes of a file."""
    cell = getattr(cell, "_hf_encoded", cell)  # the source of a decoder object of `datasets`
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict):
        if cell.get("bytes") is not None:
            return cell["bytes"]
        if cell.get("path"):
            return Path(cell["path"]).read_bytes()
        if "array" in cell and "sampling_rate" in cell:
            return as_wav(np.asarray(cell["array"], np.float32), int(cell["sampling_rate"]))
    raise ValueError(
        f"expected a media cell as path, bytes, or array with sampling_rate at {place}, found {type(cell).__name__}"
        f"{f' with {sorted(cell)}' if isinstance(cell, dict) else ''}."
    )


def as_wav(samples: np.ndarray, sampling_rate: int) -> bytes:
    """Return samples [sample] or [channel sample] as a WAV file of 32-bit floats."""
    channels = 1 if samples.ndim == 1 else samples.shape[0]
    data = np.ascontiguousarray(samples.T if samples.ndim > 1 else samples, "<f4").tobytes()
    frame = 4 * channels
    file = io.BytesIO()
    file.write(struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 3, channels,
                           sampling_rate, sampling_rate * frame, frame, 32))  # fmt: skip
    file.write(struct.pack("<4sI", b"data", len(data)) + data)
    return file.getvalue()
