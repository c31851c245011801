"""Habits of clients, proxies and players that other servers got reports about."""

import json
import socket
import threading

import httpx2
import numpy as np
import pytest

from mirasol.answer.answerer import Answerer
from mirasol.serve.chat import read_chat
from mirasol.serve.decode import Decoded, Media, WatchOptions, decode
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from mirasol.serve.parts import Asked, Reference, read_messages
from mirasol.serve.queues import BusyError
from tests.serve.conftest import start
from tests.serve.live_client import QUESTION
from tests.serve.live_media import jpeg, live_media
from tests.waiting import PATIENCE, wait_for

USER = {"role": "user", "content": QUESTION}
CUT_PAIR = "which color \\ud83d is named?"  # as JSON: half of an emoji


@pytest.fixture(scope="module")
def http(server):
    with httpx2.Client(base_url=server.address, timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="module")
def watched(http, data_uri) -> str:
    return http.post("/v1/clips", json={"video": data_uri}).json()["id"]


@pytest.fixture(scope="module")
def pieces(clip):
    return live_media(clip).pieces()


def chat(http, watched, **more):
    body = {"messages": [USER], **more, "mirasol": {"clip": watched, **more.get("mirasol", {})}}
    return http.post("/v1/chat/completions", json=body)


# ---- HTTP


def test_options_that_no_context_could_hold_are_refused_before_they_become_tokens(http, watched, monkeypatch):
    def prompts(*_):
        raise AssertionError("6 million characters were tokenised")

    monkeypatch.setattr(Answerer, "prompts", prompts)
    found = http.post(f"/v1/clips/{watched}/ask", json={"question": "which?", "options": ["word " * 20_000] * 64})
    assert found.status_code == 400 and "options" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [f'{{"question": "{CUT_PAIR}"}}', '{"question": "which?", "options": ["\\ud83d", "red"]}']
)
def test_half_of_a_character_is_refused_with_a_message(http, watched, body):
    found = http.post(f"/v1/clips/{watched}/ask", content=body, headers={"content-type": "application/json"})
    assert found.status_code == 400 and "surrogate" in found.json()["error"]["message"]


@pytest.mark.parametrize("path, body", [
    ("/v1/clips", '{"\\ud83d": 1}'), ("/v1/chat/completions", '{"messages": [{}], "mirasol": {"\\ud83d": 1}}'),
    ("/v1/chat/completions", '{"messages": [{"role": "user", "content": [{"type": "\\ud83d"}]}]}'),
])  # fmt: skip
def test_half_of_a_character_in_a_name_is_quoted(http, path, body):
    found = http.post(path, content=body, headers={"content-type": "application/json"})
    message = found.json()["error"]["message"]
    assert found.status_code == 400 and message.startswith("Expected") and "\\ud83d" in repr(message)


def test_a_field_named_by_half_of_a_character_is_warned_about(http, watched):
    body = json.dumps({"messages": [USER], "mirasol": {"clip": watched}, "\ud83d": 1})
    (warning,) = http.post("/v1/chat/completions", content=body).json()["mirasol"]["warnings"]
    assert "is not used" in warning


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/mirasol", "content"])
def test_head_is_answered_as_get_without_its_body(http, clip, path):
    if path == "content":
        id = http.post("/v1/files", files={"file": ("a.mp4", clip)}).json()["id"]
        path = f"/v1/files/{id}/content"
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]
    assert http.head("/v1/chat/completions").status_code in (404, 405)


