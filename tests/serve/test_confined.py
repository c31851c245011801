"""Decoding in child processes: the same results, and a file that attacks its decoder harms nobody else."""

import ctypes
import errno
import io
import os
import resource
import socket
import threading
import time
import wave
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from mirasol.media import MediaError
from mirasol.serve.confined import Confined
from mirasol.serve.decode import Media, WatchOptions, decode, decode_picture
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from tests.serve.conftest import start
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow
OPTIONS = WatchOptions()
# A file of 244 bytes may take 3 s, a clip of 31 kB more than a minute: no clip takes too long, on any machine.
LIMITS = Limits(decode_bytes=600 * 2**20, decode_seconds=2.0, decode_seconds_per_mebibyte=3_000.0)
PADDING = bytes(40_000)


class Attacked:
    """A processor in whose decoder a crafted file runs code of its own: the last word of the file says which."""

    def __init__(self, processor):
        self.processor = processor
        self.frames_per_second = processor.frames_per_second

    def chunk_and_describe(self, *arguments, **options):
        return self.processor.chunk_and_describe(*arguments, **options)

    def read_clip(self, source, **options):
        word = bytes(source[-20:]).strip().rpartition(b" ")[2].decode("latin-1")
        if attack := ATTACKS.get(word):
            raise ValueError(f"it says {attack()}")
        return self.processor.read_clip(source, **options)


def connects() -> str:
    try:
        with socket.socket() as tried:
            tried.connect(("127.0.0.1", 9))
    except OSError as error:
        return f"network {errno.errorcode[error.errno]}"
    return "connected"


def opens_many_files() -> str:
    files = []
    try:
        while True:
            files.append(open(os.devnull))  # noqa: SIM115
    except OSError as error:
        return f"files {len(files)} {error.errno}"


def starts_many_processes() -> str:
    """Count threads, which are to the system what processes are."""
    gate, count = threading.Event(), 0
    try:
        for count in range(2_000):  # noqa: B007
            threading.Thread(target=gate.wait, daemon=True).start()
    except RuntimeError:
        return f"threads {count}"
    finally:
        gate.set()
    return "threads without end"


def writes() -> str:
    try:
        (Path("/tmp") / f"written_by_{os.getpid()}").write_bytes(b"x" * 10)
    except OSError as error:
        return f"write {error.errno}"
    return "written"


def sleeps() -> str:
    time.sleep(3600)
    return "slept"


def crashes() -> str:
    return ctypes.string_at(0).decode()


ATTACKS = {
    "connects": connects, "opens": opens_many_files, "starts": starts_many_processes, "writes": writes,
    "sleeps": sleeps, "crashes": crashes, "exits": lambda: os._exit(0),
    "eats": lambda: str(len(bytearray(2**33))), "spins": lambda: str(sum(iter(lambda: 1, 2))),
    "reads": lambda: f"uid {os.geteuid()}", "knows": lambda: f"secret {os.environ.get('MIRASOL_SECRET')}",
    "dumps": lambda: f"core {resource.getrlimit(resource.RLIMIT_CORE)[0]}",
}  # fmt: skip


@pytest.fixture(scope="module")
def processor(shipped):
    return shipped.processor


@pytest.fixture(scope="module")
def confined(processor):
    os.environ["MIRASOL_SECRET"] = "of the operator"
    made = Confined(Attacked(processor), LIMITS)
    yield made
    made.close()


