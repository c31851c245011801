"""The server under load, on loopback, against the bare model in the same run.

    OMP_NUM_THREADS=1 python benchmarks/serving.py rate   [--clients 16] [--requests 128] [--rounds 3]
    OMP_NUM_THREADS=1 python benchmarks/serving.py second [--requests 100]
    OMP_NUM_THREADS=1 python benchmarks/serving.py live   [--sessions 1 2 4 8 16 32] [--seconds 20]
    OMP_NUM_THREADS=1 python benchmarks/serving.py churn  [--requests 10000] [--clients 8]

rate     fresh: clips that were never sent, each with a question, by `--clients` clients at once. again: questions
         about clips that are watched. Bare: the same clips decoded, watched and answered by an `Answerer`, 16 at a
         time, in this process while the server waits. Ratios of requests a second, and of CPU seconds a
         request, which other work on the machine changes less
second   one client asks a watched clip again and again, against the decoder's own time
live     sessions at 25 pictures a second with sound, in real time: do they hold it, how far behind, how much memory
churn    short sessions one after the other: memory, threads and open files of the server on the way

The server is a process of its own with the shipped checkpoint; clients are another one.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import numpy as np
import websockets
from PIL import Image

from mirasol.answer.answerer import Answerer, Watched, join_watched
from mirasol.media import read_clip

QUESTION = "which color is named?"
CLIPS = Path("data/grid_s1/clips")
BATCH = 16
TICKS = os.sysconf("SC_CLK_TCK")
EMPTY_BOX = b"\0\0\0\x08free"  # behind an mp4: other bytes, the same clip


class Server:
    """A server's process."""

    def __init__(self, process: subprocess.Popen, address: str):
        self.process, self.address = process, address

    def cpu_seconds(self) -> float:
        """CPU seconds of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def state(self) -> dict[str, float]:
        """Resident MiB, threads and open files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines())
        files = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return {"MiB": int(found["VmRSS"].split()[0]) / 1024, "threads": int(found["Threads"]), "files": files}


@contextmanager
def server() -> Iterator[Server]:
    """Start a server with an empty folder, and stop it."""
    with tempfile.TemporaryDirectory(prefix="mirasol-serving-") as folder:
        words = [sys.executable, "-m", "mirasol.cli", "serve", "--port", "0", "--folder", folder]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield Server(process, process.stdout.readline().split()[0])
        finally:
            process.terminate()
            process.wait(120)


async def at_once(clients: int, jobs: list[Callable[[], Awaitable[None]]]) -> tuple[float, list[float]]:
    """Do all jobs with so many clients; return the seconds of all, and of each."""
    waiting, seconds = iter(jobs), []

    async def client() -> None:
        for job in waiting:
            begin = time.perf_counter()
            await job()
            seconds.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - begin, seconds


def body(data: bytes | None = None, clip: str | None = None) -> bytes:
    """A chat request about the bytes of a clip, or about a watched one."""
    content: list[dict[str, Any]] = [{"type": "text", "text": QUESTION}]
    if data is not None:
        url = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
        content.insert(0, {"type": "video_url", "video_url": {"url": url}})
    own = {} if clip is None else {"mirasol": {"clip": clip}}
    return json.dumps({"model": "mirasol", "messages": [{"role": "user", "content": content}], **own}).encode()


