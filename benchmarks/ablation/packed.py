"""Real clips of the ablation in one small file: decoded, cropped and packed once, so that a sweep needs no decoder.

    python benchmarks/ablation/packed.py ../shared/data runs/ablation.npz [--grid-clips 420]

GRID: 2.56 s around the sentence, the mouth at 32 x 32 and 25 frames a second, sound at 16 kHz. ESC-10: the loudest
1.28 s of each clip. Aerial objects: 1.28 s of each picture clip, the whole frame at 32 x 32 and 10 frames a second.
Frames are kept as JPEG sheets (quality 60), sound in 6 bits (mu-law, 25 dB below the speech). Only the train and val
splits of the tasks are packed; test is not read.
"""

import argparse
import io
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE, RATE = 32, 16_000
GRID_SECONDS, EVENT_SECONDS = 2.56, 1.28
GRID_CROP = (0.41, 0.5, 0.64)  # the mouth, as recipes/grid_nano.yaml
LEVELS = 31  # of each sign


@dataclass(frozen=True)
class Clips:
    """One set of clips: `frames` (clip frame height width 3, uint8) and `sound` (clip sample, float32), or None.

    `labels` (clip word) are GRID's six words or one class; `is_val` marks the clips that are only evaluated.
    """

    frames: np.ndarray | None
    sound: np.ndarray | None
    labels: np.ndarray
    is_val: np.ndarray
    frame_rate: int = 25


def compress_sound(sound: np.ndarray) -> np.ndarray:
    """Return mu-law in 63 steps, differences in time, xz."""
    loud = np.sign(sound) * np.log1p(255 * np.abs(sound).clip(max=1)) / np.log(256)
    steps = np.round(loud * LEVELS).astype(np.int8)
    return np.frombuffer(lzma.compress(np.diff(steps, axis=1, prepend=np.int8(0)).tobytes()), np.uint8)


def expand_sound(packed: np.ndarray, num_clips: int) -> np.ndarray:
    """Return what `compress_sound` packed, float32."""
    steps = np.frombuffer(lzma.decompress(packed.tobytes()), np.int8).reshape(num_clips, -1)
    loud = np.cumsum(steps, axis=1, dtype=np.int8).astype(np.float32) / LEVELS
    return np.sign(loud) * (256.0 ** np.abs(loud) - 1) / 255


def compress_frames(frames: np.ndarray) -> list[bytes]:
    """Return one JPEG a clip, its frames below each other."""
    from PIL import Image

    sheets = []
    for clip in frames:
        buffer = io.BytesIO()
        Image.fromarray(clip.reshape(-1, SIZE, 3)).save(buffer, "JPEG", quality=60)
        sheets.append(buffer.getvalue())
    return sheets


