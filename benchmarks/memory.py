"""Peak memory of whole processes on long and large clips: `mirasol ask`, and the training cache.

    OMP_NUM_THREADS=1 python benchmarks/memory.py FOLDER [--jobs ask ask256 cache] [--limit 700]

Writes the clips into FOLDER with PyAV unless they are there (1.1 GB, some minutes): 10 s of 4K, 20 min of 720p, 2 h of
sound. Each job runs in a process of its own, whose peak resident memory is printed. `ask256` is `ask` with the shipped
checkpoint and a budget of 256 chunks. Exit code 1 if a job needs more than --limit MiB.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLIPS = {  # name: picture size or None, seconds, frames from one keyframe to the next
    "4k_10s.mp4": ((3840, 2160), 10, 50),
    "720p_20min.mp4": ((1280, 720), 1200, 100),
    "sound_2h.m4a": (None, 7200, 0),
}
RATE, FPS = 48_000, 25
ASK = "import sys; from mirasol.cli import main; raise SystemExit(main(['ask', *sys.argv[1:]]))"
CACHE = """
import sys, warnings
from pathlib import Path
from mirasol.data import ClipCache
from mirasol.features import MirasolVideoProcessor
from mirasol.tasks import Row
ClipCache.build([Row("clip", Path(sys.argv[1]))], sys.argv[2], MirasolVideoProcessor(96), margin=1.15, progress=False)
"""


def write_clip(path: Path, size: tuple[int, int] | None, seconds: int, gop: int) -> None:
    """Writes moving noise under moving sound."""
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal((1, RATE))).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = None
        if size is not None:
            video = container.add_stream("libx264", rate=FPS)
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            video.codec_context.gop_size = gop
            video.options = {"preset": "ultrafast", "crf": "30"}
            texture = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for second in range(seconds):
            for number in range(FPS if video else 0):
                place = second * FPS + number
                frame = av.VideoFrame.from_ndarray(np.roll(texture, 4 * place, axis=1), format="rgb24")
                frame.pts, frame.time_base = place, Fraction(1, FPS)
                container.mux(video.encode(frame))
            sound = av.AudioFrame.from_ndarray(np.roll(noise, second), format="fltp", layout="mono")
            sound.rate, sound.pts, sound.time_base = RATE, second * RATE, Fraction(1, RATE)
            container.mux(audio.encode(sound))
        for stream in container.streams:
            container.mux(stream.encode(None))


def jobs(names: list[str], clip: Path, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Arguments of Python for each job."""
    if "ask" in names:
        yield "ask", ["-c", ASK, str(clip), "which color is named?"]
    if "ask256" in names:
        import mirasol

        checkpoint = folder / "checkpoint256"
        shutil.copytree(mirasol.DEFAULT_CHECKPOINT, checkpoint, dirs_exist_ok=True)
        settings = checkpoint / "processor_config.json"
        settings.write_text(settings.read_text().replace('"max_chunks": 16', '"max_chunks": 256'))
        yield "ask256", ["-c", ASK, str(clip), "which color is named?", "--checkpoint", str(checkpoint)]
    if "cache" in names:
        yield "cache", ["-c", CACHE, str(clip), str(folder)]


def peak_mib(arguments: list[str]) -> tuple[float, int]:
    """Peak resident memory and exit code of a Python process."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def main() -> None:
    """Prints one row per job and clip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", nargs="+", default=["ask", "ask256", "cache"])
    parser.add_argument("--limit", type=float, default=700)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    print(f"{'clip':<16} {'job':<8} {'peak MiB':>9}")
    for name, (size, seconds, gop) in CLIPS.items():
        clip = arguments.folder / name
        if not clip.exists():
            write_clip(clip.with_name("partial" + name), size, seconds, gop)
            clip.with_name("partial" + name).rename(clip)
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for job, command in jobs(arguments.jobs, clip, Path(folder)):
                peak, code = peak_mib(command)
                failed |= code != 0 or peak > arguments.limit
                print(f"{name:<16} {job:<8} {peak:>9.0f}" + (f"  exit code {code}" if code else ""), flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
