"""Cost against frames, 32 to 1,024 of one clip: linear, with the same parameters at every length.

    python benchmarks/frames.py [--frames 32 64 128 256 512 1024] [--rounds 3] [--plot FILE.png]

The model is our side of against_concatenation.py. "Growth" is the exponent between a row and the one before: 1 is
linear; below it, what does not depend on frames (the text, the start of each operation) still counts.
"""

import argparse
import sys
from math import log
from pathlib import Path

from interleaved import interleave, machine

SCRIPT = Path(__file__).with_name("against_concatenation.py")


def main() -> None:
    """Prints one row for each number of frames, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the seconds as a PNG")
    arguments = parser.parse_args()
    jobs, cases = ("prefill", "train"), [str(frames) for frames in arguments.frames]
    commands = {job: [sys.executable, str(SCRIPT), "--side", "ours", "--job", job] for job in jobs}
    sides = interleave(commands, arguments.rounds, cases)
    print(machine())
    print(f"{'frames':>6} {'M parameters':>12} {'GFLOP':>8}", end="")
    print("".join(f" {job + ' s':>10} {'growth':>7} {'peak MiB':>9}" for job in jobs))
    for before, case in zip([None, *cases], cases, strict=False):
        facts = sides["prefill"][case].facts
        line = f"{case:>6} {facts['parameters'] / 1e6:>12.2f} {facts['flops'] / 1e9:>8.1f}"
        for job in jobs:
            row = sides[job][case]
            growth = (
                "" if before is None else f"{growth_of(sides[job][before].seconds, row.seconds, before, case):.2f}"
            )
            line += f" {row.seconds:>10.3f} {growth:>7} {row.peak:>9.0f}"
        print(line, flush=True)
    if arguments.plot:
        from plot import Panel, draw

        lines = {job: [(int(case), sides[job][case].seconds) for case in cases] for job in jobs}
        flat = {"parameters": [(int(case), sides["prefill"][case].facts["parameters"] / 1e6) for case in cases]}
        draw(
            arguments.plot,
            [Panel("cost of a clip", "frames", "CPU s", lines), Panel("parameters", "frames", "million", flat)],
        )


def growth_of(seconds: float, more_seconds: float, frames: str, more_frames: str) -> float:
    """The power of the frames with which the seconds grew."""
    return log(more_seconds / seconds) / log(int(more_frames) / int(frames))


if __name__ == "__main__":
    main()
