"""From tar to batch: `python benchmarks/loader.py CLIP.mp4 ... [--decodes 10000] [--steps 60]`.

1. CPU time of a training item (read, decode, crop, augment, log-mel) of the clips in shards, as they are and encoded
   anew at several sizes and GOPs, beside PyAV's bare decode of the same bytes (every frame and sample once).
2. Resident memory over `--decodes` items.
3. Share of the time that training of `nano` waits for clips, decoded as they are needed, over `--steps` steps.

Cores are often shared, so 1 is in CPU seconds of this process; 3 is wall time, and means what it says on free cores.
"""

import argparse
import io
import json
import os
import resource
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import av
import torch

from mirasol import DEFAULT_CHECKPOINT, MirasolProcessor
from mirasol.data import AugmentConfig, ClipDataset
from mirasol.data.shard import shard
from mirasol.tasks import Row, get_task
from mirasol.train.run import train

ENCODINGS = ((None, None), (256, 250), (256, 25), (256, 5), (128, 25))
REPEATS = 3


def make_shards(clips: list[str], folder: Path, height: int | None, gop: int | None) -> list[Row]:
    """Write the clips into shards and return their rows."""
    manifest = folder.parent / "all.jsonl"
    lines = [{"media": str(Path(clip).resolve()), "question": "what is it?", "answer": "a clip"} for clip in clips]
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    shard(manifest, folder, height=height, gop=gop, progress=False)
    return get_task("shards").load(folder)


def bare_decode(data: bytes, to_rgb: bool) -> None:
    """Decode every frame and sample with PyAV alone, with `to_rgb` into arrays of RGB, as any training needs them."""
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(*container.streams.video[:1], *container.streams.audio[:1]):
            if to_rgb and isinstance(frame, av.VideoFrame):
                frame.to_ndarray(format="rgb24")


def dataset_of(rows: list[Row], max_chunks: int, augment: AugmentConfig | None = None) -> ClipDataset:
    """Return these clips, decoded as they are needed, on the grid of the shipped checkpoint."""
    processor = MirasolProcessor.from_pretrained(DEFAULT_CHECKPOINT)
    processor.max_chunks = max_chunks
    return ClipDataset(rows, get_task("shards"), processor, None, augment=augment, progress=False)


def cpu_seconds(work) -> float:
    """Return the least CPU time of this process, all its threads, over a few runs."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def items(clips: list[str], folder: Path) -> None:
    """Print CPU time a clip, of a training item and of the bare decode, by size and GOP."""
    print("encoding        MiB  item ms  items a core-second  PyAV ms  share  PyAV to RGB ms  share")
    for height, gop in ENCODINGS:
        name = "as it is" if height is None else f"{height} px, GOP {gop}"
        rows = make_shards(clips, folder / name.replace(" ", ""), height, gop)
        data = [row.media.read_bytes() for row in rows]
        longest = 64  # chunks, so that every frame of these clips is wanted
        dataset = dataset_of(rows, longest, AugmentConfig(sound_only_probability=0, picture_only_probability=0))
        for index in range(len(dataset)):
            assert "skipped" not in dataset[index]
        item = cpu_seconds(lambda dataset=dataset: [dataset[index] for index in range(len(dataset))]) / len(rows)
        bare, rgb = (
            cpu_seconds(lambda data=data, to_rgb=to_rgb: [bare_decode(clip, to_rgb) for clip in data]) / len(rows)
            for to_rgb in (False, True)
        )
        size = sum(map(len, data)) / 2**20
        print(f"{name:<14}{size:5.1f}{item * 1e3:9.1f}{1 / item:21.1f}{bare * 1e3:9.1f}{bare / item:7.2f}"
              f"{rgb * 1e3:16.1f}{rgb / item:7.2f}")  # fmt: skip


def memory(rows: list[Row], decodes: int) -> None:
    """Print resident memory while many items are decoded in this process."""
    dataset = dataset_of(rows, 10, AugmentConfig())
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    shown = {decodes * tenth // 10 for tenth in range(1, 11)} | {min(200, decodes)}
    for number in range(1, decodes + 1):
        dataset[number % len(dataset)]
        if number in shown:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            print(f"after {number:>6} decodes: {resident:.1f} MiB resident", flush=True)


def waiting(folder: Path, root: str, steps: int, workers: int) -> None:
    """Print the share of the time that training waits for GRID's clips out of shards."""
    from mirasol.tasks.shards import lines_of

    task = get_task("grid")
    for split in ("train", "val"):
        rows = task.load(root, split)[: 16 * steps if split == "train" else 4]
        lines = [{"media": str(row.media.resolve()), **line} for row in rows for line in lines_of(row)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        shard(folder / f"{split}.jsonl", folder / "grid" / split, progress=False)
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    train(
        "recipes/grid_nano.yaml",
        [
            f"data.sources=[{{task: shards, root: {folder / 'grid'}, questions_per_clip: 9}}]",
            f"output={folder / 'run'}",
            "schedule.pretrain_epochs=0", "schedule.finetune_epochs=1", "data.augmentation.sound_first_epochs=0",
            f"data.num_workers={workers}", "validation.metric=mean_score", f"data.cache={folder / 'cache'}",
        ],
    )  # fmt: skip
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    pairs = zip(after, before, strict=True)
    model, loader = (new.ru_utime + new.ru_stime - old.ru_utime - old.ru_stime for new, old in pairs)
    logs = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    shares = [line["loader_wait_share"] for line in logs if "loader_wait_share" in line][2:]  # without the start
    speed = [line["clips_per_second"] for line in logs if "clips_per_second" in line][2:]
    print(f"{len(shares)} steps of 16 clips, {workers} worker(s): training waits {statistics.mean(shares):.1%} of the "
          f"time (median {statistics.median(shares):.1%}), {statistics.median(speed):.1f} clips a second, load "
          f"{os.getloadavg()[0]:.1f}; CPU time a clip: model {model / (16 * steps) * 1e3:.0f} ms, loader "
          f"{loader / (16 * steps) * 1e3:.0f} ms")  # fmt: skip


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", help="for part 1 and 2")
    parser.add_argument("--decodes", type=int, default=0, help="part 2")
    parser.add_argument("--steps", type=int, default=0, help="part 3")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--root", default="data/grid_s1", help="GRID, for part 3")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if arguments.clips and arguments.decodes:
            memory(make_shards(arguments.clips, folder / "memory", None, None), arguments.decodes)
        elif arguments.clips:
            items(arguments.clips, folder)
        if arguments.steps:
            waiting(folder, arguments.root, arguments.steps, arguments.workers)


if __name__ == "__main__":
    main()
