"""`/v1/realtime`: a live session over a WebSocket, with the events of OpenAI's Realtime API. See docs/realtime.md."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from mirasol.serve.errors import ApiError, as_api_error
from mirasol.serve.ids import new_id
from mirasol.serve.realtime_inbox import Inbox, Received
from mirasol.serve.realtime_session import RealtimeSession
from mirasol.serve.service import Service, client_of, service_of

router = APIRouter()
NORMAL, SERVICE_RESTART, TRY_LATER = 1000, 1012, 1013  # close codes of RFC 6455 and its registry
REPLACED, IDLE, REFUSED = 4001, 4002, 4004  # close codes of this server
WANTED_SECONDS = 0.25
EVENTS_AHEAD = 500  # queued for a client that does not read
POLL_SECONDS = 0.02


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket, model: str | None = None, session: str | None = None) -> None:
    """Serve one connection; `session` is the id of a session that is resumed."""
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
        await socket.close(TRY_LATER if found.status_code == 429 else REFUSED)
        return
    await connection.run(state)


class Connection:
    """Connection of a session. It handles one event at a time, which slows down a client that sends too fast."""

    def __init__(self, socket: WebSocket, service: Service):
        self.socket, self.service = socket, service
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.is_replaced = False

    def post(self, event: dict[str, Any]) -> None:
        """Queue an event. mirasol.chunk events are dropped for a client that does not read."""
        if event["type"] != "mirasol.chunk" or self.outgoing.qsize() < EVENTS_AHEAD:
            self.outgoing.put_nowait(event)  # bounded: `_next` stops reading, and one response is active

    async def run(self, state: RealtimeSession) -> None:
        """Serve until either side closes. Save the session unless the close is normal."""
        older = self.service.connections.get(state.id)
        self.service.connections[state.id] = self  # before `leave`, during which another connection may come
        if older is not None:
            await older.leave()
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
        """Close this connection, because a newer one has the session."""
        self.is_replaced = True
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.socket.close(REPLACED)

    async def _give_up_when_wanted(self, id: str) -> None:
        """Close the connection, which saves the session, when another process resumes the session."""
        while not self.service.engine.holds.is_wanted(id):
            await asyncio.sleep(WANTED_SECONDS)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self.socket.close(REPLACED)

    async def _read(self, state: RealtimeSession, inbox: Inbox) -> int:
        """Handle events until the connection closes; return the close code."""
        idle = self.service.engine.limits.session_idle_seconds
        while True:
            try:
                message, waited_seconds, was_full = await asyncio.wait_for(self._next(inbox), idle)
            except TimeoutError:
                text = f"Expected an event within {idle:g} s, found none. Resume with ?session={state.id}."
                self.post(error_event(ApiError(408, text, "idle")))
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
        """Return the next message, after the client has read most of the events that are queued for it."""
        while self.outgoing.qsize() > EVENTS_AHEAD:
            await asyncio.sleep(POLL_SECONDS)
        return await inbox.get()

    async def _write(self) -> None:
        while True:
            event = await self.outgoing.get()
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # disconnected, as `_read` sees
                await self.socket.send_text(json.dumps(event))
            self.outgoing.task_done()


def read_event(received: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event in a WebSocket message."""
    text = received.get("text")
    if text is None:
        found = f"{len(received.get('bytes') or b'')} bytes"
        raise ApiError(400, f"Expected an event as JSON text, found a message of {found}. Send text.", "bad_json")
    try:
        event = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        message = f"Expected an event as JSON, found text that is not ({error}). Send one JSON object."
        raise ApiError(400, message, "bad_json") from None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ApiError(400, f"Expected an object with a type, found {text[:80]!r}. See docs/realtime.md.", "bad_event")
    return event


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def error_event(error: ApiError, client_event_id: Any = None) -> dict[str, Any]:
    """Return an error as a server event."""
    body = {**error.body, "event_id": client_event_id if isinstance(client_event_id, str) else None}
    return {"type": "error", "event_id": new_id("event"), "error": body}
