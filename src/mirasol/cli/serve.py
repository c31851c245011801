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
    allow_url_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Fetch media from this host; repeat it for more. HOST:PORT also allows private addresses.",
        ),
    ] = None,
    api_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Lines of NAME KEY: only who sends a key is served.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt, with a certificate made and kept here.")] = False,
    tls_cert: Annotated[str | None, typer.Option(metavar="PEM", help="Encrypt with this certificate.")] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="PEM", help="Its private key.")] = None,
) -> None:
    """Serve a page, the API of OpenAI's clients, and live sessions."""
    try:
        with imports():
            from mirasol.serve.run import Tls
            from mirasol.serve.run import serve as run
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Expected the packages of the server, found no {error.name}. Install them: pip install 'mirasol[serve]'."
        ) from error
    encrypts = tls or tls_cert is not None or tls_key is not None
    run(
        host, port, checkpoint, folder, hosts=allow_url_host or (), key_file=api_key_file,
        tls=Tls(tls_cert, tls_key) if encrypts else None,
    )  # fmt: skip
