"""`mirasol serve`."""

from typing import Annotated

import typer

from mirasol.cli.base import Checkpoint, command, imports


@command("mirasol serve --port 8000")
def serve(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 is every network of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8000,
    checkpoint: Checkpoint = None,
    folder: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Keeps watched clips, files and sessions; by default ~/.cache/mirasol/serve."
        ),
    ] = None,
) -> None:
    """Serve a page, the API of OpenAI's clients, and live sessions."""
    try:
        with imports():
            from mirasol.serve.run import serve as run
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Expected the packages of the server, found no {error.name}. Install them: pip install 'mirasol[serve]'."
        ) from error
    run(host, port, checkpoint, folder)
