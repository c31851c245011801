"""Clips decoded once: small uint8 frames and the 16 kHz waveform of every clip, memory-mapped.

Decoding costs more than the rest of a training sample. A cache is one folder, named by a hash of its inputs (file
contents and settings), in parts of a few clips that processes write in parallel. Parts are moved into place when they
are complete, and the index is written last, so a killed build resumes at the missing parts.
"""

import functools
import gc
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mirasol.data.pool import forked_pool
from mirasol.data.read import ClipReader
from mirasol.features import MirasolVideoProcessor
from mirasol.files import shared_folder, write_whole
from mirasol.media import WHOLE, Clip, blocks, join_clips
from mirasol.tasks import Row, single_rows
from mirasol.tasks.tars import digest_of

FORMAT = 5  # to be raised when cached bytes change for the same inputs and settings
CLIPS_PER_PART = 16


class ClipCache:
    """Decoded clips of `rows` by id; `bad` maps the id of each unreadable clip to the reason."""

    def __init__(self, folder: Path):
        index = json.loads((folder / "index.json").read_text())
        self.folder, self.clips, self.bad = folder, index["clips"], index["bad"]
        self._maps: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def build(
        cls,
        rows: Sequence[Row],
        root: str | Path,
        image_processor: MirasolVideoProcessor,
        margin: float = 1.0,
        frames_per_second: float | None = None,
        decoder: str = "pyav",
        progress: bool = True,
        processes: int | None = None,
    ) -> "ClipCache":
        """Return the cache of these rows under `root`; build it if it is missing.

        Frames are cropped by the row's crop, else the image processor's, enlarged by `margin` for random crops and
        clipped to the frame. With `frames_per_second`, only the frames of a time grid of that rate are kept. The parts
        of joined rows are cached once each. `processes` decode in parallel, by default one per core.
        """
        rows = single_rows(rows)
        reader = ClipReader(image_processor, margin, frames_per_second, decoder)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            contents = list(pool.map(digest_of, [row.media for row in rows]))
        digests = {
            row.id: [content or "missing", row.segment, reader.square(row)]
            for row, content in zip(rows, contents, strict=True)
        }
        settings = {"format": FORMAT, "rate": frames_per_second, "decoder": decoder}
        key = hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(root) / key
        if not (folder / "index.json").is_file():
            _write(folder, rows, reader, progress, processes or os.cpu_count() or 1)
        cache = cls(folder)
        if cache.bad:
            listed = "; ".join(f"{row_id}: {reason}" for row_id, reason in list(cache.bad.items())[:5])
            warnings.warn(
                f"{len(cache.bad)} of {len(rows)} clips cannot be read and are left out (all of them: "
                f"{folder / 'bad_clips.json'}): {listed}",
                stacklevel=2,
            )
        if not cache.clips:
            raise ValueError(
                f"Expected at least one readable clip out of {len(rows)}, found none. See the reasons above."
            )
        return cache

    def __getitem__(self, row_id: str) -> Clip:
        """Return the clip; its arrays are views of the cache, to be copied before they are written to."""
        entry = self.clips[row_id]
        part = entry["part"]
        if part not in self._maps:  # opened in the worker that uses it, because it must not share the parent's handles
            files = self.folder / part
            self._maps[part] = _map(files / "frames.bin", np.uint8), _map(files / "sound.bin", np.float32)
        frames_map, sound_map = self._maps[part]
        frames = frame_times = waveform = None
        if entry["num_frames"]:
            shape = (entry["num_frames"], entry["size"], entry["size"], 3)
            first = entry["first_byte"]
            frames = frames_map[first : first + math.prod(shape)].reshape(shape)
            frame_times = np.array(entry["frame_times"])
        if entry["num_samples"]:
            waveform = sound_map[entry["first_sample"] : entry["first_sample"] + entry["num_samples"]]
        return Clip(
            frames, frame_times, waveform, entry["sampling_rate"], entry["audio_start"], entry["duration"],
            list(entry["warnings"]), crop=WHOLE, video_end=entry["video_end"],
            audio_gaps=[(start, end) for start, end in entry["audio_gaps"]],
        )  # fmt: skip

    def clip_of(self, row: Row) -> Clip:
        """Return the row's clip, joined from its parts if it has any."""
        if not row.parts:
            return self[row.id]
        return join_clips([self[part.id] for part in row.parts], row.part_seconds)

    def holds(self, row: Row) -> bool:
        """Return whether the row's clip, or the clip of each of its parts, could be read."""
        return all(part.id in self for part in row.parts or (row,))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": {}}  # a spawned worker opens the files itself

    def __contains__(self, row_id: str) -> bool:
        return row_id in self.clips


