"""A server in this process with the shipped checkpoint, the clips that it is asked about, and a browser."""

import base64
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mirasol.answer.answerer import Answerer

pytest.importorskip("fastapi", reason="needs the extra serve: pip install 'mirasol[serve]'")

import uvicorn

from mirasol.serve.app import create_app
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from mirasol.serve.run import bind
from tests.serve.live_client import Live
from tests.serve.page_steps import arguments
from tests.waiting import PATIENCE


@dataclass
class Server:
    """A running server: its address, and the engine inside."""

    address: str
    engine: Engine


def start(engine: Engine, port: int = 0, **options: Any) -> Iterator[Server]:
    """Serve an engine, by default on a free port; options are those of uvicorn."""
    listener = bind("127.0.0.1", port)
    options = {"log_level": "warning", "ws_max_size": engine.limits.message_bytes, **options}
    config = uvicorn.Config(options.pop("app", None) or create_app(engine), **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    scheme = "https" if "ssl_certfile" in options else "http"
    try:
        yield Server(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", engine)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


serving = contextmanager(start)


@pytest.fixture(scope="session")
def shipped() -> Answerer:
    """The shipped checkpoint."""
    return Answerer.load()


@pytest.fixture(scope="module")
def server(shipped, tmp_path_factory) -> Iterator[Server]:
    yield from start(Engine(shipped, tmp_path_factory.mktemp("serve"), Limits()))


@pytest.fixture(scope="session")
def files(grid_root) -> list[Path]:
    """Six clips of the sentences."""
    return sorted((grid_root / "clips").glob("*.mp4"))[:6]


@pytest.fixture
def engine(shipped, tmp_path):
    """An engine of the shipped checkpoint, which is stepped by hand."""
    made = Engine(shipped, tmp_path)
    yield made
    made.close(0.0)


@pytest.fixture(scope="session")
def clip(grid_root) -> bytes:
    """A clip in which "bin blue at f four please" is said and seen."""
    return (grid_root / "clips" / "bbaf4p.mp4").read_bytes()


@pytest.fixture(scope="session")
def browser(clip, tmp_path_factory) -> Iterator:
    """Chromium whose camera and microphone play the clip over and over, and which finds us as mirasol.test too."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium as `chromium` on PATH, which is not on this machine")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=arguments(clip, tmp_path_factory.mktemp("devices")))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def data_uri(clip) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(clip).decode()}"


@pytest.fixture
def live(server: Server) -> Iterator[Callable[..., Live]]:
    """Opens connections that are closed after the test."""
    connections: list[Live] = []

    def open(query: str = "?model=mirasol") -> Live:
        connections.append(Live(server, query))
        return connections[-1]

    yield open
    for each in connections:
        each.socket.close()
