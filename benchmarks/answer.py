"""Seconds from a file to its answer, by stage, and the peak memory of the process.

    OMP_NUM_THREADS=1 python benchmarks/answer.py [CLIP] [--checkpoint FOLDER | --untrained] [--max-chunks 32]

The stages are those of `mirasol ask`, without attribution: decode (file to frames and sound),
features (to chunks of pixels and log-mel), encode (to latents), generate (to text). "First" is the first answer after
loading, the others are medians. "CPU" is what the process used on all its threads, which a busy machine changes less
than "wall". "Peak" is the process's largest resident memory until then. A checkpoint reads as many chunks as it was
trained on, spread over a longer clip; `--max-chunks` asks for more. An untrained model does not know when to stop and
mostly generates the 48 tokens it may, where a trained one needs 2 to 8. "Command" is `mirasol ask` as a process of its
own, `--repeats` times; `--source FOLDER` names the src/ of another checkout whose command takes turns with it.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

BEGIN = time.perf_counter(), time.process_time()  # before the imports, which count as loading

import torch  # noqa: E402
from transformers.utils import logging  # noqa: E402

from mirasol.answer.answerer import Answerer  # noqa: E402
from mirasol.answer.checkpoint import load_checkpoint  # noqa: E402
from mirasol.model.modeling_mirasol import MirasolForConditionalGeneration  # noqa: E402
from mirasol.tasks import get_task  # noqa: E402
from mirasol.train.build import build_processor, model_config, training_questions  # noqa: E402
from mirasol.train.recipe import load_recipe  # noqa: E402
from mirasol.train.resolve import resolve  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
STAGES = ("decode", "features", "encode", "generate")
Seconds = tuple[float, float]  # wall, CPU


def peak_mebibytes() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def since(begin: Seconds) -> Seconds:
    """Wall and CPU seconds from `begin` to now."""
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def run_command(source: Path, words: list[str]) -> Seconds:
    """Wall and CPU seconds of the command as a process of its own, with the package that lies in `source`."""
    code = "import sys; sys.argv[0] = 'mirasol'; from mirasol.cli import main; sys.exit(main())"
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", code, *words], env=environment, check=True, capture_output=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - begin, now.ru_utime - spent.ru_utime + now.ru_stime - spent.ru_stime


def untrained(recipe_path: Path):
    """A model of the recipe's preset with random weights, and the recipe's processor."""
    recipe = resolve(load_recipe(recipe_path))
    (source,) = recipe.data.sources
    rows = get_task(source.task).load(str(REPOSITORY / source.root), "train")
    asked = training_questions(recipe, source.task, rows)
    processor = build_processor(recipe, [f"{question}\n{answer}" for _, question, answer in asked])
    torch.manual_seed(0)
    return MirasolForConditionalGeneration(model_config(recipe, processor)).eval(), processor


def answer(answerer: Answerer, clip: Path, question: str, max_chunks: int | None):
    """Answers once; returns the answer, the clip's report, and by stage (wall, CPU, peak memory until its end)."""
    taken: dict[str, tuple[float, float, float]] = {}

    def finish(stage: str, begin: Seconds) -> Seconds:
        if answerer.model.device.type == "cuda":
            torch.cuda.synchronize()
        taken[stage] = (*since(begin), peak_mebibytes())
        return time.perf_counter(), time.process_time()

    begin = time.perf_counter(), time.process_time()
    processor = answerer.processor
    decoded = processor.read_clip(clip, max_chunks=max_chunks)
    begin = finish("decode", begin)
    chunks = processor.chunk_clip(decoded, max_chunks=max_chunks)
    begin = finish("features", begin)
    watched = answerer.watch(chunks)
    begin = finish("encode", begin)
    ((given,),) = answerer.answer(watched, [[question]])
    finish("generate", begin)
    return given, processor.chunk_and_describe(decoded, max_chunks=max_chunks)[1], taken


def main() -> None:
    """Prints one row per stage and their sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, default=REPOSITORY / "data" / "clips" / "bbb_10s_360p.mp4")
    parser.add_argument("--question", default="what is said?")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", help="a folder; by default the shipped one")
    source.add_argument("--untrained", action="store_true", help="random weights by the recipe")
    parser.add_argument("--recipe", type=Path, default=REPOSITORY / "recipes" / "grid_nano.yaml")
    parser.add_argument("--max-chunks", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--source", type=Path, help="src/ of another checkout, whose command is timed too")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # of what a clip lacks; here only time counts
    model, processor = untrained(arguments.recipe) if arguments.untrained else load_checkpoint(arguments.checkpoint)
    answerer = Answerer(model, processor)
    loading, loaded = since(BEGIN), peak_mebibytes()

    runs = []
    for _ in range(1 + arguments.repeats):
        given, report, taken = answer(answerer, arguments.clip, arguments.question, arguments.max_chunks)
        runs.append(taken)
    first, later = runs[0], runs[1:] or runs
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{arguments.clip.name}: {report.seconds_covered:.2f} of {report.duration_seconds:.2f} s covered, "
        f"{report.num_frames_used} frames, sound {'used' if report.used_sound else 'not used'}\n"
        f"{num_parameters / 1e6:.2f} million parameters on {model.device}, {torch.get_num_threads()} torch thread(s); "
        f'"{arguments.question}": "{given.text}"\n'
    )
    print(f"{'stage':<10} {'wall s':>8} {'CPU s':>8} {'first, wall s':>14} {'first, CPU s':>13} {'peak MiB':>9}")
    print(f"{'loading':<10} {'':>8} {'':>8} {loading[0]:>14.3f} {loading[1]:>13.3f} {loaded:>9.0f}")
    rows = {stage: [[run[stage][kind] for run in later] for kind in (0, 1)] for stage in STAGES}
    for stage in STAGES:
        wall, cpu = map(statistics.median, rows[stage])
        first_wall, first_cpu, peak = first[stage]
        print(f"{stage:<10} {wall:>8.3f} {cpu:>8.3f} {first_wall:>14.3f} {first_cpu:>13.3f} {peak:>9.0f}")
    total = [[sum(run[stage][kind] for stage in STAGES) for run in later] for kind in (0, 1)]
    firsts = [sum(first[stage][kind] for stage in STAGES) for kind in (0, 1)]
    wall, cpu = map(statistics.median, total)
    print(f"{'answer':<10} {wall:>8.3f} {cpu:>8.3f} {firsts[0]:>14.3f} {firsts[1]:>13.3f} {peak_mebibytes():>9.0f}")

    if arguments.untrained:
        return
    words = ["ask", str(arguments.clip), arguments.question]
    words += ["--checkpoint", arguments.checkpoint] if arguments.checkpoint else []
    sources = {"command": REPOSITORY / "src"} | ({"other": arguments.source} if arguments.source else {})
    turns = [{name: run_command(source, words) for name, source in sources.items()} for _ in range(arguments.repeats)]
    for name in sources if turns else ():
        wall, cpu = (statistics.median(turn[name][kind] for turn in turns) for kind in (0, 1))
        print(f"{name:<10} {wall:>8.3f} {cpu:>8.3f}")


if __name__ == "__main__":
    main()
