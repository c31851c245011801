"""`/v1/realtime`: a live session over a WebSocket, with the events of OpenAI's Realtime API. See docs/realtime.md."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from mirasol.serve.errors import ApiError, as_api_error
from mirasol.serve.realtime_inbox import Inbox, Received
from mirasol.serve.realtime_session import RealtimeSession
from mirasol.serve.service import Service, client_of, service_of

router = APIRouter()
NORMAL, SERVICE_RESTART, TRY_LATER = 1000, 1012, 1013  # of RFC 6455 and its registry
REPLACED, IDLE, REFUSED = 4001, 4002, 4004  # ours
WANTED_SECONDS = 0.25
EVENTS_AHEAD = 500  # for a client that does not read
POLL_SECONDS = 0.02
ENDINGS = {429: TRY_LATER}


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket, model: str | None = None, session: str | None = None) -> None:
    """Serve one connection; `session` is the id of an earlier one that is continued."""
    service = service_of(socket)
    await socket.accept("realtime" if "realtime" in socket.scope["subprotocols"] else None)
    connection = Connection(socket, service)
    try:
        service.check_model(model)
        state = RealtimeSession(service, connection.post)
        await asyncio.to_thread(state.open, session, client_of(socket).owner)
    except Exception as error:
        found = as_api_error(error)
        await socket.send_text(json.dumps(error_event(found)))
        await socket.close(ENDINGS.get(found.status, REFUSED))
        return
    await connection.run(state)


class Connection:
    """Reads events one at a time, so that a client that sends too fast is slowed down, and writes those of a queue."""

    def __init__(self, socket: WebSocket, service: Service):
        self.socket, self.service = socket, service
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.is_replaced = False

    def post(self, event: dict[str, Any]) -> None:
        """Send an event; our own chunk events are left out for a client that does not read."""
        if event["type"] != "mirasol.chunk" or self.outgoing.qsize() < EVENTS_AHEAD:
            self.outgoing.put_nowait(event)  # bounded: `_next` stops reading, and one response is given at a time

    async def run(self, state: RealtimeSession) -> None:
        """Serve until either side ends, and keep the session if it broke off."""
        if (older := self.service.connections.get(state.id)) is not None:
            await older.leave()
        self.service.connections[state.id] = self
        inbox = Inbox(state.may_skip)
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(inbox.fill(self.socket))
        watcher = asyncio.create_task(self._give_up_when_wanted(state.id))
        code = SERVICE_RESTART
        try:
            state.greet()
            code = await self._read(state, inbox)
        finally:
            reader.cancel()
            watcher.cancel()
            await state.stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.outgoing.join(), 1.0 if code != IDLE else 0.1)
            writer.cancel()
            if not self.is_replaced:
                self.service.connections.pop(state.id, None)
                await asyncio.to_thread(state.close, code != NORMAL)
            if code in (IDLE, REPLACED):
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await self.socket.close(code)

    async def leave(self) -> None:
        """Give the session up to a newer connection."""
        self.is_replaced = True
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.socket.close(REPLACED)

    async def _give_up_when_wanted(self, id: str) -> None:
        """End the connection, which saves the session, when its client has come back to another process."""
        while not self.service.engine.holds.is_wanted(id):
            await asyncio.sleep(WANTED_SECONDS)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.socket.close(REPLACED)

    async def _read(self, state: RealtimeSession, inbox: Inbox) -> int:
        """Handle events until the client leaves; return the code of the end."""
        idle = self.service.engine.limits.session_idle_seconds
        while True:
            try:
                message, waited_seconds, was_full = await asyncio.wait_for(self._next(inbox), idle)
            except TimeoutError:
                message_text = f"Expected an event within {idle:g} s, found none. Resume with ?session={state.id}."
                self.post(error_event(ApiError(408, message_text, "idle")))
                return IDLE
            if message["type"] == "websocket.disconnect":
                return message.get("code", SERVICE_RESTART)
            event: Any = None
            try:
                event = read_event(message)
                state.note_delay(waited_seconds, was_full)
                await state.handle(event)
            except Exception as error:
                id = event.get("event_id") if isinstance(event, dict) else None
                self.post(error_event(as_api_error(error), id))

    async def _next(self, inbox: Inbox) -> Received:
        """Return the next message, once the client has read most of the answers to those before it."""
        while self.outgoing.qsize() > EVENTS_AHEAD:
            await asyncio.sleep(POLL_SECONDS)
        return await inbox.get()

    async def _write(self) -> None:
        while True:
            event = await self.outgoing.get()
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it has left: `_read` is told next
                await self.socket.send_text(json.dumps(event))
            self.outgoing.task_done()


def read_event(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a WebSocket message."""
    text = message.get("text")
    if text is None:
        found = f"{len(message.get('bytes') or b'')} bytes"
        raise ApiError(400, f"Expected an event as JSON text, found a message of {found}. Send text.", "bad_json")
    try:
        event = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"Expected an event as JSON, found text that is none ({error}).", "bad_json") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ApiError(400, f"Expected an object with a type, found {text[:80]!r}. See docs/realtime.md.", "bad_event")
    return event


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def error_event(error: ApiError, client_event_id: Any = None) -> dict[str, Any]:
    """Return an error as a server event."""
    body = {**error.body, "event_id": client_event_id if isinstance(client_event_id, str) else None}
    return {"type": "error", "event_id": RealtimeSession.new_id("event"), "error": body}
