"""Speed, memory and delay of live sessions, after StreamingEval.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py CLIP [--chunks 3000] [--minutes 0.17 1 10] [--figure PNG]

The parts, each in CPU seconds of this process, which other work on the machine changes less than the clock does:

file      CLIP pushed with decoding: real-time factor, frames a second, and shares of decoding, of cutting chunks
          (resize, resampling, log-mel) and of the model
stream    simulated chunks, given to the model without cutting: ms a chunk (median, P99), the last 1,000 against the
          first 1,000 after 100, state and resident memory, and the first token of `ask` on the way. With --resume
          FOLDER the session is saved every 1,000 chunks and continued from there
age       with --resume: 1,000 more chunks of that session against as many of a new one, in turns
sessions  1, 8 and 32 sessions together against one at a time
questions the same chunks answered by the stream's state and by encoding all of them again; drawn into --figure
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from plot import Panel, draw
from transformers.generation.streamers import BaseStreamer

from mirasol.answer.answerer import Answerer
from mirasol.answer.session import StreamSession, advance
from mirasol.chunks.stream import ClosedChunk
from mirasol.media.live import Source

QUESTION = "which color is named?"
WARM_UP, BLOCK = 100, 1_000
ASKED_AT = (10, 1_000, 100_000)


class FirstToken(BaseStreamer):
    """Notes the CPU time of the first generated token; the prompt comes before it."""

    def __init__(self):
        self.calls, self.at = 0, 0.0

    def put(self, value) -> None:
        """Count the call."""
        self.calls += 1
        if self.calls == 2:
            self.at = time.process_time()

    def end(self) -> None:
        """Nothing is left to do."""


def resident_mebibytes() -> float:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def simulated(answerer: Answerer, count: int = 16) -> list[dict[str, torch.Tensor]]:
    """Inputs of some chunks of noise."""
    frames = np.random.default_rng(0).integers(0, 255, (count * 8, 96, 96, 3), dtype=np.uint8)
    grid = answerer.processor.grid
    seconds = count * grid.seconds_per_chunk
    chunks = StreamSession(answerer, start_time=0.0).chunks
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, round(seconds * 16_000)).astype(np.float32)
    closed = chunks.push(frames, np.arange(count * 8) / grid.frames_per_second, sound, 0.0, 16_000) + chunks.flush()
    return [chunk.inputs for chunk in closed]


def give(session: StreamSession, inputs: list[dict[str, torch.Tensor]], count: int) -> None:
    """Let chunks wait in a session, stamped as its next."""
    seconds = session.chunks.grid.seconds_per_chunk
    first = session.results[-1].index + 1 if session.results else 0
    for index in range(first, first + count):
        times = torch.tensor([[index * seconds, (index + 1) * seconds]], dtype=torch.float64)
        session.waiting.append(ClosedChunk(index, inputs[index % len(inputs)] | {"chunk_times": times}))


def first_token(session: StreamSession) -> float:
    """CPU milliseconds from `ask` to the first token, the least of five."""
    found = []
    for _ in range(5):
        streamer, begin = FirstToken(), time.process_time()
        session.ask(QUESTION, streamer=streamer, attribute=False)
        found.append(1_000 * (streamer.at - begin))
    return min(found)


def file_part(answerer: Answerer, clip: str) -> None:
    """Print how a file is watched with decoding, after a first time that does not count."""
    for _ in range(2):
        session, spent, frames = StreamSession(answerer, start_time=0.0), {"cut": 0.0, "model": 0.0}, 0
        begin = time.process_time()
        for media in Source(clip):
            frames += len(media.get("frames", ()))
            start = time.thread_time()
            session.push(**media, watch=False)
            middle = time.thread_time()
            advance([session])
            spent["cut"] += middle - start
            spent["model"] += time.thread_time() - middle
        session.close()
        total = time.process_time() - begin
    print(
        f"file      {session.seconds / total:.1f} x real time, {frames / total:.0f} frames a second: "
        f"{1_000 * total:.0f} ms of CPU for {session.seconds:.1f} s; cutting {spent['cut'] / total:.0%}, model "
        f"{spent['model'] / total:.0%}, decoding and the rest {1 - sum(spent.values()) / total:.0%}",
        flush=True,
    )


def stream_part(answerer: Answerer, inputs, chunks: int, folder: Path | None) -> None:
    """Print cost, memory and delay along a long stream."""
    session = StreamSession(answerer, start_time=0.0)
    if folder is not None and (folder / "session.json").is_file():
        session = StreamSession.load(folder, answerer)
    watched = session.results[-1].index + 1 if session.results else 0
    begin_at, spent, memory = watched, [], resident_mebibytes()
    while watched < chunks:
        give(session, inputs, 1)
        begin = time.process_time()
        advance([session])
        spent.append(1_000 * (time.process_time() - begin))
        watched += 1
        if watched == begin_at + WARM_UP:
            memory = resident_mebibytes()
        if watched in ASKED_AT or watched == chunks:
            print(
                f"stream    after {watched:>7,} chunks: first token {first_token(session):.1f} ms, state "
                f"{session.stream_cache.nbytes:,} bytes, resident {resident_mebibytes():.0f} MiB",
                flush=True,
            )
        elif watched % BLOCK == 0:
            print(f"stream    {watched:,} of {chunks:,} chunks, median {np.median(spent[-BLOCK:]):.2f} ms", flush=True)
        if folder is not None and watched % BLOCK == 0:
            session.save(folder)
    steady = np.array(spent[WARM_UP:] or spent or [np.nan])
    size = min(BLOCK, max(len(steady) // 2, 1))
    ratio = np.median(steady[-size:]) / np.median(steady[:size])
    print(
        f"stream    {np.median(steady):.2f} ms a chunk, P99 {np.percentile(steady, 99):.2f} ms; last {size:,} / first "
        f"{size:,}: {ratio:.3f}; resident {resident_mebibytes() - memory:+.1f} MiB since chunk {WARM_UP}",
        flush=True,
    )


def age_part(answerer: Answerer, inputs, folder: Path) -> None:
    """Print the cost of a chunk of the saved old stream over that of a new one; blocks of 50 chunks take turns."""
    sessions = {"old": StreamSession.load(folder, answerer), "new": StreamSession(answerer, start_time=0.0)}
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    watched = sessions["old"].results[-1].index + 1
    for turn in range(2 * (WARM_UP + BLOCK) // 50):
        name = ("old", "new")[turn % 2]
        for _ in range(50):
            give(sessions[name], inputs, 1)
            begin = time.process_time()
            advance([sessions[name]])
            spent[name].append(1_000 * (time.process_time() - begin))
    old, new = (np.median(spent[name][WARM_UP:]) for name in ("old", "new"))
    print(
        f"age       chunks after {watched:,} against those after {WARM_UP}, in turns: {old:.2f} and {new:.2f} ms, "
        f"{old / new:.3f}",
        flush=True,
    )


def sessions_part(answerer: Answerer, inputs, rounds: int) -> None:
    """Print the cost of a chunk in sessions that advance together, and one at a time; both take turns."""
    for count in (1, 8, 32):
        cost = {"together": 0.0, "alone": 0.0}
        groups = {name: [StreamSession(answerer, start_time=0.0) for _ in range(count)] for name in cost}
        for turn in range(rounds + 1):
            for name, sessions in groups.items():
                for session in sessions:
                    give(session, inputs, 1)
                begin = time.process_time()
                for part in [sessions] if name == "together" else [[session] for session in sessions]:
                    advance(part)
                cost[name] += time.process_time() - begin if turn else 0.0
        together, alone = (1_000 * cost[name] / rounds / count for name in ("together", "alone"))
        print(
            f"sessions  {count:>2}: {together:.2f} ms a chunk together, {alone:.2f} alone: {alone / together:.2f} x",
            flush=True,
        )


def questions_part(answerer: Answerer, inputs, minutes: list[float], figure: Path | None) -> None:
    """Print and draw the cost of a question by the stream's state, and by encoding everything so far again."""
    session, lines = StreamSession(answerer, start_time=0.0), {"stream": [], "encode again": []}
    for length in sorted(minutes):
        count = max(round(60 * length / answerer.processor.grid.seconds_per_chunk), 1)
        give(session, inputs, count - (session.results[-1].index + 1 if session.results else 0))
        advance([session])
        begin = time.process_time()
        session.ask(QUESTION, attribute=False)
        ours = time.process_time() - begin
        whole = {name: torch.cat([inputs[i % len(inputs)][name] for i in range(count)]) for name in inputs[0]}
        starts = torch.arange(count)[:, None] * session.chunks.grid.seconds_per_chunk
        whole["chunk_times"] = starts + whole["chunk_times"][:1]
        begin = time.process_time()
        answerer.streaming.answer(answerer.streaming.watch(whole), [[QUESTION]])
        theirs = time.process_time() - begin
        for name, seconds in (("stream", ours), ("encode again", theirs)):
            lines[name].append((length, 1_000 * seconds))
        print(
            f"questions {length:>5.2f} min: {1_000 * ours:.0f} ms by the stream, {1_000 * theirs:.0f} ms by encoding "
            f"again: {theirs / ours:.0f} x",
            flush=True,
        )
        if figure is not None:
            draw(figure, [Panel("A question about a stream", "minutes watched", "CPU ms", lines)])


def main() -> None:
    """Print one line a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip")
    parser.add_argument("--checkpoint")
    parser.add_argument("--chunks", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1 / 6, 1, 10])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--resume", type=Path)
    arguments = parser.parse_args()
    answerer = Answerer.load(arguments.checkpoint)
    inputs = simulated(answerer)
    file_part(answerer, arguments.clip)
    sessions_part(answerer, inputs, arguments.rounds)
    questions_part(answerer, inputs, arguments.minutes, arguments.figure)
    stream_part(answerer, inputs, arguments.chunks, arguments.resume)
    if arguments.resume is not None:
        age_part(answerer, inputs, arguments.resume)


if __name__ == "__main__":
    main()