def distinct_clips(count: int, salt: int) -> list[bytes]:
    """Clips whose bytes were never sent before."""
    files = sorted(CLIPS.glob("*.mp4"))
    boxes = [1 + salt * 1_000 + n // len(files) for n in range(count)]
    return [files[n % len(files)].read_bytes() + EMPTY_BOX * number for n, number in enumerate(boxes)]


class Client:
    """Posts chats and gives the answers back."""

    def __init__(self, address: str, connections: int):
        limits = httpx2.Limits(max_connections=connections)
        self.http = httpx2.AsyncClient(base_url=address, timeout=120, limits=limits)

    async def ask(self, request: bytes) -> dict[str, Any]:
        """Return the answer to a chat; wait and try again where the server is busy."""
        while True:
            answer = await self.http.post(
                "/v1/chat/completions", content=request, headers={"content-type": "application/json"}
            )
            if answer.status_code != 429:
                answer.raise_for_status()
                return answer.json()
            await asyncio.sleep(float(answer.headers["retry-after"]))


def bare_fresh(answerer: Answerer, clips: list[bytes]) -> None:
    """Decode, watch and answer clips without a server, a batch at a time."""
    for first in range(0, len(clips), BATCH):
        batch = clips[first : first + BATCH]
        answerer.answer(answerer.watch(*batch), [[QUESTION]] * len(batch))


def measured(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock and of the CPU that a call takes."""
    begin, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begin, time.process_time() - cpu


async def rate(options: argparse.Namespace) -> None:
    """Requests a second, fresh and again, against the bare model."""
    answerer, ratios = Answerer.load(), {"fresh": [], "again": []}  # type: ignore[var-annotated]
    with server() as running:
        client = Client(running.address, options.clients)
        for turn in range(options.rounds):
            clips = distinct_clips(options.requests, 2 * turn)
            watched = [answerer.watch(clip) for clip in clips[:BATCH]]
            watched = [Watched(clip.encoder_outputs) for clip in watched]  # as the server keeps them: no media
            ids = [(await client.ask(body(clip)))["mirasol"]["clip"] for clip in distinct_clips(BATCH, 2 * turn + 1)]
            repeats = -(-options.requests // BATCH)
            requests = {
                "fresh": [body(clip) for clip in clips],
                "again": [body(clip=ids[n % BATCH]) for n in range(repeats * BATCH)],
            }
            bare = {
                "fresh": lambda: bare_fresh(answerer, clips),  # noqa: B023
                "again": lambda: [
                    answerer.answer(join_watched(watched), [[QUESTION]] * BATCH)  # noqa: B023
                    for _ in range(repeats)  # noqa: B023
                ],
            }
            for kind, bodies in requests.items():
                alone, alone_cpu = measured(bare[kind])
                jobs = [lambda request=request: client.ask(request) for request in bodies]
                cpu = running.cpu_seconds()
                seconds, each = await at_once(options.clients, jobs)
                cpu = running.cpu_seconds() - cpu
                ratios[kind].append((alone / seconds, alone_cpu / cpu))
                low, high = np.percentile(each, [50, 99]) * 1e3
                print(
                    f"{kind}  {len(jobs) / seconds:7.1f} requests/s, P50 {low:.0f} ms, P99 {high:.0f} ms, "
                    f"{cpu / len(jobs) * 1e3:.1f} ms of CPU; bare {len(jobs) / alone:.1f}/s, "
                    f"{alone_cpu / len(jobs) * 1e3:.1f} ms of CPU"
                )
    for kind, found in ratios.items():
        clock, cpu = (median(values) for values in zip(*found, strict=True))
        print(f"{kind}  {clock:.2f} of the bare rate by the clock, {cpu:.2f} by CPU time (medians of {len(found)})")


async def second(options: argparse.Namespace) -> None:
    """Seconds of a question on a watched clip against the decoder's own."""
    answerer = Answerer.load()
    clip = distinct_clips(1, 99)[0]
    watched = answerer.watch(clip)
    with server() as running:
        client = Client(running.address, 1)
        id = (await client.ask(body(clip)))["mirasol"]["clip"]
        request, alone, served, cpu_alone = body(clip=id), [], [], []
        await client.ask(request)
        before = running.cpu_seconds()
        for _ in range(options.requests):
            seconds, cpu = measured(lambda: answerer.answer(watched, [[QUESTION]]))
            alone.append(seconds)
            cpu_alone.append(cpu)
            begin = time.perf_counter()
            await client.ask(request)
            served.append(time.perf_counter() - begin)
        cpu = (running.cpu_seconds() - before) / options.requests
    print(
        f"second  {median(served) * 1e3:.1f} ms served, {median(alone) * 1e3:.1f} ms bare: "
        f"{median(served) / median(alone):.2f} x by the clock; CPU {cpu * 1e3:.1f} and "
        f"{np.mean(cpu_alone) * 1e3:.1f} ms: {cpu / np.mean(cpu_alone):.2f} x"
    )


def live_events(seconds: float) -> list[tuple[float, str]]:
    """Events of a live session with the second at which each is due: 25 pictures a second and their sound."""
    clip = read_clip(sorted(CLIPS.glob("*.mp4"))[0])
    assert clip.frames is not None and clip.waveform is not None
    pictures = []
    for frame in clip.frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=80)
        pictures.append(base64.b64encode(file.getvalue()).decode())
    sound = (clip.waveform * 32_767).clip(-32_768, 32_767).astype("<i2")
    events = []
    for number in range(round(seconds * 25)):
        at = number % 75 * 640
        event = {
            "type": "input_audio_buffer.append", "audio": base64.b64encode(sound[at : at + 640].tobytes()).decode(),
            "video_frames": [pictures[number % 75]], "timestamps": [number / 25],
        }  # fmt: skip
        events.append((number / 25, json.dumps(event)))
    return events


async def live_session(address: str, events: list[tuple[float, str]], start: float) -> tuple[list[float], dict]:
    """Play events in real time; return the seconds from the end of each chunk to its result, and what was dropped."""
    delays: list[float] = []
    last: dict[str, Any] = {}
    async with websockets.connect(f"{address.replace('http', 'ws')}/v1/realtime?model=mirasol") as socket:
        own = {"chunks": True, "when_behind": "skip"}
        sound = {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}
        await socket.send(json.dumps({"type": "session.update", "session": {"audio": sound, "mirasol": own}}))
        begin = 0.0

        async def listen() -> None:
            nonlocal last
            async for text in socket:
                event = json.loads(text)
                if event["type"] == "mirasol.chunk":
                    delays.append(time.perf_counter() - begin - event["end"])
                    last = event
                elif event["type"] == "error":
                    raise RuntimeError(text)

        await asyncio.sleep(max(start - time.perf_counter(), 0))
        begin = time.perf_counter()
        listener = asyncio.create_task(listen())
        for due, event in events:
            await asyncio.sleep(max(begin + due - time.perf_counter(), 0))
            await socket.send(event)
        await asyncio.sleep(1.0)
        listener.cancel()
    return delays, last.get("dropped", {})


async def live(options: argparse.Namespace) -> None:
    """How many live sessions hold real time."""
    events = live_events(options.seconds)
    with server() as running:
        for count in options.sessions:
            cpu, start = running.cpu_seconds(), time.perf_counter() + 1.0
            found = await asyncio.gather(
                *(live_session(running.address, events, start + n * 0.04) for n in range(count))
            )
            cpu = (running.cpu_seconds() - cpu) / options.seconds
            delays = np.concatenate([delays[1:] for delays, _ in found])
            low, high = np.percentile(delays, [50, 99])
            skipped = sum(dropped.get("skipped_chunks", 0) for _, dropped in found)
            missing = sum(int(options.seconds / 0.32) - 1 - len(delays) for delays, _ in found)
            holds = high < 1.0 and skipped == 0 and missing <= 0
            print(
                f"live  {count:2d} sessions: a chunk is told {low * 1e3:.0f} ms (P99 {high * 1e3:.0f} ms) after its "
                f"end, {skipped} chunks skipped, {cpu:.2f} cores, {running.state()['MiB']:.0f} MiB: "
                f"{'holds' if holds else 'does not hold'} real time",
                flush=True,
            )
            if not holds:
                return


async def churn(options: argparse.Namespace) -> None:
    """Short sessions: what grows?"""
    events = [event for _, event in live_events(0.68)]

    async def visit() -> None:
        address = running.address.replace("http", "ws")
        async with websockets.connect(f"{address}/v1/realtime?model=mirasol") as socket:
            own = {"session": {"mirasol": {"chunks": True}, "input_audio_format": "pcm16",
                               "audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}}  # fmt: skip
            await socket.send(json.dumps({"type": "session.update", **own}))
            for event in events:
                await socket.send(event)
            async for text in socket:
                if json.loads(text)["type"] == "mirasol.chunk":
                    return

    with server() as running:
        first: dict[str, float] = {}
        parts = 10
        for part in range(1, parts + 1):
            seconds, _ = await at_once(options.clients, [visit] * (options.requests // parts))
            await asyncio.sleep(0.5)
            state = running.state()
            first = first or state
            shown = ", ".join(f"{name} {value:.0f} ({value - first[name]:+.0f})" for name, value in state.items())
            done = part * options.requests // parts
            print(f"churn  {done:6d} sessions, {options.requests / parts / seconds:.0f} a second: {shown}", flush=True)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["rate", "second", "live", "churn"])
    parser.add_argument("--clients", type=int)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    options.clients = options.clients or {"churn": 8}.get(options.part, 16)
    options.requests = options.requests or {"rate": 128, "second": 100, "churn": 10_000}.get(options.part, 0)
    asyncio.run({"rate": rate, "second": second, "live": live, "churn": churn}[options.part](options))


if __name__ == "__main__":
    main()
