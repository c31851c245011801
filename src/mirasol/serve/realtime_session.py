"""`RealtimeSession`: events of a client -> media and questions of a live session -> events of the server."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from fastapi.concurrency import run_in_threadpool

from mirasol.answer.session import ChunkResult
from mirasol.serve.batches import Reply
from mirasol.serve.errors import ApiError, as_api_error, invalid, wrong
from mirasol.serve.ids import new_id
from mirasol.serve.live import KEPT_PART, LiveSession
from mirasol.serve.realtime_input import STREAM_OPTIONS, OwnSettings, Settings, read_frames, read_item, read_sound
from mirasol.serve.service import Service, stream_reply

KEPT_ITEMS = 128
FIRST = "root"  # the previous item of the first one
POLL_SECONDS = 0.02
HANDLERS = {  # names, because bound methods would make reference cycles, which keep a session until garbage collection
    "session.update": "_update",
    "input_audio_buffer.append": "_append",
    "input_audio_buffer.commit": "_commit",
    "input_audio_buffer.clear": "_clear",
    "conversation.item.create": "_create_item",
    "conversation.item.delete": "_delete_item",
    "conversation.item.retrieve": "_retrieve_item",
    "response.create": "_create_response",
    "response.cancel": "_cancel_response",
}
Post = Callable[[dict[str, Any]], None]


class RealtimeSession:
    """One client's session: its settings, its conversation, and its active response.

    Args:
        service: Engine and model.
        post: Sends an event to the client.
    """

    def __init__(self, service: Service, post: Post):
        self.service, self.engine, self._post = service, service.engine, post
        self.settings = Settings()
        self.items: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self.is_resumed = False
        self._is_late = False
        self._turn_ends = False  # the open chunk has media of a finished turn
        self._anchor: tuple[float, float] | None = None  # a time of the server's clock, and its session time
        self._response: asyncio.Task | None = None
        self._loop = asyncio.get_running_loop()

    # ---- called by the connection

    def open(self, id: str | None, owner: str = "") -> None:
        """Open a new session, or resume an earlier one of the same owner."""
        if id is None:
            self.id = self.engine.open({"start_time": 0.0}, on_chunks=self._watched, owner=owner)
        else:
            live = self.engine.resume(id, on_chunks=self._watched, owner=owner)
            self.id, self.is_resumed = live.id, True
            media = {name: getattr(live.session.chunks, name) for name in STREAM_OPTIONS}
            self.settings = Settings(mirasol=OwnSettings(**media))

    def greet(self) -> None:
        """Send the session to the client."""
        self.send("session.created", session=self._described())

    async def handle(self, event: dict[str, Any]) -> None:
        """Handle an event of the client."""
        name = HANDLERS.get(event["type"])
        if name is None:
            message = (
                f"Expected one of the events {', '.join(HANDLERS)}, found {event['type']!r:.80}. Correct its type."
            )
            raise ApiError(400, message, "unknown_event", "type")
        await getattr(self, name)(event)

    def may_skip(self) -> bool:
        """Return whether media are skipped when the model is behind, instead of slowing the client down."""
        return self.settings.mirasol.when_behind == "skip"

    def note_delay(self, seconds: float, is_full: bool) -> None:
        """Set the age of the next event. Pictures of events over the lag limit are not decoded."""
        limit = self.engine.limits.session_lag_seconds
        if self.may_skip() and is_full:
            seconds = max(seconds, 2 * limit)  # more events wait in the socket
        self._live.late_seconds = seconds
        self._is_late = self.may_skip() and seconds > (limit * KEPT_PART if self._is_late else limit)

    async def stop(self) -> None:
        """Cancel the active response."""
        if self._response is not None:
            self._response.cancel()
            await asyncio.gather(self._response, return_exceptions=True)

    def close(self, save: bool) -> None:
        """Close the session. With `save`, or with the client's setting `keep`, it can be resumed."""
        self.engine.close_session(self.id, save or self.settings.mirasol.keep, on_chunks=self._watched)

    def send(self, type: str, **values: Any) -> None:
        """Send an event."""
        self._post({"type": type, "event_id": new_id("event"), **values})

    # ---- media

    async def _update(self, event: dict[str, Any]) -> None:
        wanted = Settings.read(event.get("session"), self.settings)
        changed = wanted.stream_options(self.settings)
        if changed:
            options = {"start_time": 0.0, **wanted.stream_options(Settings())}
            await run_in_threadpool(self.engine.configure, self.id, options)
        self.settings = wanted
        self._live.may_skip = self.may_skip()
        self.send("session.updated", session=self._described())

    async def _append(self, event: dict[str, Any]) -> None:
        await self._push(event.get("audio"), event.get("video_frames") or [], event.get("timestamps"),
                         event.get("audio_start"))  # fmt: skip

    async def _push(self, audio: Any, frames: Any, timestamps: Any, audio_start: Any = None) -> None:
        """Push media to the engine; wait while the engine is behind, unless media may be skipped."""
        limit = self.engine.limits.session_lag_seconds
        while not self._live.may_skip and self._live.num_waiting * self._live.seconds_per_chunk > limit:
            await asyncio.sleep(POLL_SECONDS)
        await run_in_threadpool(self._push_now, audio, frames, timestamps, audio_start)

    def _push_now(self, audio: Any, frames: Any, timestamps: Any, audio_start: Any) -> None:
        rate, limits = self.settings.rate, self.engine.limits
        samples = read_sound(audio) if audio is not None else None
        pictures = [] if self._is_late else read_frames(frames, limits, self.engine.decode_picture)
        if self._is_late and isinstance(frames, list):
            self._live.session.chunks.dropped["late_frames"] += len(frames)
        media: dict[str, Any] = {}
        seconds = 0.0
        if samples is not None and len(samples):
            seconds = len(samples) / rate
            media = {"waveform": samples, "start_time": audio_start, "sampling_rate": rate}
        if pictures:
            if timestamps is None:
                timestamps = self._times_of(len(pictures), seconds, audio_start)
            media |= {"frames": pictures, "frame_times": timestamps}
        if not media:
            if audio == "" or frames:
                return
            raise invalid(
                "Expected audio or video_frames, found neither. Send base64 of PCM16 or of pictures.", "audio"
            )
        self.engine.push(self.id, **media)
        if seconds:
            self._anchor = (time.monotonic(), self._live.session.chunks.audio.end or 0.0)

    def _times_of(self, count: int, seconds: float, audio_start: Any) -> list[float]:
        """Return seconds for frames without timestamps: spread over the event's audio, else the time of arrival."""
        chunks = self._live.session.chunks
        if seconds:
            start = audio_start if isinstance(audio_start, int | float) else chunks.audio.end or 0.0
            return [start + place * seconds / count for place in range(count)]
        if self._anchor is None:
            self._anchor = (time.monotonic(), self._live.reached)
        now = self._anchor[1] + time.monotonic() - self._anchor[0]
        last = chunks.video.last_time
        now = now if last is None else max(now, last + 0.001)
        return [now + place * 0.001 for place in range(count)]

    async def _commit(self, event: dict[str, Any]) -> None:
        """End a turn: the open chunk closes before the next answer."""
        if not self._live.has_media:
            raise ApiError(400, "Expected media before the commit, found none. Append audio first.", "empty_buffer")
        self._turn_ends = True
        id, before = new_id("item"), next(reversed(self.items), None)
        item = {"id": id, "type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": None}]}
        self.send("input_audio_buffer.committed", item_id=id, previous_item_id=before)
        self._keep(item, before)

    async def _clear(self, event: dict[str, Any]) -> None:
        """Acknowledge. The model takes media as they arrive, so that there is no buffer to clear."""
        self.send("input_audio_buffer.cleared")

    # ---- conversation

    async def _create_item(self, event: dict[str, Any]) -> None:
        item, before = read_item(event.get("item")), event.get("previous_item_id")
        if item["id"] in self.items:
            raise invalid(
                f"Expected an id of its own, found {item['id']!r} of an earlier item. Leave it out.", "item.id"
            )
        if before not in (None, FIRST):
            self._item({"item_id": before})
        for part in item["content"]:
            if part["type"] == "input_audio":
                await self._push(part.pop("audio"), [], None)
            elif part["type"] == "input_image":
                await self._push(None, [part.pop("image_url")], part.pop("timestamps", None))
            self._turn_ends |= part["type"] != "input_text" and item["role"] == "user"
        self._keep(item, before or next(reversed(self.items), None))

    def _keep(self, item: dict[str, Any], before: str | None) -> None:
        item = {"object": "realtime.item", "status": "completed", **item}
        ids = list(self.items)
        later = ids if before == FIRST else ids[ids.index(before) + 1 :] if before in ids else []
        self._remember(item)
        for id in later:
            self.items.move_to_end(id)
        for type in ("conversation.item.added", "conversation.item.done"):
            self.send(type, item=item, previous_item_id=None if before == FIRST else before)

    def _remember(self, item: dict[str, Any]) -> None:
        self.items[item["id"]] = item
        while len(self.items) > KEPT_ITEMS:
            self.items.popitem(last=False)

    def _item(self, event: dict[str, Any]) -> dict[str, Any]:
        item = self.items.get(str(event.get("item_id")))
        if item is None:
            message = f"Expected the id of one of the last {KEPT_ITEMS} items, found {event.get('item_id')!r:.80}."
            raise ApiError(404, f"{message} Send an id of this session.", "item_not_found", "item_id")
        return item

    async def _delete_item(self, event: dict[str, Any]) -> None:
        del self.items[self._item(event)["id"]]
        self.send("conversation.item.deleted", item_id=event["item_id"])

    async def _retrieve_item(self, event: dict[str, Any]) -> None:
        self.send("conversation.item.retrieved", item=self._item(event))

    # ---- responses

    async def _create_response(self, event: dict[str, Any]) -> None:
        if self._response is not None and not self._response.done():
            message = "Expected no active response, found one. Wait for response.done, or send response.cancel."
            raise ApiError(409, message, "conversation_already_has_active_response")
        wanted = event.get("response") or {}
        if not isinstance(wanted, dict):
            raise wrong("response", "an object", wanted, "Send the fields there")
        question = self._question(wanted)
        limit = wanted.get("max_output_tokens")
        if limit not in (None, "inf") and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise wrong("response.max_output_tokens", "1 or more", limit, "Correct it")
        limit = self.settings.max_output_tokens if limit is None else limit
        if self._turn_ends or self._live.session.chunks.num_closed == 0:
            self._turn_ends = False
            await run_in_threadpool(self.engine.flush, self.id)
        pieces = stream_reply(
            self.engine, self.id, question, max_new_tokens=None if limit == "inf" else limit, client=self.id,
            attribute=self.settings.mirasol.attribute,
        )  # fmt: skip
        self._response = asyncio.create_task(self._respond(question, wanted, pieces))
        await asyncio.sleep(0)  # the task starts, because one that is cancelled before would send no response.done

    async def _cancel_response(self, event: dict[str, Any]) -> None:
        if self._response is None or self._response.done():
            raise ApiError(400, "Expected an active response, found none. There is nothing to cancel.", "no_response")
        self._response.cancel()

    def _question(self, wanted: dict[str, Any]) -> str:
        """Return the text of the response's own input, else of the last user item with text, else the instructions."""
        items = wanted.get("input") or []
        if not isinstance(items, list):
            raise wrong("response.input", "a list of items", items, "Send a list")
        own = [
            self._item({"item_id": item.get("id")})
            if isinstance(item, dict) and item.get("type") == "item_reference"
            else read_item(item)
            for item in items
        ]
        for item in [*reversed(own), *reversed(self.items.values())]:
            texts = [part["text"] for part in item["content"] if part["type"] == "input_text"]
            if item["role"] == "user" and texts:
                return " ".join(texts)
        for text in (wanted.get("instructions"), self.settings.instructions):
            if isinstance(text, str) and text.strip():
                return text
        raise ApiError(
            400,
            "Expected a question as text, found none: speech is not read as a question. Send an item with input_text, "
            "or instructions.",
            "no_question",
        )

    async def _respond(self, question: str, wanted: dict[str, Any], pieces: AsyncIterator[str | Reply]) -> None:
        """Send the events of one response."""
        is_kept = wanted.get("conversation") != "none"
        response = {
            "id": new_id("resp"), "object": "realtime.response", "status": "in_progress", "status_details": None,
            "output": [], "output_modalities": ["text"], "metadata": wanted.get("metadata"), "usage": None,
        }  # fmt: skip
        part: dict[str, Any] = {"type": "output_text", "text": ""}
        item = {"id": new_id("item"), "object": "realtime.item", "type": "message", "role": "assistant"}
        begun = {**item, "status": "in_progress", "content": []}
        before = next(reversed(self.items), None)
        at = {"response_id": response["id"], "output_index": 0}
        in_item = {**at, "item_id": item["id"], "content_index": 0}
        self.send("response.created", response=response)
        self.send("response.output_item.added", **at, item=begun)
        if is_kept:
            self.send("conversation.item.added", item=begun, previous_item_id=before)
        self.send("response.content_part.added", **in_item, part=dict(part))
        status, more = "completed", dict[str, Any]()
        details: dict[str, Any] | None = None
        try:
            async for piece in pieces:
                if isinstance(piece, str):
                    part["text"] += piece
                    self.send("response.output_text.delta", **in_item, delta=piece)
                    continue
                part["text"] = piece.text
                if piece.is_cut:
                    status, details = "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}
                more = {"usage": _usage(piece), "mirasol": {"question": question, **_extras(piece)}}
        except asyncio.CancelledError:
            status, details = "cancelled", {"type": "cancelled", "reason": "client_cancelled"}
        except Exception as error:
            status, details = "failed", {"type": "failed", "error": as_api_error(error).body}
        done = {**item, "status": "completed" if status == "completed" else "incomplete", "content": [part]}
        self.send("response.output_text.done", **in_item, text=part["text"])
        self.send("response.content_part.done", **in_item, part=part)
        self.send("response.output_item.done", **at, item=done)
        if is_kept:
            self._remember(done)
            self.send("conversation.item.done", item=done, previous_item_id=before)
        end = {**response, "status": status, "status_details": details, "output": [done], **more}
        self.send("response.done", response=end)

    # ---- called by the engine's thread

    def _watched(self, results: Sequence[ChunkResult]) -> None:
        """Send the results of chunks to a client that asked for them."""
        if self.settings.mirasol.chunks:
            live = self._live
            lag, dropped = live.lag_seconds, live.session.dropped
            events = [{**asdict(result), "lag_seconds": round(lag, 3), "dropped": dropped} for result in results]
            for event in events:
                self._loop.call_soon_threadsafe(partial(self.send, "mirasol.chunk", **event))

    @property
    def _live(self) -> LiveSession:
        return self.engine.session(self.id)

    def _described(self) -> dict[str, Any]:
        live = self._live
        about = {"resumed": self.is_resumed, "seconds": live.session.seconds, "dropped": live.session.dropped}
        return self.settings.describe(self.id, self.service.model, about)


def _usage(reply: Reply) -> dict[str, int]:
    total = reply.num_prompt_tokens + reply.num_tokens
    return {"total_tokens": total, "input_tokens": reply.num_prompt_tokens, "output_tokens": reply.num_tokens}


def _extras(reply: Reply) -> dict[str, Any]:
    found = reply.as_dict()
    return {name: found[name] for name in ("confidence", "seen", "attributed_to", "warnings")}
