"""The live view of the page in Chromium, whose camera and microphone play a GRID clip."""

import re
from contextlib import ExitStack

import pytest

from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from tests.serve.conftest import serving
from tests.serve.page_steps import PHONE, TIMEOUT, ask, go_live, inspect, opened, until_watched

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect
expect.set_options(timeout=TIMEOUT)
pytestmark = pytest.mark.slow
COLOR = "which color is named?"
MISSED = re.compile(r"back.* missed what happened from [\d.]+ to [\d.]+ s, and still knows what came before")
KEEP_STREAM = """() => {
    const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
    let asked = 0;  // refused the first time
    devices.getUserMedia = async (wanted) => {
        if (!asked++) throw new DOMException("no", "NotAllowedError");
        return (window.stream = await open(wanted));
    };
}"""


def sessions(page) -> list[str | None]:
    """Collect which session each connection asks to continue."""
    found: list[str | None] = []

    def note(socket) -> None:
        found.append(socket.url.partition("session=")[2] or None)

    page.on("websocket", note)
    return found


def test_live_answers_come_once_the_camera_is_allowed_and_stop_releases_it(browser, server):
    with opened(browser, server.address, viewport=PHONE) as page:
        page.evaluate(KEEP_STREAM)
        page.click("#tab-live")
        ask(page, COLOR, "live-")
        expect(page.locator("#live-status")).to_contain_text("Start camera or microphone first")
        inspect(page)
        page.click("#live-start")
        expect(page.locator("#live-status")).to_contain_text("The browser refused camera or microphone")
        expect(page.locator("#live-start")).to_be_focused()
        go_live(page)
        ask(page, COLOR, "live-")
        answer = page.locator("#live-answers li:not([aria-busy]) .answer").first
        expect(answer).to_have_text(re.compile("^(blue|green|red|white)$"))
        page.click("#live-chunks summary")
        assert page.locator("#live-chunks tbody tr").count() > 2
        inspect(page)
        page.click("#live-stop")
        assert page.evaluate("window.stream.getTracks().map((track) => track.readyState)") == ["ended", "ended"]
        expect(page.locator("#live-status")).to_contain_text("released")
        expect(page.locator("#problem")).to_have_text("")


def test_a_lost_network_is_told_and_the_same_session_continues(browser, server):
    with opened(browser, server.address, may_log=("ERR_INTERNET_DISCONNECTED",)) as page:
        asked = sessions(page)
        go_live(page)
        (id,) = server.engine.sessions
        page.context.set_offline(True)
        expect(page.locator("#live-status")).to_contain_text("broke off")
        expect(page.locator("#problem")).to_contain_text("does not answer")
        ask(page, COLOR, "live-")
        expect(page.locator("#live-status")).to_contain_text("Ask again when it is back")
        inspect(page)
        page.context.set_offline(False)
        expect(page.locator("#live-status")).to_have_text(MISSED)
        assert asked[0] is None and set(asked[1:]) == {id} == set(server.engine.sessions)
        ask(page, COLOR, "live-")
        expect(page.locator("#live-answers li:not([aria-busy]) .answer").first).not_to_have_class("answer failed")
        page.click("#live-stop")
        expect(page.locator("#problem")).to_have_text("")


def test_a_restarted_server_continues_the_session_and_another_one_begins_a_new_one(browser, shipped, tmp_path):
    def run(folder: str, port: int = 0):
        return serving(Engine(shipped, tmp_path / folder, Limits()), port)

    with ExitStack() as stack:
        with run("kept") as server:
            address, port = server.address, int(server.address.rpartition(":")[2])
            page = stack.enter_context(opened(browser, address, may_log=("ERR_CONNECTION", "WebSocket connection")))
            asked = sessions(page)
            go_live(page)
            (id,) = server.engine.sessions
        expect(page.locator("#problem")).to_contain_text("does not answer")
        with run("kept", port) as server:
            expect(page.locator("#live-status")).to_have_text(MISSED)
            assert asked[0] is None and set(asked[1:]) == {id} == set(server.engine.sessions)
            until_watched(page, float(page.inner_text("#live-status").split(" to ")[1].split()[0]))
            page.click("#live-chunks summary")
            rows = page.locator("#live-chunks tbody tr").all_inner_texts()
            assert rows[-1].startswith("0.00 s")  # what came before is kept
        with run("another", port) as server:
            expect(page.locator("#live-status")).to_contain_text("A new one has begun")
            until_watched(page, 0.5)
            assert len(server.engine.sessions) == 1 and id not in server.engine.sessions
            page.click("#live-stop")
