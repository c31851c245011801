"""The page under `--api-key-file` and `--tls`, by a name that is not this machine's own."""

import re

import pytest

from mirasol.serve.access import Keys
from mirasol.serve.app import create_app
from mirasol.serve.engine import Engine
from mirasol.serve.limits import Limits
from mirasol.serve.tls import own_certificate
from tests.serve.conftest import serving
from tests.serve.page_steps import TIMEOUT, ask, go_live, inspect, opened

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright").expect
expect.set_options(timeout=TIMEOUT)
pytestmark = pytest.mark.slow
KEY = "0123456789abcdef0123"
HOST = "mirasol.test"


def under_name(address: str) -> str:
    return address.replace("127.0.0.1", HOST)


def test_without_encryption_the_page_says_how_to_get_the_camera(browser, server):
    with opened(browser, under_name(server.address), may_log=("Cross-Origin-Opener-Policy",)) as page:
        page.click("#tab-live")
        expect(page.locator("#live-refused")).to_contain_text("mirasol serve --tls")
        expect(page.locator("#live-start")).to_be_disabled()
        inspect(page)


def test_with_key_and_own_certificate_clips_and_camera_work(browser, shipped, tmp_path, clip):
    (tmp_path / "keys").write_text(f"ann {KEY}\n")
    engine = Engine(shipped, tmp_path / "serve", Limits(upload_bytes=2**20))
    certificate, private, _ = own_certificate(tmp_path, HOST)
    app = create_app(engine, keys=Keys.load(tmp_path / "keys"))
    with (
        serving(engine, app=app, ssl_certfile=str(certificate), ssl_keyfile=str(private)) as server,
        opened(browser, under_name(server.address), may_log=("401",), ignore_https_errors=True) as page,
    ):
        key, form = page.locator("#key"), page.locator("#key-form")
        expect(key).to_be_focused()
        for wrong, told in (("not two words", "one word"), ("0000000000000000", "does not know that key")):
            key.fill(wrong)
            key.press("Enter")
            expect(page.locator("#key-wrong")).to_contain_text(told)
        expect(key).to_be_focused()
        expect(page.locator("#problem")).to_have_text("")
        inspect(page)
        page.set_input_files("#file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": clip})
        expect(page.locator("#status")).to_have_text("Waiting for the API key")
        key.fill(KEY)
        key.press("Enter")
        expect(page.locator("#work")).to_be_visible()
        expect(form).to_be_hidden()
        ask(page, "which color is named?")
        expect(page.locator("#answers .answer").first).to_have_text("blue")
        page.reload()  # this tab still knows the key
        expect(page.locator("#work")).to_be_visible()
        expect(form).to_be_hidden()
        page.click("#another")
        page.set_input_files("#file", {"name": "film.mp4", "mimeType": "video/mp4", "buffer": bytes(2**21)})
        expect(page.locator("#status")).to_contain_text("film.mp4 has 2.0 MiB; this server takes files up to 1.0 MiB")
        assert page.evaluate("isSecureContext")
        go_live(page)
        ask(page, "which color is named?", "live-")
        answer = page.locator("#live-answers li:not([aria-busy]) .answer").first
        expect(answer).to_have_text(re.compile("^(blue|green|red|white)$"))
        page.click("#live-stop")
