"""The clip view of the page of `mirasol serve` in Chromium: by mouse, keyboard and link, and where something fails."""

import base64
import re

import av
import pytest

from mirasol.media import read_clip
from mirasol.serve.errors import as_api_error
from mirasol.serve.queues import BusyError
from tests.serve.live_media import jpeg
from tests.serve.page_steps import PHONE, TIMEOUT, ask, give, inspect, opened, tab_to, until

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect
expect.set_options(timeout=TIMEOUT)
pytestmark = pytest.mark.slow
CLIP_LINK = re.compile(r"#clip=clip_[0-9a-f]{32}$")
COLOR = "which color is named?"


def answer(page):
    return page.locator("#answers .answer").first


def test_a_clip_is_watched_once_and_the_seconds_of_an_answer_seek(browser, server, clip):
    with opened(browser, server.address, viewport=PHONE) as page:
        watched = []
        page.on("request", lambda sent: watched.append(sent.url) if sent.url.endswith("/v1/clips") else None)
        inspect(page)
        give(page, clip)
        ask(page, COLOR)
        expect(answer(page)).to_have_text("blue")
        place = page.locator("#answers .rests button").first
        expect(place).to_be_visible()
        assert page.locator("#marks .mark").count() == page.locator("#answers .rests button").count()
        start = float(re.search(r": ([\d.]+)", place.inner_text())[1])
        page.evaluate("document.getElementById('video').currentTime = 2.5")
        place.click()
        until(page, f"Math.abs(document.getElementById('video').currentTime - {start}) < 0.02")
        ask(page, "what is said?")
        expect(answer(page)).to_have_text("bin blue at f four please")
        assert page.locator("#answers .warned").count() == 0
        ask(page, "what animal is it?")
        expect(page.locator("#answers .warned")).to_contain_text("was not trained on")
        assert len(watched) == 1
        page.click("#chunks summary")
        page.click("#model")
        assert page.locator("#chunks tbody tr").count() == 10
        inspect(page)


def test_the_sound_may_be_switched_off_or_be_that_of_another_clip(browser, server, clip):
    with opened(browser, server.address) as page:
        give(page, clip)
        link = page.url
        page.select_option("#swap", "samples/red.mp4")
        until(page, f"location.href !== {link!r}")
        link = page.url
        page.uncheck("#use-video")
        expect(page.locator("#facts")).to_contain_text("Picture not used")
        assert page.url != link
        ask(page, COLOR)
        expect(answer(page)).to_have_text("red")
        page.click("#use-audio")
        expect(page.locator("#status")).to_contain_text("one stays on")
        assert page.is_checked("#use-audio")
        inspect(page)


def test_a_link_opens_the_watched_clip_and_an_unknown_one_is_told(browser, server, clip):
    with opened(browser, server.address, may_log=("404",)) as page:
        give(page, clip)
        assert CLIP_LINK.search(page.url)
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.locator("#work")).to_be_visible()
        until(other, "document.getElementById('video').duration > 2.9")
        ask(other, "which letter is named?")
        expect(answer(other)).to_have_text("f")
        other.go_back()
        page.go_back()
        expect(page.locator("#start")).to_be_visible()
        page.goto(f"{server.address}/#clip=clip_{'0' * 32}")
        expect(page.locator("#status")).to_contain_text("made room")
        expect(page.locator("#start")).to_be_visible()


def test_all_of_it_works_by_keyboard(browser, server):
    with opened(browser, server.address) as page:
        tab_to(page, "at.closest('#samples') !== null")
        page.keyboard.press("Enter")
        expect(page.locator("#question")).to_be_focused()
        page.keyboard.press("Enter")  # the sample brings a question
        expect(page.locator("#answers .rests button").first).to_be_visible()
        tab_to(page, "at.closest('.suggestions') !== null")
        page.keyboard.press("Enter")
        expect(page.locator("#answers li")).to_have_count(2)
        expect(page.locator("#answers .rests button").first).to_be_visible()
        tab_to(page, "at.closest('#answers') !== null")
        page.keyboard.press("Space")
        until(page, "document.getElementById('video').currentTime > 0.3")
        tab_to(page, "at.id === 'seek'")
        before = page.evaluate("document.getElementById('video').currentTime")
        page.keyboard.press("ArrowRight")
        until(page, f"document.getElementById('video').currentTime > {before}")
        tab_to(page, "at.id === 'use-video'", "Shift+Tab")
        page.keyboard.press("Space")
        expect(page.locator("#facts")).to_contain_text("Picture not used")
        expect(page.locator("#unseen")).to_contain_text("switched off")
        tab_to(page, "at.id === 'tab-clip'", "Shift+Tab")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#live")).to_be_visible()
        expect(page.locator("#tab-live")).to_be_focused()


