"""`mirasol serve --engine ray`: two replicas answer as one server does, one of them may be killed, and all of it ends.

The tests are in order: they share one cluster, whose second replica is killed before the last ones.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

pytest.importorskip("fastapi", reason="needs the extra serve: pip install 'mirasol[serve]'")

from mirasol.answer.answerer import Answerer
from mirasol.serve.engine import Engine
from tests.serve.conftest import clip, data_uri, start  # noqa: F401
from tests.serve.live_client import Live
from tests.serve.live_media import PIECE_SECONDS, live_media

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray: pip install 'mirasol[ray]'"),
]
WAIT = 300.0  # for what a busy machine may take long for
SAID = "what is said?"


class Cluster:
    """The command, its replicas, and what they count."""

    def __init__(self, folder: Path, log: Path):
        words = [sys.executable, "-m", "mirasol.cli", "serve", "--engine", "ray", "--replicas", "2", "--port", "0"]
        self.folder, self.log = folder, log
        with log.open("w") as errors:
            self.process = subprocess.Popen([*words, "--folder", str(folder)], stdout=subprocess.PIPE, stderr=errors,
                                            text=True)  # fmt: skip
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split(" ")[0]
        assert self.address.startswith("http"), log.read_text()
        self.seen: dict[str, Any] = {}

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def replicas(self) -> set[int]:
        return {each.pid for each in self.children() if _title(each).startswith("ray::ServeReplica")}

    def counts(self, name: str) -> dict[int, float]:
        """One metric of each replica."""
        found: dict[int, float] = {}

        def scrape() -> bool:
            for line in httpx2.get(f"{self.address}/metrics", timeout=WAIT).text.splitlines():
                if line.startswith(f"{name}{{"):
                    label, value = line.removeprefix(f'{name}{{process="').split('"} ')
                    found[int(label)] = float(value)
            return found.keys() >= self.replicas()  # one that begins is not asked yet

        until(scrape)
        return found

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return httpx2.post(f"{self.address}{path}", json=body, timeout=WAIT)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def until(is_so: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT
    while not is_so():
        assert time.monotonic() < limit
        time.sleep(0.05)


def together(calls: list[Callable[[], Any]]) -> None:
    """Make calls at the same time: those that come one after the other all go to the replica that has least to do."""
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)


def chat(uri: str, question: str = SAID) -> dict:
    content = [{"type": "video_url", "video_url": {"url": uri}}, {"type": "text", "text": question}]
    return {"model": "mirasol", "messages": [{"role": "user", "content": content}]}


def watch_live(live: Live, pieces: list[dict], first: int, last: int, chunks: dict[int, Any]) -> None:
    """Send pieces, each with the second of its sound, and note the chunks that they close."""
    live.settings(mirasol={"chunks": True})
    for number in range(first, last):
        live.send("input_audio_buffer.append", **pieces[number], audio_start=number * PIECE_SECONDS)
    if last == len(pieces):
        live.send("input_audio_buffer.commit")
    live.ask(SAID)
    chunks.update({each["index"]: each["surprise"] for each in live.events if each["type"] == "mirasol.chunk"})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("log") / "errors.txt")
    yield made
    for each in [*made.children(), made.process] if made.process.poll() is None else []:
        each.kill()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[Any]:
    yield from start(Engine(Answerer.load(), tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def open_session(cluster) -> SimpleNamespace:
    """A session of which half of the media was sent, opened early so that it is saved when its replica is killed."""
    return SimpleNamespace(live=Live(cluster), chunks={})


def test_a_live_session_is_saved_while_it_is_open(cluster, open_session, clip):  # noqa: F811
    pieces = live_media(clip).pieces()
    watch_live(open_session.live, pieces, 0, 4, open_session.chunks)
    assert list(open_session.chunks) == [0, 1, 2, 3]


def test_replicas_answer_as_one_server_does(cluster, alone, data_uri):  # noqa: F811
    one = httpx2.post(f"{alone.address}/v1/chat/completions", json=chat(data_uri), timeout=WAIT).json()
    many = cluster.post("/v1/chat/completions", **chat(data_uri)).json()
    assert many["choices"] == one["choices"]
    assert many["mirasol"]["surprise"][1:] == pytest.approx(one["mirasol"]["surprise"][1:], abs=1e-3)
    assert {**many["mirasol"], "clip": 0, "surprise": 0, "confidence": 0} == {
        **one["mirasol"], "clip": 0, "surprise": 0, "confidence": 0
    }  # fmt: skip


def test_files_and_clips_of_one_replica_are_known_to_the_other(cluster, clip):  # noqa: F811
    sent = httpx2.post(f"{cluster.address}/v1/files", files={"file": ("a.mp4", clip)}, timeout=WAIT).json()
    watched = cluster.post("/v1/clips", video=sent["id"]).json()["id"]
    before, texts = cluster.counts("mirasol_questions_total"), set()

    def ask() -> None:
        texts.add(cluster.post(f"/v1/clips/{watched}/ask", question=SAID).json()["text"])
        texts.add(cluster.post("/v1/chat/completions", **chat(sent["id"])).json()["choices"][0]["message"]["content"])

    def both_have_answered() -> bool:
        together([ask] * 6)
        now = cluster.counts("mirasol_questions_total")
        return len(now) == 2 and all(now[each] > before[each] for each in now)

    until(both_have_answered)
    assert texts == {"bin blue at f four please"}
    assert sum(cluster.counts("mirasol_clips_total").values()) == 1, "the second replica found what the first watched"


def test_sessions_are_spread_and_each_stays_where_it_began(cluster, clip):  # noqa: F811
    pieces = live_media(clip).pieces()
    before = cluster.counts("mirasol_chunks_total")
    lives: list[Live] = []
    while len(lives) < 3 or min(cluster.counts("mirasol_live_sessions").values()) == 0:
        assert len(lives) < 20
        lives.append(Live(cluster))
    chunks: list[dict] = [{} for _ in lives]
    for live, found in zip(lives, chunks, strict=True):
        watch_live(live, pieces, 0, 3, found)
    assert all(list(found) == [0, 1, 2] for found in chunks), "a session that changes its replica begins anew"
    counted = cluster.counts("mirasol_chunks_total")
    gained = [counted[each] - before[each] for each in counted]
    assert sum(gained) == 3 * len(lives) and all(value > 0 and value % 3 == 0 for value in gained)
    for live in lives:
        live.socket.close()
    until(lambda: sum(cluster.counts("mirasol_live_sessions").values()) == 1)


def test_a_session_goes_to_the_replica_its_client_comes_back_to(cluster, clip):  # noqa: F811
    pieces, chunks, used = live_media(clip).pieces(), {}, set()
    live = Live(cluster)
    id = live.events[0]["session"]["id"]
    for number in range(len(pieces)):
        others = cluster.counts("mirasol_chunks_total")
        watch_live(live, pieces, number, number + 1, chunks)
        used |= {each for each, count in cluster.counts("mirasol_chunks_total").items() if count > others[each]}
        older, live = live, Live(cluster, f"?session={id}")
        assert live.events[0]["session"]["mirasol"]["resumed"]
        with pytest.raises(ConnectionClosed) as closed:
            older.socket.recv(timeout=WAIT)
        assert closed.value.rcvd.code == 4001
    assert live.text(SAID) == "bin blue at f four please"
    assert list(chunks) == list(range(len(chunks))) and len(used) == 2, "it has been at both"
    live.socket.close()


def test_after_a_kill_under_load_every_request_is_right_or_a_503_and_a_session_goes_on(
    cluster, alone, open_session, clip, data_uri  # noqa: F811
):  # fmt: skip
    pieces, whole = live_media(clip).pieces(), {}
    reference = Live(alone)
    watch_live(reference, pieces, 0, len(pieces), whole)
    live, id = open_session.live, open_session.live.events[0]["session"]["id"]
    until(lambda: any(cluster.folder.glob(f"sessions/*/{id}")))
    (victim,) = [each for each, count in cluster.counts("mirasol_live_sessions").items() if count]

    answers: list[httpx2.Response] = []
    asking = [
        threading.Thread(target=lambda: answers.append(cluster.post("/v1/chat/completions", **chat(data_uri))))
        for _ in range(24)
    ]
    for thread in asking:
        thread.start()
    until(lambda: bool(answers))
    os.kill(victim, signal.SIGKILL)
    for thread in asking:
        thread.join(WAIT)
    assert len(answers) == len(asking), "one is never answered"
    kinds = Counter(each.status_code for each in answers)
    assert set(kinds) <= {200, 503}, kinds
    for each in answers:
        if each.status_code == 200:
            assert each.json()["choices"][0]["message"]["content"] == "bin blue at f four please"
        else:
            assert each.json()["error"]["type"] == "server_error" and each.headers["retry-after"]

    with pytest.raises(ConnectionClosed) as closed:
        while True:
            live.socket.recv(timeout=WAIT)
    assert closed.value.rcvd.code == 1012
    resumed = Live(cluster, f"?session={id}")
    told = resumed.events[0]["session"]["mirasol"]
    assert told["resumed"] and told["seconds"] > 0
    watch_live(resumed, pieces, int(told["seconds"] / PIECE_SECONDS), len(pieces), open_session.chunks)
    assert list(open_session.chunks) == list(whole)
    surprise = [[each or 0.0 for each in found.values()] for found in (open_session.chunks, whole)]
    assert surprise[0] == pytest.approx(surprise[1], abs=1e-3)
    assert resumed.text(SAID) == reference.text(SAID) == "bin blue at f four please"


def test_a_killed_replica_is_replaced_and_sigterm_ends_everything_with_0(cluster):
    until(lambda: len(cluster.replicas()) == 2 and len(cluster.counts("mirasol_live_sessions")) == 2)
    live, children = Live(cluster), cluster.children()
    cluster.process.send_signal(signal.SIGTERM)
    with pytest.raises(ConnectionClosed) as closed:
        live.socket.recv(timeout=WAIT)
    assert closed.value.rcvd.code == 1012
    assert cluster.process.wait(WAIT) == 0
    _, still_there = psutil.wait_procs(children, WAIT)
    assert [_title(each) for each in still_there] == []
