"""Throw thousands of damaged files at a running server: never a 500, never a hang, its memory flat.

    python benchmarks/hostile.py --count 2000

The files are seeded mutations (bit flips, cuts, extreme numbers, swapped or doubled blocks) of clips of this
repository and of ../shared/data/failing. The server runs as `mirasol serve` in a process of its own.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

ROOT = Path(__file__).parents[1]
SOURCES = ("data/clips", "data/grid_s1/clips", "../shared/data/failing")
MOST_BYTES = 1_000_000  # of a source: small files leave time for many
CLIENTS = 4


def sources() -> list[bytes]:
    """Return the clips that are mutated."""
    paths = [path for folder in SOURCES for path in sorted((ROOT / folder).glob("*.*"))[:16]]
    return [
        path.read_bytes() for path in paths if path.suffix not in (".md", "") and path.stat().st_size <= MOST_BYTES
    ]


def mutate(data: bytes, random: random.Random) -> bytes:
    """Return a damaged copy."""
    out, kind = bytearray(data), random.randrange(7)
    size = len(out)
    if kind == 0:  # bits anywhere
        for _ in range(random.randint(1, 30)):
            out[random.randrange(size)] ^= 1 << random.randrange(8)
    elif kind == 1:  # cut
        del out[random.randrange(1, size) :]
    elif kind == 2:  # bytes of the header
        for _ in range(random.randint(1, 12)):
            out[random.randrange(min(size, 4_096))] = random.randrange(256)
    elif kind == 3:  # extreme numbers, also where sizes and counts are
        for _ in range(random.randint(1, 6)):
            place = random.randrange(max(min(size, 20_000) - 4, 1))
            out[place : place + 4] = random.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
    elif kind == 4:  # one in a hundred bytes
        for place in random.sample(range(size), size // 100):
            out[place] = random.randrange(256)
    elif kind == 5:  # two blocks change places, as atoms do
        a, b = sorted(random.randrange(size) for _ in range(2))
        length = random.randint(1, max(1, min(b - a, size - b, 5_000)))
        out[a : a + length], out[b : b + length] = out[b : b + length], out[a : a + length]
    else:  # a block twice
        a = random.randrange(size)
        out[a:a] = out[a : a + random.randint(1, 5_000)]
    return bytes(out)


def memory(pid: int) -> float:
    """Return the resident MiB of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def attack(address: str, count: int, seed: int, pid: int = 0, seconds: float = 1e9, keep: Path | None = None) -> dict:
    """Send `count` damaged files, or as many as fit into the seconds, and return what came back.

    Files that end their decoder are kept in the folder `keep`.
    """
    originals, statuses, slowest, samples = sources(), Counter(), 0.0, []
    messages, begin = Counter(), time.monotonic()
    with httpx2.Client(timeout=120) as client, ThreadPoolExecutor(CLIENTS) as pool:

        def send(number: int) -> tuple[int, float, str] | None:
            if time.monotonic() - begin > seconds:
                return None
            chance = random.Random(f"{seed} {number}")
            data, started = mutate(chance.choice(originals), chance), time.monotonic()
            file = client.post(f"{address}/v1/files", files={"file": ("a.mp4", data)}).json()["id"]
            answer = client.post(f"{address}/v1/clips", json={"video": file})
            client.delete(f"{address}/v1/files/{file}")
            said = answer.json()["error"]["message"] if answer.status_code != 200 else ""
            if keep is not None and "ended the process" in said:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}_{number}").write_bytes(data)
            if answer.status_code >= 500:
                print(f"{number}: {answer.status_code} {said}", file=sys.stderr)
            return answer.status_code, time.monotonic() - started, said

        for number, result in enumerate(pool.map(send, range(count))):
            if result is None:
                continue
            statuses[result[0]] += 1
            slowest = max(slowest, result[1])
            messages["ended its decoder"] += "ended the process" in result[2]
            messages["fails inside"] += "one that fails with" in result[2]
            if pid and number % 100 == 0:
                samples.append(round(memory(pid)))
                print(f"{number} files, {time.monotonic() - begin:.0f} s, {samples[-1]} MiB", file=sys.stderr)
    ok = httpx2.get(f"{address}/health", timeout=30).status_code == 200
    return {
        "files": sum(statuses.values()), "statuses": dict(statuses), **messages, "slowest_seconds": round(slowest, 2),
        "seconds": round(time.monotonic() - begin), "mebibytes": samples, "healthy": ok,
    }  # fmt: skip


def main() -> None:
    """Start a server, attack it, print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop sending after these")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for files that end their decoder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "mirasol.cli", "serve", "--port", "0", "--folder", folder]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[0]
            result = attack(address, chosen.count, chosen.seed, server.pid, chosen.seconds, chosen.keep)
        finally:
            server.terminate()
            result_code = server.wait(120)
    print(json.dumps({**result, "exit_code": result_code}))


if __name__ == "__main__":
    main()
