"""Sources that play: a file watched as it plays is the file as a whole, live ones stay in step, and ends are clean."""

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from clips import write_clip

from mirasol.answer.answerer import Answerer
from mirasol.answer.session import StreamSession
from mirasol.answer.watch import watch
from mirasol.media import MediaError
from mirasol.media.live import DEVICES, Source
from tests.waiting import PATIENCE, wait_for

QUESTION = "which color is named?"


@pytest.fixture(scope="module")
def answerer(loaded) -> Answerer:
    return Answerer(*loaded, max_new_tokens=4)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Three seconds with picture and sound as MPEG-TS, which can be read while it is written."""
    return write_clip(tmp_path_factory.mktemp("film") / "film.ts", seconds=3.0)


class Clock:
    """A clock for `mirasol.media.live`, which stands still; each look at it takes `seconds_per_look`."""

    def __init__(self):
        self.now = self.seconds_per_look = 0.0

    def monotonic(self) -> float:
        self.now += self.seconds_per_look
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("mirasol.media.live.time", made)
    return made


def chunks_of(answerer, source: str):
    session = StreamSession(answerer, start_time=0.0)
    for media in Source(source):
        session.push(**media)
    session.flush()
    return session


def test_a_question_unlike_training_is_warned_of_before_anything_is_watched(grid_root):
    clip = str(grid_root / "clips" / "bbaf4p.mp4")
    with pytest.warns(UserWarning, match="'animal' is in none of its questions"):
        watch(clip, ["what animal is it?"], answerer=Answerer.load())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts", ".avi", ".mpg"])
def test_a_file_that_plays_is_the_file_as_a_whole(answerer, tmp_path, suffix):
    path = write_clip(tmp_path / f"film{suffix}", seconds=2.3)
    session = chunks_of(answerer, str(path))
    processor = answerer.processor
    clip = processor.read_clip(path, sampling="dense")
    expected = answerer.streaming.watch(processor.chunk_clip(clip, sampling="dense")).encoder_outputs
    latents = session.stream_cache["latents"]
    whole = expected.last_hidden_state.reshape(1, -1, *latents.shape[2:])[:, -latents.shape[1] :]
    assert (latents - whole).abs().max() < 1e-5  # ten times what batches of other sizes round differently
    masks = [(r.has_video, r.has_audio) for r in session.results]
    assert masks == [tuple(pair) for pair in np.stack([clip_mask(processor, clip, n) for n in ("video", "audio")], 1)]


def clip_mask(processor, clip, name: str) -> np.ndarray:
    return processor.chunk_clip(clip, sampling="dense")[f"{name}_chunk_mask"].numpy()


def test_a_file_is_decoded_ahead_by_bytes_and_loses_nothing_to_a_slow_reader(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4", seconds=4.0, size=(160, 96))
    one_frame = 160 * 96 * 3
    monkeypatch.setattr("mirasol.media.live.BYTES_AHEAD", 5 * one_frame)
    source = Source(str(path))
    media = iter(source)
    taken = [next(media)]
    wait_for(lambda: source._media.qsize() >= 5 * one_frame)
    held = [piece for _, piece in list(source._media.queue)]
    assert sum(len(piece.get("frames", ())) for piece in held) <= 6
    taken += media
    assert sum(len(piece.get("frames", ())) for piece in taken) == 100
    assert sum(len(piece.get("waveform", ())) for piece in taken) >= 4.0 * 16_000


@pytest.mark.parametrize("every, moments", [
    (1.0, [1.28, 2.24, 3.2]), (0.32, 0.32 * np.arange(1, 11)), (0.1, 0.32 * np.arange(1, 11)),
])  # fmt: skip
def test_answers_come_at_their_moments_and_lines_are_kept(answerer, film, tmp_path, every, moments):
    """Also where intervals end with chunks of which many wait: their sums of floats are not equal to the bit."""
    summary = watch(str(film), [QUESTION], answerer=answerer, every=every, jsonl=tmp_path / "lines.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    ends = [line["seen"][1] for line in lines if line["type"] == "answer"]
    assert ends == pytest.approx([*moments, 3.2]), "and at the end"
    assert sum(line["type"] == "chunk" for line in lines) == summary.num_chunks == 10
    assert lines[-1]["type"] == "end" and summary.end == "the source ended"
    assert summary.answers[0].question == QUESTION


def test_a_saved_session_is_continued_by_the_next_source(answerer, film, tmp_path):
    watch(str(film), answerer=answerer, save=tmp_path / "saved")
    lines = tmp_path / "lines.jsonl"
    summary = watch(str(film), [QUESTION], answerer=answerer, save=tmp_path / "saved", every=1.28, jsonl=lines)
    assert summary.seconds == pytest.approx(6.4) and not summary.dropped
    answers = [line for line in map(json.loads, lines.read_text().splitlines()) if line["type"] == "answer"]
    assert [answer["seen"][1] for answer in answers] == pytest.approx([4.48, 5.76, 6.4]), "from where it continues"


def test_the_source_gets_its_options_and_a_question_that_is_too_long_is_refused_before_it_plays(answerer, monkeypatch):
    given = []

    class Untouched:
        has_video = has_audio = True

        def __init__(self, *options):
            given.append(options)

        def __iter__(self):
            raise AssertionError("played")

    monkeypatch.setattr("mirasol.answer.watch.Source", Untouched)
    options = {"use_audio": False, "realtime": True, "timeout": 3.0}
    with pytest.raises(ValueError, match="context of"):
        watch("camera", [QUESTION, "which? " * 500], answerer=answerer, **options)
    assert given == [("camera", True, False, None, True, 3.0)]
    for wrong in ({"every": 0.0}, {"every": float("nan")}, {"max_lag": 0.0}):
        with pytest.raises(ValueError, match="in seconds, above 0, found"):
            watch("camera", answerer=answerer, **wrong)


def test_a_saved_session_refuses_a_track_or_a_crop_that_it_began_without(answerer, film, tmp_path):
    folder = tmp_path / "session"
    seconds = watch(str(film), answerer=answerer, use_audio=False, save=folder).seconds
    with pytest.raises(ValueError, match="without audio.*found audio in .*film.ts. Pass --no-audio"):
        watch(str(film), answerer=answerer, save=folder)
    with pytest.raises(ValueError, match=r"Expected the crop that the session .* found \(0.5, 0.5, 0.5\)"):
        watch(str(film), answerer=answerer, use_audio=False, save=folder, crop=(0.5,))
    assert watch(str(film), answerer=answerer, use_audio=False, save=folder).seconds > seconds


def test_a_file_in_real_time_is_given_at_its_own_speed(film, clock):
    """The clock moves only where the source waits."""
    given = [(media["frame_times"][0], clock.now) for media in Source(str(film), realtime=True) if "frames" in media]
    assert len(given) == 75 and clock.now == pytest.approx(3.0, abs=0.1)
    assert all(now >= second - 0.05 for second, now in given)


def test_when_the_model_is_slow_whole_chunks_are_skipped_and_the_lag_stays_bounded(answerer, film, monkeypatch):
    now = 0.0

    class Played(Source):
        """A source that has given what its clock has reached; the model takes longer than the film."""

        def __iter__(self):
            nonlocal now
            self.due = list(super().__iter__())
            self.waits = False
            while self.due:
                now = max(now, self.second_of(self.due[0]))
                yield self.due.pop(0)

        def waiting(self):
            return bool(self.due) and self.second_of(self.due[0]) <= now

        def second_of(self, media):
            return media["frame_times"][0] if "frames" in media else media["start_time"]

    slow = answerer.streaming
    real, lags = slow.advance, []

    def advance(cache, chunks):
        nonlocal now
        now += 0.5 * len(chunks[0]["chunk_times"])  # chunks of 0.32 s
        return real(cache, chunks)

    monkeypatch.setattr(slow, "advance", advance)
    monkeypatch.setattr("mirasol.answer.watch.Source", Played)
    skip, kept = StreamSession.skip, []

    def counted(session, count):
        assert len(session.waiting) * 0.32 > 0.7
        kept.append(len(session.waiting) - count)
        skip(session, count)

    monkeypatch.setattr(StreamSession, "skip", counted)
    summary = watch(str(film), answerer=slow, max_lag=0.7, show=lambda state: lags.append(state.lag_seconds))
    assert kept and set(kept) == {1}, "half of the lag: one whole chunk"
    assert summary.num_chunks == 10  # none is missing: what was skipped is there, empty
    assert summary.dropped["skipped_chunks"] >= 1
    assert max(lags) < 0.7 + 4 * 0.5


def test_a_pipe_is_watched_while_it_is_written(untrained, film):
    command = [
        sys.executable,
        "-m",
        "mirasol.cli",
        "watch",
        "-",
        "--ask",
        QUESTION,
        "--json",
        "--checkpoint",
        untrained,
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    data = film.read_bytes()
    for place in range(0, len(data), 4_000):
        process.stdin.write(data[place : place + 4_000])
    out, _ = process.communicate()
    summary = json.loads(out)
    assert process.returncode == 0
    assert summary["num_chunks"] == 10 and summary["answers"][0]["question"] == QUESTION


def test_ctrl_c_ends_cleanly_and_keeps_session_and_lines(untrained, film, tmp_path):
    command = [sys.executable, "-m", "mirasol.cli", "watch", "-", "--save", tmp_path / "saved"]
    command += ["--jsonl", tmp_path / "lines.jsonl", "--checkpoint", untrained, "--json"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(film.read_bytes())  # and nothing after it: the source stays open
    process.stdin.flush()
    lines = tmp_path / "lines.jsonl"
    wait_for(lambda: process.poll() is not None or (lines.is_file() and lines.read_text().count("\n") >= 4))
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    summary = json.loads(out)
    assert process.returncode == 0 and summary["end"] == "interrupted" and summary["num_chunks"] >= 4
    assert json.loads((tmp_path / "saved" / "session.json").read_text())
    assert json.loads(lines.read_text().splitlines()[-1])["type"] == "end"


def is_open(port: int) -> bool:
    """Whether a UDP socket of this machine listens there."""
    return any(f":{port:04X} " in line for line in Path("/proc/net/udp").read_text().splitlines())


def test_mpeg_ts_over_loopback_udp(film, clock):
    found: list[dict] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"udp://127.0.0.1:{port}?fifo_size=100000&overrun_nonfatal=1&buffer_size=1000000"

    def receive():
        try:
            found.extend(Source(url, timeout=PATIENCE))
        except MediaError as error:
            found.append({"end": str(error)})

    receiver = threading.Thread(target=receive)
    receiver.start()
    wait_for(lambda: is_open(port))
    with av.open(str(film)) as source, av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
                time.sleep(0.004)
    # Of 75: the first ones wait for a keyframe. None is lost: the socket's buffer has room for all 75.
    wait_for(lambda: sum("frames" in media for media in found) >= 40)
    clock.seconds_per_look = PATIENCE / 2
    receiver.join(PATIENCE)
    assert "it has stalled" in found[-1]["end"]


def test_http_on_loopback(film):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=film.parent)
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        media = list(Source(f"http://127.0.0.1:{server.server_port}/{film.name}"))
    finally:
        server.shutdown()
    assert sum("frames" in piece for piece in media) == 75


RTSP_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"), gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service="0")
film = GstRtspServer.RTSPMediaFactory()
film.set_launch(
    f'( filesrc location="{sys.argv[1]}" ! tsdemux name=d d. ! queue ! h264parse ! rtph264pay name=pay0 pt=96 '
    'd. ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )'
)
server.get_mount_points().add_factory("/film", film)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


def test_rtsp_on_loopback(film):
    """GStreamer's server plays the film: Debian's gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and -bad."""
    python = "/usr/bin/python3"  # Debian puts the bindings there
    if not Path(python).exists():
        pytest.skip(f"needs {python}")
    server = subprocess.Popen(
        [python, "-c", RTSP_SERVER, film], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        port = server.stdout.readline().strip()
        if not port:
            pytest.skip("needs GStreamer's RTSP server with its Python bindings")
        media = list(Source(f"rtsp://127.0.0.1:{port}/film", timeout=PATIENCE))
    finally:
        server.kill()
        server.wait()
    assert sum("frames" in piece for piece in media) >= 70
    assert sum(len(piece.get("waveform", ())) for piece in media) / 48_000 == pytest.approx(3.0, abs=0.15)


def test_camera_and_microphone_are_two_devices_on_one_clock(answerer, monkeypatch):
    """FFmpeg's generated devices stand for the hardware: 2 s of picture and of sound."""
    devices = [("testsrc=duration=2:rate=25:size=96x96", "lavfi"), ("sine=duration=2:sample_rate=48000", "lavfi")]
    monkeypatch.setitem(DEVICES, "camera+microphone", devices)
    session = chunks_of(answerer, "camera+microphone")
    assert [(result.has_video, result.has_audio) for result in session.results] == [(True, True)] * 7


