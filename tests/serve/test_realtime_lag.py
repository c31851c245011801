"""Live sessions that are behind: lag counts from the socket's receipt. The test is the socket, the clock, the model's
thread and the decoder, so that no machine is too slow or too fast."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from mirasol.serve import realtime_inbox
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from mirasol.serve.realtime import Connection
from mirasol.serve.realtime_session import RealtimeSession
from mirasol.serve.service import Service
from tests.waiting import PATIENCE

RATE, PIECE_SECONDS, PICTURES = 24_000, 0.4, 10  # of a piece: 25 pictures a second
LAG_SECONDS = 1.5  # that is allowed
NUM_PIECES = 6


class Socket:
    """A WebSocket whose messages come when the test says."""

    def __init__(self):
        self.arriving: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    async def receive(self):
        return await self.arriving.get()

    async def send_text(self, text):
        self.events.append(json.loads(text))
        self._changed.set()

    def put(self, type, **values):
        self.arriving.put_nowait({"type": "websocket.receive", "text": json.dumps({"type": type, **values})})

    async def settings(self, **mirasol):
        """Wait until all that was sent before is handled."""
        self.put("session.update", session={"type": "realtime", "mirasol": mirasol})
        await self.until("session.updated")

    async def until(self, type):
        """Wait for the next event of a type; earlier ones of it are forgotten."""
        while not any(event["type"] == type for event in self.events):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE)
        self.events = [event for event in self.events if event["type"] != type]


class Stage:
    """A session of a client that prefers to lose media, on a clock that stands still unless the test moves it."""

    def __init__(self, answerer, folder, monkeypatch):
        self.now, self.decode_seconds, self.num_decoded = 100.0, 0.0, 0
        monkeypatch.setattr(realtime_inbox, "monotonic", lambda: self.now)
        limits = Limits(session_lag_seconds=LAG_SECONDS)  # the engine is not started: `step` is called here
        self.engine = Engine(answerer, folder, limits, decode_picture=self.decode)

    def decode(self, data, limits):
        """Take `decode_seconds`, in which the model watches what waits."""
        self.now += self.decode_seconds
        self.num_decoded += 1
        self.engine.step()
        return np.full((32, 32, 3), self.num_decoded % 256, np.uint8)

    def play(self, script: Callable[[Socket], Awaitable[None]]) -> None:
        """Connect a client that does what `script` says, then leaves."""

        async def run() -> None:
            socket, service = Socket(), Service(self.engine)
            connection = Connection(socket, service)  # type: ignore[arg-type]
            state = RealtimeSession(service, connection.post)
            state.open(None)
            served = asyncio.create_task(connection.run(state))
            await socket.settings(chunks=True, when_behind="skip", allowed_lateness=0.5)
            await script(socket)
            socket.arriving.put_nowait({"type": "websocket.disconnect", "code": 1000})
            await asyncio.wait_for(served, PATIENCE)

        asyncio.run(run())

    async def chunks(self, socket: Socket) -> list[dict[str, Any]]:
        """Let the model watch what waits; return the events of all chunks."""
        self.engine.step()
        await socket.settings()  # so that the events are written
        return [event for event in socket.events if event["type"] == "mirasol.chunk"]


@pytest.fixture
def stage(shipped, tmp_path, monkeypatch):
    stage = Stage(shipped, tmp_path, monkeypatch)
    yield stage
    stage.engine.close()


def put_piece(socket: Socket, number: int, padding: int = 0) -> None:
    """Send 0.4 s of a source; `padding` makes the message larger."""
    start = number * PIECE_SECONDS
    socket.put(
        "input_audio_buffer.append",
        audio=base64.b64encode(bytes(2 * round(PIECE_SECONDS * RATE))).decode(),
        video_frames=[base64.b64encode(b"picture").decode()] * PICTURES,
        timestamps=(start + np.arange(PICTURES) * PIECE_SECONDS / PICTURES).tolist(),
        padding="." * padding,
    )


def test_pictures_that_come_as_they_are_shown_are_not_late(stage):
    async def script(socket):
        for number in range(NUM_PIECES):
            put_piece(socket, number)
            await socket.settings()
            stage.now += PIECE_SECONDS
        chunks = await stage.chunks(socket)
        assert len(chunks) > 3 and not chunks[-1]["dropped"]
        assert max(chunk["lag_seconds"] for chunk in chunks) <= 2 * PIECE_SECONDS

    stage.play(script)
    assert stage.num_decoded == NUM_PIECES * PICTURES


def test_lag_counts_from_the_receipt_of_the_socket_and_pictures_of_late_messages_are_not_decoded(stage):
    """All is received at once, and each picture takes 0.06 s, which is longer than it is shown."""
    stage.decode_seconds = 0.06

    async def script(socket):
        for number in range(NUM_PIECES):
            put_piece(socket, number)
        await socket.settings()
        # The first piece waited 0 s, the second 0.6, the third 1.2, the others 1.8: too long.
        assert stage.num_decoded == 3 * PICTURES
        chunks = await stage.chunks(socket)
        dropped = chunks[-1]["dropped"]
        assert dropped["late_frames"] == (NUM_PIECES - 3) * PICTURES
        assert dropped["skipped_chunks"] > 0 and not chunks[-1]["has_audio"]
        assert chunks[-1]["lag_seconds"] == pytest.approx(1.8)
        put_piece(socket, NUM_PIECES)  # received now
        await socket.settings()  # waited while the piece was decoded
        await socket.settings()  # did not
        assert stage.num_decoded == 4 * PICTURES
        chunks = await stage.chunks(socket)
        assert chunks[-1]["dropped"] == dropped and chunks[-1]["has_video"]

    stage.play(script)


def test_a_session_is_late_when_more_waits_than_is_read_ahead(stage):
    """What waits in the socket has no moment of receipt: its pictures are late though the clock stands still."""

    async def script(socket):
        for number in range(NUM_PIECES):
            put_piece(socket, number, padding=realtime_inbox.MAX_BYTES // 2)
        await socket.settings()
        chunks = await stage.chunks(socket)
        assert 0 < chunks[-1]["dropped"]["late_frames"] < NUM_PIECES * PICTURES

    stage.play(script)
