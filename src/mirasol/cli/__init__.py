"""The command `mirasol`: arguments in, text or JSON out. The work is done in `evaluate/` and `train/`, imported only
by the command that needs them, because torch and transformers take seconds to load and `--help` should not."""

import argparse
import difflib
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

EXAMPLES = """examples:
  mirasol demo
  mirasol ask data/grid_s1/clips/bbaf4p.mp4 "which color is named?"
  mirasol ask data/grid_s1/clips/bbaf4p.mp4 "what is said?" --no-video --json
  mirasol info data/clips/helicopter_noaudio.mp4
  mirasol evaluate --task grid --root data/grid_s1 --split val --condition sound --noise-db -10
  mirasol train recipes/grid_nano.yaml seed=1
  mirasol init --vision google/siglip-base-patch16-224 --text HuggingFaceTB/SmolLM2-135M -o checkpoints/mine

`mirasol COMMAND --help` explains each command. Bad input ends with one message and exit code 2.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 with one message on stderr where the input was wrong."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = build_parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        parser.error(unknown_command(arguments[0], commands))
    options = vars(parser.parse_args(arguments))
    run, as_json = options.pop("run"), options.pop("json")
    # Cores are often shared; torch's waiting threads must not spin on them. Has to be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            result = run(**options)
    except (ValueError, OSError) as error:
        print(f"mirasol: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mirasol: interrupted", file=sys.stderr)
        return 130
    if result is not None:  # of several processes, one has the result
        show(json.dumps(result.as_dict(), indent=2) if as_json else str(result))
    return 0


def show(text: str) -> None:
    """Prints the text; a reader that has seen enough (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it


def build_parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser and the names of its commands."""
    parser = argparse.ArgumentParser(
        prog="mirasol",
        description="Watches video with its sound and answers in text.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[..., Any], summary: str, example: str, among: Any = subparsers
    ) -> argparse.ArgumentParser:
        sub = among.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--json", action="store_true", help="print JSON instead of text")
        sub.set_defaults(run=run)
        return sub

    def checkpoint(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--checkpoint", metavar="FOLDER", help="default: the one shipped with mirasol")

    ask = command("ask", run_ask, "Answer a question about a clip.", 'mirasol ask clip.mp4 "which color is named?"')
    ask.add_argument("clip", metavar="CLIP", help="video or sound file")
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--no-sound", dest="use_audio", action="store_false", help="do not listen")
    ask.add_argument("--no-video", dest="use_video", action="store_false", help="do not look")
    ask.add_argument(
        "--crop",
        type=numbers,
        metavar="SIDE[,X,Y]",
        help="square to look at: its side as a part of the frame's shorter side, its centre as parts of the frame",
    )
    checkpoint(ask)

    train = command("train", run_train, "Train a model by a recipe.", "mirasol train recipes/grid_nano.yaml seed=1")
    train.add_argument("recipe", metavar="RECIPE", help="YAML file, see recipes/")
    train.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="replaces a value of the recipe")

    init = command(
        "init",
        run_init,
        "Make a checkpoint to train from pretrained parts.",
        "mirasol init --vision google/siglip-base-patch16-224 --text HuggingFaceTB/SmolLM2-135M -o checkpoints/mine",
    )
    init.add_argument("--vision", metavar="NAME", help="SigLIP, SigLIP 2 or ViT: a folder or a name on the Hub")
    init.add_argument("--audio", metavar="NAME", help="AST; without it the model is video-only")
    init.add_argument("--text", metavar="NAME", required=True, help="Llama, SmolLM, Qwen2 or Qwen3")
    init.add_argument("-o", "--output", metavar="FOLDER", required=True, help="the checkpoint, a new folder")
    init.add_argument("--max-chunks", type=positive, default=16, metavar="N", help="of a clip (default: %(default)s)")
    init.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a value of the config")

    evaluate = command(
        "evaluate", run_evaluate, "Measure a checkpoint on a split.", "mirasol evaluate --split test --condition sound"
    )
    checkpoint(evaluate)
    evaluate.add_argument("--task", default="grid", help="default: %(default)s")
    evaluate.add_argument("--root", default="data/grid_s1", metavar="FOLDER", help="the data (default: %(default)s)")
    evaluate.add_argument("--split", default="test", help='one, or several joined by "+" (default: %(default)s)')
    evaluate.add_argument(
        "--condition",
        default="both",
        choices=("both", "sound", "picture", "swapped", "silent"),
        help="default: %(default)s",
    )
    evaluate.add_argument(
        "--rank", action="store_true", help="choose among the given options by likelihood instead of generating text"
    )
    evaluate.add_argument("--audit", action="store_true", help="also measure with sound off, swapped and silent")
    evaluate.add_argument("--classes", metavar="FILE", help='lines "number,name", for tasks whose labels are numbers')
    evaluate.add_argument("--noise-db", type=float, metavar="DB", help="white noise at this signal-to-noise ratio")
    evaluate.add_argument("--noise-seed", type=int, default=0, metavar="N")
    evaluate.add_argument("--max-clips", type=positive, metavar="N", help="only the first N clips")
    evaluate.add_argument(
        "--output", metavar="FOLDER", help="predictions, metrics and report go there; a stopped run goes on from there"
    )
    evaluate.add_argument("--batch-size", type=positive, default=8, metavar="N", help="clips (default: %(default)s)")
    evaluate.add_argument("--workers", type=counted, metavar="N", help="processes that decode (default: one a core)")

    info = command("info", run_info, "Describe a clip, a checkpoint or a preset.", "mirasol info 3b")
    info.add_argument("path", metavar="CLIP|CHECKPOINT|PRESET", help="presets: nano, small, base, 3b")

    export = command(
        "export",
        run_export,
        "Write a checkpoint with its code into one flat folder, which transformers loads without mirasol.",
        "mirasol export --checkpoint runs/mine/best my-model-on-the-hub",
    )
    export.add_argument("output", metavar="FOLDER", help="a new folder")
    checkpoint(export)

    data = subparsers.add_parser(
        "data", help="Describe a benchmark or check its clips.", description="Describe a benchmark or check its clips."
    ).add_subparsers(title="commands", metavar="COMMAND", required=True)
    data_info = command(
        "info", run_data_info, "State what a benchmark's score rests on.", "mirasol data info vggsound", data
    )
    data_info.add_argument("task", metavar="TASK")
    verify = command(
        "verify",
        run_data_verify,
        "Report which clips of a benchmark are present, missing, undecodable or silent.",
        "mirasol data verify vggsound --root data/vggsound --output coverage.json",
        data,
    )
    verify.add_argument("task", metavar="TASK")
    verify.add_argument("--root", required=True, metavar="FOLDER", help="annotations and clips")
    verify.add_argument("--split", help="default: the one that is reported")
    verify.add_argument("--classes", metavar="FILE", help='lines "number,name", for tasks whose labels are numbers')
    verify.add_argument("--workers", type=positive, metavar="N", help="clips at a time (default: one a core)")
    verify.add_argument("--output", metavar="FILE", help="where the coverage manifest goes, as JSON")

    demo = command("demo", run_demo, "Evaluate the shipped checkpoint and write a report.", "mirasol demo")
    checkpoint(demo)
    demo.add_argument("--root", default="data/grid_s1", metavar="FOLDER", help="GRID clips (default: %(default)s)")
    demo.add_argument("--max-clips", type=positive, metavar="N", help="only the first N test clips")
    demo.add_argument("--output", default="report.html", metavar="FILE", help="default: %(default)s")
    return parser, list(subparsers.choices)


def positive(text: str) -> int:
    """The number, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
    return int(text)


def counted(text: str) -> int:
    """The number, at least 0."""
    return 0 if text == "0" else positive(text)


def numbers(text: str) -> tuple[float, ...]:
    """The numbers between commas."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.41,0.5,0.64, found {text!r}") from None


def run_ask(**options: Any) -> Any:
    """What `mirasol ask` prints."""
    from mirasol.answer.ask import ask

    return ask(**options)


def run_train(recipe: str, overrides: list[str]) -> Any:
    """What `mirasol train` prints when it is done."""
    from mirasol.train.run import train

    return train(recipe, overrides)


def run_init(**options: Any) -> Any:
    """What `mirasol init` prints when the checkpoint is written."""
    from mirasol.convert import init

    return init(**options)


def run_evaluate(**options: Any) -> Any:
    """What `mirasol evaluate` prints."""
    from mirasol.evaluate.runner import evaluate

    return evaluate(**options)


def run_info(path: str) -> Any:
    """What `mirasol info` prints."""
    from mirasol.report.info import info

    return info(path)


def run_export(**options: Any) -> Any:
    """What `mirasol export` prints when the folder is written."""
    from mirasol.convert.flat_folder import write_flat_folder

    return write_flat_folder(**options)


def run_data_info(task: str) -> Any:
    """What `mirasol data info` prints."""
    from mirasol.tasks import describe_task

    return describe_task(task)


def run_data_verify(**options: Any) -> Any:
    """What `mirasol data verify` prints."""
    from mirasol.data.verify import verify

    return verify(**options)


def run_demo(**options: Any) -> Any:
    """What `mirasol demo` prints when the report is written."""
    from mirasol.report.demo import demo

    return demo(**options)


def unknown_command(found: str, commands: list[str]) -> str:
    """The message for a command that does not exist, with the nearest that does."""
    nearest = difflib.get_close_matches(found, commands, n=1, cutoff=0.5)
    remedy = f"Did you mean '{nearest[0]}'?" if nearest else "See mirasol --help."
    return f"Expected a command ({', '.join(commands)}), found '{found}'. {remedy}"


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning as one line, without the place in the code that a user of the command cannot change."""
    print(f"mirasol: warning: {message}", file=sys.stderr)


