"""Steps of tests of the page: what a person does, what must be true of every state of it."""

import base64
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mirasol.media import read_clip
from tests.serve.live_media import jpeg

TIMEOUT = 60_000  # ms, for machines with more to do
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def arguments(clip: bytes, folder: Path) -> list[str]:
    """Return arguments of a Chromium whose camera and microphone play a clip."""
    read = read_clip(clip)
    (folder / "camera.mjpeg").write_bytes(b"".join(base64.b64decode(jpeg(frame)) for frame in read.frames))
    with wave.open(str(folder / "microphone.wav"), "wb") as file:
        file.setparams((1, 2, read.sampling_rate, 0, "NONE", ""))
        file.writeframes((read.waveform.clip(-1, 1) * 32_767).astype("<i2").tobytes())
    return [
        "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}",
        f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}",
        "--host-resolver-rules=MAP mirasol.test 127.0.0.1",
    ]  # fmt: skip


@contextmanager
def opened(browser, address: str, may_log: tuple[str, ...] = (), **options) -> Iterator:
    """A page in a context of its own, which must log no error and ask no other server for anything.

    Args:
        browser: Chromium.
        address: Of the server.
        may_log: Parts of the browser's own lines about requests that are to fail.
        options: Of the context.
    """
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(TIMEOUT)
    page, faults = context.new_page(), []

    def note(text: str) -> None:
        if not any(part in text for part in may_log):
            faults.append(text)

    page.on("console", lambda message: note(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    own = (address, address.replace("http", "ws", 1), f"blob:{address}", "data:")
    for kind in ("request", "websocket"):
        page.on(kind, lambda sent: None if sent.url.startswith(own) else faults.append(sent.url))
    try:
        page.goto(address)
        yield page
    finally:
        context.close()
    assert faults == [], faults


def give(page, clip: bytes, name: str = "blue.mp4") -> None:
    """Choose a file and wait until it is watched."""
    page.set_input_files("#file", {"name": name, "mimeType": "video/mp4", "buffer": clip})
    page.locator("#work").wait_for(state="visible")
    until(page, "document.getElementById('status').textContent === ''")


def ask(page, question: str, view: str = "") -> None:
    """Ask; view is "live-" for the live view."""
    page.fill(f"#{view}question", question)
    page.press(f"#{view}question", "Enter")


def tab_to(page, truth: str, key: str = "Tab") -> None:
    """Press a key until the focused element, `at`, is the wanted one."""
    for _ in range(40):
        page.keyboard.press(key)
        if page.evaluate(f"((at) => {truth})(document.activeElement)"):
            return
    pytest.fail(f"not reached by {key}: {truth}")


def go_live(page) -> None:
    """Start camera and microphone, and wait until a second was watched."""
    page.click("#tab-live")
    page.click("#live-start")
    until_watched(page, 1.0)


def until_watched(page, seconds: float) -> None:
    until(page, f"parseFloat(document.getElementById('watched').textContent) > {seconds}")


def until(page, truth: str) -> None:
    """Wait for an expression; playwright's own way to do so needs eval, which the page forbids."""
    end = time.monotonic() + TIMEOUT / 1000
    while not page.evaluate(truth):
        assert time.monotonic() < end, f"not within {TIMEOUT} ms: {truth}"
        page.wait_for_timeout(50)


def inspect(page) -> None:
    """Every state must have no violation of accessibility in either theme, and need no scroll sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe.Axe().axe_script)
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate("(options) => axe.run(document, options)", {"resultTypes": ["violations"], **rules})
        faults = [f"{each['id']}: {[node['html'][:160] for node in each['nodes']]}" for each in found["violations"]]
        assert not faults, f"{scheme}: {faults}"
        assert found["passes"], f"{scheme}: axe looked at nothing"
    before = page.viewport_size
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), size
    page.set_viewport_size(before)
