"""`mirasol serve`: load a checkpoint, print the address, serve until SIGTERM or Ctrl-C, then drain."""

import ctypes
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from mirasol.answer.answerer import Answerer
from mirasol.serve.access import Keys
from mirasol.serve.app import create_app
from mirasol.serve.confined import Confined
from mirasol.serve.engine import Engine
from mirasol.serve.fetch import Fetcher
from mirasol.serve.limits import UVICORN, Limits, default_folder
from mirasol.serve.service import refuse_to_fetch
from mirasol.serve.tls import own_certificate

MALLOC = {-1: 128 * 2**20, -3: 32 * 2**20, -8: 2}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX of glibc
LOOPBACK = ("127.0.0.1", "::1", "localhost")
DRAIN_SECONDS = 60.0
Say = Callable[[str], Any]


@dataclass(frozen=True)
class Tls:
    """Paths of a certificate and its key. Without them, a certificate is made and kept in the folder."""

    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class Setup:
    """Settings of a server, of one or several processes.

    Args:
        host: Address to bind; the default is reachable only from this machine.
        port: Port; 0 takes a free one.
        checkpoint: Folder of the checkpoint; None takes the shipped one.
        folder: Folder of watched clips, files and sessions, which outlive the process.
        limits: Bounds on what clients send, on queues and on stores.
        hosts: Hosts from which media may be fetched, as NAME or NAME:PORT.
        keys: API keys; None admits every client.
        tls: Certificate; None serves without encryption.
        loading: Arguments of `Answerer.load` other than the checkpoint, such as `device` and `dtype`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    checkpoint: str | None = None
    folder: Path = field(default_factory=default_folder)
    limits: Limits = field(default_factory=Limits)
    hosts: Sequence[str] = ()
    keys: Keys | None = None
    tls: Tls | None = None
    loading: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> tuple[FastAPI, Confined]:
        """Return the application, and its decoders, which the caller closes after the application."""
        keep_memory()
        answerer = Answerer.load(self.checkpoint, **self.loading)
        confined = Confined(answerer.processor, self.limits)
        engine = Engine(answerer, self.folder, self.limits, confined.decode, confined.decode_picture)
        fetch = Fetcher(self.hosts, self.limits) if self.hosts else refuse_to_fetch
        # Any web site may point its own name at this machine and then read the responses.
        names = LOOPBACK if self.host in LOOPBACK and self.keys is None else None
        model = Path(self.checkpoint).name if self.checkpoint else "mirasol"
        return create_app(engine, model, DRAIN_SECONDS, fetch, self.keys, names), confined

    def encryption(self, say: Say) -> dict[str, Any]:
        """Return uvicorn's options for TLS."""
        if self.tls is None:
            return {}
        certificate, key = self.tls.certificate, self.tls.key
        if (certificate is None) != (key is None):
            raise ValueError("Expected --tls-cert and --tls-key together, found one. Pass both, or only --tls.")
        if certificate is None:
            made, made_key, fingerprint = own_certificate(self.folder, self.host)
            say(f"self-signed certificate, which browsers ask about once; its SHA-256 is {fingerprint}")
            return {"ssl_certfile": str(made), "ssl_keyfile": str(made_key)}
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
        except OSError as error:
            raise ValueError(
                f"Expected a certificate and its key as PEM in {certificate} and {key}, found files that do not "
                f"load ({error}). Check the paths, and that the key belongs to the certificate."
            ) from error
        return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}

    def announce(self, port: int, say: Say) -> None:
        """Print the address, after a warning if other machines reach it without encryption or keys."""
        needed = (("encryption (--tls)", self.tls), ("API keys (--api-key-file)", self.keys))
        missing = [name for name, is_there in needed if not is_there]
        if self.host not in LOOPBACK and missing:
            say(
                f"warning: {self.host} is reachable from other machines, without {' and '.join(missing)}. Use it only "
                "in a network that you trust."
            )
        name = f"[{self.host}]" if ":" in self.host else self.host
        address = f"{'https' if self.tls else 'http'}://{name}:{port}"
        say(f"{address}  (page, /v1/chat/completions, /v1/realtime)  Ctrl-C stops")
        sys.stdout.flush()


def serve(setup: Setup, say: Say = print) -> None:
    """Serve until a signal, then finish accepted work and save live sessions. `say` receives lines for the user."""
    encryption = setup.encryption(say)
    listener = bind(setup.host, setup.port)
    app, confined = setup.build()
    config = uvicorn.Config(
        app, log_level="warning", ws_max_size=setup.limits.message_bytes, access_log=False,
        timeout_graceful_shutdown=int(DRAIN_SECONDS), timeout_keep_alive=30, **UVICORN, **encryption,
    )  # fmt: skip
    setup.announce(listener.getsockname()[1], say)
    # uvicorn raises the signal again after draining; without a handler, it would kill the process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        confined.close()


def keep_memory() -> None:
    """Set glibc's malloc, if it is the C library, to keep freed memory and to use two arenas.

    A batch of 16 clips allocates and frees 10 MB in the decoder; returned to the system, that costs 2,500 page faults,
    a fifth of the time. With an arena for each thread, fragmentation grows with the number of sessions.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOC.items():
            mallopt(option, value)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ValueError if the address cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2_048)  # a client may connect before the server runs
    except (OSError, OverflowError) as error:
        listener.close()
        raise ValueError(
            f"Expected to listen on {host}, port {port}, found an error ({error}). Pass another --host or --port; "
            "--port 0 takes a free one."
        ) from error
    return listener
