"""`python -m tests.browser.screenshots FOLDER`: pictures of the operator's page in every state that it knows.

Four small ones, for the README, are written into docs/images.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Clock, Credential, Tenant
from emulator.web.charts import MARKS, OUTAGE, Mark, Marks
from emulator.web.health_changes import (
    HEALTH,
    HEALTH_KEY,
    STREAMS,
    WHOLE,
    HealthChange,
    HealthName,
    HealthRecord,
    Why,
)
from emulator.web.history import MARKS_KEY
from lib.model.stream import Stream
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.state import State
from lib.store.base import ABSENT
from lib.store.directory import DirectoryStore
from tests.bench.page import fill, served
from tests.browser.test_page import FILTER, RULES
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
KEPT = {"trouble": "overview", "streams-5000": "streams", "dark": "dark", "phone": "phone"}
QUALITY = 0.85
"""Of a picture in docs/images, as WebP: a third of the bytes, and nobody sees the difference."""
SMALLER = """async ([data, quality]) => {
  const picture = new Image();
  picture.src = data;
  await picture.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL("image/webp", quality);
}"""
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
            page.goto(url, timeout=120_000)
            if page.locator("#chart").count():
                expect(page.locator("#chart canvas, #chart > .dim").first).to_be_visible(timeout=30_000)
            ready(page)
            if media is not None:
                page.emulate_media(media=media)
            page.screenshot(path=self._folder / f"{name}.png", full_page=media is not None)
        if name in KEPT:
            self._keep(self._folder / f"{name}.png", ROOT / "docs/images" / f"{KEPT[name]}.webp")

    def _keep(self, picture: Path, kept: Path) -> None:
        with self._browser.new_context() as context:
            data = "data:image/png;base64," + b64encode(picture.read_bytes()).decode()
            found = str(context.new_page().evaluate(SMALLER, [data, QUALITY]))
            kept.write_bytes(b64decode(found.partition(",")[2]))


def take_counts(camera: Camera) -> None:
    """Nothing yet, one stream, hundreds, thousands."""
    for count in (0, 1, 300, 5_000):
        with tempfile.TemporaryDirectory(prefix="su-") as name, served(fill(Path(name), count)) as url:
            camera.take(f"overview-{count}" if count else "first-visit", f"{url}/")
            if count > 1:
                camera.take(f"streams-{count}", f"{url}/streams")
            if count == 300:
                camera.take("phone-streams", f"{url}/streams", viewport=PHONE)
                camera.take("print", f"{url}/", media="print")


def take_story(camera: Camera) -> None:
    """Hundreds of customers, with a gap, an outage and a start within the last hours."""
    with tempfile.TemporaryDirectory(prefix="su-") as name:
        config, now = fill(Path(name), 300), datetime.now(UTC)
        state = State.of(DirectoryStore(Path(name) / "store"))
        end = now - timedelta(minutes=70)
        lost = Stream("partner", f"00000000-0000-4000-8000-{30:012d}", "events")
        state.gaps.record(Gap(lost, 9, CURSOR_EXPIRED, end - timedelta(minutes=12), end, end, 40))
        at = now.timestamp()
        marks = [
            Mark("outage", at - 6_600, at - 6_100, OUTAGE),
            Mark("restart", at - 2_400, at - 2_400, "The connector was started"),
        ]
        state.store.write(MARKS_KEY, MARKS.encode(Marks(None, marks, at - 7 * 86_400)), expected=ABSENT)
        state.store.write(HEALTH_KEY, HEALTH.encode(_health(at)), expected=ABSENT)
        with served(config) as url:
            camera.take("trouble", f"{url}/")
            camera.take("dark", f"{url}/?range=24h", color_scheme="dark")
            camera.take("phone", f"{url}/", viewport=PHONE)


def _health(at: float) -> HealthRecord:
    """What was kept of the health: an outage of the engine, a gap, and a credential that lacks a permission."""
    engine = Why("engine_down", "The engine takes no events")
    gap = Why("gap", "Events can no longer be fetched")
    refused = Why("permission_missing", "The credential lacks a permission")
    of_gap, of_refused = (f"partner/00000000-0000-4000-8000-{number:012d}/events" for number in (30, 7))
    outcomes: list[tuple[float, HealthName, HealthName, list[Why], str | None]] = [
        (180, "unknown", "ok", [], None),
        (108, "ok", "failing", [engine], None),
        (101, "failing", "ok", [], None),
        (70, "ok", "attention", [gap], of_gap),
        (12, "attention", "failing", [refused], of_refused),
    ]
    changes = []
    for minutes, before, after, reasons, name in outcomes:
        when = datetime.fromtimestamp(at - 60 * minutes, UTC)
        changes.append(HealthChange(when, WHOLE, before, after, reasons))
        if name is not None:
            changes.append(HealthChange(when, STREAMS, before, after, reasons, [name]))
    now = [("partner", f"00000000-0000-4000-8000-{number:012d}", "events", health) for number, health in _NOW]
    return HealthRecord(changes, "failing", {"partner": "failing"}, now)


_NOW: tuple[tuple[int, HealthName], ...] = ((30, "attention"), (7, "failing"))


def take_links(camera: Camera) -> None:
    """Alerts whose event never came."""
    with tempfile.TemporaryDirectory(prefix="su-") as name:
        config = fill(Path(name), 3)
        alone = {"count": 2, "ids": ["5a9e1f00-alert-1", "5a9e1f00-alert-2"]}
        link = {"integration": "partner", "tenant": f"00000000-0000-4000-8000-{1:012d}", "alerts_without_event": alone}
        with served(config, links=[link]) as url:
            camera.take("links", f"{url}/")


def take_days(camera: Camera) -> None:
    """Completeness day by day, a day, and a preview of rules."""
    began = datetime.now(UTC) - timedelta(days=6)
    with (
        CentralServer(clock=Clock(start=began.timestamp())) as central,
        site(central, every="1h", archive="30d") as found,
    ):
        for day in range(6):
            central.emit(40)
            if day == 2:
                central.append(DEFAULT_TENANT_ID, "events", [b'"no object"'])
            found.results("fetch-page")
            found.results("forward-batch")
            central.clock.advance(30 * 3600 if day == 3 else 20 * 3600)
        with Emulator(found) as emulator:
            until(lambda: emulator.status() is not None, "the page")

            def counted(page: Page) -> None:
                expect(page.get_by_text("not counted")).to_have_count(0, timeout=120_000)

            camera.take("completeness", emulator.url("/completeness"), counted)
            camera.take("phone-completeness", emulator.url("/completeness"), counted, viewport=PHONE)
            camera.take("day", emulator.url(f"/day?day={began + timedelta(days=2):%Y-%m-%d}"))

            def previewed(page: Page) -> None:
                page.get_by_label("Filter, as").fill(FILTER)
                page.get_by_label("Rules, as").fill(RULES)
                page.get_by_label("Events").select_option("simulator")
                page.get_by_role("button", name="Preview").click()
                expect(page.locator("#result")).to_contain_text("rules matched", timeout=120_000)

            camera.take("preview", emulator.url("/preview"))
            camera.take("preview-result", emulator.url("/preview"), previewed)
            camera.take("confirm", emulator.url("/confirm/pause?integration=acme"))


def take_trouble(camera: Camera) -> None:
    """A refused credential, dead letters, a gap, a connection that is tested, and a connector that is gone."""
    tenant = Tenant(id=DEFAULT_TENANT_ID, name="Acme Manufacturing")
    with site(
        # Behind, so that it is now once thirty hours have passed.
        CentralServer(tenants=[tenant], credentials=[Credential()], clock=Clock(start=time.time() - 30 * 3600)),
        integrations=INTEGRATIONS,
        archive="1d",
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
            camera.take("tenant", emulator.url(f"/tenant?integration=acme&tenant={DEFAULT_TENANT_ID}"))
            camera.take(
                "settings",
                emulator.url("/settings"),
                lambda page: expect(page.get_by_text("The whole store takes")).to_be_visible(timeout=30_000),
            )

            def tested(page: Page) -> None:
                page.get_by_role("button", name="Test now").click()
                expect(page.locator("#verdict")).to_contain_text("Something does not work", timeout=30_000)

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
        for take in (take_counts, take_story, take_links, take_days, take_trouble):
            take(camera)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
