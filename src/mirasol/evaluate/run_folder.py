"""Folder of one evaluation: settings, answers batch by batch, and the results at the end."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mirasol.evaluate.batches import AnsweredClip
from mirasol.evaluate.results import PREDICTION, Metrics, Prediction
from mirasol.files import write_whole
from mirasol.tasks import Row

ABOUT, PARTS, PREDICTIONS, METRICS = "run.json", "parts", "predictions.jsonl", "metrics.json"
CLIP = TypeAdapter(AnsweredClip)
NOT_COMPARED = ("checkpoint", "root")  # paths may change; digests compare the contents


class RunFolder:
    """Answers are appended batch by batch, in whole lines, to one file per process. A kill loses at most one batch
    per process, and the next start answers only the missing batches, with any number of processes.

    Args:
        folder: Created if it does not exist.
        about: Settings of the evaluation. A folder with other settings is refused.
    """

    def __init__(self, folder: str | Path, about: Mapping[str, Any]):
        self.folder, self.about = Path(folder), json.loads(json.dumps(about))
        self._check()

    @property
    def is_finished(self) -> bool:
        """Whether the results exist; they are written last."""
        return (self.folder / METRICS).is_file()

    def _check(self) -> None:
        file = self.folder / ABOUT
        if not file.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise ValueError(
                    f"Expected an empty folder or a run to resume at {self.folder}, found files but no {ABOUT}. "
                    "Choose another --output."
                )
            return
        found = json.loads(file.read_text(encoding="utf-8"))
        names = [name for name in {**found, **self.about} if name not in NOT_COMPARED]
        different = [
            f"other weights, of {found.get('checkpoint')}, not of {self.about.get('checkpoint')}"
            if name == "weights"
            else f"{name} {found.get(name)!r}, not {self.about.get(name)!r}"
            for name in names
            if found.get(name) != self.about.get(name)
        ]
        if different:
            raise ValueError(
                f"Expected in {self.folder} a run with the same settings, found one with {'; '.join(different)}. "
                "Choose another --output, or delete the folder."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other evaluations; the lock ends with the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(folder)
            raise ValueError(
                f"Expected no other evaluation in {self.folder}, found one that is writing there. Wait for it, or "
                "choose another --output."
            ) from None
        try:
            yield
        finally:
            os.close(folder)

    def begin(self) -> None:
        """Write the settings; drop incomplete lines, and batches with an unreadable clip, to try them again.

        One process calls this before any answers.
        """
        (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
        for file in (self.folder / PARTS).glob("*.jsonl"):
            lines = file.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith(b"\n") and not _has_errors(json.loads(line))]
            if kept != lines:
                write_whole(file, b"".join(kept).decode())
        if not (self.folder / ABOUT).is_file():
            write_whole(self.folder / ABOUT, json.dumps(self.about, indent=2) + "\n")

    def append(self, rank: int, batch: int, clips: Sequence[AnsweredClip]) -> None:
        """Append one batch of answers to the file of this process."""
        with (self.folder / PARTS / f"{rank}.jsonl").open("ab") as lines:
            lines.write((json.dumps({"batch": batch, "clips": [asdict(clip) for clip in clips]}) + "\n").encode())

    def answered(self) -> dict[int, list[AnsweredClip]]:
        """Return all answered batches of every process and earlier start."""
        found: dict[int, list[AnsweredClip]] = {}
        for file in sorted((self.folder / PARTS).glob("*.jsonl")):
            for line in file.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    entry = json.loads(line)
                    found[entry["batch"]] = [CLIP.validate_python(clip) for clip in entry["clips"]]
        return found

    def finish(self, metrics: Metrics, predictions: Mapping[str, Sequence[Prediction]]) -> None:
        """Write the predictions of each condition, then the metrics; delete the parts."""
        for place, (name, found) in enumerate(predictions.items()):
            file = PREDICTIONS if place == 0 else PREDICTIONS.replace(".", f"_{name}.", 1)
            lines = b"".join(PREDICTION.dump_json(p, exclude_none=True) + b"\n" for p in found)
            write_whole(self.folder / file, lines.decode())
        write_whole(self.folder / METRICS, metrics.as_json(indent=2) + "\n")
        shutil.rmtree(self.folder / PARTS)


def read_results(folder: Path) -> tuple[Metrics, list[Prediction]]:
    """Return metrics and predictions of a finished run."""
    lines = (folder / PREDICTIONS).read_bytes().splitlines()
    metrics = Metrics.model_validate_json((folder / METRICS).read_bytes())
    return metrics, [PREDICTION.validate_json(line) for line in lines]


def digest_of_rows(rows: Sequence[Row]) -> str:
    """Return a digest of the clips and their questions, without paths."""
    facts: list[tuple] = [(row.id, row.media.name, row.segment, [asdict(q) for q in row.questions]) for row in rows]
    facts += [(row.id, row.crop) for row in rows if row.crop is not None]
    facts += [(row.id, [part.media.name for part in row.parts]) for row in rows if row.parts]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _has_errors(part: dict[str, Any]) -> bool:
    return any(clip["error"] for clip in part["clips"])
