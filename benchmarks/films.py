"""Films of 10, 40 and 160 GRID sentences: windows, Combiners and numbers of frames compared; streams against offline.

    python benchmarks/films.py sweep --output DIR [--jobs 12] [--seeds 3] [--minutes 5] [--trained 4320] [--only NAME]
    python benchmarks/films.py table DIR [--figure PNG]
    python benchmarks/films.py stream [--sentences 160] [--films 1] [--checkpoint FOLDER]

sweep   each row and seed in a process of its own: `mirasol train recipes/films_nano.yaml` with the row's overrides,
        then the answers to films of the test split. One line of JSON a run in DIR/films.jsonl; the same command does
        what is missing. With --minutes no run starts after that time, and what is under way then is ended.
table   accuracy and cost against the length of the film, mean of the seeds, beside the most common answer of each kind
stream  a film pushed through a `StreamSession` in random pieces of both tracks, by the shipped checkpoint: its latents
        and answers against one forward over the whole film
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np

RECIPE, ROOT = "recipes/films_nano.yaml", "data/grid_s1"
WINDOW = "model.overrides.{}_config.window_chunks={}"
FORTY = ["data.sources.0.train_split=train_40", "processor.max_chunks=384", "schedule.batch_size=2"]
ROWS = {  # the most telling first
    "all": [],
    "temporal 10": [WINDOW.format("temporal", 10)],
    "128 frames": ["processor.max_chunks=16"],
    "ttm": ["model.overrides.combiner_config.combiner_type=ttm"],
    "decoder 10": [WINDOW.format("text", 10)],
    "512 frames": ["processor.max_chunks=64"],
    "temporal 40": [WINDOW.format("temporal", 40)],
    "trained on 40": FORTY,
    "temporal 10, trained on 40": [*FORTY, WINDOW.format("temporal", 10)],
}
TESTED = {"test_10": 60, "test_40": 24, "test_160": 8}  # films
EVERY_CHUNK = 100_000


def run_one(name: str, seed: int, folder: Path, trained: int, device: str) -> dict:
    """Train one row, and return the scores of its films with their cost."""
    from mirasol.train.run import train

    share = 4 if name.endswith("trained on 40") else 1  # as many sentences as the others
    overrides = [  # 9 films of 10 hold all 90 sentences, so that the cache is the one of the whole split
        *ROWS[name], f"output={folder}/{name.replace(' ', '_')}_{seed}", f"seed={seed}", f"data.cache={folder}/cache",
        f"data.sources.0.clips_per_epoch={trained // share // 8 * 8}", "schedule.finetune_epochs=1",
        "validation.max_clips=9", f"device={device}", "logging_steps=10", "save_steps=100000",
    ]  # fmt: skip
    begin = time.perf_counter()
    result = train(RECIPE, overrides)
    row = {"name": name, "seed": seed, "trained": trained // share, "steps": result.step}
    row["train_seconds"] = round(time.perf_counter() - begin, 1)
    return row | {"scores": scores_of(Path(result.output) / "best", folder / "cache", "frames" in name)}


def scores_of(checkpoint: Path, cache_root: Path, keeps_budget: bool) -> dict[str, dict[str, float]]:
    """Return accuracy by kind, and milliseconds a film, for every length of TESTED.

    With `keeps_budget` a longer film is seen in as many frames, else in all of them.
    """
    from mirasol.answer.answerer import Answerer
    from mirasol.data import ClipCache
    from mirasol.evaluate import runner

    answerer = Answerer.load(checkpoint)
    processor, found = answerer.processor, {}
    if not keeps_budget:
        processor.max_chunks = EVERY_CHUNK
    for split, count in TESTED.items():
        rows = runner.load_rows("grid_films", ROOT, split)
        cache = ClipCache.build(
            rows, cache_root, processor.image_processor, frames_per_second=processor.grid.frames_per_second
        )
        rows = rows[:count]
        read = partial(lambda cache, row, condition: cache.clip_of(row), cache)
        begin = time.perf_counter()
        scores = runner.score(
            answerer.model, processor, rows, task="grid_films", read=read,
            batch_size=max(1, 40 // len(rows[0].parts)),
        )  # fmt: skip
        found[split] = {key.removesuffix("_both"): round(value, 4) for key, value in scores.items()}
        found[split]["milliseconds"] = round(1_000 * (time.perf_counter() - begin) / len(rows), 1)
    return found


def prepare(folder: Path) -> None:
    """Decode the clips of all runs once, before many of them would do it at once."""
    from mirasol.data import ClipCache
    from mirasol.evaluate.runner import load_rows
    from mirasol.train.recipe import load_recipe
    from mirasol.train.resolve import resolve, saved_processor

    recipe = resolve(load_recipe(RECIPE))
    processor = saved_processor(recipe.model.checkpoint)
    for split, margin in (("train", recipe.data.sources[0].augmentation.margin), ("val", 1.0), ("test", 1.0)):
        ClipCache.build(
            load_rows("grid_films", ROOT, split), folder / "cache", processor.image_processor, margin=margin,
            frames_per_second=processor.grid.frames_per_second,
        )  # fmt: skip


def sweep(arguments) -> None:
    """Run every row and seed that the output lacks, several at once."""
    output = arguments.output / "films.jsonl"
    arguments.output.mkdir(parents=True, exist_ok=True)
    done = {(run["name"], run["seed"]) for run in read_lines(output)}
    names = arguments.only or list(ROWS)
    left = [(name, seed) for seed in range(arguments.seeds) for name in names if (name, seed) not in done]
    prepare(arguments.output)
    if not arguments.jobs:
        return
    end = time.monotonic() + 60 * arguments.minutes
    running: dict[subprocess.Popen, tuple[str, int]] = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    while (left or running) and time.monotonic() < end:
        for process in [process for process in running if process.poll() is not None]:
            (name, seed), code = running.pop(process), process.returncode
            print(f"{name}, seed {seed}: {'done' if code == 0 else f'failed with {code}'}", flush=True)
        while left and len(running) < arguments.jobs:
            name, seed = left.pop(0)
            log = (arguments.output / f"{name.replace(' ', '_')}_{seed}.log").open("w")
            command = [sys.executable, __file__, "one", name, str(seed), str(arguments.output)]
            command += [str(arguments.trained), arguments.device]
            running[subprocess.Popen(command, stdout=log, stderr=log, env=environment)] = (name, seed)
        time.sleep(0.2)
    for process, (name, seed) in running.items():
        process.kill()
        print(f"{name}, seed {seed}: ended after {arguments.minutes:g} minutes", flush=True)


def read_lines(path: Path) -> list[dict]:
    """Return the whole lines of a JSONL file, none where there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def table(folder: Path, figure: Path | None) -> None:
    """Print, and draw, accuracy and cost against length."""
    from mirasol.evaluate.runner import load_rows

    by_name = defaultdict(list)
    for run in read_lines(folder / "films.jsonl"):
        by_name[run["name"]].append(run)
    lines: dict[str, list[tuple[float, float]]] = {}
    for split, count in TESTED.items():
        questions = [question for row in load_rows("grid_films", ROOT, split)[:count] for question in row.questions]
        kinds = sorted({question.kind for question in questions})
        print(f"\n{split}, {count} films\n| | {' | '.join([*kinds, 'all', 'ms a film', 'seeds'])} |")
        print("|---" * (len(kinds) + 4) + "|")
        answers = defaultdict(Counter)
        for question in questions:
            answers[question.kind][question.answer] += 1
        common = [answers[kind].most_common(1)[0][1] / answers[kind].total() for kind in kinds]
        length = int(split.split("_")[1])
        of_all = sum(answers[kind].most_common(1)[0][1] for kind in kinds) / len(questions)
        print(f"| most common answer | {' | '.join(f'{100 * value:.1f}' for value in [*common, of_all])} | | |")
        lines.setdefault("most common answer", []).append((length, 100 * of_all))
        for name, runs in by_name.items():
            columns = []
            for key in [*kinds, "exact_match"]:
                values = [100 * run["scores"][split][key] for run in runs]
                columns.append(f"{np.mean(values):.1f}" + (f" +- {np.std(values):.1f}" if len(values) > 1 else ""))
            spent = np.mean([run["scores"][split]["milliseconds"] for run in runs])
            print(f"| {name} | {' | '.join(columns)} | {spent:.0f} | {len(runs)} |")
            accuracy = np.mean([100 * run["scores"][split]["exact_match"] for run in runs])
            lines.setdefault(name, []).append((length, float(accuracy)))
    if figure is not None:
        draw_lines(figure, lines, by_name)


