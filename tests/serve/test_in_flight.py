"""Many large requests at the same time: those for which there is no memory are refused at once, and may come again."""

import asyncio
import base64
import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from mirasol.media import MediaError
from mirasol.serve.app import create_app
from mirasol.serve.engine import Engine
from mirasol.serve.errors import ApiError
from mirasol.serve.in_flight import InFlight
from mirasol.serve.limits import Limits
from mirasol.serve.parts import Reference
from mirasol.serve.service import Client, Service
from tests.serve.conftest import start

LIMITS = Limits(bytes_in_flight=400_000, json_copies=4)
BODY = json.dumps({"video": "data:video/mp4;base64," + base64.b64encode(bytes(30_000)).decode()}).encode()
JSON = {"content-type": "application/json"}


@pytest.fixture
def gate():
    return threading.Event()


@pytest.fixture
def app(shipped, tmp_path, gate):
    def waits(*_):
        gate.wait(60)
        raise MediaError("Expected media, found zeros.")

    return create_app(Engine(shipped, tmp_path, LIMITS, decode=waits))


@pytest.fixture
def http(app, gate):
    for server in start(app.state.service.engine, app=app):
        with httpx2.Client(base_url=server.address, timeout=60) as client:
            yield client
        gate.set()


def is_refused(answer) -> None:
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1, answer.text
    error = answer.json()["error"]
    assert error["code"] == "busy" and error["message"].startswith("Expected requests that hold at most 400000 bytes")


def test_a_request_too_many_is_refused_at_once_and_served_when_others_are_answered(app, http, gate):
    def post():
        return http.post("/v1/clips", content=BODY, headers=JSON)

    held = app.state.service.in_flight
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(post) for _ in range(2)]  # of 40 kB, which count four times
        while held.num_bytes < 2 * 4 * len(BODY):
            time.sleep(0.01)
        is_refused(post())
        with socket.create_connection((http.base_url.host, http.base_url.port), 60) as link:
            link.sendall(b"POST /v1/clips HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n")
            assert b" 429 " in link.recv(65_536).split(b"\r\n")[0]  # before it sends more
        is_refused(http.post("/v1/clips", content=iter([BODY[:1_000], BODY[1_000:]]), headers=JSON))  # no length
        assert http.post("/v1/files", files={"file": ("a.mp4", bytes(50_000))}).status_code == 200  # counts once
        is_refused(http.post("/v1/files", files={"file": ("a.mp4", bytes(120_000))}))
        assert http.get("/health").status_code == 200
        gate.set()
        assert [future.result().status_code for future in under_way] == [400, 400]
    assert post().status_code == 400
    while held.num_bytes:  # the last one's answer comes before its end
        time.sleep(0.01)


def test_a_request_that_is_alone_may_be_larger_and_files_of_other_hosts_count():
    held = InFlight(100)
    with held.request() as hold:
        hold(70)
        hold(70)  # its own do not count against it
        with held.request() as other, pytest.raises(ApiError, match="at most 100 bytes.*found 140 held and 1 more"):
            other(1)
    assert held.num_bytes == 0


def test_fetched_files_are_held_until_their_clip_is_watched(shipped, tmp_path):
    async def fetch(url: str) -> bytes:
        return bytes(300_000)

    seen = []
    engine = Engine(shipped, tmp_path, LIMITS, decode=lambda *_: seen.append(service.in_flight.num_bytes))
    service = Service(engine, fetch=fetch)
    urls = {"video": Reference(url="https://example.org/a"), "audio": Reference(url="https://example.org/b")}
    service.in_flight.num_bytes = 50_000  # of another request
    with pytest.raises(ApiError, match="found 350000 held and 300000 more"):
        asyncio.run(service.watch(urls, None, None, Client("", "")))
    assert service.in_flight.num_bytes == 50_000 and not seen
    engine.close(0.0)


SERVER = """
import sys
from pathlib import Path
from mirasol.serve.limits import Limits
from mirasol.serve.run import Setup, serve
serve(Setup(port=0, folder=Path(sys.argv[1]), limits=Limits(bytes_in_flight=128 * 2**20)))
"""


@pytest.mark.slow
def test_the_memory_of_a_server_stays_under_its_bound_while_many_send_much(tmp_path):
    """24 bodies of 12 MiB in base64, each of which would take 48 MiB."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]

        def mebibytes(name: str) -> float:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

        def send(number: int, size: int = 9 * 2**20) -> int:
            data = base64.b64encode(number.to_bytes(2, "big") + bytes(size)).decode()
            return httpx2.post(f"{address}/v1/clips", json={"video": f"data:;base64,{data}"}, timeout=120).status_code

        assert send(0, 1_000) == 400  # the decoder has started
        before = mebibytes("VmRSS")
        with ThreadPoolExecutor(24) as pool:
            statuses = list(pool.map(send, range(24)))
        assert set(statuses) == {400, 429}, statuses
        assert mebibytes("VmHWM") - before < 128 + 128 + 32, "its bound, what it freed and keeps, the rest"
    finally:
        process.terminate()
        assert process.wait(60) == 0
