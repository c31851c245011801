"""`Engine`: clips, questions and live sessions of many clients, batched by one thread that owns the model."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mirasol.answer.answerer import Answerer, Watched
from mirasol.answer.session import CHUNKS_AT_ONCE, StreamSession, advance, fingerprint
from mirasol.model.modeling_mirasol_outputs import MirasolEncoderOutput
from mirasol.serve import decode as decoding
from mirasol.serve.batches import OnText, Question, Reply, View, answer_together
from mirasol.serve.decode import Decoded, Media, WatchOptions
from mirasol.serve.limits import Limits
from mirasol.serve.live import LiveSession, OnChunks
from mirasol.serve.queues import BusyError, FairQueue
from mirasol.serve.store import Entry, Store

KEPT_CLIPS = 256  # latents in memory; the others are read from disk
IDLE_SECONDS = 0.2
Decode = Callable[[Media, WatchOptions, Any, Limits], Decoded]


class UnknownIdError(ValueError):
    """No clip, file or session has this id, or it was removed to make room."""

    def __init__(self, what: str, id: str):
        super().__init__(
            f"Expected the id of a {what} that is kept here, found {id[:80]!r}, which is unknown or was removed to "
            f"make room for newer ones. Send the {what} again."
        )


@dataclass(frozen=True)
class WatchedClip:
    """A clip that was watched: its id, the facts about it, and its latents."""

    id: str
    created: float
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def view(self) -> View:
        """Return the latents as a batch of one."""
        mask, times = self.tensors["chunk_mask"], self.tensors["chunk_times"]
        batch: dict[str, Any] = {name: value[None] for name, value in self.tensors.items()}
        outputs = MirasolEncoderOutput(**batch)
        duration = self.facts["seconds"]
        seen = float(times[mask][0, 0]), min(float(times[mask][-1, 1]), duration)
        return View(Watched(outputs), seen, duration)


@dataclass
class _Clip:
    """A clip that waits for the encoder."""

    digest: str
    decoded: Decoded
    future: Future[WatchedClip]


class Engine:
    """Serves many clients with one model.

    `start` runs `step` in a thread until `close`. All other methods may be called from any thread; those that give a
    `Future` return at once. What a client gets does not depend on the others.

    Args:
        answerer: Model and processor.
        folder: Watched clips, files and saved sessions; several engines with one checkpoint may share it.
        limits: Of everything.
        decode: Turns files into chunks, in `limits.decoders` threads.
    """

    def __init__(
        self, answerer: Answerer, folder: Path, limits: Limits | None = None, decode: Decode = decoding.decode
    ):
        self.answerer, self.limits, self.decode = answerer, limits or Limits(), decode
        self.fingerprint = fingerprint(answerer.model)
        bounds = self.limits
        self.clips = Store(folder / "clips" / self.fingerprint, bounds.clip_store_bytes, "clip")
        self.files = Store(folder / "files", bounds.file_store_bytes, "file")
        self.saved = Store(folder / "sessions" / self.fingerprint, bounds.session_store_bytes, "sess")
        self.sessions: dict[str, LiveSession] = {}
        self.questions: FairQueue[Question] = FairQueue(
            "questions", bounds.waiting_questions, bounds.share_of_one_client
        )
        self.encoding: FairQueue[_Clip] = FairQueue("clips", bounds.waiting_clips * 2)
        self.counts: dict[str, float] = dict.fromkeys(
            ("clips", "clips_found", "questions", "question_batches", "chunks", "skipped_chunks", "failures"), 0
        )
        self._held: list[Question] = []  # about chunks that are not watched yet
        self._watching: dict[str, Future[WatchedClip]] = {}
        self._recent: OrderedDict[str, WatchedClip] = OrderedDict()
        self._pool = ThreadPoolExecutor(bounds.decoders, "mirasol-decode")
        self._lock, self._stepping, self._work = threading.Lock(), threading.RLock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._stops = self.is_draining = False

    # ---- clips

    def watch(self, media: Media, options: WatchOptions | None = None, client: str = "") -> "Future[WatchedClip]":
        """Return a future of the watched clip; one with the same bytes and options is watched once.

        Raises:
            BusyError: Too many clips wait.
        """
        options = options or WatchOptions()
        digest = decoding.digest(media, options)
        if (found := self.clips.find(digest)) is not None:
            self.counts["clips_found"] += 1
            done: Future[WatchedClip] = Future()
            done.set_result(self._load(found))
            return done
        with self._lock:
            if digest in self._watching:
                return self._watching[digest]
            self._check_open()
            if len(self._watching) >= self.limits.waiting_clips:
                seconds = len(self._watching) * self.encoding.seconds_each
                raise BusyError("clips", len(self._watching), self.limits.waiting_clips, seconds)
            future = self._watching[digest] = Future()
        future.add_done_callback(lambda _: self._watching.pop(digest, None))
        self._pool.submit(self._decode, media, options, digest, client, future)
        return future

    def clip(self, id: str) -> WatchedClip:
        """Return a clip by its id.

        Raises:
            UnknownIdError: There is none.
        """
        entry = self.clips.get(id) if id.startswith("clip_") else None
        if entry is None:
            raise UnknownIdError("clip", id)
        return self._load(entry)

    def forget(self, id: str) -> None:
        """Remove a watched clip."""
        self.clip(id)
        self.clips.remove(id)
        with self._lock:
            self._recent.pop(id, None)

    def ask(
        self,
        id: str,
        question: str,
        options: Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        attribute: bool = False,
        on_text: OnText | None = None,
        client: str = "",
    ) -> "Future[Reply]":
        """Return a future of the reply to a question about a clip or a live session.

        A question to a session sees all media that were pushed before it and closed a chunk.

        Args:
            id: Of the clip or session.
            question: What is asked.
            options: Choose the likeliest of these instead of generating text.
            max_new_tokens: Limit of the answer.
            attribute: Also find the seconds to which the answer is attributed.
            on_text: Called by the engine's thread with pieces of the answer as they come.
            client: Who asks; clients are served in turn.

        Raises:
            ValueError: The question is empty or too long, or the id is unknown.
            BusyError: Too many questions wait.
        """
        self._check_open()
        if not question.strip():
            raise ValueError("Expected a question, found empty text. Ask one, such as 'which color is named?'.")
        if len(question) > self.limits.question_characters:
            raise ValueError(
                f"Expected a question of at most {self.limits.question_characters} characters, found {len(question)}. "
                "Shorten it."
            )
        prompts = self.answerer.prompts([question], None if options is None else [options])
        chosen: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "attribute": attribute and options is None, "on_text": on_text,
        }  # fmt: skip
        if (live := self.sessions.get(id)) is not None:
            needed = live.session.chunks.num_closed
            ready = lambda: live.is_closed or live.is_watched(needed)  # noqa: E731
            asked = Question(prompts, live.view, live.session.answerer, True, is_ready=ready, **chosen)
        elif id.startswith("sess_"):
            raise UnknownIdError("session", id)
        else:
            asked = Question(prompts, self.clip(id).view, self.answerer, **chosen)
        self.questions.put(client, asked)
        self._work.set()
        return asked.future

    # ---- live sessions

    def open(
        self, options: dict[str, Any] | None = None, may_skip: bool = False, on_chunks: OnChunks | None = None
    ) -> str:
        """Open a live session and return its id; `options` are those of `StreamSession`.

        Raises:
            BusyError: Too many sessions are open.
        """
        return self._add(f"sess_{secrets.token_hex(16)}", options or {}, may_skip, on_chunks).id

    def resume(self, id: str, may_skip: bool = False, on_chunks: OnChunks | None = None) -> LiveSession:
        """Return a session that is open, or open one again that was saved when it was closed.

        Raises:
            UnknownIdError: There is none.
            BusyError: Too many sessions are open.
        """
        with self._stepping:  # it may just be closed and saved
            if (live := self.sessions.get(id)) is not None:
                live.on_chunks, live.may_skip = on_chunks, may_skip
                return live
            entry = self.saved.get(id) if id.startswith("sess_") else None
            if entry is None:
                raise UnknownIdError("session", id)
            session = StreamSession.load(entry.path, self.answerer)
            live = self._add(id, {}, may_skip, on_chunks)
            live.session = session
            return live

    def session(self, id: str) -> LiveSession:
        """Return an open session.

        Raises:
            UnknownIdError: There is none.
        """
        live = self.sessions.get(id)
        if live is None:
            raise UnknownIdError("session", id)
        return live

    def configure(self, id: str, options: dict[str, Any]) -> None:
        """Set the options of a session that has no media yet."""
        live = self.session(id)
        if live.has_media:
            raise ValueError(
                f"Expected {', '.join(options)} before the first media of the session, found them after it. Open "
                "another session."
            )
        live.session = StreamSession(self.answerer, **options)

    def push(self, id: str, **media: Any) -> None:
        """Cut media of a session into chunks, which are watched with those of the others: see `ChunkStream.push`."""
        self.session(id).push(**media)
        self._work.set()

    def flush(self, id: str) -> None:
        """Close the open chunk of a session with what has arrived of it."""
        self.session(id).flush()
        self._work.set()

    def close_session(self, id: str, save: bool = False, on_chunks: OnChunks | None = None) -> None:
        """Close a session; with `save` it can be resumed by its id, also in another process.

        With `on_chunks` only if it still is that listener's: another may have resumed it.
        """
        with self._stepping:  # nothing of it is in the model now
            live = self.sessions.get(id)
            if live is None or on_chunks not in (None, live.on_chunks):
                return
            del self.sessions[id]
            live.is_closed = True
            if save and live.has_media:
                live.collect(self.limits.session_lag_seconds)
                self.saved.put(live.session.save, {}, id=id)
        self._work.set()

    # ---- the model's thread

    def start(self) -> "Engine":
        """Run `step` in a thread until `close`."""
        self._thread = threading.Thread(target=self._run, name="mirasol-model", daemon=True)
        self._thread.start()
        return self

    def close(self, timeout: float = 60.0) -> None:
        """Accept nothing more, finish what was accepted, save the sessions, and stop."""
        self.is_draining = True
        limit = time.monotonic() + timeout
        while self._has_work() and self._thread is not None and time.monotonic() < limit:
            time.sleep(0.01)
        for id in list(self.sessions):
            self.close_session(id, save=True)
        self._stops = True
        self._work.set()
        if self._thread is not None:
            self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        for store in (self.clips, self.files, self.saved):
            store.close()

    def step(self) -> bool:
        """Do a bounded piece of each kind of work that waits; False if nothing waited."""
        with self._stepping:
            found = [self._advance_sessions(), self._answer_questions(), self._encode_clips()]
        return any(found)

    def _run(self) -> None:
        while not self._stops:
            self._work.clear()
            if not self.step():
                self._work.wait(IDLE_SECONDS)

    def _advance_sessions(self) -> bool:
        live = list(self.sessions.values())
        for each in live:
            before = each.session.dropped.get("skipped_chunks", 0)
            each.collect(self.limits.session_lag_seconds)
            self.counts["skipped_chunks"] += each.session.dropped.get("skipped_chunks", 0) - before
        waiting = [each for each in live if each.session.waiting]
        if not waiting:
            return False
        rounds = max(1, CHUNKS_AT_ONCE // len(waiting))
        try:
            found = advance([each.session for each in waiting], rounds)
        except Exception:
            found = [self._advance_alone(each) for each in waiting]
        for each, results in zip(waiting, found, strict=True):
            self.counts["chunks"] += len(results)
            if results and each.on_chunks is not None:
                each.on_chunks(results)
        return True

    def _advance_alone(self, live: LiveSession) -> list:
        """Watch the chunks of one session; those that the model cannot take are emptied."""
        try:
            return advance([live.session], 1)[0]
        except Exception:
            self.counts["failures"] += 1
            live.session.skip(1)
            return advance([live.session], 1)[0]

    def _answer_questions(self) -> bool:
        asked = self._held + self.questions.take(self.limits.questions_at_once)
        self._held, ready = [], []
        for question in asked:
            if not question.is_ready():
                self._held.append(question)
            elif question.future.set_running_or_notify_cancel():
                ready.append(question)
        for kind in dict.fromkeys(question.kind for question in ready):
            group = [question for question in ready if question.kind == kind]
            begin = time.monotonic()
            self._answer(group)
            self.questions.note(time.monotonic() - begin, len(group))
        return bool(ready)

    def _answer(self, group: Sequence[Question]) -> None:
        try:
            replies = answer_together(group)
        except Exception as error:
            if len(group) > 1:  # one of them must not spoil the others
                for question in group:
                    self._answer([question])
                return
            self.counts["failures"] += not isinstance(error, ValueError)
            group[0].future.set_exception(error)
            return
        self.counts["questions"] += len(group)
        self.counts["question_batches"] += 1
        for question, reply in zip(group, replies, strict=True):
            question.future.set_result(reply)

    def _encode_clips(self) -> bool:
        clips = self.encoding.take(self.limits.clips_at_once)
        begin, count = time.monotonic(), len(clips)
        while clips:
            group = [clips.pop(0)]
            while clips and sum(len(c.decoded.chunks["chunk_times"]) for c in [*group, clips[0]]) <= (
                self.limits.chunks_at_once
            ):
                group.append(clips.pop(0))
            self._encode(group)
        if count:
            self.encoding.note(time.monotonic() - begin, count)
        return count > 0

    def _encode(self, group: Sequence[_Clip]) -> None:
        try:
            outputs = self.answerer.watch(*(clip.decoded.chunks for clip in group)).encoder_outputs
        except Exception as error:
            if len(group) > 1:
                for clip in group:
                    self._encode([clip])
                return
            self.counts["failures"] += not isinstance(error, ValueError)
            group[0].future.set_exception(error)
            return
        self.counts["clips"] += len(group)
        for row, clip in enumerate(group):
            clip.future.set_result(self._keep(clip, outputs, row))

    def _keep(self, clip: _Clip, outputs: Any, row: int) -> WatchedClip:
        count = len(clip.decoded.chunks["chunk_times"])
        num_latents = outputs.last_hidden_state.shape[1] // outputs.chunk_mask.shape[1]
        tensors = {
            "last_hidden_state": outputs.last_hidden_state[row, : count * num_latents],
            "chunk_mask": outputs.chunk_mask[row, :count],
            "chunk_times": outputs.chunk_times[row, :count],
        }
        tensors = {name: value.clone() for name, value in tensors.items()}
        mask, values = tensors["chunk_mask"].tolist(), outputs.surprise[row, :count].tolist()
        was_real = [False, *mask[:-1]]
        surprise = [v if real and was else None for v, real, was in zip(values, mask, was_real, strict=True)]
        facts = {**clip.decoded.facts, "surprise": surprise, "chunk_times": tensors["chunk_times"].tolist()}
        on_disk = {name: value.cpu() for name, value in tensors.items()}
        entry = self.clips.put(lambda path: save_file(on_disk, path), facts, clip.digest)
        return self._remember(WatchedClip(entry.id, entry.created, facts, tensors))

    @property
    def is_alive(self) -> bool:
        """Whether the model's thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def num_waiting_clips(self) -> int:
        """Clips that are being decoded or encoded."""
        return len(self._watching)

    # ---- parts

    def _decode(
        self, media: Media, options: WatchOptions, digest: str, client: str, future: "Future[WatchedClip]"
    ) -> None:
        try:
            decoded = self.decode(media, options, self.answerer.processor, self.limits)
            kept = {name: value.name for name, value in media.parts() if isinstance(value, Path)}
            decoded.facts["files"] = {name: id for name, id in kept.items() if id.startswith("file_")}
            self.encoding.put(client, _Clip(digest, decoded, future))
        except BaseException as error:
            future.set_exception(error)
        self._work.set()

    def _load(self, entry: Entry) -> WatchedClip:
        with self._lock:
            if entry.id in self._recent:
                self._recent.move_to_end(entry.id)
                return self._recent[entry.id]
        try:
            tensors = load_file(entry.path, device=str(self.answerer.model.device))
        except OSError as error:
            raise UnknownIdError("clip", entry.id) from error
        return self._remember(WatchedClip(entry.id, entry.created, entry.facts, tensors))

    def _remember(self, clip: WatchedClip) -> WatchedClip:
        with self._lock:
            self._recent[clip.id] = clip
            while len(self._recent) > KEPT_CLIPS:
                self._recent.popitem(last=False)
        return clip

    def _add(self, id: str, options: dict[str, Any], may_skip: bool, on_chunks: OnChunks | None) -> LiveSession:
        with self._lock:
            self._check_open()
            if len(self.sessions) >= self.limits.sessions:
                raise BusyError("live sessions", len(self.sessions), self.limits.sessions, 10.0)
            live = self.sessions[id] = LiveSession(id, self.answerer, options, may_skip, on_chunks)
        return live

    def _check_open(self) -> None:
        if self.is_draining:
            raise BusyError("requests", 1, 0, 10.0)

    def _has_work(self) -> bool:
        waiting = [each for each in list(self.sessions.values()) if each.num_waiting]
        return bool(self._watching or len(self.questions) or self._held or waiting)
