"""The page of `mirasol serve` in Chromium, offline: clips by mouse, keyboard and link, and live with a fake camera."""

import io
import re
import shutil
import time
import wave
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from mirasol.media import read_clip

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium as `chromium` on PATH, which is not on this machine"),
]
expect = playwright.expect
CLIP_LINK = re.compile(r"#clip=clip_[0-9a-f]{32}$")


@pytest.fixture(scope="module")
def browser(clip, tmp_path_factory) -> Iterator:
    """Chromium whose camera and microphone play the clip over and over."""
    folder, read = tmp_path_factory.mktemp("devices"), read_clip(clip)
    (folder / "camera.mjpeg").write_bytes(b"".join(map(jpeg, read.frames)))
    with wave.open(str(folder / "microphone.wav"), "wb") as file:
        file.setparams((1, 2, read.sampling_rate, 0, "NONE", ""))
        file.writeframes((read.waveform.clip(-1, 1) * 32_767).astype("<i2").tobytes())
    arguments = [
        "--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}",
        f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}",
    ]  # fmt: skip
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


def jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def context(browser) -> Iterator:
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(20_000)
    yield made
    made.close()


@pytest.fixture
def page(context, server) -> Iterator:
    """The page, which must log no error and ask no other server for anything."""
    opened, faults = context.new_page(), []
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on(
        "request",
        lambda sent: None if sent.url.startswith((server.address, "blob:", "data:")) else faults.append(sent.url),
    )
    opened.faults = faults
    opened.goto(server.address)
    yield opened
    opened.close()
    assert faults == []


def give(page, clip: bytes, name: str = "blue.mp4") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "video/mp4", "buffer": clip})
    expect(page.locator("#work")).to_be_visible()
    expect(page.locator("#status")).to_have_text("", timeout=20_000)


def ask(page, question: str) -> None:
    page.fill("#question", question)
    page.press("#question", "Enter")


def until(page, truth: str, seconds: float = 30.0) -> None:
    """Wait for an expression; playwright's own way to do so needs eval, which the page forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(truth):
        assert time.monotonic() < end, f"not within {seconds} s: {truth}"
        page.wait_for_timeout(50)


def violations(page) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [f"{each['id']}: {[node['html'][:120] for node in each['nodes']]}" for each in found]


def is_too_wide(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_a_clip_is_watched_once_and_the_seconds_of_an_answer_seek(page, clip):
    watched = []
    page.on("request", lambda sent: watched.append(sent.url) if sent.url.endswith("/v1/clips") else None)
    give(page, clip)
    ask(page, "which color is named?")
    expect(page.locator("#answers .answer").first).to_have_text("blue")
    place = page.locator("#answers .rests button").first
    expect(place).to_be_visible()
    assert page.locator("#marks .mark").count() == page.locator("#answers .rests button").count()
    start = float(re.search(r": ([\d.]+)", place.inner_text())[1])
    page.evaluate("document.getElementById('video').currentTime = 2.5")
    place.click()
    until(page, f"Math.abs(document.getElementById('video').currentTime - {start}) < 0.02")
    ask(page, "what is said?")
    expect(page.locator("#answers .answer").first).to_have_text("bin blue at f four please")
    assert len(watched) == 1
    assert page.locator("#chunks tbody tr").count() == 10


def test_the_sound_may_be_switched_off_or_be_that_of_another_clip(page, clip):
    give(page, clip)
    page.select_option("#swap", "samples/red.mp4")
    expect(page.locator("#status")).to_have_text("")
    link = page.url
    page.uncheck("#use-video")
    expect(page.locator("#facts")).to_contain_text("Picture not used")
    assert page.url != link
    ask(page, "which color is named?")
    expect(page.locator("#answers .answer").first).to_have_text("red")
    page.click("#use-audio")
    expect(page.locator("#status")).to_contain_text("one stays on")
    assert page.is_checked("#use-audio")


def test_a_link_opens_the_watched_clip_and_an_unknown_one_is_told(page, context, clip, server):
    give(page, clip)
    assert CLIP_LINK.search(page.url)
    other = context.new_page()
    other.goto(page.url)
    expect(other.locator("#work")).to_be_visible()
    until(other, "document.getElementById('video').duration > 2.9")
    ask(other, "which letter is named?")
    expect(other.locator("#answers .answer").first).to_have_text("f")
    other.goto(f"{server.address}/#clip=clip_{'0' * 32}")
    expect(other.locator("#status")).to_contain_text("made room")
    other.close()
    page.goto("about:blank")


def test_all_of_it_works_by_keyboard(page):
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#samples') !== null"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#question")).to_be_focused(timeout=20_000)
    page.keyboard.press("Enter")  # the sample brings a question
    place = page.locator("#answers .rests button").first
    expect(place).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#answers') !== null"):
            break
    page.keyboard.press("Space")
    until(page, "document.getElementById('video').currentTime > 0.3")
    page.focus("#seek")
    before = page.evaluate("document.getElementById('video').currentTime")
    page.keyboard.press("ArrowRight")
    until(page, f"document.getElementById('video').currentTime > {before}")
    page.focus("#tab-clip")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#live")).to_be_visible()
    expect(page.locator("#tab-live")).to_be_focused()


def test_an_unreadable_file_and_a_server_that_is_away_are_told_in_words(page):
    page.set_input_files("#file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video at all"})
    expect(page.locator("#status")).to_contain_text("Expected")
    expect(page.locator("#start")).to_be_visible()
    page.context.set_offline(True)
    page.locator("#samples button").first.click()
    expect(page.locator("#problem")).to_contain_text("does not answer")
    page.context.set_offline(False)
    expect(page.locator("#problem")).to_have_text("")
    page.faults.clear()  # the browser logs both failures


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_a_phone_needs_no_scroll_sideways(page, clip, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    assert violations(page) == [] and not is_too_wide(page)
    give(page, clip)
    ask(page, "which color is named?")
    expect(page.locator("#answers .rests button").first).to_be_visible()
    page.click("#chunks summary")
    page.click("#model")
    assert violations(page) == [] and not is_too_wide(page)
    page.click("#tab-live")
    assert violations(page) == [] and not is_too_wide(page)


def test_live_answers_come_and_stop_releases_camera_and_microphone(page):
    page.evaluate("""() => {
        const devices = navigator.mediaDevices, open = devices.getUserMedia.bind(devices);
        devices.getUserMedia = async (wanted) => (window.stream = await open(wanted));
    }""")
    page.click("#tab-live")
    page.click("#live-start")
    until(page, "parseFloat(document.getElementById('watched').textContent) > 4")
    page.fill("#live-question", "which color is named?")
    page.press("#live-question", "Enter")
    answer = page.locator("#live-answers li:not([aria-busy]) .answer").first
    expect(answer).to_have_text(re.compile("^(blue|green|red|white)$"))
    assert float(page.inner_text("#lag").split()[0]) < 5
    page.click("#live-chunks summary")
    assert page.locator("#live-chunks tbody tr").count() > 10
    page.click("#live-stop")
    assert page.evaluate("window.stream.getTracks().map((track) => track.readyState)") == ["ended", "ended"]
    expect(page.locator("#live-status")).to_contain_text("released")


def test_without_a_secure_context_the_page_says_how_to_get_one(page):
    page.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
    page.reload()
    page.click("#tab-live")
    expect(page.locator("#live-refused")).to_contain_text("mirasol serve --tls")
    expect(page.locator("#live-start")).to_be_disabled()
