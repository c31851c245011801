"""`StreamSession`: watches a live source in constant memory and answers at any moment."""

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mirasol.answer.answerer import Answerer, Watched
from mirasol.answer.attribution import Evidence, top_evidence
from mirasol.answer.ranking import require_finite
from mirasol.answer.session_folder import load_state, save_state
from mirasol.chunks.stream import ChunkStream, ClosedChunk
from mirasol.model.modeling_mirasol_stream import MirasolStreamCache
from mirasol.results import Document

KEPT_RESULTS = 4_096
CHUNKS_AT_ONCE = 16  # of one session in one call of the model
INCIDENTAL = ("transformers_version", "architectures", "dtype", "_name_or_path", "auto_map")  # no part of the model
MIN_SURPRISES = 8  # number of earlier surprises that a z-score needs


@dataclass(frozen=True)
class ChunkResult:
    """Result of a closed chunk: start and end in session time, surprise, and the modalities that were real.

    `surprise` is 1 - cosine between predicted and actual features, after removing their running mean; `surprise_z` is
    its z-score in the session so far. Both are None if nothing was predicted.
    """

    index: int
    start: float
    end: float
    has_video: bool
    has_audio: bool
    surprise: float | None = None
    surprise_z: float | None = None


class StreamAnswer(Document):
    """An answer about the seconds `seen`, in session time."""

    question: str
    answer: str
    confidence: float
    seen: tuple[float, float]
    attributed_to: list[Evidence] = []
    is_cut: bool = False
    options: list[str] | None = None
    log_probabilities: list[float] | None = None


