"""Live sessions: the official client is understood, broken connections are resumed, garbage ends nothing."""

import asyncio
from types import SimpleNamespace

import pytest
from websockets.exceptions import ConnectionClosed

from mirasol.serve import realtime_session
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from tests.serve.conftest import start
from tests.serve.live_client import QUESTION, Live
from tests.serve.live_media import PIECE_SECONDS, live_media
from tests.waiting import wait_for

openai = pytest.importorskip("openai", reason="needs the package openai")


@pytest.fixture(scope="module")
def media(clip):
    return live_media(clip)


def test_the_official_client_streams_a_clip_and_asks(server, media):
    async def run():
        client = openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key="none")
        async with client.realtime.connect(model="mirasol") as connection:
            created = await connection.recv()
            assert created.type == "session.created" and created.session.model == "mirasol"
            await connection.session.update(session={"type": "realtime", "audio": {
                "input": {"format": {"type": "audio/pcm", "rate": 24_000}}}})  # fmt: skip
            assert (await connection.recv()).session.audio.input.format.rate == 24_000
            for piece in media.pieces():
                await connection.send({"type": "input_audio_buffer.append", **piece})
            await connection.input_audio_buffer.commit()
            await connection.conversation.item.create(item={
                "type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]})  # fmt: skip
            await connection.response.create()
            deltas, types = [], []
            async for event in connection:
                types.append((event.type, type(event).__name__))
                if event.type == "response.output_text.delta":
                    deltas.append(event.delta)
                elif event.type == "response.done":
                    return deltas, event.response, types

    deltas, response, types = asyncio.run(run())
    assert "".join(deltas) == response.output[0].content[0].text == "blue"
    assert response.status == "completed" and response.usage.total_tokens > 2
    assert not any(name.startswith("mirasol.") for name, _ in types)  # nothing that was not asked for
    misread = [name for name, kind in types if kind == "ConversationCreatedEvent"]
    assert misread == []  # the client knows every event


@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_chunks_are_told_after_they_are_asked_for(live, clip, rate):
    media, connection = live_media(clip, rate), live()
    format = {"type": "audio/pcm", "rate": rate}
    own = {"chunks": True, "attribute": True}
    assert connection.settings(audio={"input": {"format": format}}, mirasol=own)["mirasol"].items() >= own.items()
    for piece in media.pieces():
        connection.send("input_audio_buffer.append", **piece)
    connection.send("input_audio_buffer.commit")
    response = connection.ask()
    assert response["output"][0]["content"][0]["text"] == "blue"
    assert 0.9 < response["mirasol"]["attributed_to"][0]["start"] < 1.7  # "blue" is said there
    chunks = [event for event in connection.events if event["type"] == "mirasol.chunk"]
    assert [chunk["index"] for chunk in chunks] == list(range(10))
    assert all(chunk["has_video"] and chunk["has_audio"] and chunk["dropped"] == {} for chunk in chunks)
    assert chunks[0]["surprise"] is None and chunks[1]["surprise"] > 0


def test_a_session_goes_on_after_its_connection_broke(live, media, server):
    pieces = media.pieces()
    first = live()
    id = first.events[0]["session"]["id"]
    for piece in pieces[:4]:
        first.send("input_audio_buffer.append", **piece)
    assert first.ask()["mirasol"]["attributed_to"] == [], "attribution was not asked for"
    first.socket.socket.close()  # no closing handshake
    second = live(f"?model=mirasol&session={id}")
    about = second.events[0]["session"]
    assert about["id"] == id and about["mirasol"]["resumed"] and about["mirasol"]["seconds"] > 1
    for piece in pieces[4:]:
        second.send("input_audio_buffer.append", **piece)
    second.send("input_audio_buffer.commit")
    assert second.text("what is said?") == "bin blue at f four please"


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '{"type": 3}', '{"type": "no.such"}', "[" * 100_000,
    '{"type": "session.update"}', '{"type": "session.update", "session": {"mirasol": {"fps": 3}}}',
    '{"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}}',
    '{"type": "input_audio_buffer.append"}', '{"type": "input_audio_buffer.append", "audio": "AA=="}',
    '{"type": "input_audio_buffer.append", "audio": 7}', '{"type": "input_audio_buffer.append", "audio": "?"}',
    '{"type": "input_audio_buffer.append", "video_frames": ["AAAA"]}',
    '{"type": "input_audio_buffer.append", "audio": "AAAAAAAA", "audio_start": 1e9}',
    '{"type": "input_audio_buffer.append", "audio": "AAAAAAAA", "audio_start": "soon"}',
    '{"type": "input_audio_buffer.commit"}', '{"type": "response.create"}',
    '{"type": "response.create", "response": 3}',
    '{"type": "response.create", "response": {"input": 7, "instructions": 8}}',
    '{"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [3]}}',
    '{"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "x"}]}}',
    '{"type": "conversation.item.retrieve", "item_id": []}', '{"type": "response.cancel"}', b"\x00\xff",
])  # fmt: skip
def test_garbage_is_answered_with_an_error_and_the_session_goes_on(garbage_session, media, text):
    garbage_session.socket.send(text)
    error = garbage_session.receive()
    assert error["type"] == "error", error
    assert error["error"]["type"] == "invalid_request_error" and error["error"]["message"], error


