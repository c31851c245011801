"""The server under load, on loopback, against the bare model in the same run.

    OMP_NUM_THREADS=1 python benchmarks/serving.py rate   [--clients 16] [--requests 64] [--rounds 5]
    OMP_NUM_THREADS=1 python benchmarks/serving.py second [--requests 100]
    OMP_NUM_THREADS=1 python benchmarks/serving.py live   [--sessions 1 2 4 8 16 32] [--seconds 20]
    OMP_NUM_THREADS=1 python benchmarks/serving.py churn  [--requests 10000] [--clients 8]

rate     fresh: clips that were never sent, each with a question, by `--clients` clients at once. again: questions
         about clips that are watched, 8 times as many. Bare: the same clips decoded, watched and answered by an
         `Answerer`, 16 at a time, in this process while the server waits; the answers must be equal. Bare and
         served take turns. Two ratios, of which 1 is no cost of serving:
         clock  requests a second of the server / of the bare model. The bare model has one core and the server all
                that its clients leave; other work on the machine changes both
         CPU    CPU seconds a request of the bare model / of the server with its decoders, without the clients: what
                a core that is busy with serving gives. Other work changes it less
second   one client asks a watched clip again and again, against the decoder's own time; the two take turns
live     sessions at 25 pictures a second with sound, in real time: do they hold it, how far behind, how much memory
churn    short sessions one after the other: memory, threads and open files of the server on the way

The server is a process of its own with the shipped checkpoint; the clients of `rate` and `second` are another one,
with requests made beforehand.
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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

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
        """CPU seconds so far, of the process and of its decoders, also of those that ended."""
        return _cpu_seconds(self.process.pid)

    def state(self) -> dict[str, float]:
        """Resident MiB, threads and open files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines())
        files = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        return {"MiB": int(found["VmRSS"].split()[0]) / 1024, "threads": int(found["Threads"]), "files": files}


def _cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of its descendants."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = sum(map(int, fields[13:15])) / TICKS
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in
                (task / "children").read_text().split()]  # fmt: skip
    own = time.clock_gettime(~pid << 3 | 2)  # the process' CPU clock; /proc counts ticks of 10 ms
    return own + ended + sum(map(_cpu_seconds, children))


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