def draw_lines(path: Path, lines: dict[str, list[tuple[float, float]]], by_name: dict[str, list[dict]]) -> None:
    """Write accuracy and milliseconds a film against sentences a film."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, points in lines.items():
        left.plot(*zip(*points, strict=True), marker="o", label=name, linestyle="-" if name in by_name else ":")
        if name not in by_name:
            continue
        spent = [np.mean([run["scores"][split]["milliseconds"] for run in by_name[name]]) for split in TESTED]
        color = left.lines[-1].get_color()
        right.plot([point[0] for point in points], spent, marker="o", color=color)
    for axes, title in ((left, "right answers, %"), (right, "ms a film")):
        axes.set(xscale="log", xlabel="sentences a film", title=title)
        axes.set_xticks([10, 40, 160], ["10", "40", "160"])
        axes.grid(color="#ddd")
    right.set_yscale("log")
    left.legend(fontsize=6)
    figure.savefig(path, dpi=200)


def push_in_pieces(session, clip, rng: np.random.Generator, end: float) -> None:
    """Push the clip's media up to `end` seconds, each track in pieces of 10 ms to 3 s; their order is random."""
    cursors = getattr(session, "cursors", {"video": 0.0, "audio": 0.0})
    while min(cursors.values()) < end:
        track = str(rng.choice([name for name, second in cursors.items() if second < end]))
        start, stop = cursors[track], min(cursors[track] + rng.uniform(0.01, 3.0), end)
        if track == "video":
            chosen = (clip.frame_times >= start) & (clip.frame_times < stop)
            if chosen.any():
                session.push(frames=clip.frames[chosen], frame_times=clip.frame_times[chosen])
        else:
            first, last = (round(second * clip.sampling_rate) for second in (start, stop))
            if first < last:
                piece = clip.waveform[first:last]
                session.push(waveform=piece, start_time=first / clip.sampling_rate, sampling_rate=clip.sampling_rate)
        cursors[track] = stop
    session.cursors = cursors