def test_a_source_that_holds_nothing_to_watch_is_refused(answerer, tmp_path):
    path = write_clip(tmp_path / "a.wav", seconds=1 / 48_000)
    with pytest.raises(MediaError, match="10 ms of sound in .*a.wav, found none: the source ended"):
        watch(str(path), [QUESTION], answerer=answerer)


def test_a_source_that_stalls_or_is_not_there_is_reported(answerer, film, tmp_path, clock):
    pipe, has_ended = tmp_path / "pipe", threading.Event()
    subprocess.run(["mkfifo", pipe], check=True)

    def write_and_hold():
        with open(pipe, "wb") as file:
            file.write(film.read_bytes())
            file.flush()
            has_ended.wait(PATIENCE)

    def show(state):
        clock.seconds_per_look = 0.3 if len(state.session.results) >= 8 else 0.0

    writer = threading.Thread(target=write_and_hold)
    writer.start()
    summary = watch(str(pipe), [QUESTION], answerer=answerer, timeout=1.0, save=tmp_path / "saved", show=show)
    has_ended.set()
    writer.join()
    assert "gave no media for 1 s: it has stalled" in summary.end
    assert summary.num_chunks >= 8 and summary.saved_to is not None
    with pytest.raises(MediaError, match="none that can be opened"):
        Source("udp://127.0.0.1:23573", timeout=0.3)


def test_a_pipe_waits_for_a_slow_model(answerer, film, tmp_path, monkeypatch):
    slow = answerer.streaming
    real = slow.advance

    def advance(cache, chunks):
        time.sleep(0.1 * len(chunks[0]["chunk_times"]))
        return real(cache, chunks)

    monkeypatch.setattr(slow, "advance", advance)
    pipe = tmp_path / "pipe"
    subprocess.run(["mkfifo", pipe], check=True)
    writer = threading.Thread(target=lambda: pipe.write_bytes(film.read_bytes()))
    writer.start()
    summary = watch(str(pipe), answerer=slow, max_lag=0.4)
    writer.join()
    assert summary.num_chunks == 10 and not summary.dropped


def test_a_question_unlike_training_is_warned_of(film):
    with pytest.warns(UserWarning, match="'animal' is in none of its questions"):
        watch(str(film), ["what animal is it?"], answerer=Answerer.load())
