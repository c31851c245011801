"""Attacks on a server with API keys and one allowed host: each is refused with a 4xx that says why."""

import base64
import contextlib
import importlib.util
import io
import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from mirasol.cli import main
from mirasol.serve import fetch
from mirasol.serve.access import Access, Keys
from mirasol.serve.app import create_app
from mirasol.serve.confined import Confined
from mirasol.serve.engine import Engine
from mirasol.serve.errors import ApiError
from mirasol.serve.fetch import Fetcher, is_public
from mirasol.serve.limits import Limits
from mirasol.serve.tls import own_certificate
from tests.serve.conftest import start
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow
KEY, OTHER = "key-of-alice-0123456789", "key-of-bob-0123456789ab"
LIMITS = Limits(upload_bytes=300_000, request_bytes=500_000)
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def elsewhere(clip):
    """Another web server: its port, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", base64.urlsafe_b64decode(self.path[4:]).decode())
                return self.end_headers()
            self.send_response(404 if self.path == "/absent" else 200)
            if self.path == "/states-much":
                self.send_header("Content-Length", "999999999")
            if self.path == "/cut":
                self.send_header("Content-Length", str(len(clip)))
            self.end_headers()
            if self.path == "/clip.mp4":
                self.wfile.write(clip)
            if self.path == "/cut":
                self.wfile.write(clip[:100])
            try:
                while self.path == "/endless":
                    self.wfile.write(bytes(65_536))
                while self.path == "/slow":
                    self.wfile.write(b"x")
                    time.sleep(0.1)
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield web.server_port, asked
    web.shutdown()


@pytest.fixture(scope="module")
def fetcher(elsewhere):
    return Fetcher([f"127.0.0.1:{elsewhere[0]}", "localhost", "rebinding.example"], LIMITS)


@pytest.fixture(scope="module")
def guarded(shipped, tmp_path_factory, fetcher):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "keys").write_text(f"# of the test\nalice {KEY}\nbob {OTHER}\n")
    engine = Engine(shipped, folder, LIMITS)
    app = create_app(engine, fetch=fetcher, keys=Keys.load(folder / "keys"))
    yield from start(engine, app=app)


@pytest.fixture(scope="module")
def http(guarded):
    with httpx2.Client(base_url=guarded.address, timeout=PATIENCE, headers=HEADERS) as client:
        yield client


def watch(http, url: str):
    return http.post("/v1/clips", json={"video": url})


def refused(answer, status: int, code: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["message"].startswith("Expected"), error
    assert code is None or error["code"] == code, error
    return error["message"]


def test_a_file_of_an_allowed_host_is_watched_also_after_a_redirect(http, elsewhere):
    address = f"http://127.0.0.1:{elsewhere[0]}"
    first = watch(http, f"{address}/clip.mp4").json()
    then = watch(http, f"{address}/to/{base64.urlsafe_b64encode(b'/clip.mp4').decode()}").json()
    assert first["id"] == then["id"] and first["mirasol"]["seconds"] == pytest.approx(3.0, abs=0.1)


NOT_ALLOWED = [
    "http://169.254.169.254/latest/meta-data", "http://127.0.0.1/", "http://127.0.0.1:1/", "http://[::1]/",
    "http://0.0.0.0/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/",
    "http://[::ffff:127.0.0.1]/", "http://localhost/", "https://localhost/", "http://localhost:22/", "http://10.0.0.1/",
    "http://192.168.1.1/", "http://example.com/", "http://localhost.example.com/", "http://127.0.0.1:PORT@example.com/",
    "http://user@127.0.0.1:PORT/clip.mp4", "http://example.com#@127.0.0.1:PORT/", "http://127.0.0.1:PORT\\@example.com/",
    "http:///clip.mp4", "http://127.0.0.1:99999/", "http://[::1", "http://rebinding.example/",
    "https://127.0.0.1:PORT\r\nX: y/", "http://metadata.google.internal/",
]  # fmt: skip


@pytest.mark.parametrize("url", NOT_ALLOWED)
def test_an_address_that_is_not_allowed_is_not_fetched(http, elsewhere, url, monkeypatch):
    real = socket.getaddrinfo
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.1.2.3", 80))]
    lookup = lambda host, *more, **named: inside if host == "rebinding.example" else real(host, *more, **named)  # noqa: E731
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lookup)
    before = len(elsewhere[1])
    refused(watch(http, url.replace("PORT", str(elsewhere[0]))), 400, "url_not_allowed")
    assert len(elsewhere[1]) == before


@pytest.mark.parametrize("target", [
    "http://169.254.169.254/", "file:///etc/passwd", "ftp://127.0.0.1/", "http://localhost/", "gopher://127.0.0.1/",
    "//10.0.0.1/", "http://127.0.0.1:1/",
])  # fmt: skip
def test_a_redirect_to_what_is_not_allowed_is_not_followed(http, elsewhere, target):
    hop = base64.urlsafe_b64encode(target.encode()).decode()
    refused(watch(http, f"http://127.0.0.1:{elsewhere[0]}/to/{hop}"), 400, "url_not_allowed")


@pytest.mark.parametrize(("path", "status", "says"), [
    ("/absent", 400, "status 404"), ("/endless", 413, "more at"), ("/states-much", 413, "999999999"),
    ("/slow", 400, "no whole file in 1 s"), ("/cut", 400, "missing"), ("/to/", 400, "redirects"),
])  # fmt: skip
def test_an_answer_that_is_no_whole_file_is_refused(http, fetcher, elsewhere, path, status, says, monkeypatch):
    if path == "/slow":  # which never ends
        monkeypatch.setattr(fetcher, "limits", LIMITS.model_copy(update={"fetch_seconds": 1.0}))
    assert says in refused(watch(http, f"http://127.0.0.1:{elsewhere[0]}{path}"), status)


def test_https_is_verified(elsewhere, tmp_path):
    certificate, key, _ = own_certificate(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    web = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    web.socket = context.wrap_socket(web.socket, server_side=True)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
        Fetcher([f"127.0.0.1:{web.server_port}"], LIMITS)._download(f"https://127.0.0.1:{web.server_port}/")
    web.shutdown()


def test_public_addresses_are_told_from_all_others():
    assert all(map(is_public, ["1.1.1.1", "2606:4700::1111"]))
    others = (
        "127.0.0.1 10.0.0.1 172.16.0.1 192.168.0.1 169.254.169.254 0.0.0.0 224.0.0.1 100.64.0.1 255.255.255.255 :: ::1"
    )
    others += " fe80::1 fe80::1%eth0 fc00::1 ff02::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1:: 2001:db8::1"
    assert not any(map(is_public, others.split()))


def playlist(text: str) -> bytes:
    return text.encode()


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../../etc/cron.d/x", "x")
    return data.getvalue()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
FILES = {
    "a playlist of local files": playlist(HLS.format("file:///etc/passwd")),
    "a playlist of addresses": playlist(HLS.format("http://169.254.169.254/")),
    "a playlist with a key": playlist('#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"\n#EXTINF:1,\na.ts\n'),
    "a list to join": playlist("ffconcat version 1.0\nfile /etc/passwd\n"),
    "a DASH manifest": playlist('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>'),
    "SMIL": playlist('<smil><body><video src="file:///etc/passwd"/></body></smil>'),
    "subtitles": playlist("1\n00:00:00,000 --> 00:00:09,000\n{\\i1}x\n"),
    "ASS": playlist("[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0:00:00.00,0:00:05.00,,,0,0,0,,x\n"),
    "SDP": playlist("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
    "SVG": playlist('<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "HTML": playlist("<html><script>alert(1)</script></html>"), "a zip archive": zipped(),
    "a script": b"#!/bin/sh\nid\n", "text": b"/etc/passwd\n", "zeros": bytes(10_000),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_recording_is_refused(http, name):
    said = refused(watch(http, f"data:video/mp4;base64,{base64.b64encode(FILES[name]).decode()}"), 400)
    assert "root:" not in said


def test_a_mov_that_refers_to_another_file_does_not_reach_it(http, clip, tmp_path):
    """Its data reference (dref) names a path instead of "in this file"; FFmpeg must not open it."""
    place = clip.index(b"url \0\0\0\1")
    moved = clip[:place] + b"alis\0\0\0\0" + clip[place + 8 :]
    answer = watch(http, f"data:video/mp4;base64,{base64.b64encode(moved).decode()}")
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        refused(answer, 400)


@pytest.mark.parametrize("reference", [
    "file:///etc/passwd", "concat:/etc/passwd|/etc/group", "/etc/passwd", "../../../etc/passwd",
    "subfile:,,:/etc/passwd",
    "crypto:/etc/passwd", "pipe:0", "tcp://127.0.0.1:1", "rtmp://127.0.0.1/x",
    "async:file:/etc/passwd", "\\\\host\\share",
    "file_../../../../etc/passwd", "lavfi:testsrc", "data:,", "file_" + "0" * 32,
])  # fmt: skip
def test_a_reference_that_is_no_media_is_refused(http, reference):
    answer = watch(http, reference)
    assert answer.status_code in (400, 404) and "root:" not in answer.text


@pytest.mark.parametrize("name", [
    "../../../../{folder}/escaped.mp4", "{folder}/escaped.mp4", "..\\..\\escaped.mp4", "a\0b.mp4", ".", "..",
    "\r\nX-Header: 1", "x" * 5_000,
])  # fmt: skip
def test_the_name_of_an_upload_chooses_no_path(http, guarded, name, clip, tmp_path):
    answer = http.post("/v1/files", files={"file": (name.replace("{folder}", str(tmp_path)), clip)})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        shown = answer.json()["filename"]
        assert "/" not in shown and len(shown) <= 120
        content = http.get(f"/v1/files/{answer.json()['id']}/content")
        assert content.content == clip and "x-header" not in content.headers
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/v1/files/..%2f..%2fkeys",
    "/v1/files/%2e%2e%2fkeys/content", "/v1/clips/../../keys", "//etc/passwd", "/keys",
])  # fmt: skip
def test_a_path_reaches_nothing_outside(guarded, path):
    host, port = guarded.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as link:  # a client library would tidy the path up
        head = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        link.sendall(f"{head}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: link.recv(65_536), b"")).decode("latin-1")
    assert answer.split()[1] in ("400", "403", "404") and KEY not in answer and "root:" not in answer


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY[:-1]}"}, {"Authorization": f"Basic {KEY}"},
    {"Authorization": f"Bearer {KEY}x"}, {"Authorization": "Bearer"}, {"Authorization": "Bearer alice"},
])  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/v1/files", "/metrics", "/v1/clips/clip_x"])
def test_without_a_key_nobody_comes_in(guarded, path, headers):
    refused(httpx2.get(guarded.address + path, headers=headers), 401, "invalid_api_key")


def test_a_file_of_one_key_is_not_there_for_another(http, clip):
    id = http.post("/v1/files", files={"file": ("a.mp4", clip)}).json()["id"]
    bob = {"Authorization": f"Bearer {OTHER}"}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        refused(http.request(method, f"/v1/files/{id}{path}", headers=bob), 404)
    refused(http.post("/v1/clips", json={"video": id}, headers=bob), 404)
    assert id not in http.get("/v1/files", headers=bob).text and id in http.get("/v1/files").text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_another_site_may_use_no_socket_and_post_nothing(guarded, http, origin):
    refused(http.post("/v1/clips", json={}, headers={"Origin": origin}), 403, "wrong_origin")
    with pytest.raises(InvalidStatus) as error:
        connect(f"{guarded.address.replace('http', 'ws')}/v1/realtime", additional_headers=HEADERS, origin=origin)
    assert error.value.response.status_code == 403


def test_a_socket_needs_a_key_which_a_browser_sends_as_a_subprotocol(guarded):
    address = f"{guarded.address.replace('http', 'ws')}/v1/realtime"
    with pytest.raises(InvalidStatus):
        connect(address)
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    with connect(address, subprotocols=protocols, origin=guarded.address) as live:
        assert live.subprotocol == "realtime"
        assert json.loads(live.recv(timeout=PATIENCE))["type"] == "session.created"


def test_another_site_may_not_read_and_a_page_runs_no_inline_script(http):
    answer = http.get("/v1/models", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = http.options("/v1/clips", headers=asking)
    assert "access-control-allow-origin" not in preflight.headers


def test_a_name_that_was_pointed_at_this_machine_reads_nothing():
    async def inner(scope, receive, send):
        raise AssertionError("not reached")

    scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [(b"host", b"evil.example:8000")]}
    sent: list = []

    async def send(message):
        sent.append(message)

    with pytest.raises(StopIteration):
        Access(inner, None, ("localhost", "127.0.0.1"))(scope, None, send).send(None)
    assert sent[0]["status"] == 403


@pytest.fixture(scope="module")
def impatient(shipped, tmp_path_factory):
    limits = Limits(body_idle_seconds=1.0, body_bytes_per_second=1_000)
    yield from start(Engine(shipped, tmp_path_factory.mktemp("impatient"), limits))


@pytest.mark.parametrize("pause", [0.3, 3.0])
def test_an_upload_that_drips_is_ended(impatient, pause):
    host, port = impatient.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as link:
        head = f"POST /v1/clips HTTP/1.1\r\nHost: {host}:{port}\r\n"
        link.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n".encode())
        link.settimeout(pause)
        answer = b""
        for _ in range(round(PATIENCE / pause)):
            link.sendall(b" ")
            with contextlib.suppress(TimeoutError):
                answer = link.recv(65_536)
                break
    assert b" 408 " in answer.split(b"\r\n")[0], answer


def test_a_body_that_states_too_much_is_refused_before_it_is_read(guarded):
    host, port = guarded.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as link:
        head = f"POST /v1/files HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        link.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        assert b" 413 " in link.recv(65_536).split(b"\r\n")[0]


@pytest.mark.parametrize(
    "text", ["", "alice", "alice short", f"a {KEY}\nb {KEY}", f"a {KEY}\na {OTHER}", f"a {KEY} more"]
)
def test_a_key_file_that_is_wrong_is_refused(tmp_path, text):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ValueError, match="^Expected a"):
        Keys.load(tmp_path / "keys")


def test_a_certificate_of_our_own_is_private_and_kept(tmp_path):
    certificate, key, print_ = own_certificate(tmp_path, "192.0.2.7")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and stat.S_IMODE(key.parent.stat().st_mode) == 0o700
    assert own_certificate(tmp_path, "192.0.2.7") == (certificate, key, print_)
    assert own_certificate(tmp_path, "192.0.2.8")[2] != print_


def test_the_command_encrypts_and_asks_for_keys(tmp_path):
    (tmp_path / "keys").write_text(f"alice {KEY}\n")
    words = [sys.executable, "-m", "mirasol.cli", "serve", "--port", "0", "--folder", str(tmp_path), "--tls"]
    process = subprocess.Popen([*words, "--api-key-file", str(tmp_path / "keys")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "SHA-256" in process.stdout.readline()
        address = process.stdout.readline().split()[0]
        assert address.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(tmp_path / "tls" / "certificate.pem"))
        with httpx2.Client(base_url=address, verify=trust, timeout=PATIENCE) as client:
            refused(client.get("/v1/models"), 401, "invalid_api_key")
            assert client.get("/v1/models", headers=HEADERS).json()["data"][0]["id"] == "mirasol"
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("words", [
    ["--tls-cert", "a.pem"], ["--tls-cert", "absent.pem", "--tls-key", "absent.pem"], ["--api-key-file", "absent"],
])  # fmt: skip
def test_wrong_options_are_refused(words, capsys, tmp_path):
    assert main(["serve", "--port", "0", "--folder", str(tmp_path), *words]) == 2
    assert "Expected" in capsys.readouterr().err


def test_damaged_files_are_answered_and_the_server_stays_well(shipped, tmp_path):
    """A small part of benchmarks/hostile.py."""
    spec = importlib.util.spec_from_file_location("hostile", Path(__file__).parents[2] / "benchmarks" / "hostile.py")
    hostile = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hostile)
    confined = Confined(shipped.processor, Limits())
    for server in start(Engine(shipped, tmp_path, Limits(), confined.decode, confined.decode_picture)):
        found = hostile.attack(server.address, 24, seed=7)
    confined.close()
    assert found["healthy"] and sum(found["statuses"].values()) == 24 and set(found["statuses"]) <= {200, 400}