@pytest.fixture(scope="module")
def garbage_session(server, media):
    connection = Live(server)
    yield connection
    for piece in media.pieces():
        connection.send("input_audio_buffer.append", **piece)
    connection.send("input_audio_buffer.commit")
    assert connection.text() == "blue"
    connection.socket.close()


def test_an_unknown_model_and_an_unknown_session_are_refused_with_an_error_event(server):
    for query in ("?model=gpt-realtime", "?model=mirasol&session=sess_0", "?session=../../etc"):
        connection = Live(server, query)
        assert connection.events[0]["type"] == "error" and connection.events[0]["error"]["message"]
        with pytest.raises(Exception, match="4004"):
            connection.receive()


@pytest.fixture(scope="module")
def strict_server(shipped, tmp_path_factory):
    """A server with room for one session."""
    limits = Limits(sessions=1)
    yield from start(Engine(shipped, tmp_path_factory.mktemp("strict"), limits))


def test_no_room_and_a_takeover_close_with_their_codes(strict_server, media):
    first = alone_on(strict_server)
    refused = Live(strict_server)
    assert refused.events[0]["error"]["code"] and refused.events[0]["type"] == "error"
    assert closed(refused) == 1013
    first.send("input_audio_buffer.append", **media.pieces()[0])
    second = Live(strict_server, f"?session={first.events[0]['session']['id']}")
    assert closed(first) == 4001
    second.socket.close()


def test_an_idle_session_is_closed_with_its_code(strict_server, monkeypatch):
    limits = strict_server.engine.limits.model_copy(update={"session_idle_seconds": 0.2})
    monkeypatch.setattr(strict_server.engine, "limits", limits)
    live = alone_on(strict_server)
    assert live.until("error")["error"]["code"] == "idle"
    assert closed(live) == 4002


def alone_on(server) -> Live:
    """Open a session after the one before has ended."""
    wait_for(lambda: not server.engine.sessions)
    return Live(server)


def closed(live) -> int:
    """Receive until the server closes; return its code."""
    with pytest.raises(ConnectionClosed) as found:
        while True:
            live.receive()
    return found.value.rcvd.code


@pytest.mark.parametrize("keep", [False, True])
def test_a_session_ends_with_a_normal_close_unless_it_is_kept(live, server, media, keep):
    first = live()
    first.settings(mirasol={"keep": keep})
    first.send("input_audio_buffer.append", **media.pieces()[0])
    first.settings()
    first.socket.close()
    id = first.events[0]["session"]["id"]
    wait_for(lambda: id not in server.engine.sessions)
    again = live(f"?session={id}").events[0]
    assert again["type"] == ("session.created" if keep else "error")


