"""Whatever a client sends over HTTP is answered with a 4xx that says what to do; nothing ends the server."""

import base64
import json
import random
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from tests.clips import write_clip
from tests.serve.conftest import start
from tests.waiting import PATIENCE

QUESTION = {"type": "text", "text": "which color is named?"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def strict(shipped, tmp_path_factory):
    """A server with small limits."""
    limits = Limits(request_bytes=400_000, upload_bytes=200_000, clip_seconds=4.0, picture_pixels=200 * 200)
    yield from start(Engine(shipped, tmp_path_factory.mktemp("strict"), limits))


@pytest.fixture(scope="module")
def http(strict):
    with httpx2.Client(base_url=strict.address, timeout=PATIENCE) as client:
        yield client


def chat(*parts: Any, **more: Any) -> dict:
    return {"model": "mirasol", "messages": [{"role": "user", "content": [*parts, QUESTION]}], **more}


def uri(data: bytes, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def check(answer, status: int = 400) -> dict:
    """The error object of a refusal, which says what was expected and found."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"]
    says = error["message"]
    assert says.startswith(("Expected", "A question must fit", "Ranking needs")) and says.endswith("."), says
    return error


PARTS = [
    {"type": "video_url"}, {"type": "video_url", "video_url": {}}, {"type": "video_url", "video_url": {"url": 3}},
    {"type": "video_url", "video_url": {"url": "/etc/passwd"}}, {"type": "video_url", "video_url": {"url": ""}},
    {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}, {"type": "video_url", "video_url": []},
    {"type": "video_url", "video_url": {"url": "concat:/etc/passwd|/etc/group"}},
    {"type": "video_url", "video_url": {"url": "http://169.254.169.254/latest"}},
    {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,???"}},
    {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,"}},
    {"type": "video_url", "video_url": {"url": "data:video/mp4"}},
    {"type": "video_url", "video_url": {"url": uri(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "image_url", "image_url": {"url": uri(b"not a picture", "image/png")}},
    {"type": "file", "file": {"file_id": "file-abc"}}, {"type": "file", "file": {"file_data": uri(b"")}},
    {"type": "video"}, {"type": "video", "video": "/etc/passwd"}, {"type": "tool_use"}, {}, 7, None, "text",
    {"type": "text"}, {"type": "text", "text": 5}, {"type": []},
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_part_is_refused(http, part):
    check(http.post("/v1/chat/completions", json=chat(part)))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"a":' * 20_000, b"NaN"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/clips"])
def test_a_body_that_is_no_json_object_is_refused(http, path, body):
    check(http.post(path, content=body, headers=JSON))


@pytest.mark.parametrize("more", [
    {"messages": None}, {"messages": {}}, {"messages": [3]}, {"messages": [{}]}, {"messages": [{"role": "tool"}]},
    {"messages": [{"role": "user", "content": 3}]}, {"stream": "yes"}, {"max_tokens": -1}, {"max_tokens": 1e9},
    {"max_tokens": "many"}, {"n": 3}, {"tools": [{}]}, {"use_audio_in_video": "no"}, {"videos": [3]},
    {"videos": ["x"]}, {"mm_processor_kwargs": 3}, {"mm_processor_kwargs": {"use_audio_in_video": 1}}, {"mirasol": 3},
    {"stream": True, "mirasol": {"options": ["x"] * 65}},
    {"mirasol": {"clips": "x"}}, {"mirasol": {"options": ["one"]}}, {"mirasol": {"options": ["x"] * 100}},
    {"use_audio_in_video": True, "mirasol": {"use_audio": False}},
    {"mirasol": {"use_audio": False, "use_video": False}},
])  # fmt: skip
def test_a_wrong_field_is_refused(http, clip, more):
    part = {"type": "video_url", "video_url": {"url": uri(clip)}}
    check(http.post("/v1/chat/completions", json={**chat(part), **more}))


def test_limits_are_told(http, clip, tmp_path):
    check(http.post("/v1/chat/completions", content=b" " * 500_000, headers=JSON), 413)
    check(http.post("/v1/files", files={"file": ("x.mp4", bytes(250_000))}), 413)
    check(http.post("/v1/files", files={"file": ("x.mp4", b"")}))
    big = {"type": "input_video", "input_video": {"data": base64.b64encode(bytes(210_000)).decode()}}
    check(http.post("/v1/chat/completions", json=chat(big)), 413)
    long = write_clip(tmp_path / "long.mp4", seconds=6.0)
    error = check(http.post("/v1/clips", json={"video": uri(long.read_bytes())}))
    assert "at most 4 s, found 6" in error["message"]
    words = {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": uri(clip)}},
                                                      {"type": "text", "text": "why " * 300}]}]}  # fmt: skip
    assert "context of 64 tokens" in check(http.post("/v1/chat/completions", json=words))["message"]


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/v1/files/file_" + "0" * 32, 404), ("DELETE", "/v1/files/x", 404), ("GET", "/v1/clips/clip_0", 404),
    ("GET", "/v1/files/..%2f..%2fetc%2fpasswd/content", 404), ("GET", "/v1/models/gpt-4o", 404),
    ("GET", "/v1/chat/completions", 405), ("POST", "/v1/nothing", 404), ("POST", "/v1/clips/clip_0/ask", 400),
    ("GET", "/v1/files", 403), ("POST", "/v1/files", 400), ("GET", "/%00", 404), ("GET", "/v1/clips/%00", 404),
])  # fmt: skip
def test_a_wrong_address_is_refused(http, method, path, status):
    check(http.request(method, path), status)


def test_a_file_is_never_shown_as_a_page(http):
    page = b"<script>alert(1)</script>"
    id = http.post("/v1/files", files={"file": ("../../evil.html", page, "text/html")}).json()["id"]
    shown = http.get(f"/v1/files/{id}/content")
    assert shown.content == page and shown.headers["content-type"] == "application/octet-stream"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in shown.headers["content-security-policy"]
    assert http.get(f"/v1/files/{id}").json()["filename"] == "evil.html"
    check(http.post("/v1/clips", json={"video": id}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
        ["user", "text", "video_url", "file", "data:,x", "mirasol", "clip_" + "0" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "role", "content", "text", "url", "video_url", "file", "file_id", "data", "clip"])
        | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
FIELDS = st.sampled_from(["model", "messages", "stream", "max_tokens", "videos", "mirasol", "mm_processor_kwargs", "n",
                          "use_audio_in_video", "stream_options", "tools", "user"])  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(FIELDS, VALUES, max_size=6), VALUES)
def test_any_json_is_answered_with_a_refusal(http, body, content):
    body.setdefault("messages", [{"role": "user", "content": content}])
    answer = http.post("/v1/chat/completions", content=json.dumps(body).encode(), headers=JSON)
    assert 400 <= answer.status_code < 500, answer.text
    check(answer, answer.status_code)


def test_broken_clips_are_answered_or_refused_and_the_server_stays(http, clip):
    draw = random.Random(0)
    statuses = []
    for _ in range(16):
        data = bytearray(clip)
        for _ in range(draw.choice((1, 30, 3_000))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        data = data[: draw.choice((len(data), draw.randrange(len(data))))]
        answer = http.post("/v1/clips", json={"video": uri(bytes(data))})
        statuses.append(answer.status_code)
        if answer.status_code != 200:
            assert "xpected" in answer.json()["error"]["message"]
    assert set(statuses) <= {200, 400} and len(set(statuses)) == 2
    part = {"type": "video_url", "video_url": {"url": uri(clip)}}
    assert http.post("/v1/chat/completions", json=chat(part)).json()["choices"][0]["message"]["content"] == "blue"
    assert http.get("/health").json()["status"] == "ok"