def expand_frames(blob: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the frames of all clips."""
    from PIL import Image

    sheets = [blob[start:end].tobytes() for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return np.stack([np.asarray(Image.open(io.BytesIO(sheet))).reshape(-1, SIZE, SIZE, 3) for sheet in sheets])


def save(path: Path, sets: dict[str, Clips]) -> None:
    """Write all sets into one .npz."""
    arrays = {}
    for name, clips in sets.items():
        arrays[f"{name}/labels"], arrays[f"{name}/is_val"] = clips.labels, clips.is_val
        arrays[f"{name}/frame_rate"] = np.array(clips.frame_rate)
        if clips.sound is not None:
            arrays[f"{name}/sound"] = compress_sound(clips.sound)
        if clips.frames is not None:
            sheets = compress_frames(clips.frames)
            arrays[f"{name}/frames"] = np.frombuffer(b"".join(sheets), np.uint8)
            arrays[f"{name}/ends"] = np.cumsum([len(sheet) for sheet in sheets])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def load(path: Path) -> dict[str, Clips]:
    """Return all sets of the file, by name."""
    with np.load(path) as file:
        sets = {}
        for name in dict.fromkeys(key.split("/")[0] for key in file.files):
            labels = file[f"{name}/labels"]
            has = {part for part in ("frames", "sound") if f"{name}/{part}" in file.files}
            sets[name] = Clips(
                expand_frames(file[f"{name}/frames"], file[f"{name}/ends"]) if "frames" in has else None,
                expand_sound(file[f"{name}/sound"], len(labels)) if "sound" in has else None,
                labels,
                file[f"{name}/is_val"],
                int(file[f"{name}/frame_rate"]),
            )
    return sets


def fixed(values: np.ndarray, length: int) -> np.ndarray:
    """Return the first `length` values; a short clip's sound ends in silence, its frames in the last frame."""
    missing = max(0, length - len(values))
    return np.pad(
        values, ((0, missing), *((0, 0) for _ in values.shape[1:])), "edge" if values.ndim > 1 else "constant"
    )[:length]


def read_grid(root: Path, num_train: int) -> Clips:
    """Return `num_train` clips of the train split and all of val."""
    from mirasol.features import MirasolVideoProcessor
    from mirasol.media import read_clip
    from mirasol.tasks import get_task

    task, processor = get_task("grid"), MirasolVideoProcessor(image_size=SIZE)
    train, val = task.load(root, "train"), task.load(root, "val")
    chosen = [train[i] for i in np.random.default_rng(0).permutation(len(train))[:num_train]]
    frames, sound = [], []
    for row in chosen + val:
        clip = read_clip(row.media)
        middle = (row.word_times[0][0] + row.word_times[-1][1]) / 2
        begin = min(max(middle - GRID_SECONDS / 2, 0.0), 3.0 - GRID_SECONDS)
        first = round(begin * 25)
        shown = processor.crop_and_resize(clip.frames[first : first + 64], crop=GRID_CROP)
        frames.append(fixed(np.asarray(shown.permute(0, 2, 3, 1)), 64))
        sound.append(fixed(clip.waveform[first * RATE // 25 :], round(GRID_SECONDS * RATE)))
    is_val = np.arange(len(chosen) + len(val)) >= len(chosen)
    return Clips(np.stack(frames), np.stack(sound), np.array([row.words for row in chosen + val]), is_val)


def read_events(root: Path, task_name: str, splits: tuple[str, str]) -> Clips:
    """Return the clips of a train and a val split: the loudest 1.28 s of sound, or the middle of the picture."""
    from mirasol.features import MirasolVideoProcessor
    from mirasol.media import read_clip
    from mirasol.tasks import get_task

    task, processor = get_task(task_name), MirasolVideoProcessor(image_size=SIZE)
    parts = [task.load(root, split) for split in splits]
    rows = [row for part in parts for row in part]
    frames, sound, samples, num_frames = [], [], round(EVENT_SECONDS * RATE), round(EVENT_SECONDS * 10)
    for row in rows:
        if task_name == "drone":
            clip = read_clip(row.media, use_audio=False)
            first = max(0, len(clip.frames) // 2 - num_frames // 2)
            shown = processor.crop_and_resize(clip.frames[first : first + num_frames], crop=(1.0, 0.5, 0.5))
            frames.append(fixed(np.asarray(shown.permute(0, 2, 3, 1)), num_frames))
        else:
            waveform = fixed(read_clip(row.media, use_video=False).waveform, 5 * RATE)
            power = np.cumsum(waveform**2)
            first = int(np.argmax(power[samples:] - power[:-samples]))
            sound.append(waveform[first : first + samples])
    is_val = np.arange(len(rows)) >= len(parts[0])
    labels = np.array([[row.questions[0].answer] for row in rows])
    return Clips(np.stack(frames) if frames else None, np.stack(sound) if sound else None, labels, is_val, 10)


def main() -> None:
    """Pack the clips and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with grid_s1, esc10 and drone_cc0")
    parser.add_argument("pack", type=Path, help="the .npz to write")
    parser.add_argument("--grid-clips", type=int, default=420, help="of the train split; default: %(default)s")
    arguments = parser.parse_args()
    sets = {
        "grid": read_grid(arguments.data / "grid_s1", arguments.grid_clips),
        "esc10": read_events(arguments.data / "esc10", "esc10", ("train", "val")),
        "drone": read_events(arguments.data / "drone_cc0", "drone", ("train_picture", "val_picture")),
    }
    save(arguments.pack, sets)
    for name, clips in sets.items():
        print(f"{name}: {len(clips.labels)} clips, {clips.is_val.sum()} of them val")
    print(f"{arguments.pack}: {arguments.pack.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
