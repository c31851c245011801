"""Bounds of security and time at their edges: what passes just below each, and what is refused just above."""

import asyncio
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mirasol.media import MediaError
from mirasol.serve import run, tls
from mirasol.serve.access import Access, Keys
from mirasol.serve.decode import Media, WatchOptions, decode_picture, digest
from mirasol.serve.errors import ApiError
from mirasol.serve.in_flight import InFlight
from mirasol.serve.limits import Limits
from mirasol.serve.metrics import Metrics
from mirasol.serve.middleware import BodyLimit, Measure
from mirasol.serve.realtime_input import Settings, read_frames


def send_body(*sizes: int) -> int:
    """Send a body in parts, without its length, to a server that takes 100 bytes; return how many it read."""
    parts = [{"type": "http.request", "body": bytes(size), "more_body": True} for size in sizes]
    count = 0

    async def app(scope, receive, send):
        nonlocal count
        while (message := await receive())["more_body"]:
            count += len(message["body"])

    async def receive():
        return parts.pop(0) if parts else {"type": "http.request", "more_body": False}

    scope = {"type": "http", "headers": []}
    asyncio.run(BodyLimit(app, Limits(request_bytes=100), InFlight(10**9))(scope, receive, None))
    return count


def test_a_body_without_a_stated_length_is_refused_at_the_limit_and_its_connection_closed():
    assert send_body(60, 40) == 100
    with pytest.raises(ApiError, match="at most 100 bytes") as refused:
        send_body(60, 41)
    assert refused.value.status_code == 413 and refused.value.headers["Connection"] == "close"