def test_a_file_that_should_expire_is_refused_because_files_stay(http, clip):
    data = {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    found = http.post("/v1/files", files={"file": ("a.mp4", clip)}, data=data)
    assert found.status_code == 400 and found.json()["error"]["param"] == "expires_after"


@pytest.mark.parametrize("range, start, end", [
    ("bytes=0-99", 0, 100), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-5", 5, 6),
    ("bytes=0-99999999", 0, None),
])  # fmt: skip
def test_a_player_gets_the_bytes_that_it_asks_for(http, clip, range, start, end):
    id = http.post("/v1/files", files={"file": ("a.mp4", clip)}).json()["id"]
    found = http.get(f"/v1/files/{id}/content", headers={"Range": range})
    assert found.status_code == 206 and found.content == clip[start:end]
    first = start % len(clip)
    assert found.headers["content-range"] == f"bytes {first}-{first + len(found.content) - 1}/{len(clip)}"


@pytest.mark.parametrize("range", ["bytes=99999999-", "bytes=5-3", "bytes=", "bytes=a-b", "lines=0-3", "bytes"])
def test_a_range_that_the_file_does_not_have_is_refused_with_its_size(http, clip, range):
    id = http.post("/v1/files", files={"file": ("a.mp4", clip)}).json()["id"]
    found = http.get(f"/v1/files/{id}/content", headers={"Range": range})
    assert found.status_code == 416 and found.headers["content-range"] == f"bytes */{len(clip)}"
    error = found.json()["error"]
    assert error["code"] == "invalid_range" and str(len(clip)) in error["message"] and range in error["message"]


@pytest.mark.parametrize("what, value, state", [("is_draining", True, "draining"), ("_thread", None, "stopped")])
def test_a_server_that_takes_no_more_work_is_not_healthy(http, server, monkeypatch, what, value, state):
    assert http.get("/health").status_code == 200
    with monkeypatch.context() as patched:
        patched.setattr(server.engine, what, value)
        found = http.get("/health")
    assert found.status_code == 503 and found.json()["status"] == state


def test_models_with_a_trailing_slash_are_listed(http):
    assert http.get("/v1/models/").json() == http.get("/v1/models").json()


def test_a_body_without_its_content_type_is_told_the_header(http, watched):
    found = http.post(f"/v1/clips/{watched}/ask", content=b'{"question": "what?"}')
    assert found.status_code == 400 and "content-type: application/json" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    "asks_for_nothing",
    [{"stop": []}, {"top_p": 1.0}, {"frequency_penalty": 0, "presence_penalty": 0.0}, {"tool_choice": "none"},
     {"seed": 3},
     {"response_format": {"type": "text"}}, {"logit_bias": {}}, {"modalities": ["text"]}, {"stream": None},
     {"temperature": 0}, {"tools": []}],
)  # fmt: skip
def test_a_field_that_asks_for_nothing_is_not_warned_about(http, watched, asks_for_nothing):
    assert chat(http, watched, **asks_for_nothing).json()["mirasol"]["warnings"] == []


@pytest.mark.parametrize(
    "unused",
    [
        {"stop": ["l"]},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"temperature": 0.7},
        {"top_k": 4},
    ],
)
def test_a_field_that_is_not_used_is_named(http, watched, unused):
    (warning,) = chat(http, watched, **unused).json()["mirasol"]["warnings"]
    assert warning.startswith(f"{next(iter(unused))} is not used")


def test_a_question_unlike_those_of_training_is_warned_of_on_every_route(http, watched):
    unlike = "what animal is it?"
    bodies = [chat(http, watched, messages=[{"role": "user", "content": unlike}]).json()["mirasol"]]
    bodies += [http.post(f"/v1/clips/{watched}/ask", json={"question": unlike, **more}).json()
               for more in ({}, {"options": ["a cat", "a dog"]})]  # fmt: skip
    for body in bodies:
        (warning,) = body["warnings"]
        assert warning.startswith(f"The checkpoint was not trained on {unlike!r}")
    assert http.post(f"/v1/clips/{watched}/ask", json={"question": "which color is named?"}).json()["warnings"] == []


@pytest.mark.parametrize("name", ["tools", "functions"])
def test_functions_to_call_are_refused(http, watched, name):
    found = chat(http, watched, **{name: [{"name": "f"}]})
    assert found.status_code == 400 and found.json()["error"]["param"] == name


