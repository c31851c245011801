"""Parts that commands share: the tree of commands, common options, and printing."""

import csv
import difflib
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return a parser of these names, whose error suggests the nearest one."""

    def parse(text: str) -> str:
        if text not in names:
            close = difflib.get_close_matches(text, names, n=1, cutoff=0.0)[0]
            raise ValueError(f"{text!r}. Did you mean {close!r}?")
        return text

    return parse


def listed(convert: Callable[[str], Any], expected: str) -> Callable[[str], tuple]:
    """Return a parser of comma-separated values, quoted if they hold commas; `expected` names them in its error."""

    def parse(text: str) -> tuple:
        values = []
        for part in map(str.strip, next(csv.reader([text], skipinitialspace=True)) or [""]):
            try:
                if not part:
                    raise ValueError
                values.append(convert(part))
            except ValueError as error:
                found = str(error) if "Did you mean" in str(error) else repr(part)
                raise typer.BadParameter(f"expected {expected}, found {found}") from None
        return tuple(values)

    return parse


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Checkpoint = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Folder of a checkpoint; by default the shipped one.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Limit of new tokens; by default the room left in the context.")
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Clips at once.")]
Workers = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Processes that decode; by default one per core.")
]
AbstainBelow = Annotated[
    float | None,
    typer.Option(
        metavar="P", min=0, max=1, help="Mark answers whose confidence is below P, from 0 to 1, as withheld."
    ),
]
Rank = Annotated[
    bool, typer.Option("--rank", help="Choose among a question's options by likelihood instead of generating text.")
]
Metric = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where own data names none: exact, number, yes_no, labels or caption."),
]
MaxClips = Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N clips.")]
NoiseDb = Annotated[
    tuple | None,
    typer.Option(
        parser=listed(float, "numbers such as -5,-10"),
        metavar="DB,...",
        help="White noise at this signal-to-noise ratio; several between commas.",
    ),
]
Classes = Annotated[
    str | None, typer.Option(metavar="FILE", help='Lines "number,name", for tasks whose labels are numbers.')
]
Decoder = Annotated[str | None, typer.Option(metavar="NAME", help="pyav or torchcodec; by default the checkpoint's.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Replace a value.")]


class Commands(TyperGroup):
    """Group whose errors list the commands and suggest the nearest one."""

    def parse_args(self, ctx, args):
        """Parse the group's own options; refuse a call without a command."""
        if not args and not ctx.resilient_parsing:
            ctx.fail(self._expected("none"))
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx, args):
        """Return the command that `args` begins with; suggest the nearest one if there is none."""
        if args[0] not in self.commands:
            nearest = difflib.get_close_matches(args[0], self.commands, n=1, cutoff=0.5)
            remedy = f" Did you mean '{nearest[0]}'?" if nearest else ""
            ctx.fail(self._expected(f"'{args[0]}'") + remedy)
        return super().resolve_command(ctx, args)

    def _expected(self, found: str) -> str:
        return f"Expected a COMMAND ({', '.join(self.commands)}), found {found}."


def group(help: str, examples: str | None = None) -> typer.Typer:
    """Return a group of commands with plain help, because boxes and colours are noise to pipes and screen readers."""
    return typer.Typer(
        cls=Commands, help=help, epilog=examples, rich_markup_mode=None, add_completion=False,
        subcommand_metavar="COMMAND ...",
    )  # fmt: skip


EXAMPLES = """\b
examples:
  mirasol demo
  mirasol ask data/grid_s1/clips/bbaf4p.mp4 "which color is named?"
  mirasol ask data/grid_s1/clips/bbaf4p.mp4 "what is said?" --no-video --json
  mirasol info data/clips/helicopter_noaudio.mp4
  mirasol evaluate --task grid --root data/grid_s1 --split val --condition sound --noise-db -10
  mirasol train recipes/grid_nano.yaml seed=1
  mirasol init --vision google/siglip-base-patch16-224 --text HuggingFaceTB/SmolLM2-135M -o checkpoints/mine

\b
`mirasol COMMAND --help` explains each command. Bad input ends with one message and exit code 2.
"""

app = group("Watches video with its sound and answers in text.", EXAMPLES)


def command(example: str, among: typer.Typer = app, name: str | None = None) -> Callable[[Callable], Callable]:
    """Return a decorator that adds a function, whose signature declares the options, to the tree of commands."""
    return among.command(name, epilog=f"\b\nexample:\n  {example}")


@contextmanager
def imports() -> Iterator[None]:
    """Import without garbage collection, which takes a fifth of the time, although modules are never garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # so that later collections skip the modules
        gc.enable()


def show(result: Any, as_json: bool) -> None:
    """Print a result as text or JSON; None, which all processes but the first one have, is not printed."""
    if result is not None:
        print(json.dumps(result.as_dict(), indent=2) if as_json else result, flush=True)
