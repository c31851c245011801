"""`mirasol serve` as a process: it prints its address, drains at SIGTERM, and continues after a restart."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mirasol.cli import main
from tests.serve.live_media import live_media
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow
QUESTION = "which color is named?"


def begin(folder: Path) -> tuple[subprocess.Popen, str]:
    """Start the command; return its process and address."""
    words = [sys.executable, "-m", "mirasol.cli", "serve", "--port", "0", "--folder", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()[0]


def end(process: subprocess.Popen) -> None:
    """SIGTERM ends it with 0 and nothing on stderr."""
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and errors == "", errors


def chat(data_uri: str) -> dict:
    content = [{"type": "video_url", "video_url": {"url": data_uri}}, {"type": "text", "text": QUESTION}]
    return {"model": "mirasol", "messages": [{"role": "user", "content": content}]}


def test_it_finishes_what_it_accepted_saves_live_sessions_and_continues_after_a_restart(tmp_path, clip, data_uri):
    process, address = begin(tmp_path)
    pieces = live_media(clip).pieces()
    socket_address = f"{address.replace('http', 'ws')}/v1/realtime?model=mirasol"
    try:
        with connect(socket_address) as live:
            id = json.loads(live.recv())["session"]["id"]
            live.send(json.dumps({"type": "session.update", "session": {"mirasol": {"chunks": True}}}))
            for piece in pieces[:4]:
                live.send(json.dumps({"type": "input_audio_buffer.append", **piece}))
            while json.loads(live.recv(timeout=PATIENCE)).get("index") != 3:
                pass
            answers: list = []
            url = f"{address}/v1/chat/completions"
            post = lambda: answers.append(httpx2.post(url, json=chat(data_uri), timeout=PATIENCE))  # noqa: E731
            asking = threading.Thread(target=post)
            asking.start()
            accepted = ("mirasol_waiting_clips 1.0", "mirasol_clips_total 1.0")
            while not any(line in accepted for line in httpx2.get(f"{address}/metrics").text.splitlines()):
                time.sleep(0.01)
            end(process)
            asking.join(PATIENCE)
            assert answers[0].json()["choices"][0]["message"]["content"] == "blue"
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    live.recv(timeout=PATIENCE)
            assert closed.value.rcvd.code == 1012
        process, address = begin(tmp_path)
        clip_id = answers[0].json()["mirasol"]["clip"]
        again = httpx2.post(f"{address}/v1/clips/{clip_id}/ask", json={"question": QUESTION}, timeout=PATIENCE).json()
        assert again["text"] == "blue"
        with connect(f"{address.replace('http', 'ws')}/v1/realtime?model=mirasol&session={id}") as live:
            about = json.loads(live.recv(timeout=PATIENCE))["session"]["mirasol"]
            assert about["resumed"] and about["seconds"] == pytest.approx(1.28)
            for piece in pieces[4:]:
                live.send(json.dumps({"type": "input_audio_buffer.append", **piece}))
            live.send(json.dumps({"type": "input_audio_buffer.commit"}))
            live.send(json.dumps({"type": "response.create", "response": {"instructions": "what is said?"}}))
            while (event := json.loads(live.recv(timeout=PATIENCE)))["type"] != "response.done":
                pass
            assert event["response"]["output"][0]["content"][0]["text"] == "bin blue at f four please"
        end(process)
    finally:
        process.kill()


def test_an_address_that_is_taken_is_refused_with_a_message(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["serve", "--port", port]) == 2
    message = capsys.readouterr().err
    assert port in message and "--port 0 takes a free one" in message