def test_media_beside_a_watched_clip_are_not_dropped_without_a_word(http, watched, data_uri):
    part = {"type": "video_url", "video_url": {"url": data_uri}}
    message = {"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}
    (warning,) = chat(http, watched, messages=[message]).json()["mirasol"]["warnings"]
    assert "video" in warning and "mirasol.clip" in warning


def test_clients_that_repeat_the_conversation_ask_about_its_latest_clip():
    def message(kind: str, name: str) -> dict:
        return {"role": "user", "content": [{"type": f"{kind}_url", f"{kind}_url": {"url": f"data:,{name}"}}]}

    answer = {"role": "assistant", "content": "red"}
    asked = read_messages([message("video", "a"), answer, message("audio", "b"), USER])
    assert (asked.media, asked.question) == ({"audio": Reference(data=b"b")}, QUESTION)
    assert len(asked.warnings) == 1 and "earlier messages are not used" in asked.warnings[0]
    assert list(read_messages([message("video", "a"), message("image", "b")]).media) == ["image"]
    assert read_messages([message("video", "a%20%00b"), USER, answer]) == Asked(
        QUESTION, {"video": Reference(data=b"a \0b")}, []
    )


def test_the_switch_for_the_audio_of_a_video_leaves_an_audio_part_alone():
    def wanted(*kinds: str, **more) -> bool | None:
        parts = [{"type": f"{kind}_url", f"{kind}_url": {"url": "data:,x"}} for kind in kinds]
        return read_chat({"messages": [{"role": "user", "content": parts}], **more})[2]

    assert wanted("video") is None and wanted("video", use_audio_in_video=True) is True
    for off in ({"use_audio_in_video": False}, {"mm_processor_kwargs": {"use_audio_in_video": False}}):
        assert wanted("video", **off) is False and wanted("video", "audio", **off) is None
    assert wanted("video", "audio", mirasol={"use_audio": False}) is False


def test_a_long_file_name_keeps_its_end(http, clip):
    kept = http.post("/v1/files", files={"file": ("a" * 200 + "b.mp4", clip[:-1])}).json()
    assert kept["filename"] == "a" * 115 + "b.mp4"
    assert http.get(f"/v1/files/{kept['id']}/content").headers["content-type"] == "video/mp4"


@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_stream_has_the_chunks_that_clients_count_on(http, watched, wants_usage):
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    found = chat(http, watched, stream=True, **options)
    assert found.headers["content-type"].startswith("text/event-stream")
    assert found.headers["x-accel-buffering"] == "no" and found.headers["cache-control"] == "no-cache"
    *lines, end, nothing = found.text.split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    last = chunks.pop() if wants_usage else None
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    if last is None:
        assert all("usage" not in chunk for chunk in chunks)
    else:
        assert all(chunk["usage"] is None for chunk in chunks)
        assert last["choices"] == [] and last["usage"] == chat(http, watched).json()["usage"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_says_so_and_the_newer_limit_counts(http, watched, stream):
    found = chat(http, watched, max_completion_tokens=1, max_tokens=50, stream=stream)
    assert '"finish_reason":"length"' in found.text.replace(": ", ":")


def test_a_clip_names_the_file_that_is_there(http, clip):
    def keep():
        id = http.post("/v1/files", files={"file": ("a.mp4", clip)}).json()["id"]
        return id, http.post("/v1/clips", json={"video": id}).json()

    old, first = keep()
    http.delete(f"/v1/files/{old}")
    new, second = keep()
    assert first["id"] == second["id"] and new != old
    assert second["mirasol"]["files"] == {"video": new}
    assert http.get(f"/v1/clips/{second['id']}").json()["mirasol"]["files"] == {"video": new}


def test_a_clip_that_was_forgotten_is_unknown(http, data_uri):
    id = http.post("/v1/clips", json={"video": data_uri, "use_audio": False}).json()["id"]
    assert http.delete(f"/v1/clips/{id}").status_code == 200
    assert http.get(f"/v1/clips/{id}").status_code == http.delete(f"/v1/clips/{id}").status_code == 404
    assert http.post("/v1/clips", json={"video": data_uri, "use_audio": False}).json()["id"] != id


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_gives_its_place_in_the_queue_free(shipped, tmp_path, clip, stream):
    engine = Engine(shipped, tmp_path, Limits())
    running = start(engine)
    server = next(running)
    id = engine.watch(Media(video=clip)).result(PATIENCE).id
    go, held = threading.Event(), threading.Event()
    real = engine._answer_questions
    engine._answer_questions = lambda: (held.set(), go.wait(PATIENCE), real())[-1]
    assert held.wait(PATIENCE)
    body = json.dumps({"messages": [USER], "stream": stream, "mirasol": {"clip": id}}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
    sockets = [socket.create_connection(address) for _ in range(5)]
    for each in sockets:
        each.sendall(head + body)
    wait_for(lambda: len(engine.questions) == 5)
    for each in sockets:
        each.close()
    wait_for(lambda: len(engine.questions) == 0)
    go.set()
    assert engine.ask(id, QUESTION).result(PATIENCE).text == "blue" and engine.counts["questions"] == 1
    next(running, None)


def test_a_full_queue_is_answered_with_429_and_when_to_come_back(shipped, tmp_path, clip):
    engine = Engine(shipped, tmp_path, Limits(waiting_questions=1))
    running = start(engine)
    http = httpx2.Client(base_url=next(running).address, timeout=PATIENCE)
    id = engine.watch(Media(video=clip)).result(PATIENCE).id
    go, held = threading.Event(), threading.Event()
    real = engine._answer_questions
    engine._answer_questions = lambda: (held.set(), go.wait(PATIENCE), real())[-1]
    assert held.wait(PATIENCE)
    first = engine.ask(id, QUESTION)
    found = http.post(f"/v1/clips/{id}/ask", json={"question": QUESTION})
    assert found.status_code == 429 and int(found.headers["retry-after"]) >= 1
    assert found.json()["error"]["code"] == "busy" and found.json()["error"]["type"] == "rate_limit_error"
    go.set()
    assert first.result(PATIENCE).text == "blue"
    next(running, None)


def test_one_client_leaves_half_of_the_places_for_clips_to_others(shipped, tmp_path, clip):
    """Also where the model, not the decoder, is what clips wait for."""
    known = decode(Media(video=clip), WatchOptions(), shipped.processor, Limits())
    engine = Engine(shipped, tmp_path, Limits(waiting_clips=6), lambda *_: Decoded(known.chunks, known.facts))
    futures = [engine.watch(Media(video=b"%d" % number), client="one") for number in range(3)]
    wait_for(lambda: len(engine.clips._decoded) == 3)
    with pytest.raises(BusyError):
        engine.watch(Media(video=b"one more"), client="one")
    futures.append(engine.watch(Media(video=b"of another"), client="two"))
    wait_for(lambda: engine.step() is False and all(future.done() for future in futures))
    engine.close(0.0)


def test_a_session_that_cannot_be_saved_gives_its_place_free(shipped, tmp_path):
    engine = Engine(shipped, tmp_path, Limits(sessions=1))

    def full(*_, **__):
        raise OSError("no space left on device")

    saves, engine.saved.put = engine.saved.put, full
    id = engine.open()
    engine.push(id, waveform=np.zeros(16_000, np.float32), start_time=0.0, sampling_rate=16_000)
    with pytest.raises(OSError):
        engine.close_session(id, save=True)
    id = engine.open()
    engine.push(id, waveform=np.zeros(16_000, np.float32), start_time=0.0, sampling_rate=16_000)
    engine.close(0.0)
    assert saves is not None and not engine.sessions and not engine.holds._held


# ---- live


def say(live, pieces):
    for piece in pieces:
        live.send("input_audio_buffer.append", **piece)
    live.settings()


def end(live, server, code: int) -> str:
    """Close a connection, wait until its session is closed too, and return the query that resumes it."""
    id = live.events[0]["session"]["id"]
    live.socket.close(code)
    wait_for(lambda: id not in server.engine.sessions)
    return f"?model=mirasol&session={id}"


def test_a_session_that_ended_normally_is_gone_also_if_it_was_saved_before(live, pieces, server):
    first = live()
    say(first, pieces[:3])
    again = end(first, server, 4999)  # as a network breaks it
    second = live(again)
    assert second.events[0]["session"]["mirasol"]["resumed"] is True
    end(second, server, 1000)
    assert live(again).events[0]["type"] == "error"


def test_a_resumed_session_tells_and_takes_its_settings_of_media(live, pieces, server):
    first, mine = live(), {"mirasol": {"use_audio": False, "allowed_lateness": 1.0}}
    first.settings(**mine)
    say(first, [{name: value for name, value in piece.items() if name != "audio"} for piece in pieces[:3]])
    second = live(end(first, server, 4999))
    told = second.events[0]["session"]["mirasol"]
    assert told["use_audio"] is False and told["allowed_lateness"] == 1.0
    assert second.settings(**mine)["mirasol"]["use_audio"] is False


def test_a_referenced_item_is_the_question(live, pieces):
    session = live()
    say(session, pieces)
    for id, text in (("one", QUESTION), ("two", "which digit is named?")):
        content = [{"type": "input_text", "text": text}]
        session.send(
            "conversation.item.create", item={"id": id, "type": "message", "role": "user", "content": content}
        )
    session.send("response.create", response={"input": [{"type": "item_reference", "id": "one"}]})
    assert session.until("response.done")["response"]["mirasol"]["question"] == QUESTION
    session.send("response.create", response={"max_output_tokens": "inf"})
    response = session.until("response.done")["response"]
    assert response["status"] == "completed" and response["mirasol"]["question"] == "which digit is named?", "the last"
    session.send("response.create", response={"input": [{"type": "item_reference", "id": "three"}]})
    assert session.until("error")["error"]["code"] == "item_not_found"


def test_what_a_session_keeps_is_bounded(live, pieces, server):
    session = live()
    say(session, pieces[:2])
    first = {
        "id": "first",
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": QUESTION, "x": "y" * 9_999}],
    }
    session.send("conversation.item.create", item=first)
    assert "yyy" not in json.dumps(session.until("conversation.item.done"))
    for _ in range(128):
        session.send("response.create", response={"max_output_tokens": 1})
        assert session.until("response.done")["response"]["status"] == "incomplete"
    session.send("conversation.item.retrieve", item_id="first")
    assert session.until("error")["error"]["code"] == "item_not_found"
    for parts in ([{"type": "input_text", "text": "x" * 15_000}] * 2, [{"type": "input_text", "text": ""}] * 65):
        session.send("conversation.item.create", item={"type": "message", "role": "user", "content": parts})
        assert "at most" in session.until("error")["error"]["message"]


def test_pictures_of_one_event_are_bounded_together(live):
    session, large = live(), jpeg(np.zeros((2_304, 4_096, 3), np.uint8))
    session.send("input_audio_buffer.append", video_frames=[large] * 8, timestamps=[n / 25 for n in range(8)])
    assert "pixels together" in session.until("error")["error"]["message"]


@pytest.mark.parametrize("metadata", ["NaN", "Infinity"])
def test_what_is_no_number_in_json_is_refused_instead_of_sent_back(live, metadata):
    session = live()
    session.socket.send(f'{{"type": "response.create", "response": {{"metadata": {{"x": {metadata}}}}}}}')
    assert session.until("error")["error"]["code"] == "bad_json"
    part = f'{{"type": "input_text", "text": "{CUT_PAIR}"}}'
    item = f'{{"type": "message", "role": "user", "content": [{part}]}}'
    session.socket.send(f'{{"type": "conversation.item.create", "item": {item}}}')
    session.send("response.create")
    assert "surrogate" in session.until("error")["error"]["message"]
