"""`mirasol serve`: load a checkpoint, print the address, serve until SIGTERM or Ctrl-C, and drain."""

import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from mirasol.answer.answerer import Answerer
from mirasol.serve.app import create_app
from mirasol.serve.confined import Confined
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits, default_folder

LOOPBACK = ("127.0.0.1", "::1", "localhost")
DRAIN_SECONDS = 60.0


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    checkpoint: str | None = None,
    folder: str | None = None,
    limits: Limits | None = None,
    say: Callable[[str], Any] = print,
) -> None:
    """Serve until a signal, then finish what was accepted and save the live sessions.

    Args:
        host: Address to bind; the default is reachable from this machine only.
        port: 0 takes a free one.
        checkpoint: Its folder; by default the shipped one.
        folder: Keeps watched clips, files and sessions across restarts.
        limits: Of everything.
        say: Is given the lines for the user.
    """
    listener = bind(host, port)
    limits = limits or Limits()
    answerer = Answerer.load(checkpoint)
    confined = Confined(answerer.processor, limits)
    engine = Engine(
        answerer, Path(folder) if folder else default_folder(), limits, confined.decode, confined.decode_picture
    )
    app = create_app(engine, Path(checkpoint).name if checkpoint else "mirasol", DRAIN_SECONDS)
    config = uvicorn.Config(
        app, log_level="warning", ws_max_size=limits.message_bytes, ws_max_queue=8,
        timeout_graceful_shutdown=int(DRAIN_SECONDS), timeout_keep_alive=30, proxy_headers=False, access_log=False,
    )  # fmt: skip
    address = f"http://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}"
    if host not in LOOPBACK:
        say(
            f"warning: {host} is reachable from other machines, without encryption and for anybody: use it in a "
            "network that you trust."
        )
    say(f"{address}  (page, /v1/chat/completions, /v1/realtime)  Ctrl-C stops")
    sys.stdout.flush()
    # uvicorn raises the signal again after it has drained, which would end the process as killed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        confined.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        ValueError: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2_048)  # who connects as soon as the address is printed waits until the server runs
    except (OSError, OverflowError) as error:
        listener.close()
        raise ValueError(
            f"Expected to listen on {host}, port {port}, found that this is not possible ({error}). Pass another "
            "--host or --port; --port 0 takes a free one."
        ) from error
    return listener
