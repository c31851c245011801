"""A connection of a live session, on a socket that the test holds: when it ends, and what a slow reader still gets."""

import asyncio
import json

import pytest
from starlette.websockets import WebSocketDisconnect

from mirasol.serve import realtime
from mirasol.serve.engine import Engine
from mirasol.serve.realtime import EVENTS_AHEAD, IDLE, NORMAL, REPLACED, Connection
from mirasol.serve.realtime_session import RealtimeSession
from mirasol.serve.service import Service
from tests.serve.live_client import QUESTION
from tests.serve.live_media import live_media


class Socket:
    """The client's end: what it sends waits in `sent`, what it has read is in `events`."""

    def __init__(self):
        self.sent: asyncio.Queue = asyncio.Queue()
        self.events: list[dict] = []
        self.reads, self.code = asyncio.Event(), None
        self.reads.set()

    def send(self, type, **values):
        self.sent.put_nowait({"type": "websocket.receive", "text": json.dumps({"type": type, **values})})

    def leave(self, code=NORMAL):
        self.sent.put_nowait({"type": "websocket.disconnect", "code": code})

    async def receive(self):
        return await self.sent.get()

    async def send_text(self, text):
        await self.reads.wait()
        if self.code is not None:
            raise WebSocketDisconnect(self.code)
        self.events.append(json.loads(text))

    async def close(self, code):
        self.code = code
        self.leave(code)

    async def until(self, type):
        while not any(event["type"] == type for event in self.events):
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def service(shipped, tmp_path_factory):
    engine = Engine(shipped, tmp_path_factory.mktemp("connection")).start()
    yield Service(engine)
    engine.close()


def connect(service, id=None):
    """Begin to serve a new socket; return it, its connection, its session's id, and the task that serves it."""
    socket = Socket()
    connection = Connection(socket, service)
    state = RealtimeSession(service, connection.post)
    state.open(id)
    return socket, connection, state.id, asyncio.create_task(connection.run(state))


def run(test):
    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_client_that_says_nothing_is_told_so_and_its_session_is_kept(service, monkeypatch, clip):
    monkeypatch.setattr(service.engine, "limits", service.engine.limits.model_copy(update={"session_idle_seconds": 1}))

    async def test():
        socket, _, id, serving = connect(service)
        socket.send("input_audio_buffer.append", **live_media(clip).pieces()[0])
        await serving
        assert socket.code == IDLE and socket.events[-1]["error"]["code"] == "idle"
        assert id not in service.engine.sessions and service.engine.resume(id).has_media
        service.engine.close_session(id)

    run(test)


def test_a_second_connection_takes_the_session_from_the_first_and_does_not_close_it(service):
    async def test():
        first, _, id, first_serving = connect(service)
        await first.until("session.created")
        second, connection, _, second_serving = connect(service, id)
        await first_serving
        assert first.code == REPLACED and second.code is None
        assert id in service.engine.sessions and service.connections == {id: connection}
        second.leave()
        await second_serving
        assert id not in service.engine.sessions and service.connections == {}

    run(test)


def test_a_session_that_another_process_wants_is_saved_and_its_connection_closed(service, monkeypatch, clip):
    monkeypatch.setattr(realtime, "WANTED_SECONDS", 0.01)

    async def test():
        socket, _, id, serving = connect(service)
        socket.send("input_audio_buffer.append", **live_media(clip).pieces()[0])
        socket.send("session.update", session={})
        await socket.until("session.updated")
        service.engine.holds.want(id, True)
        await serving
        assert socket.code == REPLACED and id not in service.engine.sessions and id not in service.engine.holds._held
        assert service.engine.saved.get(id) is not None
        service.engine.holds.want(id, False)

    run(test)


def test_of_connections_that_resume_a_session_at_the_same_time_one_keeps_it(service):
    async def test():
        first, _, id, first_serving = connect(service)
        await first.until("session.created")
        others = [connect(service, id) for _ in range(2)]
        await first_serving
        done, (last,) = await asyncio.wait({each[3] for each in others}, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1 and len(service.connections) == 1
        (kept,) = [each for each in others if each[3] is last]
        assert service.connections == {id: kept[1]}
        kept[0].leave()
        await last
        assert service.connections == {}

    run(test)


def test_a_client_that_does_not_read_is_not_read_either_and_later_gets_every_answer(service, clip):
    async def test():
        socket, connection, _, serving = connect(service)
        socket.send("session.update", session={"mirasol": {"chunks": True}})
        socket.send("input_audio_buffer.append", **live_media(clip).pieces()[0])
        await socket.until("session.updated")
        socket.reads.clear()
        items = 3 * EVENTS_AHEAD
        for number in range(items):
            content = [{"type": "input_text", "text": QUESTION}]
            item = {"id": f"item{number}", "type": "message", "role": "user", "content": content}
            socket.send("conversation.item.create", item=item)  # is answered by two events
        socket.send("response.create")
        while socket.sent.qsize() > items // 2 and connection.outgoing.qsize() <= EVENTS_AHEAD:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert connection.outgoing.qsize() <= EVENTS_AHEAD + 3 and socket.sent.qsize() > items // 2
        for number in range(EVENTS_AHEAD):
            connection.post({"type": "mirasol.chunk", "index": number})  # left out: the answers wait already
        socket.reads.set()
        await socket.until("response.done")
        socket.leave()
        await serving
        assert sum(event["type"] == "conversation.item.done" for event in socket.events) == items + 1
        assert sum(event["type"] == "mirasol.chunk" for event in socket.events) < 3
        (response,) = [event["response"] for event in socket.events if event["type"] == "response.done"]
        assert response["status"] == "completed"

    run(test)


def test_chunks_that_nobody_reads_are_bounded_and_leave_room_for_the_end_of_a_response(service):
    async def test():
        connection = Connection(Socket(), service)
        for number in range(3 * EVENTS_AHEAD):
            connection.post({"type": "mirasol.chunk", "index": number})
        connection.post({"type": "response.done"})
        kept = [connection.outgoing.get_nowait() for _ in range(connection.outgoing.qsize())]
        assert len(kept) == EVENTS_AHEAD + 1 and kept[-1]["type"] == "response.done"

    run(test)


def test_a_response_that_is_cancelled_at_once_is_ended_for_the_client(service, clip):
    async def test():
        events = []
        state = RealtimeSession(service, events.append)
        state.open(None)
        await state.handle({"type": "input_audio_buffer.append", **live_media(clip).pieces()[0]})
        text = {"type": "input_text", "text": "what is said?"}
        item = {"type": "message", "role": "user", "content": [text]}
        await state.handle({"type": "response.create", "response": {"input": [item]}})
        await state.handle({"type": "response.cancel"})
        while not any(event["type"] == "response.done" for event in events):
            await asyncio.sleep(0.01)
        assert events[-1]["response"]["status"] in ("cancelled", "completed")
        service.engine.close_session(state.id)

    run(test)