def post(address: str, bodies: Sequence[bytes], clients: int = 1) -> tuple[float, list[float], list[dict[str, Any]]]:
    """Post chats with so many clients at once: seconds of all, seconds of each, answers of each."""
    host, _, port = address.removeprefix("http://").partition(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {address[7:]}\r\ncontent-type: application/json\r\n"
    answers: list[Any] = [None] * len(bodies)
    waiting, seconds = iter(enumerate(bodies)), []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for number, body in waiting:
            begin, status = time.perf_counter(), b"429"
            while status == b"429":
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
                status, found = lines[0].split()[1], dict(line.lower().split(b": ", 1) for line in lines[1:-2])
                answers[number] = await reader.readexactly(int(found[b"content-length"]))
                if status == b"429":
                    await asyncio.sleep(float(found[b"retry-after"]))
            assert status == b"200", answers[number]
            seconds.append(time.perf_counter() - begin)
        writer.close()

    async def all_clients() -> float:
        begin = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return time.perf_counter() - begin

    return asyncio.run(all_clients()), seconds, [json.loads(answer) for answer in answers]


@contextmanager
def posting() -> Iterator[Callable[..., tuple[float, list[float], list[dict[str, Any]]]]]:
    """Give `post` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda *arguments: pool.submit(post, *arguments).result()


def measured(call: Callable[[], list[str]]) -> tuple[float, float, list[str]]:
    """Seconds by the clock and of the CPU that a call takes, and the texts that it gives."""
    begin, cpu = time.perf_counter(), time.process_time()
    found = call()
    return time.perf_counter() - begin, time.process_time() - cpu, found


def texts(given: Sequence[Sequence[Any]]) -> list[str]:
    """The first answer about each clip."""
    return [answers[0].text for answers in given]


def rate(options: argparse.Namespace) -> None:
    """Requests a second, fresh and again, against the bare model."""
    answerer, asked = Answerer.load(), [[QUESTION]] * BATCH
    ratios: dict[str, list[tuple[float, float]]] = {"fresh": [], "again": []}
    count = -(-options.requests // BATCH) * BATCH

    def fresh(clips: list[bytes]) -> list[str]:
        batches = [clips[first : first + BATCH] for first in range(0, len(clips), BATCH)]
        return [text for batch in batches for text in texts(answerer.answer(answerer.watch(*batch), asked))]

    def again(watched: list[Watched]) -> list[str]:
        times = options.again * count // BATCH
        return [text for _ in range(times) for text in texts(answerer.answer(join_watched(watched), asked))]

    with server() as running, posting() as send:
        for turn in range(options.rounds + 1):  # the first one warms up
            clips = distinct_clips(count, turn)
            watched = [answerer.watch(clip) for clip in clips[:BATCH]]
            ids: list[str] = []
            bare = {"fresh": lambda: fresh(clips), "again": lambda: again(watched)}  # noqa: B023
            for kind in ratios:
                bodies = [body(clip) for clip in clips]
                if kind == "again":
                    bodies = [body(clip=id) for id in ids] * (options.again * count // BATCH)
                alone, alone_cpu, expected = measured(bare[kind])
                cpu = running.cpu_seconds()
                seconds, each, answers = send(running.address, bodies, options.clients)
                cpu = running.cpu_seconds() - cpu
                found = [answer["choices"][0]["message"]["content"] for answer in answers]
                assert found == expected, "served answers differ from those of the bare model"
                ids = ids or [answer["mirasol"]["clip"] for answer in answers[:BATCH]]
                if not turn:
                    continue
                ratios[kind].append((alone / seconds, alone_cpu / cpu))
                low, high = np.percentile(each, [50, 99]) * 1e3
                number = len(bodies)
                print(
                    f"{kind}  served {number / seconds:6.1f}/s, P50 {low:4.0f} ms, P99 {high:4.0f} ms, "
                    f"{cpu / number * 1e3:6.2f} ms of CPU; "
                    f"bare {number / alone:6.1f}/s, {alone_cpu / number * 1e3:6.2f} ms of CPU; "
                    f"ratio {alone / seconds:.2f} by the clock, {alone_cpu / cpu:.2f} by CPU",
                    flush=True,
                )
    for kind, pairs in ratios.items():
        clock, cpu = (median(values) for values in zip(*pairs, strict=True))
        print(f"{kind}  {clock:.2f} of the bare rate by the clock, {cpu:.2f} by CPU (medians of {len(pairs)})")


def second(options: argparse.Namespace) -> None:
    """Seconds of a question on a watched clip against the decoder's own."""
    answerer = Answerer.load()
    clip = distinct_clips(1, 99)[0]
    watched = answerer.watch(clip)
    sums: list[tuple[float, ...]] = []
    with server() as running, posting() as send:
        ((answer,),) = [send(running.address, [body(clip)])[2]]
        request = [body(clip=answer["mirasol"]["clip"])] * 10
        for turn in range(options.requests // 10 + 1):
            each = [measured(lambda: texts(answerer.answer(watched, [[QUESTION]]))) for _ in request]
            cpu = running.cpu_seconds()
            _, seconds, _ = send(running.address, request)
            cpu = running.cpu_seconds() - cpu
            if turn:  # the first one warms up
                sums.append(
                    (median(seconds), median(one[0] for one in each), cpu / 10, sum(one[1] for one in each) / 10)
                )
    served, alone, cpu, cpu_alone = (median(values) * 1e3 for values in zip(*sums, strict=True))
    print(
        f"second  {served:.1f} ms served, {alone:.1f} ms bare: {served / alone:.2f} x by the clock; CPU {cpu:.1f} and "
        f"{cpu_alone:.1f} ms: {cpu / cpu_alone:.2f} x"
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", type=int, default=8, help="questions about watched clips for each fresh one")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    options.clients = options.clients or {"churn": 8}.get(options.part, 16)
    options.requests = options.requests or {"rate": 64, "second": 100, "churn": 10_000}.get(options.part, 0)
    if options.part in ("rate", "second"):
        {"rate": rate, "second": second}[options.part](options)
    else:
        asyncio.run({"live": live, "churn": churn}[options.part](options))


if __name__ == "__main__":
    main()
