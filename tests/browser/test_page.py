"""The operator's page, in a browser.

With SCREENSHOTS set to a folder, pictures of it are kept there.
"""

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Credential, Tenant
from emulator.web.page import remembered, stored_events
from lib.model.stream import Stream
from tests.site import SECRET, Emulator, Site, site, until

WRONG = {"name": "wrong", "client_id": "demo-client", "client_secret": "no-such-secret"}
RIGHT = {"name": "acme", "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}"}
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "Debian's package chromium is missing: make browser"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Site, Emulator]]:
    with site(integrations=[RIGHT, WRONG], archive="1d") as found:
        found.central.fill(200)
        with Emulator(found) as emulator:
            until(lambda: (emulator.status() or {}).get("acked", 0) >= 200, "everything delivered")
            yield found, emulator


@pytest.fixture
def page(browser: Browser, served: tuple[Site, Emulator]) -> Iterator[Page]:
    with browser.new_context(base_url=served[1].url("")) as context:
        found = context.new_page()
        wrong: list[str] = []
        found.on("pageerror", lambda error: wrong.append(str(error)))
        found.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
        yield found
        assert not wrong


def keep(page: Page, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")


def accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"]) for each in found if each["impact"] in SERIOUS] == []


def test_a_first_visit_shows_what_arrives_and_a_failing_integration_with_its_remedy(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Needs a look")
    row = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme")
    expect(row).to_contain_text("collecting")
    failing = page.locator(".box.bad", has_text="wrong")
    expect(failing).to_contain_text("client_secret")
    expect(page.get_by_role("img")).to_have_attribute(
        "aria-label", "Events fetched in each of the last 180 minutes: at most 200, 200 in all"
    )
    assert SECRET not in page.content()
    assert "no-such-secret" not in page.content()
    accessible(page)
    keep(page, "page")


def test_a_connection_is_tested_before_ones_eyes(page: Page) -> None:
    page.goto("/")
    page.get_by_role("row", name="acme").get_by_role("link", name="Test connection").first.click()
    page.get_by_role("button", name="Test now").click()
    expect(page.locator("#verdict")).to_have_text("Everything works.", timeout=20_000)
    expect(page.locator("#checks li").first).to_contain_text("ok")
    accessible(page)
    page.goto("/test?integration=wrong")
    page.get_by_role("button", name="Test now").press("Enter")
    expect(page.locator("#verdict")).to_have_text("Something does not work.", timeout=20_000)
    expect(page.locator("#checks li.failed").first).to_contain_text("→")
    keep(page, "test-connection")


@pytest.mark.parametrize("script", [True, False])
def test_what_works_but_for_one_tenant_is_no_failure(browser: Browser, script: bool) -> None:
    tenants = [Tenant(id="t-1"), Tenant(id="t-2", name="Shut", forbidden=True)]
    central = CentralServer(tenants=tenants, credentials=[Credential(id_type="partner", id="p-1")])
    with site(central) as found, Emulator(found) as emulator:
        until(lambda: emulator.status() is not None, "the page")
        with browser.new_context(base_url=emulator.url(""), java_script_enabled=script) as context:
            page = context.new_page()
            page.goto("/test?integration=acme")
            page.get_by_role("button", name="Test now").click()
            expect(page.locator("#verdict")).to_have_text("It works, with a warning.", timeout=20_000)
            expect(page.locator("#checks li.warning").first).to_contain_text("Shut (t-2)")


def test_an_integration_is_paused_and_resumed(page: Page, served: tuple[Site, Emulator]) -> None:
    page.goto("/")
    row = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused since")
    served[0].central.emit(3)
    row.get_by_role("button", name="Resume").click()
    expect(row).to_contain_text("collecting")
    expect(page.locator(".sum")).to_contain_text("203 events fetched", timeout=10_000)


@pytest.fixture
def refused(browser: Browser, served: tuple[Site, Emulator]) -> Iterator[Page]:
    """A page that the emulator was started again behind: its token counts no more."""
    with browser.new_context(base_url=served[1].url("")) as context:
        found = context.new_page()
        found.add_init_script(
            "addEventListener('submit', () => document.getElementsByName('token').forEach("
            "token => { token.value = 'old' }), true)"
        )
        yield found


def test_a_refused_test_says_why(refused: Page) -> None:
    refused.goto("/test?integration=acme")
    refused.get_by_role("button", name="Test now").click()
    expect(refused.locator("#verdict")).to_have_text(
        "This page is from before the emulator was started. Load the page again, and repeat what you did."
    )


def test_a_refused_action_says_why_to_a_person(refused: Page) -> None:
    refused.goto("/")
    refused.get_by_role("row", name="acme").get_by_role("button", name="Pause").first.click()
    expect(refused.get_by_role("heading", level=1)).to_have_text("The page is out of date")
    expect(refused.get_by_text("Load the page again")).to_be_visible()
    accessible(refused)


def test_what_is_the_same_stays_when_the_page_renews_itself(page: Page, served: tuple[Site, Emulator]) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto("/")
    region = page.get_by_role("region", name="Integrations")
    region.evaluate("region => { region.scrollLeft = 60; region.querySelector('tr:last-child').mine = true }")
    page.locator(".box.bad").first.evaluate("box => { box.mine = true }")
    told = page.locator(".dim", has_text="Read ").inner_text()
    expect(page.locator(".dim", has_text="Read ")).not_to_have_text(told, timeout=20_000)
    assert region.evaluate("region => region.scrollLeft") == 60
    assert page.locator(".box.bad").first.evaluate("box => box.mine")


def test_the_page_asks_again_once_it_was_answered(page: Page) -> None:
    page.clock.install()
    page.goto("/")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    def asked() -> int:
        page.clock.run_for(3_000)
        return len(held)

    page.route("**/", hold)
    assert [asked() for _ in range(7)][-1] == 1
    held[0].continue_()
    until(lambda: asked() == 2, "the next question")
    held[1].continue_()


def test_a_gap_appears_by_itself_and_is_explained(page: Page, served: tuple[Site, Emulator]) -> None:
    page.goto("/")
    expect(page.locator(".sum")).to_contain_text("0 gaps")
    served[0].central.clock.advance(30 * 3600)
    served[0].central.emit(1)
    expect(page.locator(".sum")).to_contain_text("1 gaps", timeout=20_000)
    page.goto(f"/stream?integration=acme&tenant={DEFAULT_TENANT_ID}&stream=events")
    expect(page.get_by_text("cursor_expired", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Last receipts").get_by_role("row")).not_to_have_count(1)
    expect(page.locator("pre").first).to_contain_text("{")
    accessible(page)


def test_it_is_dark_where_wanted_and_fits_a_narrow_window(browser: Browser, served: tuple[Site, Emulator]) -> None:
    with browser.new_context(
        base_url=served[1].url(""), color_scheme="dark", viewport={"width": 360, "height": 740}
    ) as context:
        page = context.new_page()
        page.goto("/")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 29)"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        accessible(page)
        keep(page, "dark-narrow")


def test_the_chart_remembers_what_was_fetched_before_the_emulator_was_started(served: tuple[Site, Emulator]) -> None:
    state, now = served[0].state, datetime.now(UTC)
    assert sum(remembered(state, now).values()) >= 200
    assert not remembered(state, now - timedelta(hours=12))


def test_another_site_cannot_make_a_browser_act(served: tuple[Site, Emulator]) -> None:
    url = served[1].url("/actions/pause")
    without = requests.post(url, data={"integration": "acme"}, timeout=10)
    foreign = requests.post(
        url, data={"integration": "acme"}, headers={"Origin": "https://elsewhere.example.com"}, timeout=10
    )
    assert (without.status_code, without.json()["code"]) == (403, "stale_page")
    assert foreign.status_code in (401, 403)


def test_after_a_start_the_newest_events_are_those_that_were_kept(served: tuple[Site, Emulator]) -> None:
    raws = stored_events(served[0].state, Stream("acme", DEFAULT_TENANT_ID, "events"))
    assert raws
    own = {raw for raw in raws if b"Connector::" in raw}
    assert set(raws) - own <= set(served[0].central.raws(DEFAULT_TENANT_ID))