def test_pictures_of_items_and_without_timestamps_are_seen_when_they_arrive(live, media, monkeypatch):
    now = 100.0
    monkeypatch.setattr(realtime_session, "time", SimpleNamespace(monotonic=lambda: now))
    connection = live()
    connection.settings(mirasol={"use_audio": False, "chunks": True})
    for piece in media.pieces(timestamps=False, audio=False)[:2]:
        connection.send("input_audio_buffer.append", **piece)
        connection.settings()  # the piece was handled
        now += PIECE_SECONDS
    picture = {"type": "input_image", "image_url": f"data:image/jpeg;base64,{media.frames[0][1]}"}
    item = {"type": "message", "role": "user", "content": [picture]}
    connection.send("conversation.item.create", item=item)
    kept = connection.until("conversation.item.done")["item"]
    assert "image_url" not in kept["content"][0]
    assert connection.ask()["status"] == "completed"
    chunks = [event for event in connection.events if event["type"] == "mirasol.chunk"]
    assert [chunk["has_video"] for chunk in chunks] == [True, True, True]  # from 0, 0.4 and 0.8 s on


def test_items_stand_where_they_are_placed_and_each_id_is_used_once(live, media):
    connection = live()

    def create(text, id=None, **values):
        content = [{"type": "input_text", "text": text}]
        item = {"id": id, "type": "message", "role": "user", "content": content}
        connection.send("conversation.item.create", item=item, **values)

    create(QUESTION, "last")
    create("which digit is named?", "first", previous_item_id="root")
    create("which letter is named?", "second", previous_item_id="first")
    connection.until("conversation.item.done")
    assert [connection.until("conversation.item.done")["previous_item_id"] for _ in range(2)] == [None, "first"]
    for values in ({"id": "first"}, {"previous_item_id": "nothing"}):
        create("which digit is named?", **values)
        assert next(iter(values.values())) in connection.until("error")["error"]["message"]
    connection.send("input_audio_buffer.append", **media.pieces()[0])
    connection.send("response.create", response={"conversation": "none"})
    (item,) = connection.until("response.done")["response"]["output"]
    told = [event["item"] for event in connection.events if event["type"] == "conversation.item.done"]
    assert item["content"] and item["id"] not in [each["id"] for each in told]
    connection.send("conversation.item.retrieve", item_id=item["id"])
    assert connection.until("error")["error"]["code"] == "item_not_found"
    assert connection.settings(max_output_tokens=1)["max_output_tokens"] == 1
    assert connection.settings(mirasol={"attribute": True})["max_output_tokens"] == 1, "what is left out stays"
    connection.send("response.create", response={"conversation": "none"})
    assert connection.until("response.done")["response"]["status"] == "incomplete"
    connection.settings(max_output_tokens="inf")
    connection.send("response.create")
    assert connection.until("response.done")["response"]["mirasol"]["question"] == QUESTION


def test_a_response_is_cancelled_and_the_next_is_given(live, server, media, monkeypatch):
    connection = live()
    connection.send("input_audio_buffer.append", **media.pieces()[0])
    connection.send("response.cancel")
    assert connection.until("error")["error"]["code"] == "no_response"
    answer = server.engine._answer_questions
    monkeypatch.setattr(server.engine, "_answer_questions", lambda: False)
    connection.send("conversation.item.create", item={
        "type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]})  # fmt: skip
    connection.send("response.create")
    connection.send("response.cancel")
    assert connection.until("response.done")["response"]["status"] == "cancelled"
    assert len(server.engine.questions) == 0  # nobody waits for it: the model does not answer it
    monkeypatch.setattr(server.engine, "_answer_questions", answer)
    assert connection.ask()["status"] == "completed"
