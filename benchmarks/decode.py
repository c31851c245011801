"""Seconds to read a clip, by decoder and by how many frames are wanted.

    python benchmarks/decode.py CLIP [--repeats 5]

`probe` decodes the sound and one frame; the rest are `read_clip` with sound. Few frames skip whole GOPs, many decode
straight through. "CPU" is what the process used on all its threads, which a busy machine changes less than "wall".
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from mirasol.media import probe, read_clip


def measure(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median wall and CPU seconds of `run`."""
    wall, cpu = [], []
    for _ in range(repeats):
        begin = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    return statistics.median(wall), statistics.median(cpu)


def evenly(count: int):
    """A `select` of `count` times in the middle of equal parts of the clip."""
    return lambda info: (np.arange(count) + 0.5) * info.duration_seconds / count


def main() -> None:
    """Prints one row per decoder and policy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    info = probe(arguments.clip)
    print(
        f"{arguments.clip}: {info.duration_seconds:.2f} s, {info.width}x{info.height}, {info.num_frames} frames, "
        f"{info.video_codec}, {info.audio_codec}"
    )
    policies = {"sound only": None, "4 frames": evenly(4), "16 frames": evenly(16), "128 frames": evenly(128)}
    print(f"{'decoder':<12} {'wanted':<14} {'wall s':>8} {'CPU s':>8}")
    for decoder in ("pyav", "torchcodec"):
        for name, select in policies.items():
            options = {"use_video": False} if select is None else {"select": select, "use_audio": info.has_audio}
            if select is None and not info.has_audio:
                continue
            try:
                wall, cpu = measure(partial(read_clip, arguments.clip, decoder=decoder, **options), arguments.repeats)
            except ValueError as error:
                print(f"{decoder:<12} {name:<14} {error}", file=sys.stderr)
                break
            print(f"{decoder:<12} {name:<14} {wall:>8.3f} {cpu:>8.3f}")
    wall, cpu = measure(partial(probe, arguments.clip), arguments.repeats)
    print(f"{'pyav':<12} {'probe':<14} {wall:>8.3f} {cpu:>8.3f}")


if __name__ == "__main__":
    main()
