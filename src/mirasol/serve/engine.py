"""`Engine`: clips, questions and live sessions of many clients, batched by one thread that owns the model."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from mirasol.answer.answerer import Answerer, Prompts
from mirasol.answer.session import StreamSession, fingerprint
from mirasol.serve.batches import OnText, Question, Reply, answer_together, check_question
from mirasol.serve.clips import Clips, Decode, WatchedClip
from mirasol.serve.decode import DecodePicture, Media, WatchOptions, decode, decode_picture
from mirasol.serve.holds import Holds
from mirasol.serve.ids import SESSION, belongs, new_id
from mirasol.serve.limits import Limits
from mirasol.serve.live import LiveSession, OnChunks, advance_together
from mirasol.serve.queues import BusyError, FairQueue, HeldError, UnknownIdError
from mirasol.serve.store import Store

log = logging.getLogger("mirasol.serve")
IDLE_SECONDS = 0.2
HAND_OVER_SECONDS, POLL_SECONDS = 15.0, 0.05  # for a session that another process holds
MAX_REMEMBERED = 1_024  # questions, whose comparison with those of training takes milliseconds
GATHER_PART, GATHER_SECONDS = 0.5, 0.05  # wait for more questions: a part of the last batch's time, and at most
T = TypeVar("T")


class Engine:
    """Serves many clients with one model.

    `start` runs `step` in a thread until `close`. All other methods may be called from any thread; those that return
    a `Future` do not block. A client's results do not depend on the other clients.

    Args:
        answerer: Model and processor.
        folder: Folder of watched clips, files and sessions, which several engines of one checkpoint may share.
        limits: Bounds on what clients send, on queues and on stores.
        decode: Turns files into chunks, in `limits.decoders` threads.
        decode_picture: Turns a picture of a live session into pixels, in any thread.
    """

    def __init__(
        self, answerer: Answerer, folder: Path, limits: Limits | None = None, decode: Decode = decode,
        decode_picture: DecodePicture = decode_picture,
    ):  # fmt: skip
        self.answerer, self.limits, self.decode_picture = answerer, limits or Limits(), decode_picture
        # Clips and sessions belong to the weights and to the settings with which they were watched.
        settings = sha256(json.dumps(answerer.processor.to_dict(), sort_keys=True, default=str).encode()).hexdigest()
        bounds, made_of = self.limits, f"{fingerprint(answerer.model)}-{settings[:8]}"
        self.files = Store(folder / "files", bounds.file_store_bytes, "file")
        self.saved = Store(folder / "sessions" / made_of, bounds.session_store_bytes, "sess")
        self.holds = Holds(self.saved.folder)
        self._work = threading.Event()
        store = Store(folder / "clips" / made_of, bounds.clip_store_bytes, "clip")
        self.clips = Clips(answerer, store, bounds, decode, self._work.set)
        self.sessions: dict[str, LiveSession] = {}
        self.questions: FairQueue[Question] = FairQueue(
            "questions", bounds.waiting_questions, bounds.share_of_one_client
        )
        self.counts: dict[str, float] = dict.fromkeys(
            ("questions", "question_batches", "chunks", "skipped_chunks", "failures"), 0
        )
        self._warnings = lru_cache(MAX_REMEMBERED)(answerer.warnings)
        self._held: list[Question] = []  # their session has chunks that are not watched yet
        self._expected, self._gather_seconds = (
            0,
            0.0,
        )  # questions expected in the next batch, and how long to wait for them
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stops = self.is_draining = False

    # ---- clips and questions

    def watch(
        self, media: Media, options: WatchOptions | None = None, client: str = "", owner: str = ""
    ) -> "Future[WatchedClip]":
        """Return a future of the watched clip. See `Clips.watch`."""
        self._check_open()
        return self.clips.watch(media, options or WatchOptions(), client, owner)

    def ask(
        self, about: str | WatchedClip, question: str, options: Sequence[str] | None = None,
        max_new_tokens: int | None = None, attribute: bool = False, on_text: OnText | None = None, client: str = "",
    ) -> "Future[Reply]":  # fmt: skip
        """Return a future of the reply to a question about a clip or a live session.

        A question to a session is answered from every chunk that was closed before the question.

        Args:
            about: Id of the clip or session, or the clip itself.
            question: Text of the question.
            options: Choose the most likely of these answers instead of generating text.
            max_new_tokens: Limit of the answer.
            attribute: Also find the seconds to which the answer is attributed.
            on_text: The engine's thread calls it with pieces of the answer as they are generated.
            client: Name of the client; clients are served in turn.

        Raises:
            ValueError: The question is empty or too long, or the id is unknown.
            BusyError: Too many questions wait.
        """
        self._check_open()
        prompts = self.prompts(question, options)
        chosen: dict[str, Any] = {
            "max_new_tokens": max_new_tokens, "attribute": attribute and options is None, "on_text": on_text,
            "warnings": self._warnings(question),
        }  # fmt: skip
        if isinstance(about, str) and about.startswith("sess_"):
            live = self.session(about)
            needed = live.session.chunks.num_closed
            ready = lambda: live.is_closed or live.is_watched(needed)  # noqa: E731
            asked = Question(prompts, live.view, live.session.answerer, True, is_ready=ready, **chosen)
        else:
            clip = self.clips.get(about) if isinstance(about, str) else about
            asked = Question(prompts, clip.view, self.answerer, **chosen)
        self.questions.put(client, asked)

        def take_back(done: Future) -> None:
            if done.cancelled():
                self.questions.discard(client, asked)

        asked.future.add_done_callback(take_back)
        self._work.set()
        return asked.future

    def prompts(self, question: str, options: Sequence[str] | None = None) -> Prompts:
        """Return a question as tokens.

        Raises:
            ValueError: The question is empty or too long, or there are too many options.
        """
        check_question(question, options, self.limits)
        return self.answerer.prompts([question], None if options is None else [options])

    # ---- live sessions

    def open(
        self, options: dict[str, Any] | None = None, may_skip: bool = False, on_chunks: OnChunks | None = None,
        owner: str = "",
    ) -> str:  # fmt: skip
        """Open a live session with options of `StreamSession`; return its id. Raises BusyError at the limit."""
        id = new_id("sess", owner)
        self._add(LiveSession(id, StreamSession(self.answerer, **(options or {})), may_skip, on_chunks))
        self.holds.take(id)  # after the checks, because a refused session must leave no lock
        return id

    def resume(
        self, id: str, may_skip: bool = False, on_chunks: OnChunks | None = None, owner: str = ""
    ) -> LiveSession:
        """Return an open session of this or another process, or load a saved one.

        Raises:
            UnknownIdError: There is none, or another client owns it.
            BusyError: Too many sessions are open, or another process does not release the session.
        """

        def find() -> LiveSession | None:
            if (live := self.sessions.get(id)) is not None:
                live.on_chunks, live.may_skip = on_chunks, may_skip
                return live
            if not self.holds.take(id):
                return None
            try:
                if (entry := self.saved.get(id)) is None:
                    raise UnknownIdError("session", id)
                return self._add(LiveSession(id, StreamSession.load(entry.path, self.answerer), may_skip, on_chunks))
            except BaseException:
                self.holds.release(id)
                raise

        if not SESSION.fullmatch(id) or not belongs(id, owner):
            raise UnknownIdError("session", id)
        limit = time.monotonic() + HAND_OVER_SECONDS
        while (live := self._in_turn(find)) is None:
            is_late = time.monotonic() > limit
            self.holds.want(id, not is_late)
            if is_late:
                raise HeldError(id)
            time.sleep(POLL_SECONDS)
        return live

    def session(self, id: str) -> LiveSession:
        """Return an open session. Raises UnknownIdError if there is none."""
        if (live := self.sessions.get(id)) is None:
            raise UnknownIdError("session", id)
        return live

    def configure(self, id: str, options: dict[str, Any]) -> None:
        """Set the options of a session. Raises ValueError if it has media already."""
        live = self.session(id)
        if live.has_media:
            raise ValueError(
                f"Expected {', '.join(options)} before the first media of the session, found media. Open another "
                "session with these settings."
            )
        live.session = StreamSession(self.answerer, **options)

    def push(self, id: str, **media: Any) -> None:
        """Append media to a session; closed chunks wait for the model. See `ChunkStream.push`."""
        self.session(id).push(**media)
        self._work.set()

    def flush(self, id: str) -> None:
        """Close the open chunk of a session with the media that it has."""
        self.session(id).flush()
        self._work.set()

    def close_session(self, id: str, save: bool = False, on_chunks: OnChunks | None = None) -> None:
        """Close a session. With `save`, any process of the folder can resume it by its id.

        With `on_chunks`, close it only if this is its listener: another connection may have resumed the session.
        """

        def close() -> None:
            live = self.sessions.get(id)
            if live is None or on_chunks not in (None, live.on_chunks):
                return
            live.is_closed = True
            del self.sessions[id]  # before the save, so that a full disk does not keep its place
            try:
                if save and live.has_media:
                    self.saved.put(live.save, {}, id=id)
                elif not save:
                    self.saved.remove(id)
            finally:
                self.holds.release(id)

        self._in_turn(close)

    # ---- the model's thread

    def start(self) -> "Engine":
        """Run `step` in a thread until `close`."""
        self._thread = threading.Thread(target=self._run, name="mirasol-model", daemon=True)
        self._thread.start()
        return self

    @property
    def is_alive(self) -> bool:
        """Whether the model's thread is running."""
        return self._thread is not None and self._thread.is_alive()

    def close(self, timeout: float = 60.0) -> None:
        """Refuse new work, finish accepted work for at most `timeout` seconds, save the sessions, and stop."""
        self.is_draining = True
        limit = time.monotonic() + timeout
        while self.is_alive and self.has_work and time.monotonic() < limit:
            time.sleep(0.01)
        with self._lock:
            self._stops = True
        self._work.set()
        if self._thread is not None:
            self._thread.join()
        self._make_calls()
        for id in list(self.sessions):
            try:
                self.close_session(id, save=True)
            except Exception:  # the other sessions are saved
                log.exception("session %s was not saved", id)
        for question in [*self._held, *self.questions.take(len(self.questions))]:
            if question.future.set_running_or_notify_cancel():
                question.future.set_exception(BusyError("questions", 1, 0, 10.0))
        self.clips.close()
        for store in (self.clips.store, self.files, self.saved, self.holds):
            store.close()

    def step(self) -> bool:
        """Do a bounded part of each kind of work; return False if none waited."""
        self._make_calls()
        found = [self._advance_sessions(), self.clips.encode()]
        if not any(found):
            self._gather()
        found.append(self._answer_questions())
        self._save_due()
        return any(found)

    def _run(self) -> None:
        while not self._stops:
            self._work.clear()
            try:
                if self.step():
                    continue
            except Exception:  # data of one client must not end the thread that serves all
                self.counts["failures"] += 1
                log.exception("a step failed")
            self._work.wait(IDLE_SECONDS)

    def _advance_sessions(self) -> bool:
        live = list(self.sessions.values())
        for each in live:
            self.counts["skipped_chunks"] += each.collect(self.limits.session_lag_seconds)
        waiting = [each for each in live if each.session.waiting]
        if not waiting:
            return False
        for each, (results, error) in zip(waiting, advance_together(waiting), strict=True):
            self.counts["chunks"] += len(results)
            if results and each.on_chunks is not None:
                each.on_chunks(results)
            if error is not None:
                self.counts["failures"] += 1
                log.error("a chunk of a session failed", exc_info=error)
                each.is_closed = True
                each.session.waiting.clear()
                self.sessions.pop(each.id, None)
                self.holds.release(each.id)
        return True

    def _save_due(self) -> None:
        """Save the session with the oldest save, if that is due, because a process that is killed saves nothing."""
        changed = [each for each in list(self.sessions.values()) if each.has_unsaved]
        live = min(changed, key=lambda each: each.saved_at, default=None)
        if live is not None and time.monotonic() - live.saved_at >= self.limits.session_save_seconds:
            live.saved_at = time.monotonic()
            self.saved.put(live.save, {}, id=live.id)

    def _gather(self) -> None:
        """Wait a part of a batch's time for as many questions as the last batch had, because clients ask again.

        A batch of 16 questions takes nearly the same time as one of 8. A single client never waits.
        """
        limit = time.monotonic() + self._gather_seconds
        while 0 < len(self.questions) < self._expected and time.monotonic() < limit and not self._calls:
            time.sleep(0.001)

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
            seconds = time.monotonic() - begin
            self.questions.note(seconds, len(group))
            self._gather_seconds = min(GATHER_PART * seconds, GATHER_SECONDS)
        if ready:
            self._expected = min(len(ready) + len(self.questions), self.limits.questions_at_once)
        return bool(ready)

    def _answer(self, group: Sequence[Question]) -> None:
        try:
            replies = answer_together(group)
        except Exception as error:
            if len(group) > 1:
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

    # ---- between two steps

    def _in_turn(self, call: Callable[[], T]) -> T:
        """Run a function that changes sessions between two steps, and return its result."""
        future: Future[T] = Future()
        with self._lock:
            waits = self.is_alive and not self._stops and threading.current_thread() is not self._thread
            if waits:
                self._calls.append((call, future))
        self._work.set()
        return future.result() if waits else call()

    def _make_calls(self) -> None:
        while self._calls:
            call, future = self._calls.popleft()
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    def _add(self, live: LiveSession) -> LiveSession:
        with self._lock:
            self._check_open()
            if len(self.sessions) >= self.limits.sessions:
                raise BusyError("live sessions", len(self.sessions), self.limits.sessions, 10.0)
            self.sessions[live.id] = live
        return live

    def _check_open(self) -> None:
        if self.is_draining:
            raise BusyError("requests", 1, 0, 10.0)

    @property
    def has_work(self) -> bool:
        """Whether any accepted work waits."""
        waiting = [each for each in list(self.sessions.values()) if each.num_waiting]
        return bool(self.clips.num_waiting or len(self.questions) or self._held or self._calls or waiting)
