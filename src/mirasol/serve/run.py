"""`mirasol serve`: load a checkpoint, print the address, serve until SIGTERM or Ctrl-C, and drain."""

import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from mirasol.answer.answerer import Answerer
from mirasol.serve.access import Keys
from mirasol.serve.app import create_app
from mirasol.serve.confined import Confined
from mirasol.serve.engine import Engine
from mirasol.serve.fetch import Fetcher
from mirasol.serve.limits import Limits, default_folder
from mirasol.serve.service import refuse_to_fetch
from mirasol.serve.tls import own_certificate

LOOPBACK = ("127.0.0.1", "::1", "localhost")
DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Tls:
    """A certificate and its key; without them, one is made and kept in the folder."""

    certificate: str | None = None
    key: str | None = None


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    checkpoint: str | None = None,
    folder: str | None = None,
    limits: Limits | None = None,
    hosts: Sequence[str] = (),
    key_file: str | None = None,
    tls: Tls | None = None,
    say: Callable[[str], Any] = print,
) -> None:
    """Serve until a signal, then finish what was accepted and save the live sessions.

    Args:
        host: Address to bind; the default is reachable from this machine only.
        port: 0 takes a free one.
        checkpoint: Its folder; by default the shipped one.
        folder: Keeps watched clips, files and sessions across restarts.
        limits: Of everything.
        hosts: From which media may be fetched, as NAME or NAME:PORT.
        key_file: API keys; None lets everybody in who reaches the address.
        tls: Encrypt.
        say: Is given the lines for the user.
    """
    keys = Keys.load(key_file) if key_file else None
    kept, limits = Path(folder) if folder else default_folder(), limits or Limits()
    encryption = _encryption(tls, kept, host, say) if tls else {}
    listener = bind(host, port)
    answerer = Answerer.load(checkpoint)
    confined = Confined(answerer.processor, limits)
    engine = Engine(answerer, kept, limits, confined.decode, confined.decode_picture)
    fetch = Fetcher(hosts, limits) if hosts else refuse_to_fetch
    # Any web site may point its own name at this machine and then read what is there.
    names = LOOPBACK if host in LOOPBACK and keys is None else None
    app = create_app(engine, Path(checkpoint).name if checkpoint else "mirasol", DRAIN_SECONDS, fetch, keys, names)
    config = uvicorn.Config(
        app, log_level="warning", ws_max_size=limits.message_bytes, ws_max_queue=8,
        timeout_graceful_shutdown=int(DRAIN_SECONDS), timeout_keep_alive=30, proxy_headers=False, access_log=False,
        **encryption,
    )  # fmt: skip
    address = f"{'https' if tls else 'http'}://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}"
    missing = [
        what for what, is_there in (("encryption (--tls)", tls), ("API keys (--api-key-file)", keys)) if not is_there
    ]
    if host not in LOOPBACK and missing:
        say(
            f"warning: {host} is reachable from other machines, without {' and '.join(missing)}: use it in a network "
            "that you trust."
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


def _encryption(tls: Tls, folder: Path, host: str, say: Callable[[str], Any]) -> dict[str, Any]:
    """Return uvicorn's options for TLS."""
    if (tls.certificate is None) != (tls.key is None):
        raise ValueError("Expected --tls-cert and --tls-key, found one of them. Pass both, or --tls alone.")
    if tls.certificate is None:
        certificate, key, fingerprint = own_certificate(folder, host)
        say(f"certificate of our own, which browsers ask about once; its SHA-256 is {fingerprint}")
    else:
        certificate, key = Path(tls.certificate), Path(str(tls.key))
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except OSError as error:
            raise ValueError(
                f"Expected a certificate and its key as PEM in {certificate} and {key}, found others ({error}). Check "
                "the paths, and that the key belongs to the certificate."
            ) from error
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


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
