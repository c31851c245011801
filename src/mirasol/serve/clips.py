"""`Clips`: files -> chunks, in worker threads -> latents, in batches -> a store, which finds them by digest."""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from mirasol.answer.answerer import Answerer, Watched
from mirasol.model.modeling_mirasol_outputs import MirasolEncoderOutput
from mirasol.serve.batches import View
from mirasol.serve.decode import Decoded, Media, WatchOptions, digest
from mirasol.serve.ids import new_id
from mirasol.serve.limits import Limits
from mirasol.serve.queues import BusyError, FairQueue, UnknownIdError
from mirasol.serve.store import Entry, Store

KEPT_PART = 1 / 16  # of the memory for clips: keys and values of a longer clip are computed for each question
Decode = Callable[[Media, WatchOptions, Any, Limits], Decoded]


@dataclass(frozen=True)
class WatchedClip:
    """A watched clip: its id, its facts, and its latents."""

    id: str
    created: float
    facts: dict[str, Any]
    tensors: dict[str, Tensor]
    project: Callable[[Watched], Watched] | None = None  # computes keys and values, if they are kept

    def view(self) -> View:
        """Return the latents as a batch of one."""
        return self._view

    @cached_property
    def _view(self) -> View:
        mask, times = self.tensors["chunk_mask"], self.tensors["chunk_times"]
        batch: dict[str, Any] = {name: value[None] for name, value in self.tensors.items()}
        duration = self.facts["seconds"]
        seen = float(times[mask][0, 0]), min(float(times[mask][-1, 1]), duration)
        watched = Watched(MirasolEncoderOutput(**batch))
        return View(self.project(watched) if self.project else watched, seen, duration)


@dataclass
class _Clip:
    """A clip in progress."""

    media: Media
    options: WatchOptions
    digest: str
    client: str
    owner: str
    future: Future[WatchedClip]
    decoded: Decoded | None = None

    @property
    def num_chunks(self) -> int:
        return len(self.decoded.chunks["chunk_times"]) if self.decoded else 0

    @property
    def files(self) -> dict[str, str]:
        """Ids of the clip's files in `/v1/files`, by kind."""
        names = {kind: value.name for kind, value in self.media.parts() if isinstance(value, Path)}
        return {kind: name for kind, name in names.items() if name.startswith("file_")}


