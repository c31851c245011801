"""Clips decoded once: small uint8 frames and the 16 kHz waveform of every clip, memory-mapped.

Decoding costs more than all the rest of a training sample. A cache is one folder, named by a hash of what
it was made from (file contents and settings), written under a temporary name and moved when whole: a folder that
exists is complete, whatever was killed.
"""

import functools
import gc
import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mirasol.chunks.time_grid import TOLERANCE_SECONDS
from mirasol.features import MirasolVideoProcessor
from mirasol.features.image_processing_mirasol import check_crop
from mirasol.files import shared_folder
from mirasol.media import WHOLE, Clip, Crop, MediaInfo, blocks, join_clips, read_clip
from mirasol.tasks import Row, segment_of, single_rows

FORMAT = 4  # raised whenever cached bytes would differ for the same inputs and settings


class ClipCache:
    """Decoded clips of `rows` by id; `bad` maps the id of each unreadable clip to the reason."""

    def __init__(self, folder: Path):
        index = json.loads((folder / "index.json").read_text())
        self.folder, self.clips, self.bad = folder, index["clips"], index["bad"]
        self._maps: tuple | None = None

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
    ) -> "ClipCache":
        """Return the cache of these rows under `root`, made now unless it is there already.

        Frames are what the row's crop or else the image processor shows, plus a border for random crops: `margin`
        times as wide as far as the picture reaches. With `frames_per_second`, only the frames that a time grid of that
        rate shows are kept. Of joined rows the parts are kept, each once.
        """
        rows = single_rows(rows)
        squares = {
            row.id: _square(row.crop or image_processor.crop, image_processor.image_size, margin) for row in rows
        }
        digests = {row.id: [_digest(row.media), row.segment, squares[row.id]] for row in rows}
        settings = {"format": FORMAT, "rate": frames_per_second, "decoder": decoder}
        key = hashlib.sha256(json.dumps([settings, digests], sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(root) / key
        if not (folder / "index.json").is_file():
            with shared_folder(folder) as partial:
                _write(partial, rows, image_processor, squares, frames_per_second, decoder, progress)
                # Decoders hold threads until they are collected. A forked worker that collected one inherited from
                # here would wait for ever for threads it does not have.
                gc.collect()
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
        """Return the clip; its arrays are views of the cache: copy before you write into them."""
        if self._maps is None:  # opened where it is used, because a worker must not share the parent's handles
            self._maps = (_map(self.folder / "frames.bin", np.uint8), _map(self.folder / "sound.bin", np.float32))
        frames_map, sound_map = self._maps
        entry = self.clips[row_id]
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
        """Return the row's clip: that of its id, or its parts' joined."""
        if not row.parts:
            return self[row.id]
        return join_clips([self[part.id] for part in row.parts], row.part_seconds)

    def holds(self, row: Row) -> bool:
        """Return whether the row's clip, or each of its parts', could be read."""
        return all(part.id in self for part in row.parts or (row,))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": None}  # a spawned worker opens the files, rather than get them by pickle

    def __contains__(self, row_id: str) -> bool:
        return row_id in self.clips


def _square(crop: Crop, image_size: int, margin: float) -> tuple[int, Crop]:
    """Side in pixels, and place in the frame, of the square that is kept."""
    fraction, x, y = crop
    check_crop(fraction, (x, y))
    size = round(image_size * min(margin, 1 / fraction))
    return size, (min(fraction * size / image_size, 1.0), x, y)


def _write(partial: Path, rows, image_processor, squares, frames_per_second, decoder, progress) -> None:
    def grid_times(info: MediaInfo) -> np.ndarray:
        times = np.arange(int(np.ceil(info.duration_seconds * frames_per_second))) / frames_per_second
        return times + TOLERANCE_SECONDS  # as the chunks place frames: 1/15 s is stamped 67 ms in Matroska

    clips: dict[str, dict] = {}
    bad: dict[str, str] = {}
    first_byte = first_sample = 0
    select = None if frames_per_second is None else grid_times
    with (partial / "frames.bin").open("wb") as frames_file, (partial / "sound.bin").open("wb") as sound_file:
        for row in tqdm(rows, desc="decoding clips once", unit="clip", disable=not progress):
            try:
                size, crop = squares[row.id]
                cut = functools.partial(image_processor.square_of, image_size=size, crop=crop)
                clip = read_clip(row.media, select=select, prepare=cut, decoder=decoder, **segment_of(row))
            except (ValueError, OSError) as error:  # all that the reader raises
                bad[row.id] = str(error)
                continue
            num_frames = 0 if clip.frames is None else len(clip.frames)
            num_samples = 0 if clip.waveform is None else len(clip.waveform)
            for array, file in ((clip.frames, frames_file), (clip.waveform, sound_file)):
                for block in () if array is None else blocks(array):
                    block.tofile(file)
            clips[row.id] = {
                "first_byte": first_byte, "num_frames": num_frames, "size": size,
                "frame_times": clip.frame_times.tolist() if num_frames else [],
                "first_sample": first_sample, "num_samples": num_samples, "sampling_rate": clip.sampling_rate,
                "audio_start": clip.audio_start, "duration": clip.duration, "warnings": clip.warnings,
                "video_end": clip.video_end, "audio_gaps": clip.audio_gaps,
            }  # fmt: skip
            first_byte, first_sample = first_byte + num_frames * size * size * 3, first_sample + num_samples
    (partial / "bad_clips.json").write_text(json.dumps(bad, indent=1))
    (partial / "index.json").write_text(json.dumps({"clips": clips, "bad": bad}))


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"


def _map(path: Path, kind: type) -> np.ndarray:
    return np.memmap(path, kind, mode="c").view(np.ndarray) if path.stat().st_size else np.empty(0, kind)