def stream(sentences: int, count: int, checkpoint: Path | None, cache_root: Path) -> list[tuple[float, int, int]]:
    """Print how far a stream's latents are from those of one forward, and how many of its answers are the same.

    Returns:
        The largest difference of latents, the same answers and all answers, of each film.
    """
    import torch

    from mirasol.answer.answerer import Answerer, Watched
    from mirasol.answer.session import StreamSession
    from mirasol.chunks import MirasolCollator
    from mirasol.data import ClipCache
    from mirasol.evaluate.runner import load_rows
    from mirasol.media import WHOLE
    from mirasol.tasks.grid import WORD_KINDS

    results = []
    answerer = Answerer.load(checkpoint).streaming
    processor, asked = answerer.processor, [f"which {kind} is named?" for kind in WORD_KINDS]
    rows = load_rows("grid_films", ROOT, f"test_{sentences}")
    cache = ClipCache.build(
        rows, cache_root, processor.image_processor, frames_per_second=processor.grid.frames_per_second
    )
    for number, row in enumerate(rows[:count]):
        clip, rng = cache.clip_of(row), np.random.default_rng(number)
        inputs = processor.chunk_clip(clip, sampling="dense", do_resize=False)
        begin = time.process_time()
        with torch.no_grad():
            whole = answerer.model.get_encoder()(**MirasolCollator(processor.pad_token_id)([inputs]))
        offline_seconds = time.process_time() - begin
        kept, inner = [], answerer.advance

        def advance(stream_cache, chunks, kept=kept, inner=inner):
            output = inner(stream_cache, chunks)
            kept.append(output.last_hidden_state)
            return output

        answerer.advance = advance
        session = StreamSession(answerer, start_time=0.0, crop=WHOLE, allowed_lateness=60.0)
        same = total = 0
        for second in np.linspace(0, clip.duration, 21)[1:]:
            push_in_pieces(session, clip, rng, second)
            if second == clip.duration:
                session.flush()
            watched = sum(piece.shape[1] for piece in kept) // answerer.model.config.num_latents
            until = {name: whole[name][:, :watched] for name in ("chunk_mask", "chunk_times")}
            latents = whole.last_hidden_state[:, : watched * answerer.model.config.num_latents]
            (given,) = answerer.answer(Watched(type(whole)(last_hidden_state=latents, **until)), [asked])
            for question, offline in zip(asked, given, strict=True):
                answer = session.ask(question, attribute=False).answer
                same, total = same + (answer == offline.text), total + 1
        difference = (torch.cat(kept, dim=1) - whole.last_hidden_state).abs().max()
        print(
            f"{row.id}: {clip.duration:.1f} s, {watched} chunks, {len(kept)} calls; latents differ by at most "
            f"{difference:.1e} of {whole.last_hidden_state.abs().max():.2g}; {same} of {total} answers the same; "
            f"offline {offline_seconds:.1f} s of CPU",
            flush=True,
        )
        answerer.advance = inner
        results.append((float(difference), same, total))
    return results


