"""Where the picture helps: picture + sound against sound alone, clean and under white noise, on the same clips.

    python -m mirasol.evaluate.robustness --split test --noise-db -5 -10 --seeds 0 1 2

The same seed gives a clip the same noise with and without its picture.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mirasol.answer.answerer import Answerer
from mirasol.evaluate.bootstrap import Interval
from mirasol.evaluate.conditions import Condition
from mirasol.evaluate.runner import evaluate_rows, load_rows
from mirasol.evaluate.summary import Prediction, paired_difference, share
from mirasol.files import write_whole
from mirasol.media import Clip
from mirasol.tasks import grid


def robustness(
    checkpoint: str | Path | None = None,
    root: str | Path = "data/grid_s1",
    split: str = "val+test",
    noise_db: Sequence[float] = (-5.0, -10.0),
    seeds: Sequence[int] = (0, 1, 2),
    max_clips: int | None = None,
) -> dict[str, dict[str, Interval]]:
    """Share of word slots (and sentences) right by condition, and the paired `gain` of the picture over sound alone.

    Keys: `clean`, then one for each noise (`-5 dB`, ...), whose seeds are pooled with the clip as the unit.
    """
    rows = [
        replace(row, questions=tuple(q for q in row.questions if q.kind in (*grid.SLOTS, "sentence")))
        for row in load_rows("grid", root, split)[:max_clips]
    ]
    answerer = Answerer.load(checkpoint)
    decoded: dict[str, Clip] = {}

    def read(row, condition: Condition) -> Clip:
        if row.id not in decoded:  # 7 MB a clip: cheaper to keep than to decode for every condition
            decoded[row.id] = answerer.processor.read_clip(row.media)
        return condition.apply(decoded[row.id], row.id)

    def run(name: str, db: float | None = None, seed: int = 0) -> list[Prediction]:
        return evaluate_rows(answerer, rows, Condition(name, db, seed), read=read).predictions

    def compare(both: list[list[Prediction]], sound: list[list[Prediction]]) -> dict[str, Interval]:
        pooled = {"both": sum(both, []), "sound": sum(sound, [])}
        shares = {name: share(found, lambda p: p.right, grid.SLOTS) for name, found in pooled.items()}
        sentences = {
            f"{name} sentences": share(found, lambda p: p.right, ["sentence"]) for name, found in pooled.items()
        }
        return shares | sentences | {"gain": paired_difference(both, sound, grid.SLOTS)}

    results = {"clean": compare([run("both")], [run("sound")])}
    results["clean"]["picture"] = share(run("picture"), lambda p: p.right, grid.SLOTS)
    for db in noise_db:
        both, sound = ([run(name, db, seed) for seed in seeds] for name in ("both", "sound"))
        results[f"{db:g} dB"] = compare(both, sound)
    return results


def table(results: dict[str, dict[str, Interval]]) -> str:
    """The results as a Markdown table, in percent with 95 % intervals over clips."""
    names = ("both", "sound", "picture", "gain", "both sentences", "sound sentences")
    head = ("noise", "picture + sound", "sound only", "picture only", "gain of the picture", *names[4:])
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for noise, shares in results.items():
        cells = []
        for interval in (shares.get(name) for name in names):
            numbers = "" if interval is None else [100 * v for v in (interval.value, interval.low, interval.high)]
            cells.append("" if interval is None else "{:.1f} [{:.1f}, {:.1f}]".format(*numbers))
        lines.append(f"| {noise} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; with `--json` also writes the numbers there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="folder; default: the shipped one")
    parser.add_argument("--root", default="data/grid_s1")
    parser.add_argument("--split", default="val+test")
    parser.add_argument("--noise-db", type=float, nargs="+", default=[-5.0, -10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-clips", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    try:
        results = robustness(**options)
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(table(results) + "\n")
    if file is not None:
        numbers = {noise: {name: i.as_dict() for name, i in shares.items()} for noise, shares in results.items()}
        write_whole(file, json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