def _write(folder: Path, rows: Sequence[Row], reader: ClipReader, progress: bool, processes: int) -> None:
    parts = {
        f"{start // CLIPS_PER_PART:05d}": rows[start : start + CLIPS_PER_PART]
        for start in range(0, len(rows), CLIPS_PER_PART)
    }
    waiting = {name: part for name, part in parts.items() if not (folder / name / "index.json").is_file()}
    bar = tqdm(total=len(rows), desc="decoding clips once", unit="clip", disable=not progress)
    bar.update(len(rows) - sum(map(len, waiting.values())))
    with bar, ExitStack() as stack:
        make = functools.partial(_write_part, folder, reader)
        done: Iterable[int] = map(make, waiting, waiting.values())
        if min(processes, len(waiting)) > 1:
            pool = stack.enter_context(forked_pool(min(processes, len(waiting))))
            done = pool.map(make, waiting, waiting.values())
        for count in done:
            bar.update(count)
    clips: dict[str, dict] = {}
    bad: dict[str, str] = {}
    for name in parts:
        index = json.loads((folder / name / "index.json").read_text())
        clips |= {row_id: entry | {"part": name} for row_id, entry in index["clips"].items()}
        bad |= index["bad"]
    write_whole(folder / "bad_clips.json", json.dumps(bad, indent=1))
    write_whole(folder / "index.json", json.dumps({"clips": clips, "bad": bad}))


def _write_part(folder: Path, reader: ClipReader, name: str, rows: Sequence[Row]) -> int:
    """Write the clips of a part; return their number."""
    clips: dict[str, dict] = {}
    bad: dict[str, str] = {}
    first_byte = first_sample = 0
    with (
        shared_folder(folder / name) as partial,
        (partial / "frames.bin").open("wb") as frames_file,
        (partial / "sound.bin").open("wb") as sound_file,
    ):
        for row in rows:
            try:
                clip = reader.read(row)
            except (ValueError, OSError) as error:  # all that the reader raises
                bad[row.id] = str(error)
                continue
            size, _ = reader.square(row)
            num_frames = 0 if clip.frames is None else len(clip.frames)
            num_samples = 0 if clip.waveform is None else len(clip.waveform)
            for array, file in ((clip.frames, frames_file), (clip.waveform, sound_file)):
                for block in () if array is None else blocks(array):
                    block.tofile(file)
            clips[row.id] = {
                "first_byte": first_byte, "num_frames": num_frames, "size": size,
                "frame_times": [] if clip.frame_times is None or not num_frames else clip.frame_times.tolist(),
                "first_sample": first_sample, "num_samples": num_samples, "sampling_rate": clip.sampling_rate,
                "audio_start": clip.audio_start, "duration": clip.duration, "warnings": clip.warnings,
                "video_end": clip.video_end, "audio_gaps": clip.audio_gaps,
            }  # fmt: skip
            first_byte, first_sample = first_byte + num_frames * size * size * 3, first_sample + num_samples
        (partial / "index.json").write_text(json.dumps({"clips": clips, "bad": bad}))
    # Decoders hold threads until they are collected. A forked worker that inherits one and collects it would wait for
    # ever for threads that it does not have.
    gc.collect()
    return len(rows)


def _map(path: Path, kind: type) -> np.ndarray:
    return np.memmap(path, kind, mode="c").view(np.ndarray) if path.stat().st_size else np.empty(0, kind)
