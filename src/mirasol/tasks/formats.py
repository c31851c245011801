"""Manifests in several formats -> entries with the keys of our JSONL lines, one reader per format.

`clips.jsonl` has one object per line; `clips.csv` or `.tsv` a header and one row per clip; `clips.json` a list of
objects with our keys or those of LLaVA (`video` or `audio`, `conversations`); a folder has one folder per class.
A reader yields numbered entries. A malformed entry is yielded as a ValueError, so that one message names all of them.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirasol.tasks.annotations import read_json, read_rows, read_text
from mirasol.tasks.media_files import MediaFiles

Entries = Iterator[tuple[int, Any]]
SUFFIXES = (".jsonl", ".csv", ".tsv", ".json")
CLASS_QUESTION = "what is it?"
IN_JSON = ("questions", "answers", "options", "segment", "seconds", "crop", "tolerance")  # in the cells of a table
PREFIX = "hf:"  # of the name of a dataset on the Hub
MEDIA_TOKENS = re.compile(r"<(video|audio|image|speech|sound)>\s*")


def read_entries(path: Path) -> Entries:
    """Return the entries of a manifest, whose suffix names the format, or of a folder of classes."""
    if path.is_dir():
        return read_classes(path)
    return {".csv": read_csv, ".tsv": read_csv, ".json": read_list}.get(path.suffix.lower(), read_jsonl)(path)


def read_jsonl(path: Path) -> Entries:
    """Yield every line that is not blank, with its number."""
    for number, text in enumerate(read_text(path).split("\n"), start=1):  # JSON text may hold U+2028 and U+0085
        if text.strip():
            yield number, parse(text)


def parse(text: str) -> Any:
    """Return the value of JSON text, or the ValueError if it is malformed."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (json.JSONDecodeError, RecursionError) as error:
        return ValueError(f"expected a JSON object, found text that is not JSON ({error}).")
    except ValueError as error:
        return error


def read_csv(path: Path) -> Entries:
    """Yield every row of a table with its line number; an empty cell is an absent key."""
    rows = read_rows(path, delimiter="\t" if path.suffix == ".tsv" else ",")
    next(rows)  # the header
    for number, fields in rows:
        yield number, fields if isinstance(fields, ValueError) else _from_cells(fields)


def _from_cells(cells: dict[str, str]) -> dict[str, Any] | ValueError:
    entry: dict[str, Any] = {key: text for key, text in cells.items() if text.strip()}
    for key in entry.keys() & {*IN_JSON, "answer"}:
        text = entry[key].strip()
        if key == "answer" and not text.startswith('["'):
            continue  # a list holds several accepted answers; any other text is the answer
        try:
            entry[key] = json.loads(text)
        except json.JSONDecodeError:
            return ValueError(f"expected JSON in column {key!r}, such as [1.5, 2], found {text!r}.")
    return entry


def read_list(path: Path) -> Entries:
    """Yield every object of a JSON list with its number."""
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"Expected a JSON list of clips in {path}, found {type(entries).__name__}. Write [...].")
    for number, entry in enumerate(entries, start=1):
        is_chat = isinstance(entry, dict) and "conversations" in entry
        yield number, from_conversations(entry) if is_chat else entry


def from_conversations(entry: dict[str, Any]) -> dict[str, Any] | ValueError:
    """Return the questions and answers of a conversation: each turn of the user and the answer after it."""
    media = {entry[key] for key in ("video", "audio") if entry.get(key)}
    if len(media) != 1:
        found = " and ".join(map(repr, sorted(map(str, media)))) or "neither"
        return ValueError(
            f"expected one file as 'video' or 'audio', found {found}. Join two files: ffmpeg -i VIDEO -i AUDIO -c "
            "copy -map 0:v -map 1:a CLIP.mkv"
        )
    turns = entry["conversations"]
    said = [(turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))) for turn in turns]
    said = [turn for turn in said if turn[0] != "system"]
    asked, answered = said[::2], said[1::2]
    if (
        not said
        or len(asked) != len(answered)
        or any(who not in ("human", "user") for who, _ in asked)
        or any(who not in ("gpt", "assistant") for who, _ in answered)
        or not all(isinstance(text, str) for _, text in said)
    ):
        return ValueError(
            f"expected 'conversations' with alternating turns of human and gpt, found {[who for who, _ in said]}."
        )
    questions = [MEDIA_TOKENS.sub("", text).strip() for _, text in asked]
    made = {"media": media.pop(), "questions": questions, "answers": [text for _, text in answered]}
    return made | ({"id": entry["id"]} if "id" in entry else {})


def read_classes(folder: Path) -> Entries:
    """Yield every media file below a folder of classes; the answer is the name of its class folder, in words."""
    by_name = MediaFiles(folder).by_name
    files = sorted(file for files in by_name.values() for file in files if file.parent != folder)
    for number, file in enumerate(files, start=1):
        place = file.relative_to(folder)
        answer = unicodedata.normalize("NFC", place.parts[0].replace("_", " "))  # macOS gives names in NFD
        yield number, {
            "media": str(place), "question": CLASS_QUESTION, "answer": answer, "kind": "class",
            "id": str(place.with_suffix("")),
        }  # fmt: skip


def is_classes(folder: Path) -> bool:
    """Return whether a folder has media files in folders below it."""
    return folder.is_dir() and any(
        file.parent != folder for files in MediaFiles(folder).by_name.values() for file in files
    )


def is_dataset(source: str | Path) -> bool:
    """Return whether a source is a dataset of `datasets`: hf:NAME, a Parquet file, or a saved folder."""
    path = Path(source)
    return str(source).startswith(PREFIX) or path.suffix == ".parquet" or (path / "state.json").is_file()


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; raise ValueError for a repeated key, of which JSON would keep the last value."""
    keys = [key for key, _ in pairs]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ValueError(f"expected each key once, found {twice[0]!r} twice.")
    return dict(pairs)


def read_columns(text: str | None) -> dict[str, str] | None:
    """Return comma-separated KEY=COLUMN pairs as a mapping."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if wrong := [key for key, equals, column in pairs if not (equals and column.strip())]:
        raise ValueError(f"Expected columns as KEY=COLUMN,KEY=COLUMN, found {wrong[0]!r}. Write media=video.")
    return {key.strip(): column.strip() for key, _, column in pairs}
