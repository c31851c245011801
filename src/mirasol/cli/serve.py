"""`mirasol serve`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mirasol.cli import media
from mirasol.cli.base import Checkpoint, command, imports


class ServeEngine(StrEnum):
    """Server that runs the application."""

    uvicorn = "uvicorn"
    ray = "ray"


@command("mirasol serve --port 8000")
@media.takes(loading=media.loading)
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
    engine: Annotated[
        ServeEngine, typer.Option(help="uvicorn is one process; ray is several, with Ray Serve: 'mirasol[ray]'.")
    ] = ServeEngine.uvicorn,
    replicas: Annotated[int, typer.Option(metavar="N", min=1, help="Processes with the model, of --engine ray.")] = 1,
    *,
    loading: dict,
) -> None:
    """Serve a page, the API of OpenAI's clients, and live sessions."""
    if replicas > 1 and engine is ServeEngine.uvicorn:
        raise ValueError(
            f"Expected --replicas 1 with --engine uvicorn, found {replicas}. Pass --engine ray to have several."
        )
    try:
        with imports():
            from mirasol.serve.access import Keys
            from mirasol.serve.run import Setup, Tls
            from mirasol.serve.run import serve as run

            if engine is ServeEngine.ray:
                from mirasol.integrations.ray_serve import serve as run_replicas
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Expected the packages of the server, found no {error.name}. Install them: pip install 'mirasol[serve]'."
        ) from error
    encrypts = tls or tls_cert is not None or tls_key is not None
    chosen: dict = {"folder": Path(folder)} if folder else {}
    chosen["loading"] = {name: value for name, value in loading.items() if value is not None}
    setup = Setup(
        host, port, checkpoint, hosts=allow_url_host or (), keys=Keys.load(api_key_file) if api_key_file else None,
        tls=Tls(tls_cert, tls_key) if encrypts else None, **chosen,
    )  # fmt: skip
    if engine is ServeEngine.ray:
        run_replicas(setup, replicas)
    else:
        run(setup)
