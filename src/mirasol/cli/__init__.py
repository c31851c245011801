"""The command `mirasol`: arguments in, text or JSON out.

Each command imports its work when it runs, because torch and transformers take seconds to load and `--help` does not
need them.
"""

import os
import select
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from mirasol.cli import ask, checkpoints, data, evaluate, predict, serve, train, watch  # noqa: F401 (added to `app`)
from mirasol.cli.base import app

STDOUT = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 2 with one message on stderr for wrong input, or 130 for Ctrl-C."""
    # Cores are often shared; torch's waiting threads must not spin on them. Has to be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    commands = typer.main.get_command(app)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            with commands.make_context("mirasol", list(sys.argv[1:] if arguments is None else arguments)) as context:
                commands.invoke(context)
    except typer.Exit as end:  # --help
        return end.exit_code
    except typer.TyperException as error:
        return refuse(usage_message(error))
    except (ValueError, OSError) as error:
        return 0 if isinstance(error, BrokenPipeError) and reader_has_left() else refuse(str(error))
    except KeyboardInterrupt as stop:
        print(f"mirasol: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def refuse(message: str) -> int:
    """Print the message of an error and return its exit code."""
    print(f"mirasol: error: {message}", file=sys.stderr)
    return 2


def usage_message(error: typer.TyperException) -> str:
    """Return the message of an error in the arguments, with the help that answers it."""
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    if errors := getattr(error.__cause__, "errors", None):  # of pydantic, whose messages leave out the value
        found = repr(errors()[0]["input"])
        message += "" if found in message else f", found {found}"
    context = getattr(error, "ctx", None)
    end = "" if message.endswith("?") else "."
    return f"{message}{end} See `{context.command_path if context else 'mirasol'} --help`."


def reader_has_left() -> bool:
    """Return whether stdout has no reader any more (`| head`), which is no error."""
    stdout = select.poll()
    stdout.register(STDOUT, 0)
    if left := any(event & select.POLLERR for _, event in stdout.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # so that Python can close it
    return left


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, without its place in the code."""
    print(f"mirasol: warning: {message}", file=sys.stderr)
