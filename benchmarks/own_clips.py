"""Own clips by the guide (docs/own_clips.md): 192 own clips, accuracy by question against baselines.

    python benchmarks/own_clips.py FOLDER --data ../shared/data [--clips 100 30 10] [--starts shipped null]

FOLDER gets clips, manifests and runs, made by the guide's commands alone; the same command resumes. The clips are of
the validation and test parts of ESC-10, GRID, spoken digits and aerial objects, on which the shipped checkpoint was
not trained. Its words and subjects are known to it, its questions are not: for it this is an easy set of own clips.

Questions: which of four sounds; whether that is an animal; which of four objects flies; which color a speaker names;
which of six people speaks. 100 clips train (nested subsets of 30 and 10), 20 validate, 72 test.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mirasol.tasks import Row, get_task

SOUNDS = ("rain", "rooster", "dog bark", "chainsaw")
SECONDS = 2.5  # of the sounds and of what flies, whose clips last 5 and 10 s
PARTS = {"train": 25, "val": 5, "test": 18}  # clips of each of the four sources
EPOCHS = {100: 10, 30: 20, 10: 40}


def sources(data: Path) -> dict[str, list[tuple[Row, list[dict]]]]:
    """Return the clips of each source with their questions."""

    def rows(task: str, folder: str, *splits: str) -> list[Row]:
        return [row for split in splits for row in get_task(task).load(data / folder, split)]

    def of_sound(row: Row) -> list[dict]:
        sound = row.questions[0].answer
        animal = "yes" if sound in ("rooster", "dog bark") else "no"
        return [
            {"kind": "sound", "question": "what makes this sound?", "answer": sound},
            {"kind": "animal", "question": "is it an animal?", "answer": animal, "metric": "yes_no"},
        ]

    def color(row: Row) -> str:
        return next(question.answer for question in row.questions if question.kind == "color")

    sounds = [row for row in rows("esc10", "esc10", "val", "test") if row.questions[0].answer in SOUNDS]
    flying, spoken = rows("drone", "drone_cc0", "val_picture", "test_picture"), rows("grid", "grid_s1", "val", "test")
    digits = rows("fsdd", "fsdd", "val", "test")
    return {
        "sound": [(row, of_sound(row)) for row in sounds],
        "sky": [
            (row, [{"kind": "sky", "question": "what is in the sky?", "answer": row.questions[0].answer}])
            for row in flying
        ],
        "color": [
            (row, [{"kind": "color", "question": "which color does she say?", "answer": color(row)}]) for row in spoken
        ],
        "speaker": [
            (row, [{"kind": "speaker", "question": "who is speaking?", "answer": row.id.split("_")[1]}])
            for row in digits
        ],
    }


def build(folder: Path, data: Path) -> None:
    """Write clips and manifests, the same ones each time."""
    if (folder / "test.jsonl").is_file():
        return
    clips = folder / "clips"
    clips.mkdir(exist_ok=True)
    lines: dict[str, list[str]] = {part: [] for part in PARTS}
    for name, found in sources(data).items():
        random.Random(name).shuffle(found)
        taken = iter(found)
        for part, count in PARTS.items():
            for row, questions in (next(taken) for _ in range(count)):
                media = f"clips/{name}_{row.media.name}"
                shutil.copy(row.media, folder / media)
                line = {"media": media} | ({"segment": [0, SECONDS]} if name in ("sound", "sky") else {})
                lines[part] += [json.dumps({**line, **question}) for question in questions]
    for part, entries in lines.items():
        if part == "train":
            names = ("sound", "sky", "color", "speaker")
            groups = [[line for line in entries if f"clips/{name}_" in line] for name in names]
            for count in (10, 30):
                few = [line for group in groups for line in _first_clips(group, -(-count // 4))]
                (folder / f"train_{count}.jsonl").write_text("\n".join(_first_clips(few, count)) + "\n")
        (folder / f"{part}.jsonl").write_text("\n".join(entries) + "\n")


def _first_clips(lines: list[str], count: int) -> list[str]:
    media = list(dict.fromkeys(json.loads(line)["media"] for line in lines))[:count]
    return [line for line in lines if json.loads(line)["media"] in media]


def mirasol(folder: Path, *arguments: str) -> float:
    """Run a command of the guide in the folder; return its minutes."""
    start = time.perf_counter()
    print("mirasol", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "mirasol.cli", *arguments], cwd=folder, check=True)
    return (time.perf_counter() - start) / 60


def main() -> None:
    """Build, train, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--clips", type=int, nargs="+", default=[100, 30, 10], choices=[100, 30, 10])
    parser.add_argument("--starts", nargs="+", default=["shipped", "null"])
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if not folder.exists():
        mirasol(Path.cwd(), "new", str(folder))
    build(folder, arguments.data.resolve())
    rows = []
    for start in arguments.starts:
        for clips in arguments.clips:
            run = f"runs/{start}_{clips}"
            split = [] if clips == 100 else [f"data.sources.0.train_split=train_{clips}"]
            mirasol(
                folder, "train", "recipe.yaml", f"model.checkpoint={start}", f"output={run}",
                f"schedule.finetune_epochs={EPOCHS[clips]}", f"validation.every_epochs={EPOCHS[clips] // 5}", *split,
            )  # fmt: skip
            mirasol(
                folder, "evaluate", "--checkpoint", f"{run}/best", "--task", "jsonl", "--root", ".", "--output",
                f"{run}/test",
            )  # fmt: skip
            metrics = json.loads((folder / run / "test" / "metrics.json").read_text())
            minutes = json.loads((folder / run / "metrics.jsonl").read_text().splitlines()[-1])["minutes"]
            rows.append((start, clips, minutes, metrics))
            (folder / "table.md").write_text(table(rows))
    print(table(rows))


def table(rows: list) -> str:
    """Return the accuracies as Markdown."""
    kinds = ("sound", "animal", "sky", "color", "speaker")
    lines = [f"| start | clips | minutes | {' | '.join(kinds)} |", "|---" * (3 + len(kinds)) + "|"]
    constant = rows[0][3]["baselines"]["majority_by_kind"]  # the most frequent answer of training to each question
    lines.append(f"| baseline | | | {' | '.join(f'{100 * constant[kind]:.0f}' for kind in kinds)} |")
    for start, clips, minutes, metrics in rows:
        found = [metrics["intervals_95"][kind] for kind in kinds]
        cells = [f"{100 * one['value']:.0f} ({100 * one['low']:.0f}-{100 * one['high']:.0f})" for one in found]
        lines.append(f"| {start} | {clips} | {minutes:.1f} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
