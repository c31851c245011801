"""Milliseconds of one core per training clip, and where they go: `python benchmarks/loader.py [--clips 64]`.

Uses the shipped GRID clips at the smallest recipe's sizes (32 px, 25 fps, chunks of 0.32 s) with all augmentation on.
"""

import argparse
import cProfile
import pstats
import tempfile
import time

import torch

from mirasol.chunks import MirasolCollator, MirasolProcessor
from mirasol.data import AugmentConfig, ClipDataset
from mirasol.features import MirasolFeatureExtractor, MirasolVideoProcessor
from mirasol.tasks import get_task
from mirasol.train.tokenizer import build_tokenizer


def make_dataset(root: str, cache: str, num_clips: int, augment: AugmentConfig | None) -> ClipDataset:
    """Return the dataset that the smallest recipe trains on, of `num_clips` clips."""
    task = get_task("grid")
    rows = task.load(root, "train")[:num_clips]
    tokenizer = build_tokenizer([text for row in rows for q in row.questions for text in (q.text, q.answer)])
    processor = MirasolProcessor(
        MirasolVideoProcessor(image_size=32, crop_fraction=0.41, crop_center=(0.5, 0.64)),
        MirasolFeatureExtractor(), tokenizer,
        frames_per_second=25.0, num_frames_per_chunk=8, num_mel_frames_per_chunk=32, max_chunks=10,
    )  # fmt: skip
    return ClipDataset(rows, task, processor, cache, augment=augment, progress=False)


def main() -> None:
    """Print the time per clip without and with augmentation, of one batch, and the profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data/grid_s1")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--profile", type=int, default=0, help="lines of the profile to print")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        for name, augment in (("not augmented", None), ("augmented", AugmentConfig())):
            start = time.perf_counter()
            dataset = make_dataset(arguments.root, cache, arguments.clips, augment)
            print(f"{name}: cache built in {time.perf_counter() - start:.1f} s")
            items = [dataset[index] for index in range(len(dataset))]
            profile = cProfile.Profile()
            start = time.process_time()
            for epoch in range(arguments.epochs):
                dataset.set_epoch(epoch)
                for index in range(len(dataset)):
                    dataset[index]
            milliseconds = (time.process_time() - start) * 1e3 / (arguments.epochs * len(dataset))
            print(f"{name}: {milliseconds:.1f} ms of one core per clip")
            collate = MirasolCollator(dataset.processor.pad_token_id)
            start = time.process_time()
            collate(items[:16])
            print(f"{name}: {(time.process_time() - start) * 1e3:.1f} ms to join 16 clips")
            if arguments.profile:
                profile.enable()
                for index in range(len(dataset)):
                    dataset[index]
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(arguments.profile)


if __name__ == "__main__":
    main()