def test_an_unreadable_file_is_told_in_words_and_its_sending_may_be_cancelled(browser, server, clip):
    with opened(browser, server.address, viewport=PHONE, may_log=("400",)) as page:
        page.set_input_files("#file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"no video at all"})
        expect(page.locator("#status")).to_contain_text("Expected a video or sound file")
        expect(page.locator("#start")).to_be_visible()
        expect(page.locator("#file")).to_be_focused()
        inspect(page)
        held = []
        page.route("**/v1/clips", lambda route: held.append(route))
        page.set_input_files("#file", {"name": "b.mp4", "mimeType": "video/mp4", "buffer": clip})
        expect(page.locator("#status")).to_have_text("The model watches")
        expect(page.locator("#elapsed")).to_have_text(re.compile("[2-9] s"))
        inspect(page)
        page.click("#cancel")
        expect(page.locator("#status")).to_have_text("Cancelled.")
        expect(page.locator("#start")).to_be_visible()
        assert len(held) == 1


def test_a_picture_and_a_film_that_the_browser_cannot_play_are_asked_about(browser, server, clip, tmp_path):
    picture = read_clip(clip).frames[20]
    with av.open(tmp_path / "old.avi", "w") as file:
        track = file.add_stream("mpeg4", rate=25, width=160, height=160)
        for _ in range(25):
            file.mux(track.encode(av.VideoFrame.from_ndarray(picture[:160, :160], "rgb24")))
        file.mux(track.encode())
    (tmp_path / "face.jpg").write_bytes(base64.b64decode(jpeg(picture)))
    with opened(browser, server.address) as page:
        for name, told in (("face.jpg", ""), ("old.avi", "This browser cannot play this kind of file")):
            page.set_input_files("#file", tmp_path / name)
            expect(page.locator("#name")).to_have_text(name)
            expect(page.locator("#unseen")).to_contain_text(told)
            ask(page, COLOR)
            expect(page.locator("#answers li:not([aria-busy])")).to_contain_text("attributed to")
        expect(page.locator("#no-sound")).to_have_text("This clip has no sound.")


def test_a_busy_server_is_asked_again_when_it_may_have_room(browser, server, clip):
    with opened(browser, server.address, may_log=("429",)) as page:
        refusal, seen = as_api_error(BusyError("clips", 32, 32, 1.0)), []

        def first_refuse(route) -> None:
            seen.append(route.request.url)
            if len(seen) > 1:
                return route.continue_()
            route.fulfill(status=429, headers=refusal.headers, json={"error": refusal.body})

        page.route("**/v1/clips", first_refuse)
        page.set_input_files("#file", {"name": "b.mp4", "mimeType": "video/mp4", "buffer": clip})
        expect(page.locator("#status")).to_have_text("The server is busy: trying again in 1 s")
        expect(page.locator("#work")).to_be_visible()
        assert len(seen) == 2


def test_a_clip_that_the_server_forgot_is_sent_and_watched_again(browser, server, clip):
    with opened(browser, server.address, may_log=("404",)) as page:
        give(page, clip)
        old = page.url.split("=")[1]
        (file,) = server.engine.clips.get(old).facts["files"].values()
        server.engine.clips.forget(old)
        server.engine.files.remove(file)
        ask(page, COLOR)
        expect(answer(page)).to_have_text("blue")
        assert page.url.split("=")[1] != old


def test_what_a_person_wanted_is_done_when_the_server_is_back(browser, server):
    with opened(browser, server.address, may_log=("ERR_INTERNET_DISCONNECTED",)) as page:
        page.context.set_offline(True)
        page.locator("#samples button").first.click()
        expect(page.locator("#problem")).to_contain_text("does not answer")
        expect(page.locator("#status")).to_have_text("Waiting for the server")
        inspect(page)
        page.context.set_offline(False)
        expect(page.locator("#work")).to_be_visible()
        expect(page.locator("#problem")).to_have_text("")
        expect(page.locator("#question")).to_be_focused()
        page.context.set_offline(True)
        page.keyboard.press("Enter")
        expect(answer(page)).to_contain_text("Waiting for the server")
        page.context.set_offline(False)
        expect(answer(page)).to_have_text("blue")