class StreamSession:
    """A live stream: takes frames and sound in pieces of any size, and answers about the latest chunks at any time.

    The latents equal those of `processor(sampling="dense")` and one forward of `answerer.streaming` on the same media.
    Time and memory per chunk are constant: the model attends to the last `window_chunks` chunks, or to the processor's
    `max_chunks` if its config has no window.

    Any thread may `ask` at any time. One thread does everything else (push, flush, skip, save, reset, `advance`).

    Args:
        answerer: Model and processor; sessions may share it.
        options: Arguments of `ChunkStream`: `use_video`, `use_audio`, `allowed_lateness`, `start_time`, `crop`.
    """

    def __init__(self, answerer: Answerer, **options: Any):
        self.answerer, self._options = answerer.streaming, options
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next media start a new stream."""
        self.chunks = ChunkStream(self.answerer.processor, **self._options)
        self.stream_cache = MirasolStreamCache()
        self.results: deque[ChunkResult] = deque(maxlen=KEPT_RESULTS)
        self.waiting: deque[ClosedChunk] = deque()
        self.is_closed = False
        self._was_real = False
        self._surprises = [0, 0.0, 0.0]  # count, mean, sum of squared differences from it

    def push(
        self,
        frames: Any = None,
        frame_times: Any = None,
        waveform: Any = None,
        start_time: float | None = None,
        sampling_rate: int | None = None,
        watch: bool = True,
    ) -> list[ChunkResult]:
        """Take media as `ChunkStream.push` does, watch the chunks that this closes, and return their results.

        With `watch=False` the chunks wait for `advance(sessions)`, which watches those of many sessions together.
        """
        if self.is_closed:
            raise ValueError("Expected an open session, found a closed one: call reset() to start again.")
        self.waiting += self.chunks.push(frames, frame_times, waveform, start_time, sampling_rate)
        return advance([self])[0] if watch else []

    def flush(self) -> list[ChunkResult]:
        """Close the open chunk with the media that have arrived, as at the end of a file, and watch it."""
        self.waiting += self.chunks.flush()
        return advance([self])[0]

    def close(self) -> list[ChunkResult]:
        """Flush, and accept no more media; questions are still answered."""
        found = self.flush()
        self.is_closed = True
        return found

    def skip(self, count: int) -> None:
        """Mask the oldest `count` waiting chunks, because the model cannot keep up; they count as dropped."""
        for place in range(min(count, len(self.waiting))):
            chunk = self.waiting[place]
            masks = {name: torch.zeros_like(value) for name, value in chunk.inputs.items() if name.endswith("_mask")}
            self.waiting[place] = ClosedChunk(chunk.index, chunk.inputs | masks)
            self.chunks.dropped["skipped_chunks"] += chunk.has_video or chunk.has_audio

    @property
    def dropped(self) -> dict[str, float]:
        """Dropped media: late_ and repeated_frames, late_ and repeated_audio_seconds, skipped_chunks."""
        return {name: count for name, count in self.chunks.dropped.items() if count}

    @property
    def seconds(self) -> float:
        """End of the last watched chunk, in session time."""
        return self.results[-1].end if self.results else 0.0

    def ask(
        self, question: str, options: Sequence[str] | None = None, streamer: Any = None, attribute: bool = True
    ) -> StreamAnswer:
        """Answer from the retained chunks, without changing the stream.

        Args:
            question: The question.
            options: Answers to rank, instead of generating one.
            streamer: A transformers streamer, which receives the tokens as they are generated.
            attribute: Whether to attribute a generated answer to seconds.
        """
        if not question.strip():
            raise ValueError("Expected a question, found empty text. Ask one, such as 'which color is named?'.")
        watched, seen = self.retained()
        times, mask = watched.encoder_outputs.chunk_times[0], watched.encoder_outputs.chunk_mask[0]
        if options is not None:
            ((ranking,),) = self.answerer.rank(watched, [self.answerer.prompts([question], [options])])
            require_finite([ranking])
            return StreamAnswer(
                question=question, answer=ranking.best(1)[0], confidence=ranking.confidence, seen=seen,
                options=list(options), log_probabilities=list(ranking.log_probabilities),
            )  # fmt: skip
        prompts = self.answerer.prompts([question])
        ((given,),) = self.answerer.answer(watched, [prompts], streamer=streamer)
        require_finite([given])
        evidence = []
        if attribute:
            (weights,) = self.answerer.attribute(watched, [prompts], [[given]])
            evidence = top_evidence(weights[0], times, mask)
        return StreamAnswer(
            question=question, answer=given.text, confidence=given.confidence, seen=seen, attributed_to=evidence,
            is_cut=given.is_cut,
        )  # fmt: skip

    def retained(self) -> tuple[Watched, tuple[float, float]]:
        """Return a view of the retained chunks, which later pushes do not change, and their start and end.

        Raises:
            ValueError: No chunk was watched yet, or no retained chunk holds media.
        """
        if not self.results:
            raise ValueError(
                f"Expected at least one watched chunk ({self.chunks.grid.seconds_per_chunk:g} s), found none. A chunk "
                "waits for video and audio: push more, or call flush(). For a source without one of them, make the "
                "session with use_video=False or use_audio=False."
            )
        outputs = self.stream_cache.encoder_outputs()
        times, mask = outputs.chunk_times[0], outputs.chunk_mask[0]
        if not mask.any():
            raise ValueError("Expected video or audio in the retained chunks, found none. Push more media.")
        return Watched(outputs), (float(times[mask][0, 0]), float(times[mask][-1, 1]))

    # ---- saved and loaded

    def save(self, folder: str | Path) -> Path:
        """Write the session into a folder, atomically."""
        state = {
            "is_closed": self.is_closed,
            "surprises": self._surprises,
            "was_real": self._was_real,
            "results": [asdict(result) for result in self.results],
            "chunks": self.chunks.state(),
            "waiting": [[chunk.index, chunk.inputs] for chunk in self.waiting],
            "stream_cache": dict(self.stream_cache),
        }
        return save_state(Path(folder), self._made_of(), {"options": self._options, **state})

    @classmethod
    def load(cls, folder: str | Path, answerer: Answerer) -> "StreamSession":
        """Resume a saved session, on any machine, with the checkpoint that watched it."""
        session = cls(answerer)
        state = load_state(Path(folder), session._made_of())
        session = cls(answerer, **state["options"])
        session.is_closed, session._surprises = state["is_closed"], state["surprises"]
        session._was_real = state["was_real"]
        session.results.extend(ChunkResult(**result) for result in state["results"])
        session.chunks.load_state(state["chunks"])
        session.waiting.extend(ClosedChunk(*chunk) for chunk in state["waiting"])
        cache, device = state["stream_cache"], answerer.model.device
        session.stream_cache = MirasolStreamCache({name: value.to(device) for name, value in cache.items()})
        return session

    def _made_of(self) -> dict[str, Any]:
        """Return the digest of the model and the time grid, which a resumed session must share."""
        return {"model": fingerprint(self.answerer.model), "grid": asdict(self.chunks.grid)}

    def _record(self, chunk: ClosedChunk, surprise: float) -> ChunkResult:
        """Store and return the chunk's result, with the z-score of its surprise."""
        is_real = chunk.has_video or chunk.has_audio
        value = score = None
        if is_real and self._was_real:
            value = surprise
            count, mean, squares = self._surprises
            if count >= MIN_SURPRISES and squares > 0:
                score = (value - mean) / math.sqrt(squares / (count - 1))
            difference = value - mean
            mean += difference / (count + 1)
            self._surprises = [count + 1, mean, squares + difference * (value - mean)]
        self._was_real = is_real
        start, end = chunk.seconds
        result = ChunkResult(chunk.index, start, end, chunk.has_video, chunk.has_audio, value, score)
        self.results.append(result)
        return result