class Clips:
    """Watches clips for any thread; only the thread that owns the model calls `encode`.

    Args:
        answerer: Model and processor.
        store: Store of the latents.
        limits: Bounds on waiting clips and batches.
        decode: Turns files into chunks.
        wake: Function that is called when `encode` has work.
    """

    def __init__(self, answerer: Answerer, store: Store, limits: Limits, decode: Decode, wake: Callable[[], None]):
        self.answerer, self.store, self.limits, self._decode, self._wake = answerer, store, limits, decode, wake
        self.counts: dict[str, float] = dict.fromkeys(("clips", "clips_found", "clip_failures"), 0)
        self._waiting: FairQueue[_Clip] = FairQueue("clips", limits.waiting_clips, limits.share_of_one_client)
        self._decoded: list[_Clip] = []
        self._under_way: dict[str, _Clip] = {}
        self._recent: OrderedDict[str, WatchedClip] = OrderedDict()
        text, size = answerer.model.config.text_config, answerer.model.config.temporal_config.hidden_size
        # bytes of latents, keys and values for each byte of latents
        self._growth = 1 + 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim / size
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(limits.decoders, "mirasol-decode")

    @property
    def num_waiting(self) -> int:
        """Number of clips in progress."""
        return len(self._under_way)

    def watch(self, media: Media, options: WatchOptions, client: str, owner: str = "") -> "Future[WatchedClip]":
        """Return a future of the watched clip. An owner's clip with the same bytes and options is watched once.

        Raises:
            BusyError: Too many clips wait.
        """
        with _file_errors():
            found_by = digest(media, options, owner)
        clip = _Clip(media, options, found_by, client, owner, Future())
        if (found := self.store.find(clip.digest)) is not None:
            self.counts["clips_found"] += 1
            if clip.files and clip.files != found.facts["files"]:  # the older files may have been removed
                self.store.set_facts(found.id, {**found.facts, "files": clip.files})
                self._recent.pop(found.id, None)
                found = self.store.get(found.id) or found
            clip.future.set_result(self._load(found))
            return clip.future
        with self._lock:
            if clip.digest in self._under_way:
                return self._under_way[clip.digest].future
            own = sum(each.client == client for each in list(self._under_way.values()))
            for waiting, limit in ((own, self._waiting.of_one), (self.num_waiting, self.limits.waiting_clips)):
                if waiting >= limit:
                    raise BusyError("clips", waiting, limit, waiting * self._waiting.seconds_each)
            self._waiting.put(client, clip)
            self._under_way[clip.digest] = clip
        clip.future.add_done_callback(lambda _: self._under_way.pop(clip.digest, None))
        self._pool.submit(self._decode_next)
        return clip.future

    def get(self, id: str) -> WatchedClip:
        """Return a clip by its id. Raises UnknownIdError if there is none."""
        return self.recent(id) or self.reread(id)

    def reread(self, id: str) -> WatchedClip:
        """Return a clip with its facts in the store, which other processes may have changed; raises as `get` does."""
        entry = self.store.get(id) if id.startswith("clip_") else None
        if entry is None:
            raise UnknownIdError("clip", id)
        return self._load(entry)

    def recent(self, id: str) -> WatchedClip | None:
        """Return a clip that is in memory, without reading the disk."""
        with self._lock:
            clip = self._recent.get(id)
            if clip is not None:
                self._recent.move_to_end(id)
        return clip if clip is not None and self.store.touch(id) else None

    def forget(self, id: str) -> None:
        """Remove a clip."""
        self.get(id)
        self.store.remove(id)
        with self._lock:
            self._recent.pop(id, None)

    def encode(self) -> bool:
        """Encode decoded clips as a batch within the limits; return False if there are none."""
        with self._lock:
            count, num_chunks = 0, 0
            for clip in self._decoded[: self.limits.clips_at_once]:
                num_chunks += clip.num_chunks
                if count and num_chunks > self.limits.chunks_at_once:
                    break
                count += 1
            group, self._decoded = self._decoded[:count], self._decoded[count:]
        if group:
            self._encode(group)
        return bool(group)

    def close(self) -> None:
        """Stop decoding, and refuse the clips in progress."""
        self._pool.shutdown(cancel_futures=True)
        for clip in list(self._under_way.values()):
            if not clip.future.done():
                clip.future.set_exception(BusyError("clips", 1, 0, 10.0))

    def _decode_next(self) -> None:
        (clip,) = self._waiting.take(1)
        begin = time.monotonic()
        try:
            with _file_errors():
                clip.decoded = self._decode(clip.media, clip.options, self.answerer.processor, self.limits)
        except BaseException as error:
            clip.future.set_exception(error)
            return
        self._waiting.note(time.monotonic() - begin, 1)
        with self._lock:
            self._decoded.append(clip)
        self._wake()

    def _encode(self, group: Sequence[_Clip]) -> None:
        try:
            outputs = self.answerer.watch(*(clip.decoded.chunks for clip in group if clip.decoded)).encoder_outputs
            kept = [self._keep(clip, outputs, row) for row, clip in enumerate(group)]
        except Exception as error:
            if len(group) > 1:  # one clip must not fail the others
                for clip in group:
                    self._encode([clip])
                return
            self.counts["clip_failures"] += 1
            group[0].future.set_exception(error)
            return
        self.counts["clips"] += len(group)
        for clip, watched in zip(group, kept, strict=True):
            clip.future.set_result(watched)

    def _keep(self, clip: _Clip, outputs: Any, row: int) -> WatchedClip:
        """Store the latents of one row of a batch, without padded chunks."""
        count, decoded = clip.num_chunks, clip.decoded
        assert decoded is not None, "a clip is decoded before it is encoded"
        num_latents = outputs.last_hidden_state.shape[1] // outputs.chunk_mask.shape[1]
        tensors = {
            "last_hidden_state": outputs.last_hidden_state[row, : count * num_latents].clone(),
            "chunk_mask": outputs.chunk_mask[row, :count].clone(),
            "chunk_times": outputs.chunk_times[row, :count].clone(),
        }
        mask, values = tensors["chunk_mask"].tolist(), outputs.surprise[row, :count].tolist()
        was_real = [False, *mask[:-1]]
        surprise = [v if real and was else None for v, real, was in zip(values, mask, was_real, strict=True)]
        times = tensors["chunk_times"].tolist()
        facts = {**decoded.facts, "files": clip.files, "surprise": surprise, "chunk_times": times}
        on_disk = {name: value.cpu() for name, value in tensors.items()}
        id = new_id("clip", clip.owner)
        entry = self.store.put(lambda path: save_file(on_disk, path), facts, clip.digest, id)
        return self._remember(entry, facts, tensors)

    def _load(self, entry: Entry) -> WatchedClip:
        with self._lock:
            recent = self._recent.get(entry.id)
            if recent is not None and recent.facts["files"] == entry.facts["files"]:
                self._recent.move_to_end(entry.id)
                return recent
        try:
            tensors = load_file(entry.path, device=str(self.answerer.model.device))
        except OSError as error:
            raise UnknownIdError("clip", entry.id) from error
        return self._remember(entry, entry.facts, tensors)

    def _remember(self, entry: Entry, facts: dict[str, Any], tensors: dict[str, Tensor]) -> WatchedClip:
        limit = self.limits.clip_memory_bytes
        project = self.answerer.project if self._num_bytes(tensors) <= KEPT_PART * limit else None
        clip = WatchedClip(entry.id, entry.created, facts, tensors, project)
        with self._lock:
            self._recent[clip.id] = clip
            excess = sum(self._num_bytes(each.tensors) for each in self._recent.values()) - limit
            while excess > 0 and len(self._recent) > 1:
                _, oldest = self._recent.popitem(last=False)
                excess -= self._num_bytes(oldest.tensors)
        return clip

    def _num_bytes(self, tensors: dict[str, Tensor]) -> float:
        return tensors["last_hidden_state"].nbytes * self._growth


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    """Report a file that was removed while its clip waited as an unknown id."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnknownIdError("file", Path(error.filename or "").name) from error