def short_sound() -> bytes:
    """A file of 244 bytes."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(200))
    return data.getvalue()


def attack(confined: Confined, clip: bytes, word: str) -> str:
    with pytest.raises(MediaError) as error:
        confined.decode(Media(video=clip + f" {word}".encode()), OPTIONS, None, LIMITS)
    return str(error.value)


@pytest.mark.parametrize("name", ["bbaf4p.mp4", "lbwk2p.mp4"])
def test_a_child_gives_what_this_process_gives(confined, processor, grid_root, name):
    path = next(iter(sorted((grid_root / "clips").glob(name))), sorted((grid_root / "clips").glob("*.mp4"))[-1])
    for media in (Media(video=path), Media(video=path.read_bytes(), audio=path)):
        theirs, ours = (one(media, OPTIONS, processor, LIMITS) for one in (confined.decode, decode))
        assert theirs.facts == ours.facts
        assert theirs.chunks.keys() == ours.chunks.keys()
        assert all(torch.equal(theirs.chunks[name], ours.chunks[name]) for name in ours.chunks)


def test_a_picture_of_a_child_is_the_picture(confined):
    for kind in ("JPEG", "PNG", "WEBP"):
        data = io.BytesIO()
        Image.fromarray(np.random.default_rng(7).integers(0, 256, (37, 53, 3), np.uint8)).save(data, kind)
        theirs, ours = (one(data.getvalue() + PADDING, LIMITS) for one in (confined.decode_picture, decode_picture))
        assert np.array_equal(theirs, ours)
    for bad in (b"", b"GIF89a", b"not a picture", b"\xff\xd8\xff"):
        with pytest.raises(MediaError, match="^Expected a picture"):
            confined.decode_picture(bad + PADDING, LIMITS)


@pytest.mark.parametrize("word", ["sleeps", "crashes", "exits", "spins"])
def test_a_file_that_ends_its_decoder_is_refused_and_others_are_not_hurt(confined, clip, word):
    others: list[float] = []
    other = threading.Thread(
        target=lambda: others.append(confined.decode(Media(video=clip), OPTIONS, None, LIMITS).facts["seconds"])
    )
    other.start()
    said = attack(confined, short_sound(), word)  # those that sleep or spin never return
    assert "ended the process that decoded it" in said
    other.join(PATIENCE)
    assert others == [pytest.approx(3.0, abs=0.1)]


def test_a_file_that_crashes_its_decoder_is_a_400_and_the_server_answers_the_next(shipped, confined, clip, tmp_path):
    engine = Engine(shipped, tmp_path, LIMITS, confined.decode, confined.decode_picture)
    for server in start(engine):
        with httpx2.Client(base_url=server.address, timeout=120) as http:
            for data, status in ((clip + b" crashes", 400), (clip, 200)):
                file = http.post("/v1/files", files={"file": ("a.mp4", data)}).json()["id"]
                answer = http.post("/v1/clips", json={"video": file})
                assert answer.status_code == status, answer.text
                assert status == 200 or "ended the process that decoded it" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("eats", "MemoryError"), ("connects", "network"), ("opens", "files"), ("starts", "threads"),
        ("writes", "write"), ("knows", "secret None"), ("dumps", "core 0"),
    ],
)  # fmt: skip
def test_an_attacker_inside_a_decoder_gets_nowhere(confined, clip, word, says):
    found = attack(confined, clip, word)
    assert says in found and "without end" not in found
    if word == "opens":
        assert int(found.split()[3]) < 32
    if word == "connects":
        assert "ENETUNREACH" in found or any("network" in note for note in confined.notes)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, which is given up")
def test_a_decoder_is_not_root(confined, clip):
    assert "uid 65534" in attack(confined, clip, "reads")


def test_the_process_that_forks_is_started_again_when_it_dies(confined, clip):
    confined._process.kill()
    confined._process.wait()
    assert confined.decode(Media(video=clip), OPTIONS, None, LIMITS).facts["audio"] == "used"


def test_children_end_with_their_requests(confined, clip):
    for _ in range(3):
        confined.decode(Media(video=clip), OPTIONS, None, LIMITS)
    children = Path(f"/proc/{confined._process.pid}/task/{confined._process.pid}/children")

    def num_alive() -> int:
        states = [Path(f"/proc/{pid}/stat").read_text().split()[2] for pid in children.read_text().split()]
        return len(states) - states.count("Z")

    wait_for(lambda: num_alive() <= confined._idle.qsize() + 1)


@pytest.mark.parametrize(
    ("limit", "unit"),
    [({"clip_seconds": 1.0}, "1 s"), ({"picture_pixels": 1_000}, "1000 pixels"), ({"clip_frames": 9}, "9 frames"),
     ({"clip_tracks": 1}, "1 tracks")],
)  # fmt: skip
def test_what_the_headers_state_beyond_the_limits_is_refused_before_decoding(processor, clip, limit, unit):
    with pytest.raises(MediaError, match=f"at most {unit}"):
        decode(Media(video=clip), OPTIONS, processor, Limits(**limit))


def test_a_codec_that_nobody_sends_is_refused(processor, tmp_path):
    import av

    path = tmp_path / "old.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("jpeg2000", rate=5, options={"strict": "-2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="jpeg2000, which this server does not decode"):
        decode(Media(video=path), OPTIONS, processor, LIMITS)
