"""Around Ray Serve's proxy: no client waits for a lost replica, and none fills the memory of a slow one."""

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve: pip install 'mirasol[serve]'")

from mirasol.integrations.ray_proxy import BYTES_AHEAD, AtProxy, AtReplica


def call(app: Any, kind: str = "http", received: list[dict] | None = None, headers: tuple = ()) -> list[dict]:
    """Send one request through the proxy to `app`, and return the messages that the client gets."""
    sent: list[dict] = []
    waiting = iter(received or [{"type": f"{kind}.request"}])

    async def receive() -> dict:
        return next(waiting)

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(AtProxy(app)({"type": kind, "path": "/v1/models", "headers": list(headers)}, receive, send))
    return sent


def error_of(sent: list[dict]) -> tuple[int, dict]:
    start, body = sent
    return start["status"], json.loads(body["body"])["error"]


async def says_nothing(scope, receive, send):
    """What Ray's proxy does when the replica of a request dies."""


async def says_plain_text(scope, receive, send):
    await send({"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"Internal details."})


@pytest.mark.parametrize("app", [says_nothing, says_plain_text])
def test_what_no_replica_has_answered_is_an_error_object_that_says_to_try_again(app):
    sent = call(app)
    status, error = error_of(sent)
    assert status == 503 and error["type"] == "server_error" and error["code"] == "replica_lost"
    assert (b"retry-after", b"2") in sent[0]["headers"] and "Internal details" not in error["message"]


@pytest.mark.parametrize("status", [200, 401, 404, 500, 503])
def test_answers_of_the_application_pass_as_they_are(status):
    answer = [
        {"type": "http.response.start", "status": status, "headers": []},
        {"type": "http.response.body", "body": b"{}", "more_body": True},
        {"type": "http.response.body", "body": b"{}"},
    ]

    async def application(scope, receive, send):
        for message in answer:
            await send(message)

    assert call(AtReplica(application)) == answer


def test_an_answer_that_breaks_off_stays_broken():
    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    sent = call(AtReplica(application))
    assert len(sent) == 2 and sent[-1]["more_body"], "the server closes the connection: half is not taken for all"


def test_a_connection_whose_replica_dies_ends_with_restart_and_one_that_never_began_is_refused():
    async def application(scope, receive, send):
        await send({"type": "websocket.accept"})

    assert [each.get("code") for each in call(application, "websocket")] == [None, 1012]
    status, error = error_of(call(says_nothing, "websocket"))
    assert status == 503 and error["code"] == "replica_lost"


def test_a_close_of_the_application_is_the_only_one():
    async def application(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4001})

    assert [each.get("code") for each in call(application, "websocket")] == [None, 4001]


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_no_more_is_read_from_a_client_than_a_bound_ahead_of_the_application(kind):
    size, content = BYTES_AHEAD // 4, {"http": "body", "websocket": "text"}[kind]
    taken, given, counts = [], [], []

    async def main() -> None:
        messages: asyncio.Queue = asyncio.Queue()

        async def ray(scope, receive, send):  # reads as fast as it can, whatever the replica does
            async def pull():
                while True:
                    taken.append(await receive())
                    messages.put_nowait(taken[-1])

            async def application(scope, receive, send):
                for _ in range(3):
                    await settled()
                    counts.append((len(taken), len(given)))
                    given.append(await receive())
                await settled()

            pulling = asyncio.create_task(pull())
            await AtReplica(application)(scope, messages.get, send)
            pulling.cancel()

        async def receive() -> dict:
            await asyncio.sleep(0)
            return {"type": f"{kind}.receive", content: "x" * size}

        async def send(message: dict) -> None:
            assert not message["type"].startswith("mirasol"), "nobody else knows our messages"

        await AtProxy(ray)({"type": kind, "path": "/", "headers": []}, receive, send)

    async def settled() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert counts == [(4, 0), (5, 1), (6, 2)], "four messages fill the bound; one more is read for each that is used"


def test_clients_cannot_steer_ray():
    found = {}

    async def application(scope, receive, send):
        found.update(scope["headers"])

    call(application, headers=((b"x-request-timeout-seconds", b"1e9"), (b"x-session-id", b"1"), (b"accept", b"*/*")))
    assert found == {b"accept": b"*/*"}