def advance(sessions: Sequence[StreamSession], rounds: int | None = None) -> list[list[ChunkResult]]:
    """Watch the waiting chunks of all sessions as one batch, and return the new results of each session.

    The sessions share one model; their results are independent. `rounds` limits the number of chunks per session. If
    the model raises, the chunks stay in the queue.
    """
    if len({id(session) for session in sessions}) < len(sessions) or len({id(s.answerer) for s in sessions}) > 1:
        raise ValueError(
            "Expected sessions of one answerer, each once, found others. Make them with the same Answerer, or call "
            "advance for each answerer."
        )
    found: list[list[ChunkResult]] = [[] for _ in sessions]
    left = [len(session.waiting) if rounds is None else min(rounds, len(session.waiting)) for session in sessions]
    while any(left):
        # Streams that have not begun have no state to concatenate.
        for has_begun in (True, False):
            group = [i for i, session in enumerate(sessions) if left[i] and bool(session.results) == has_begun]
            if not group:
                continue
            count = max(min(min(left[i] for i in group), CHUNKS_AT_ONCE // len(group)), 1)
            taken = [list(islice(sessions[i].waiting, count)) for i in group]
            inputs = [
                {name: torch.cat([chunk.inputs[name] for chunk in chunks]) for name in chunks[0].inputs}
                for chunks in taken
            ]
            cache = MirasolStreamCache()
            if has_begun:
                cache = MirasolStreamCache.cat([sessions[i].stream_cache for i in group])
            output = sessions[group[0]].answerer.advance(cache, inputs)
            for row, (i, chunks) in enumerate(zip(group, taken, strict=True)):
                left[i] -= count
                for _ in chunks:
                    sessions[i].waiting.popleft()
                sessions[i].stream_cache = output.stream_cache.rows([row]) if len(group) > 1 else output.stream_cache
                values = output.surprise[row].tolist()
                found[i] += [sessions[i]._record(chunk, value) for chunk, value in zip(chunks, values, strict=True)]
    return found


def fingerprint(model: Any) -> str:
    """Return a digest of the config and of some values of every weight."""

    def essence(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {str(name): essence(value) for name, value in values.items() if name not in INCIDENTAL}

    config = [essence(model.config.to_dict()), str(model.dtype)]
    digest = sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
