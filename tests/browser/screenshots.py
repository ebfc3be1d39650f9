"""`python -m tests.browser.screenshots FOLDER`: pictures of the operator's page in every state that it knows.

Four small ones, for the README, are written into docs/images.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Credential, Tenant
from tests.bench.page import fill, served
from tests.site import ROOT, Emulator, site, until

INTEGRATIONS = [
    {
        "name": "acme",
        "client_id": "demo-client",
        "client_secret": "${env:SITE_SECRET}",
        "streams": ["events", "alerts"],
    },
    {"name": "old branch", "client_id": "demo-client", "client_secret": "replaced"},
]
KEPT = {"failing": "overview", "streams-5000": "streams", "dark": "dark", "phone": "phone"}
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


class Camera:
    """Takes pictures into a folder."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self._browser = browser
        self._folder = folder

    def take(self, name: str, url: str, ready: Callable[[Page], None] = lambda _: None, **options: Any) -> None:
        """A picture of the page at the URL, once it is `ready`."""
        media = options.pop("media", None)
        with self._browser.new_context(**{"viewport": WIDE, **options}) as context:
            page = context.new_page()
            page.goto(url)
            if page.locator("#chart").count() and media is None:
                expect(page.locator("#chart canvas").first).to_be_visible(timeout=30_000)
            ready(page)
            if media is not None:
                page.emulate_media(media=media)
            page.screenshot(path=self._folder / f"{name}.png", full_page=media is not None)
        if name in KEPT:
            shutil.copyfile(self._folder / f"{name}.png", ROOT / "docs/images" / f"{KEPT[name]}.png")


def take_counts(camera: Camera) -> None:
    """Nothing yet, one stream, hundreds, thousands."""
    for count in (0, 1, 300, 5_000):
        with tempfile.TemporaryDirectory(prefix="su-") as name, served(fill(Path(name), count)) as url:
            camera.take(f"overview-{count}" if count else "first-visit", f"{url}/")
            if count > 1:
                camera.take(f"streams-{count}", f"{url}/streams")
            if count == 300:
                camera.take("dark", f"{url}/?range=24h", color_scheme="dark")
                camera.take("phone", f"{url}/", viewport=PHONE)
                camera.take("phone-streams", f"{url}/streams", viewport=PHONE)
                camera.take("print", f"{url}/", media="print")


def take_trouble(camera: Camera) -> None:
    """A refused credential, dead letters, a gap, a connection that is tested, and a connector that is gone."""
    tenant = Tenant(id=DEFAULT_TENANT_ID, name="Acme Manufacturing")
    with site(
        CentralServer(tenants=[tenant], credentials=[Credential()]), integrations=INTEGRATIONS, archive="1d"
    ) as found:
        found.central.fill(600)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 600, "everything delivered")
            found.central.append(DEFAULT_TENANT_ID, "events", [b'"not an object"', b"[1, 2]"])
            until(lambda: (emulator.status() or {})["set_aside"] == 2, "the dead letters")
            camera.take("dead-letters", emulator.url("/dead-letters"))
            found.central.clock.advance(30 * 3600)
            found.central.emit(1)
            until(lambda: (emulator.status() or {})["gaps"] >= 1, "the gap")
            camera.take("failing", emulator.url("/"))
            camera.take("gap", emulator.url("/gaps"))
            stream = f"/stream?integration=acme&tenant={DEFAULT_TENANT_ID}&stream=events"
            camera.take("stream", emulator.url(stream))
            camera.take("settings", emulator.url("/settings"))

            def tested(page: Page) -> None:
                page.get_by_role("button", name="Test now").click()
                expect(page.locator("#verdict")).to_have_text("Something does not work.", timeout=30_000)

            camera.take("test-connection", emulator.url("/test?integration=old+branch"), tested)

            def gone(page: Page) -> None:
                emulator.kill()
                expect(page.locator("#stale")).to_be_visible(timeout=30_000)

            camera.take("stale", emulator.url("/"), gone)


def main(folder: Path) -> None:
    """Every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    program = shutil.which("chromium")
    assert program, "Debian's package chromium is missing: make browser"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        camera = Camera(browser, folder)
        take_counts(camera)
        take_trouble(camera)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