@pytest.mark.parametrize("size, is_served", [(20, True), (2, False)])
def test_a_body_may_take_long_if_it_comes_at_the_least_rate(monkeypatch, size, is_served):
    """A part comes every 15 s, within the 20 s that a sender may pause; a byte a second is the least rate."""
    now, parts = 0.0, [{"type": "http.request", "body": bytes(size), "more_body": True}] * 8
    monkeypatch.setattr("mirasol.serve.middleware.time", SimpleNamespace(monotonic=lambda: now))

    async def app(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    async def receive():
        nonlocal now
        now += 15.0
        return parts.pop() if parts else {"type": "http.request", "more_body": False}

    limits = Limits(body_idle_seconds=20.0, body_bytes_per_second=1)
    served = BodyLimit(app, limits, InFlight(10**9))({"type": "http", "headers": []}, receive, None)
    if is_served:
        asyncio.run(served)
    else:
        with pytest.raises(ApiError, match="found 4 bytes in 30 s") as refused:
            asyncio.run(served)
        assert refused.value.status_code == 408


@pytest.mark.parametrize("origin", ["https://evil.example", "http://[", "null", "http://server:1"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_another_site_changes_nothing_by_any_method(method, origin):
    assert status_of(method, origin) == 403 and status_of("GET", origin) == 200
    assert status_of(method, "http://server:8000") == 200


def status_of(method: str, origin: str) -> int:
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"server:8000"), (b"origin", origin.encode())]
    asyncio.run(Access(app)({"type": "http", "method": method, "path": "/v1/clips", "headers": headers}, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize("host, keys, names", [
    ("127.0.0.1", None, run.LOOPBACK), ("::1", None, run.LOOPBACK), ("0.0.0.0", None, None),
    ("127.0.0.1", Keys({"digest": "alice"}), None),
])  # fmt: skip
def test_a_server_on_loopback_without_keys_has_only_the_names_of_loopback(monkeypatch, tmp_path, host, keys, names):
    found = []
    for name in ("Confined", "Engine", "keep_memory"):
        monkeypatch.setattr(run, name, FAKE)
    monkeypatch.setattr(run, "create_app", lambda *arguments: found.append(arguments[-2:]))
    loader = SimpleNamespace(load=lambda *loaded, **options: found.append((loaded, options)) or FAKE)
    monkeypatch.setattr(run, "Answerer", loader)
    run.Setup(host, folder=tmp_path, keys=keys, checkpoint="mine", loading={"dtype": "bfloat16"}).build()
    assert found == [(("mine",), {"dtype": "bfloat16"}), (keys, names)]


def test_the_command_decodes_in_children_and_passes_its_limits_on(monkeypatch, tmp_path):
    made: dict[str, tuple] = {}
    answerer = SimpleNamespace(processor="processor")
    confined = SimpleNamespace(decode="decode", decode_picture="decode_picture")
    monkeypatch.setattr(run, "Answerer", SimpleNamespace(load=lambda *given: made.update(loaded=given) or answerer))
    monkeypatch.setattr(run, "Confined", lambda *given: made.update(confined=given) or confined)
    monkeypatch.setattr(run, "Engine", lambda *given: made.update(engine=given) or "engine")
    monkeypatch.setattr(run, "create_app", lambda *given: given)
    monkeypatch.setattr(run, "keep_memory", lambda: None)
    limits = Limits(decode_seconds=3)
    setup = run.Setup(folder=tmp_path, checkpoint="runs/mine", limits=limits, hosts=["example.org"])
    (engine, model, seconds, fetch, *_), decoders = setup.build()
    assert decoders is confined and made == {
        "loaded": ("runs/mine",), "confined": ("processor", limits),
        "engine": (answerer, tmp_path, limits, "decode", "decode_picture"),
    }  # fmt: skip
    assert (engine, model, seconds) == ("engine", "mine", run.DRAIN_SECONDS)
    assert fetch.hosts == {"example.org"} and fetch.limits is limits
    assert run.Setup(folder=tmp_path).build()[0][1:4] == ("mirasol", run.DRAIN_SECONDS, run.refuse_to_fetch)


class Fake:
    """Any attribute, called or not, is the object itself."""

    def __getattr__(self, name):
        return self

    def __call__(self, *_, **__):
        return self


FAKE = Fake()


def test_the_command_gives_uvicorn_its_bounds(monkeypatch, tmp_path):
    found, closed = {}, []
    decoders = SimpleNamespace(close=lambda: closed.append(True))
    monkeypatch.setattr(run.Setup, "build", lambda self: (None, decoders))
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)
    monkeypatch.setattr(run.uvicorn, "Config", lambda app, **options: found.update(options))
    monkeypatch.setattr(run.uvicorn, "Server", lambda config: SimpleNamespace(run=lambda sockets: sockets[0].close()))
    run.serve(run.Setup(port=0, folder=tmp_path, limits=Limits(message_bytes=12_345)), say=lambda line: None)
    assert found["ws_max_size"] == 12_345 and found["timeout_graceful_shutdown"] == run.DRAIN_SECONDS
    assert found["ws_per_message_deflate"] is False and found["proxy_headers"] is False and found["ws_max_queue"] <= 8
    assert closed == [True]


def test_a_certificate_that_expires_within_a_day_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setattr(tls, "DAYS", 1)
    first = tls.own_certificate(tmp_path, "localhost")[2]
    monkeypatch.setattr(tls, "DAYS", 397)
    second = tls.own_certificate(tmp_path, "localhost")[2]
    assert first != second == tls.own_certificate(tmp_path, "localhost")[2]


def test_pictures_are_bounded_in_bytes_and_number():
    limits = Limits(picture_bytes=1_000, frames_at_once=3)
    with pytest.raises(MediaError, match="at most 1000 bytes, found 1001"):
        decode_picture(bytes(1_001), limits)
    with pytest.raises(MediaError, match="JPEG"):
        decode_picture(bytes(1_000), limits)
    picture = lambda *_: np.zeros((2, 2, 3), np.uint8)  # noqa: E731
    assert len(read_frames(["AAAA"] * 3, limits, picture)) == 3
    with pytest.raises(ApiError, match="at most 3 pictures, found 4"):
        read_frames(["AAAA"] * 4, limits, picture)


def test_a_picture_is_turned_as_its_camera_was():
    data, picture = io.BytesIO(), Image.new("RGB", (4, 2))
    exif = picture.getexif()
    exif[0x0112] = 6  # a quarter turn
    picture.save(data, "JPEG", exif=exif)
    assert decode_picture(data.getvalue(), Limits()).shape == (4, 2, 3)


def test_metrics_of_several_processes_keep_their_labels_and_the_largest_lag():
    def metrics(*lags: float) -> Metrics:
        live = {str(number): SimpleNamespace(lag_seconds=lag) for number, lag in enumerate(lags)}
        store = SimpleNamespace(num_bytes=7)
        clips = SimpleNamespace(counts={"clips": 3}, num_waiting=1, store=store)
        engine = SimpleNamespace(clips=clips, counts={"chunks": 5}, sessions=live, questions=[], files=store)
        return Metrics(engine)  # type: ignore[arg-type]

    def text(of: Metrics) -> list[str]:
        return of.text().decode().splitlines()

    one, two = metrics(0.5, 2.5, 1.0), metrics()
    one.note_request("GET", "/health", 200, 0.02)
    assert {"mirasol_largest_lag_seconds 2.5", "mirasol_live_sessions 3.0", "mirasol_chunks_total 5.0"} <= {*text(one)}
    one.gather = lambda: [*one.of_process("a"), *two.of_process("b")]
    found = text(one)
    request = 'method="GET",process="a",route="/health",status="200"'
    assert {f"mirasol_requests_total{{{request}}} 1.0", 'mirasol_live_sessions{process="b"} 0.0'} <= {*found}
    assert len({line for line in found if line.startswith("# HELP")}) == sum(line.startswith("# H") for line in found)


def test_a_request_is_counted_with_its_status_and_one_that_fails_as_500():
    counted: list[tuple] = []
    metrics = SimpleNamespace(note_request=lambda *of: counted.append(of[:3]))

    async def app(scope, receive, send):
        scope["route"] = SimpleNamespace(path="/v1/clips/{id}")
        if scope["method"] == "PUT":
            raise RuntimeError
        await send({"type": "http.response.start", "status": 404})
        await send({"type": "http.response.body"})

    async def send(message):
        pass

    measure = Measure(app, metrics)  # type: ignore[arg-type]
    asyncio.run(measure({"type": "http", "method": "GET"}, None, send))
    with pytest.raises(RuntimeError):
        asyncio.run(measure({"type": "http", "method": "PUT"}, None, send))
    assert counted == [("GET", "/v1/clips/{id}", 404), ("PUT", "/v1/clips/{id}", 500)]


def test_a_session_waits_for_a_late_track_for_a_minute_at_most():
    assert Settings.read({"mirasol": {"allowed_lateness": 60}}, Settings()).mirasol.allowed_lateness == 60
    for seconds in (60.1, -0.1, float("inf"), float("nan")):
        with pytest.raises(ApiError, match="allowed_lateness"):
            Settings.read({"mirasol": {"allowed_lateness": seconds}}, Settings())


def test_the_same_bytes_as_another_kind_of_another_owner_or_with_other_tracks_are_another_clip():
    data, both, deaf = b"data", WatchOptions(), WatchOptions(use_audio=False)
    media = [Media(video=data), Media(audio=data), Media(image=data), Media(video=data, audio=data)]
    found = [digest(each, options, owner) for each in media for options in (both, deaf) for owner in ("", "a", "b")]
    assert len(set(found)) == len(found)