def main() -> None:
    """Parse the arguments and do what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sweeping = commands.add_parser("sweep")
    sweeping.add_argument("--output", type=Path, required=True)
    sweeping.add_argument("--jobs", type=int, default=12, help="runs at once; 0: decode only")
    sweeping.add_argument("--seeds", type=int, default=3)
    sweeping.add_argument("--minutes", type=float, default=60.0)
    sweeping.add_argument("--trained", type=int, default=4_320, help="films of 1 to 10 sentences that each run sees")
    sweeping.add_argument("--device", default="auto")
    sweeping.add_argument("--only", nargs="*", choices=ROWS)
    one = commands.add_parser("one")
    for name, kind in (("name", str), ("seed", int), ("folder", Path), ("trained", int), ("device", str)):
        one.add_argument(name, type=kind)
    shown = commands.add_parser("table")
    shown.add_argument("folder", type=Path)
    shown.add_argument("--figure", type=Path)
    streamed = commands.add_parser("stream")
    streamed.add_argument("--sentences", type=int, default=160)
    streamed.add_argument("--films", type=int, default=1)
    streamed.add_argument("--checkpoint", type=Path)
    streamed.add_argument("--cache", type=Path, default=Path("cache"))
    arguments = parser.parse_args()
    if arguments.command == "sweep":
        sweep(arguments)
    elif arguments.command == "one":
        run = run_one(arguments.name, arguments.seed, arguments.folder, arguments.trained, arguments.device)
        with (arguments.folder / "films.jsonl").open("a") as lines:
            lines.write(json.dumps(run) + "\n")
    elif arguments.command == "table":
        table(arguments.folder, arguments.figure)
    else:
        stream(arguments.sentences, arguments.films, arguments.checkpoint, arguments.cache)


if __name__ == "__main__":
    main()
