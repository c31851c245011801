"""Shards over HTTP: the same clips by range requests, through lost connections, and a word where there are none."""

import functools
import http.server
import re
import threading
from pathlib import Path

import pytest

from mirasol.data.shard import index_folder, shard
from mirasol.tasks import get_task, tars

ERRORS = {"error": 503, "too many": 429}


class RangeServer(http.server.SimpleHTTPRequestHandler):
    """Answers range requests; `faults` are what the next answers do instead."""

    faults: list = []
    ranges = True
    states_total = True
    asked: list = []

    def do_GET(self):  # noqa: N802
        type(self).asked.append((self.path, self.headers.get("Range")))
        fault = type(self).faults.pop(0) if type(self).faults else None
        if fault == "no answer":
            self.wfile.write(b"hello\r\n\r\n")
            return
        path = Path(self.translate_path(self.path))
        if fault in ERRORS or not path.is_file():
            self.send_error(ERRORS.get(fault, 404))
            return
        data, wanted = path.read_bytes(), self.headers.get("Range")
        total = len(data)
        if wanted and self.ranges:
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            data = data[first : last + 1]
            self.send_response(206)
            if self.states_total:
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(manifest, tmp_path, monkeypatch):
    shard(manifest, tmp_path / "train", clips_per_shard=2, progress=False, processes=1)
    handler = type("Handler", (RangeServer,), {"faults": [], "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(tars, "FIRST_WAIT_SECONDS", 0.01)
    yield f"http://127.0.0.1:{server.server_port}", tmp_path, handler
    server.shutdown()
    server.server_close()


def test_clips_over_http_are_those_of_the_folder_and_no_tar_is_read_whole(served):
    address, folder, handler = served
    near, far = get_task("shards").load(folder, "train"), get_task("shards").load(address, "train")
    assert [row.questions for row in near] == [row.questions for row in far]
    assert [row.media.read_bytes() for row in near] == [row.media.read_bytes() for row in far]
    assert all(span for path, span in handler.asked if path.endswith(".tar"))


@pytest.mark.parametrize("fault", ["error", "too many", "cut", "no answer"])
def test_a_request_that_fails_is_made_again_but_not_for_ever(served, fault):
    address, folder, handler = served
    row = get_task("shards").load(address, "train")[0]
    handler.asked.clear()
    handler.faults[:] = [fault] * (tars.ATTEMPTS - 1)
    assert row.media.read_bytes() and len(handler.asked) == tars.ATTEMPTS
    handler.faults[:] = [fault] * 100
    handler.asked.clear()
    with pytest.raises(OSError, match=f"to answer within {tars.ATTEMPTS} attempts"):
        row.media.read_bytes()
    assert len(handler.asked) == tars.ATTEMPTS


def test_what_is_not_there_and_a_server_without_ranges_are_refused(served):
    address, folder, handler = served
    with pytest.raises(ValueError, match="Expected shards.json in .*/nothing"):
        get_task("shards").load(f"{address}/nothing", "train")
    handler.ranges = False
    with pytest.raises(ValueError, match="range request with status 206, found 200"):
        get_task("shards").load(address, "train")


@pytest.mark.parametrize("fault", ["error", "too many", "cut", "no answer"])
def test_a_list_and_an_index_that_arrive_cut_are_asked_for_again_but_not_for_ever(served, fault):
    address, folder, handler = served
    handler.faults[:] = [fault] * (tars.ATTEMPTS - 1)
    assert len(get_task("shards").load(address, "train")) == 6
    handler.faults[:] = [fault] * 100
    with pytest.raises(OSError, match=f"to answer within {tars.ATTEMPTS} attempts"):
        get_task("shards").load(address, "train")


def test_names_with_spaces_signs_and_letters_of_any_language_are_asked_for_as_they_are(served):
    address, folder, handler = served
    odd = folder / "my clips" / "train"
    odd.mkdir(parents=True)
    (folder / "train" / "shard-00000.tar").rename(odd / "première #1 100%41.tar")
    index_folder(odd, progress=False)
    rows = get_task("shards").load(f"{address}/my clips", "train")
    assert rows and all(row.media.read_bytes() for row in rows)
    assert {row.id for row in rows} == {row.id for row in get_task("shards").load(odd, "train")}


def test_a_server_that_does_not_state_how_long_a_tar_is_is_refused(served):
    address, folder, handler = served
    handler.states_total = False
    with pytest.raises(ValueError, match="expected the size of .* in the server's Content-Range, found 'None'"):
        get_task("shards").load(address, "train")
