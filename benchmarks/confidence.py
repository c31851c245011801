"""Does the confidence fall on sounds and pictures that a checkpoint never met? AUROC against its own test clips.

    python benchmarks/confidence.py --clips ../shared/data/clips/free [--checkpoint FOLDER]

Sound is asked "which sound is heard?" against ESC-10's held-out fold, pictures "what flies?" against the aerial test
clips. Never met: pieces of free films (five seconds of sound; five seconds of picture), noise and tones drawn here.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mirasol.answer.answerer import Answerer
from mirasol.evaluate.calibration import auroc
from mirasol.evaluate.runner import load_rows
from mirasol.media import Clip, probe, read_clip

SECONDS, RATE, DRAWN = 5.0, 16_000, 30


def film_pieces(folder: Path, use_video: bool) -> Iterator[Clip]:
    """Yield pieces of five seconds of each film that has the track."""
    for file in sorted(path for path in folder.iterdir() if "helicopter" not in path.name):  # a class of its own
        try:
            info = probe(file)
        except (ValueError, OSError):
            continue
        for start in np.arange(0, max(info.duration_seconds - 1, 0), SECONDS):
            if info.has_video if use_video else info.has_audio:
                end = min(start + SECONDS, info.duration_seconds)
                yield read_clip(file, use_video=use_video, use_audio=not use_video, start=start, end=end, warn=False)


def drawn_sounds(rng: np.random.Generator) -> Iterator[tuple[str, Clip]]:
    """Yield white noise, brown noise and steady tones."""
    times = np.arange(int(SECONDS * RATE)) / RATE
    for _ in range(DRAWN):
        white, brown = rng.normal(size=len(times)), np.cumsum(rng.normal(size=len(times)))
        for name, wave in (
            ("white noise", white), ("brown noise", brown - brown.mean()),
            ("tones", np.sin(2 * np.pi * rng.uniform(100, 4000) * times)),
        ):  # fmt: skip
            wave = (0.3 * wave / np.abs(wave).max()).astype(np.float32)
            yield name, Clip(frames=None, frame_times=None, waveform=wave, duration=SECONDS)


def drawn_pictures(rng: np.random.Generator) -> Iterator[tuple[str, Clip]]:
    """Yield pictures of noise and of one colour, ten frames each."""
    times = np.arange(10) / 10
    for _ in range(DRAWN):
        noise = rng.integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
        plain = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (10, 64, 64, 3)).copy()
        for name, frames in (("picture noise", noise), ("one colour", plain)):
            yield name, Clip(frames=frames, frame_times=times, waveform=None, duration=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("data"))
    given = parser.parse_args()
    answerer, rng = Answerer.load(given.checkpoint), np.random.default_rng(0)

    def confidence(clip: Clip, question: str, **options) -> float:
        ((answer,),) = answerer.answer(answerer.watch(clip, **options), [[question]])
        return answer.confidence

    found = {"temperature": answerer.temperature}
    for use_video, task, folder, split in (
        (False, "esc10", "esc10", "fold5"), (True, "drone", "drone_cc0", "test_picture"),
    ):  # fmt: skip
        rows = load_rows(task, given.data / folder, split)
        question = rows[0].questions[0].text
        own = np.array([confidence(answerer.processor.read_clip(row.media, crop=row.crop), question) for row in rows])
        others: dict[str, list[float]] = {}
        for clip in film_pieces(given.clips, use_video):
            others.setdefault("films", []).append(confidence(clip, question))
        for name, clip in drawn_pictures(rng) if use_video else drawn_sounds(rng):
            others.setdefault(name, []).append(confidence(clip, question))
        every = np.concatenate([*others.values()])
        print(f"{question} own test clips: {len(own)}, mean confidence {own.mean():.3f}")
        for name, values in (*others.items(), ("all together", every)):
            area = auroc(own, np.array(values))
            found[f"{question} {name}"] = area
            print(f"  {name:14s} {len(values):4d} clips  mean confidence {np.mean(values):.3f}  AUROC {area:.3f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
