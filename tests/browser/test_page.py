"""The operator's page, in a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import requests
import yaml
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FilePayload, Page, Request, expect, sync_playwright

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Clock, Credential, Tenant
from emulator.web.chart_days import CHART_DAY, OpenDay
from emulator.web.charts import day_name
from emulator.web.events import stored_events
from lib.model.clock import to_text
from lib.model.credential import Life
from lib.model.log import Log, to_fields
from lib.model.stream import Stream
from lib.state.accounts import ACCOUNT, Account, account_key
from lib.state.gaps import BATCH_MISSING, GAP, Gap
from lib.store.base import ABSENT
from lib.version import VERSION
from tests.bench import page as many
from tests.site import SECRET, WAIT_SECONDS, Emulator, Site, site, until

WRONG = {"name": "wrong", "client_id": "demo-client", "client_secret": "no-such-secret"}
RIGHT = {"name": "acme", "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}"}
STREAM = f"/stream?integration=acme&tenant={DEFAULT_TENANT_ID}&stream=events"
TENANT = f"/tenant?integration=acme&tenant={DEFAULT_TENANT_ID}"
PAGES = (
    "/",
    "/streams",
    TENANT,
    STREAM,
    "/gaps",
    "/dead-letters",
    "/completeness",
    "/preview",
    "/settings",
    "/test?integration=acme",
    "/confirm/pause?integration=acme",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "Debian's package chromium is missing: make browser"
    expect.set_options(timeout=1000 * WAIT_SECONDS)
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


def accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_the_first_screen_says_whether_all_is_well_what_needs_a_person_and_what_flows(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Failing")
    expect(page.locator(".verdict")).to_contain_text(re.compile(r"Sophos refuses the credential, for \d+ (s|min)"))
    reason = page.locator(".reason.failing")
    expect(reason).to_have_count(1)
    expect(reason).to_contain_text("client id and secret")
    expect(reason.get_by_role("link", name="wrong")).to_be_visible()
    row = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme")
    expect(row).to_contain_text("collecting")
    expect(page.locator("#chart canvas").first).to_be_visible()
    assert SECRET not in page.content()
    assert "no-such-secret" not in page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(browser: Browser, served: tuple[Site, Emulator], scheme: Any) -> None:
    with browser.new_context(base_url=served[1].url(""), color_scheme=scheme) as context:
        page = context.new_page()
        for path in PAGES:
            page.goto(path)
            if path in ("/", TENANT, STREAM):
                expect(page.locator("#chart canvas").first).to_be_visible()
            accessible(page)


def test_the_charts_range_and_integration_are_in_the_url_and_a_table_tells_the_same(page: Page) -> None:
    page.goto("/")
    page.get_by_label("Chart of").select_option("acme")
    page.get_by_role("button", name="Show").click()
    page.get_by_role("link", name="24 h").click()
    expect(page).to_have_url(re.compile(r"range=24h&integration=acme"))
    expect(page.locator("#chart canvas").first).to_be_visible()
    page.get_by_text("The chart as a table").click()
    rows = page.get_by_role("region", name="The chart as a table").locator("tbody tr")
    told = [int("".join(filter(str.isdigit, row.locator("td").nth(1).inner_text()))) for row in rows.all()]
    assert sum(told) >= 200
    page.locator("#chart .u-over").first.hover()
    expect(page.locator(".plot p").first).to_contain_text(re.compile(r"\d{4}-\d\d-\d\d"))


@pytest.mark.parametrize("path", [TENANT, STREAM])
def test_a_tenant_and_a_stream_have_charts_of_every_range_and_tables_beside_them(page: Page, path: str) -> None:
    page.goto(path)
    for name in ("1 h", "3 h", "24 h", "7 d", "90 d"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.locator(".ranges [aria-current]")).to_have_text(name)
        expect(page).to_have_url(re.compile(f"range={name.replace(' ', '')}.*tenant={DEFAULT_TENANT_ID}"))
        expect(page.locator("#chart canvas").first).to_be_visible()
        page.get_by_text("The chart as a table").click()
        rows = page.get_by_role("region", name="The chart as a table").locator("tbody tr")
        expect(rows.first).to_be_visible()
        assert fetched(page) >= 200


def fetched(page: Page) -> int:
    """The sum of the table's events."""
    cells = page.locator("#rows tr td:nth-child(2)").all_text_contents()
    return sum(int("".join(filter(str.isdigit, cell)) or 0) for cell in cells)


def test_when_the_health_changed_is_listed_where_it_concerns_and_drawn_below_the_chart(
    page: Page, served: tuple[Site, Emulator]
) -> None:
    page.goto("/")
    changes = page.get_by_role("heading", name="Health changes").locator("..")
    expect(changes.get_by_role("listitem").first).to_be_visible(timeout=60_000)
    told = page.request.get("/chart.json?range=1h").json()["health"]
    assert told
    assert told[-1][2] == (served[1].status() or {})["health"]
    assert all(begin < end for begin, end, _ in told)
    expect(page.locator("#chart .strip")).to_have_text(re.compile(r"Health.*well.*needs attention.*failing.*not known"))
    page.locator("#chart .u-over").first.hover()  # In its middle, which is after the first hour's half only by chance.
    expect(page.locator(".plot p").first).to_contain_text("UTC")


def test_the_table_beside_the_chart_renews_itself(page: Page, served: tuple[Site, Emulator]) -> None:
    page.goto(STREAM)
    before = fetched(page)
    served[0].central.emit(4)
    page.wait_for_function(
        """before => [...document.querySelectorAll("#rows td:nth-child(2)")].reduce(
        (sum, cell) => sum + Number(cell.textContent.replace(/\\D/g, "")), 0) >= before + 4""",
        arg=before,
    )


def test_every_page_works_without_script(browser: Browser, served: tuple[Site, Emulator]) -> None:
    with browser.new_context(base_url=served[1].url(""), java_script_enabled=False) as context:
        page = context.new_page()
        for path in PAGES:
            page.goto(path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert [each for each in page.locator("time").all_inner_texts() if not each.strip()] == [], path
        for path in ("/", TENANT, STREAM):
            page.goto(path)
            expect(page.locator("#chart svg rect").first).to_be_attached()
            page.get_by_text("The chart as a table").click()
            assert fetched(page) >= 200
            page.get_by_role("link", name="24 h").click()
            expect(page).to_have_url(re.compile("range=24h"))


def test_every_page_is_walked_through_with_the_keyboard(page: Page) -> None:
    for path in PAGES:
        page.goto(path)
        reachable = page.evaluate(
            """() => [...document.querySelectorAll("a[href],button,input,select,textarea,summary,[tabindex='0']")]
            .filter(each => each.checkVisibility() && !each.disabled && each.type !== "hidden").length"""
        )
        seen = set()
        for _ in range(reachable + 5):
            page.keyboard.press("Tab")
            told = page.evaluate(
                """() => { const here = document.activeElement;
                return here === document.body ? null : [here.dataset.walked ??= Math.random(),
                  getComputedStyle(here).outlineStyle]; }"""
            )
            if told is None:
                break
            seen.add(told[0])
            assert told[1] == "solid", path
        assert len(seen) >= reachable, path


def test_an_action_is_done_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/")
    row = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme")
    row.get_by_role("link", name="Pause").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Pause").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_contain_text("acme is paused.")
    page.get_by_role("link", name="Back").focus()
    page.keyboard.press("Enter")
    row.get_by_role("button", name="Resume").focus()
    page.keyboard.press("Space")
    expect(page.locator("#result")).to_contain_text("acme is fetched again.")


def test_run_now_and_a_reconciliation_of_all_end_in_a_sentence(page: Page) -> None:
    page.goto("/")
    page.get_by_role("region", name="Integrations").get_by_role("row", name="acme").get_by_role("button").first.click()
    expect(page.locator("#result")).to_contain_text("acme is polled now. New events show within seconds.")
    page.goto("/")
    page.get_by_role("link", name="Reconcile all integrations").click()
    expect(page.get_by_text("Reads the last 24 hours of every integration from Sophos again")).to_be_visible()
    page.get_by_role("button", name="Reconcile").click()
    expect(page.locator("#result")).to_contain_text("read again: none was missing.")


def test_a_tile_and_the_filters_lead_to_the_streams_by_url(page: Page) -> None:
    page.goto("/")
    page.locator(".tile", has_text="healthy").click()
    expect(page).to_have_url(re.compile("health=ok"))
    rows = page.get_by_role("region", name="Streams").locator("tbody tr")
    expect(rows).to_have_count(1)
    page.get_by_label("Search").fill("nobody")
    page.get_by_label("Search").press("Enter")
    expect(page).to_have_url(re.compile("q=nobody"))
    expect(page.get_by_text("No stream matches.")).to_be_visible()
    page.get_by_role("link", name="Clear").click()
    expect(page.get_by_role("link", name="events")).to_be_visible()
    page.locator(".tile.failing").click()
    expect(page.get_by_text("an integration has no stream yet: wrong")).to_be_visible()


def test_many_streams_are_sorted_filtered_and_turned_over(browser: Browser, tmp_path: Path) -> None:
    config = many.fill(tmp_path, 120)
    settings = yaml.safe_load(config.read_text())
    settings["integrations"] += [settings["integrations"][0] | {"name": f"other {number:02}"} for number in range(13)]
    config.write_text(yaml.safe_dump(settings))
    with many.served(config) as url, browser.new_context(base_url=url) as context:
        page = context.new_page()
        page.goto("/streams")
        rows = page.get_by_role("region", name="Streams").locator("tbody tr")
        expect(rows).to_have_count(50)
        expect(rows.first).to_contain_text("Birch & Sons 0007")
        expect(rows.first).to_contain_text("The credential lacks a permission")
        page.get_by_label("Sort").select_option("name")
        page.get_by_role("button", name="Show").click()
        expect(rows.first).to_contain_text("Alder Clinic 0000")
        page.get_by_role("link", name="Next →").click()
        expect(page.get_by_text("Page 2 of 3")).to_be_visible()
        expect(page).to_have_url(re.compile("sort=name.*page=2"))
        expect(rows.first).to_contain_text("Cedar Logistics 0062")
        page.get_by_role("link", name="← Previous").click()
        expect(rows.first).to_contain_text("Alder Clinic 0000")
        page.locator("[name=health]").select_option("failing")
        page.locator("[name=integration]").select_option("partner")
        page.locator("[name=kind]").select_option("events")
        page.get_by_role("button", name="Show").click()
        expect(page).to_have_url(re.compile("health=failing&integration=partner&kind=events"))
        expect(rows).to_have_count(1)
        page.locator("[name=integration]").select_option("other 00")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_text("No stream matches.")).to_be_visible()
        page.goto("/")
        integrations = page.get_by_role("region", name="Integrations").locator("tbody tr")
        expect(integrations).to_have_count(12)
        page.get_by_role("link", name="Show 2 more integrations").click()
        expect(integrations).to_have_count(14)
        page.locator(".reason").get_by_role("link", name="1 stream").click()
        expect(page.get_by_text("Only streams with the reason: The credential lacks a permission")).to_be_visible()
        expect(rows).to_have_count(1)
        page.get_by_role("link", name="Show all").click()
        expect(rows).to_have_count(50)


def test_gaps_and_dead_letters_are_turned_over(browser: Browser, tmp_path: Path) -> None:
    config, store = many.fill(tmp_path, 1), tmp_path / "store"
    stream, noticed = Stream("partner", f"{UUID(int=0)}", "events"), datetime.now(UTC)
    log = to_fields(Log("1", "sophos-central", "Acme", to_text(noticed), "1", b"[]"))
    letter = json.dumps(log | {"reason": "no object"}).encode() + b"\n"
    for number in range(1, 106):
        gap = Gap(stream, number, BATCH_MISSING, None, None, noticed, number)
        for key, body in ((gap.key, GAP.encode(gap)), (f"dead/{stream.path}/{number:020}.ndjson", letter)):
            (store / key).parent.mkdir(parents=True, exist_ok=True)
            (store / key).write_bytes(body)
    with many.served(config) as url, browser.new_context(base_url=url) as context:
        page = context.new_page()
        for path, name, count in (("/gaps", "Gaps", "105 gaps"), ("/dead-letters", "Dead letters", "in 105 objects")):
            page.goto(path)
            rows = page.get_by_role("region", name=name).locator("tbody tr")
            expect(rows).to_have_count(100)
            expect(page.locator("main")).to_contain_text(count)
            page.get_by_role("link", name="Next →").click()
            expect(page).to_have_url(re.compile(f"{path}.page=2"))
            expect(page.get_by_text("Page 2 of 2")).to_be_visible()
            expect(rows).to_have_count(5)
            page.wait_for_event("response", lambda answer: "/live" in answer.url)
            expect(rows).to_have_count(5)
            page.get_by_role("link", name="← Previous").click()
            expect(rows).to_have_count(100)


def test_a_pager_appears_by_itself_and_counts_on(browser: Browser, tmp_path: Path) -> None:
    config, store = many.fill(tmp_path, 50), tmp_path / "store"
    noticed, key = datetime.now(UTC), account_key("partner")
    stream = Stream("partner", "no longer read", "events")
    gaps = [Gap(stream, number, BATCH_MISSING, None, None, noticed, number) for number in range(1, 102)]
    for gap in gaps[:100]:
        (store / gap.key).parent.mkdir(parents=True, exist_ok=True)
        (store / gap.key).write_bytes(GAP.encode(gap))
    with many.served(config) as url, browser.new_context(base_url=url) as context:
        views = {path: context.new_page() for path in ("/streams", "/gaps")}
        for path, page in views.items():
            page.goto(path)
            expect(page.locator("main table tbody tr").last).to_be_visible()
            expect(page.get_by_role("navigation", name="Pages")).to_have_count(0)
        (store / gaps[100].key).write_bytes(GAP.encode(gaps[100]))
        account = ACCOUNT.decode((store / key).read_bytes())
        more = [replace(account.tenants[0], id=f"new-{number:012}", name=f"New {number}") for number in range(51)]
        (store / key).write_bytes(ACCOUNT.encode(replace(account, tenants=(*account.tenants, more[0]))))
        for page in views.values():
            expect(page.get_by_text("Page 1 of 2")).to_be_visible()
        views["/streams"].get_by_role("link", name="Next →").click()
        (store / key).write_bytes(ACCOUNT.encode(replace(account, tenants=(*account.tenants, *more))))
        expect(views["/streams"].get_by_text("Page 2 of 3")).to_be_visible()
        expect(views["/streams"].get_by_role("link", name="Next →")).to_have_attribute("href", "/streams?page=3")


COLUMNS_OF_COLOUR = """([selector, name]) => {
  const canvas = document.querySelector(selector), context = canvas.getContext("2d", {willReadFrequently: true});
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  const {data, width, height} = context.getImageData(0, 0, canvas.width, canvas.height);
  const columns = new Set();
  for (let at = 0; at < width * height; at++)
    if ([r, g, b, 255].every((value, part) => Math.abs(data[4 * at + part] - value) < 15)) columns.add(at % width);
  return columns.size / width;
}"""
"""The share of a canvas's columns in which a pixel has the colour of that name."""


LABELS = """window.labels = []; const write = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, ...more) {
  labels.push([text, this.textAlign === "right" ? x - this.measureText(text).width : x]);
  write.call(this, text, x, ...more);
}"""
"""Notes each label on a canvas, with its left edge."""


def test_the_first_minute_is_drawn_as_a_step(browser: Browser, tmp_path: Path) -> None:
    config, now = many.fill(tmp_path, 1), datetime.now(UTC).timestamp()
    for chart in (tmp_path / "store/charts").glob("*.json"):
        chart.unlink()
    day, stream = OpenDay(day_name(now), until=now), Stream("partner", f"00000000-0000-4000-8000-{0:012d}", "events")
    day.add(stream, now - 60, fetched=30, acked=30)
    day.samples[int(now) // 60 - 1] = {"partner": [40.0, 125_000, 60]}
    (tmp_path / f"store/charts/{day.day}.json").write_bytes(CHART_DAY.encode(day.stored()))
    with many.served(config) as url, browser.new_context(base_url=url) as context:
        page = context.new_page()
        page.add_init_script(LABELS)
        page.goto("/?range=1h")
        expect(page.locator("#chart canvas").first).to_be_visible()
        assert [text for text, left in page.evaluate("window.labels") if left < 0] == [], "a label is cut off"
        assert page.evaluate(COLUMNS_OF_COLOUR, ["#chart canvas", "--bar2"]) > 0.05, "a point in place of a minute"
        plot = page.locator("#chart .u-over").first
        plot.hover(position={"x": plot.evaluate("plot => plot.clientWidth") - 3, "y": 50})
        expect(page.locator(".plot p").first).to_contain_text(re.compile(r"Fetched 30 ■ Acknowledged 30 \d{4}-"))


def test_the_legend_stays_when_the_chart_is_drawn_again(page: Page, served: tuple[Site, Emulator]) -> None:
    page.clock.install()
    page.goto("/?range=1h")
    legends = {
        "Events a minute": r"■ Fetched.*■ Acknowledged",
        "Highest lag": "■ Lag",
        "Calls a minute": r"■ used.*■ steady limit",
    }

    def told() -> None:
        for title, legend in legends.items():
            plot = page.locator(".plot", has=page.get_by_role("heading", name=title))
            expect(plot.locator("p").first).to_have_text(re.compile(legend))

    def drawn_again() -> bool:
        page.clock.run_for(5_000)
        return page.locator("#chart [data-before]").count() == 0

    told()
    page.locator("#chart .plots").evaluate("plots => { plots.dataset.before = true }")
    served[0].central.emit(3)
    until(drawn_again, "another chart")
    told()


def test_a_connection_is_tested_before_ones_eyes_and_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/")
    page.get_by_role("row", name="acme").get_by_role("link", name="Test connection").first.click()
    page.get_by_role("button", name="Test now").click()
    expect(page.locator("#verdict")).to_have_text("Everything works.")
    expect(page.locator("#checks li").first).to_contain_text("ok")
    page.get_by_role("button", name="Copy as text for a ticket").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    text = page.evaluate("navigator.clipboard.readText()")
    assert text.startswith(f"Test connection: acme\nconnector {VERSION} at http://127.0.0.1")
    assert "\nEverything works.\n" in text
    assert "\nok · Client id and secret · " in text
    assert len(re.findall(r"\n(?:ok|skipped) ·", text)) == page.locator("#checks li").count()
    accessible(page)
    page.goto("/test?integration=wrong")
    page.get_by_role("button", name="Test now").press("Enter")
    expect(page.locator("#verdict")).to_have_text("Something does not work: Client id and secret.")
    expect(page.locator("#checks li.failed").first).to_contain_text("→")
    accessible(page)


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
            expect(page.locator("#verdict")).to_contain_text("It works, with a warning: ")
            expect(page.locator("#checks li.warning").first).to_contain_text("Shut (t-2)")


@pytest.mark.parametrize("script", [True, False])
def test_a_pause_says_what_it_does_asks_and_ends_in_a_sentence(
    browser: Browser, served: tuple[Site, Emulator], script: bool
) -> None:
    with browser.new_context(base_url=served[1].url(""), java_script_enabled=script) as context:
        page = context.new_page()
        page.goto("/")
        row = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme")
        row.get_by_role("link", name="Pause").click()
        expect(page.get_by_text("Sophos keeps events for 24 hours")).to_be_visible()
        page.get_by_role("link", name="Cancel").click()
        expect(row).not_to_contain_text("paused")
        row.get_by_role("link", name="Pause").click()
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#result")).to_contain_text("acme is paused.")
        page.get_by_role("link", name="Back").click()
        expect(row).to_contain_text("paused for")
        expect(page.locator(".reason", has_text="Paused by an operator")).to_be_visible()
        row.get_by_role("button", name="Resume").click()
        expect(page.locator("#result")).to_contain_text("acme is fetched again.")
        page.get_by_role("link", name="Back").click()
        expect(row).to_contain_text("collecting")


def test_reconciling_shows_progress_and_ends_in_a_sentence(page: Page) -> None:
    page.goto("/")
    row = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme")
    row.get_by_role("link", name="Reconcile").click()
    expect(page.get_by_text("compares every event with the ledger")).to_be_visible()
    page.get_by_role("button", name="Reconcile").click()
    expect(page.locator("#result")).to_contain_text("read again: none was missing.")
    accessible(page)


def test_a_replay_asks_and_ends_in_a_sentence(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="Replay").click()
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#result")).to_contain_text(
        re.compile(r"events of \d+ batch(es)? sent again\."), timeout=30_000
    )


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
        "This page was loaded before the emulator started. Load the page again, and repeat what you did."
    )


def test_a_refused_action_says_why_to_a_person(refused: Page) -> None:
    refused.goto("/confirm/pause?integration=acme")
    refused.get_by_role("button", name="Pause").click()
    expect(refused.get_by_role("heading", level=1)).to_have_text("The page is out of date")
    expect(refused.get_by_text("Load the page again")).to_be_visible()
    accessible(refused)


def test_news_arrive_by_themselves_and_leave_the_focus_where_it_is(page: Page, served: tuple[Site, Emulator]) -> None:
    page.goto("/")
    button = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme").get_by_role("button")
    button.first.focus()
    page.get_by_role("region", name="Integrations").evaluate("region => { region.mine = true }")
    before = page.locator(".sum dd").first.inner_text()
    served[0].central.emit(3)
    expect(page.locator(".sum dd").first).not_to_have_text(before)
    assert button.first.evaluate("button => button === document.activeElement")
    page.emulate_media(media="print")  # On paper, what is relative says to which time.
    told = "updated => [updated.dateTime, updated.title, getComputedStyle(updated, '::after').content]"
    at, title, printed = page.locator("#updated").evaluate(told)
    assert title == f"{at[:10]} {at[11:19]} UTC"
    assert title in printed
    assert page.get_by_role("region", name="Integrations").evaluate("region => region.mine")


def test_only_what_changed_is_sent_and_never_the_page(page: Page) -> None:
    asked: list[Request] = []

    def note(request: Request) -> None:
        asked.append(request)

    page.on("request", note)
    page.goto("/gaps")
    for _ in range(3):
        page.wait_for_event("response", lambda answer: "/live" in answer.url)
    live = [each for each in asked if "/live" in each.url]
    assert [each.url for each in asked if each.is_navigation_request()] == [page.url]
    answers = [each.response() for each in live]
    assert all(each is not None and each.headers["etag"] for each in answers)


def test_a_tab_that_nobody_sees_asks_nothing(page: Page) -> None:
    page.clock.install()
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.unseen === true })")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/")
    with page.expect_response(re.compile("/live")):
        page.clock.run_for(1_500)
    page.evaluate("window.unseen = true")
    page.clock.run_for(5_000)
    asked.clear()
    page.clock.run_for(120_000)
    assert asked == []
    with page.expect_response(re.compile("/live")):
        page.evaluate("window.unseen = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_a_connector_that_is_gone_is_told_over_everything_at_once(browser: Browser) -> None:
    with site() as found:
        emulator = Emulator(found)
        try:
            until(lambda: emulator.status() is not None, "the page")
            with browser.new_context(base_url=emulator.url("")) as context:
                page = context.new_page()
                page.goto("/")
                expect(page.locator("#stale")).to_be_hidden()
                page.get_by_role("button", name="Run now").focus()
                emulator.kill()
                expect(page.locator("#stale")).to_be_visible(timeout=15_000)
                expect(page.locator("#stale")).to_contain_text(re.compile(r"not answered since \d\d:\d\d:\d\d UTC"))
                expect(page.locator(".pillbox")).to_be_hidden()
                top = "document.elementFromPoint(innerWidth / 2, 5).closest('#stale') !== null"
                page.evaluate("scrollTo(0, 400)")
                assert page.evaluate(top)
                accessible(page)
                context.grant_permissions(["clipboard-read", "clipboard-write"])
                page.get_by_role("button", name="Copy as text for a ticket").click()
                expect(page.get_by_role("button", name="Copied")).to_be_visible()
                text = page.evaluate("navigator.clipboard.readText()")
                assert text.startswith(f"The connector does not answer\nconnector {VERSION} at {emulator.url('/')}")
                assert "\nwhat the browser says: Failed to fetch\n" in text
        finally:
            if emulator.process.poll() is None:
                emulator.kill()


def test_a_gap_appears_by_itself_is_explained_and_acknowledged(page: Page, served: tuple[Site, Emulator]) -> None:
    page.goto("/gaps")
    expect(page.get_by_text("None: everything that Sophos served has been stored.")).to_be_visible()
    served[0].central.clock.advance(30 * 3600)
    served[0].central.emit(1)
    expect(page.get_by_role("region", name="Gaps").locator("tbody tr")).to_have_count(1)
    accessible(page)
    page.goto("/")
    reason = page.locator(".reason", has_text="Events can no longer be fetched")
    reason.get_by_role("link", name="acme · events").click()
    expect(page.get_by_text("did not read for more than 24 hours. Sophos keeps events for 24 hours.")).to_be_visible()
    expect(page.get_by_role("region", name="Last receipts").get_by_role("row")).not_to_have_count(1)
    expect(page.locator("pre").first).to_contain_text("{")
    accessible(page)
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#result")).to_contain_text("Acknowledged.")
    page.get_by_role("link", name="Back").click()
    expect(page.get_by_text("by page")).to_be_visible()
    page.goto("/")
    expect(page.locator(".reason", has_text="Events can no longer be fetched")).to_have_count(0)
    with page.expect_download() as download:
        page.goto("/gaps")
        page.get_by_role("link", name="CSV").click()
    assert "cursor_expired" in download.value.path().read_text()
    exported = page.request.get(str(page.get_by_role("link", name="JSON").get_attribute("href"))).json()
    assert [gap["reason"] for gap in exported] == ["cursor_expired"]


def test_a_dead_letter_shows_its_reason_and_is_sent_again_or_acknowledged(
    page: Page, served: tuple[Site, Emulator]
) -> None:
    served[0].central.append(DEFAULT_TENANT_ID, "events", [b'"no object"'])
    page.goto("/dead-letters")
    rows = page.get_by_role("region", name="Dead letters").locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("1 × not a JSON object, or nested too deep")
    accessible(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert "not a JSON object" in download.value.path().read_text()
    exported = page.request.get(str(page.get_by_role("link", name="JSON").get_attribute("href"))).json()
    assert [letter["events"] for letter in exported] == [1]
    rows.get_by_role("link", name="Replay").click()
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("#result")).to_contain_text("1 event refused, as before")
    page.get_by_role("link", name="Back").click()
    rows.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#result")).to_contain_text("Acknowledged.")
    page.get_by_role("link", name="Back").click()
    expect(rows).to_contain_text("by page")
    page.goto(STREAM)
    page.locator(".dead summary").click()
    expect(page.locator(".dead pre")).to_contain_text("no object")


@pytest.mark.parametrize("script", [True, False])
def test_a_days_word_leads_to_its_numbers(browser: Browser, script: bool) -> None:
    ago = datetime.now(UTC) - timedelta(days=2)
    day = f"{ago:%Y-%m-%d}"
    with CentralServer(clock=Clock(start=ago.timestamp())) as central, site(central, every="1h") as found:
        central.emit(4)
        central.append(DEFAULT_TENANT_ID, "events", [b'"no object"'])
        found.results("fetch-page")
        found.results("forward-batch")
        for _ in range(3):  # What is not read to the end of the day is not known to be complete.
            central.clock.advance(16 * 3600)
            found.results("fetch-page")
        with Emulator(found) as emulator:
            until(lambda: emulator.status() is not None, "the page")
            url = emulator.url("")
            with browser.new_context(base_url=url, java_script_enabled=script, reduced_motion="reduce") as context:
                page = context.new_page()
                page.goto("/")
                page.get_by_role("link", name="day by day").click()
                cell = page.locator(f"a[href='/day?day={day}']")
                expect(cell).to_contain_text("dead letters")
                expect(page.locator(".days li")).to_have_count(3)
                expect(page.get_by_role("region", name="Proposed settings")).to_contain_text("came late")
                if script:
                    accessible(page)
                cell.click()
                expect(page.get_by_role("heading", level=1)).to_have_text(day)
                expect(page.get_by_role("status")).to_contain_text("80.0000 % of the day’s events are acknowledged")
                expect(page.get_by_role("region", name="Streams").locator("tbody tr")).to_have_count(1)
                remark = page.locator(".note.attention", has_text="1 event is a dead letter")
                expect(remark).to_have_text("acme · events: 1 event is a dead letter")
                if script:
                    accessible(page)
                    page.emulate_media(color_scheme="dark")
                    accessible(page)


@pytest.mark.parametrize("script", [True, False])
def test_a_warning_about_a_credential_and_a_damaged_object_are_acknowledged(browser: Browser, script: bool) -> None:
    announced = datetime.now(UTC) - timedelta(days=1)
    with site(every="1h") as found:
        account = Account(life=Life(end_announced=announced))
        found.state.store.write(account_key("acme"), ACCOUNT.encode(account), expected=ABSENT)
        found.state.store.write("gaps/damaged.json", b"[]", expected=ABSENT)
        with Emulator(found) as emulator:
            until(lambda: bool((emulator.status() or {}).get("streams")), "the first tick")
            with browser.new_context(base_url=emulator.url(""), java_script_enabled=script) as context:
                page = context.new_page()
                page.goto("/")
                reason = page.locator(".reason", has_text="about to end")
                for text in ("gaps/damaged.json", "Sophos announced on"):
                    expect(page.get_by_text(text)).to_have_count(1)
                reason.get_by_role("button", name="Acknowledge").click()
                expect(page.locator("#result")).to_contain_text("Acknowledged.")
                page.get_by_role("link", name="Back").click()
                reason = page.locator(".reason")
                expect(reason).to_have_count(1)
                damage = reason.locator(".row", has_text="gaps/damaged.json")
                damage.get_by_role("button", name="Acknowledge").click()
                expect(page.locator("#result")).to_contain_text("Acknowledged.")
                page.get_by_role("link", name="Back").click()
                expect(reason).to_have_count(0)
                row = page.get_by_role("region", name="Integrations").get_by_role("row", name="acme")
                expect(row).to_contain_text("is about to end; acknowledged")
                if script:
                    accessible(page)
        found.command("warnings")


FILTER = """
pipeline:
  - dataTypes: [sophos-central]
    steps:
      - json: {source: raw}
      - rename: {from: [log.location], to: target.host}
      - dynamic: {plugin: com.utmstack.geolocation, params: {source: origin.ip, destination: origin.geolocation}}
"""
RULES = """
- {name: Every event, dataTypes: [sophos-central], where: exists("log.type")}
- {name: No such field, dataTypes: [sophos-central], where: exists("log.no_such_field")}
- name: Twice
  dataTypes: [sophos-central]
  where: exists("log.type")
  afterEvents:
    - {indexPattern: v11-log-*, with: [{field: log.type, operator: filter_term, value: a}], within: 5m, count: 2}
"""


@pytest.mark.parametrize("script", [True, False])
def test_a_preview_shows_what_filter_and_rules_make_of_the_stored_events(
    browser: Browser, served: tuple[Site, Emulator], script: bool
) -> None:
    url = served[1].url("")
    with browser.new_context(base_url=url, java_script_enabled=script, reduced_motion="reduce") as context:
        page = context.new_page()
        page.goto("/")
        page.get_by_role("navigation", name="Main").get_by_role("link", name="Preview").click()
        expect(page.get_by_text("not UTMStack’s closed engine")).to_be_visible()
        page.get_by_label("Filter, as").fill(FILTER)
        page.locator("[name=rules_file]").set_input_files(
            FilePayload(name="mine.yml", mimeType="text/yaml", buffer=RULES.encode())
        )
        page.get_by_role("button", name="Preview").click()
        expect(page.locator("#result")).to_contain_text(
            re.compile(r"\d+ events: 2 of 3 rules matched, 1 can never match here\."), timeout=60_000
        )
        rules = page.get_by_role("region", name="Rules")
        expect(rules.get_by_role("row", name="No such field")).to_contain_text("never: no event has the field")
        expect(rules.get_by_role("row", name="Every event")).to_contain_text("alert")
        expect(rules.get_by_role("row", name="Twice")).to_contain_text("candidate")
        expect(rules.get_by_role("row", name="Twice")).to_contain_text("mine.yml")
        rules.get_by_role("row", name="Every event").locator("summary").click()
        expect(rules.get_by_role("row", name="Every event").locator("pre")).to_contain_text('"type"')
        types = page.get_by_role("region", name="Event types and their fields")
        types.locator("summary").first.click()
        expect(types.locator("details[open]")).to_contain_text("log.type")
        expect(page.get_by_role("region", name="Not evaluated")).to_contain_text("dynamic")
        expect(page.get_by_label("Filter, as")).to_have_value(re.compile("geolocation"))
        if script:
            accessible(page)
            page.emulate_media(color_scheme="dark")
            accessible(page)


def test_a_preview_of_what_is_no_filter_names_the_line_and_keeps_what_was_written(page: Page) -> None:
    page.goto("/preview")
    page.get_by_label("Filter, as").fill("pipeline:\n  - steps: [\n")
    page.get_by_label("Rules, as").fill(RULES)
    page.get_by_label("Events").select_option("simulator")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#result")).to_contain_text(
        re.compile(r"✖ filter.yml, line \d+: is not valid YAML"), timeout=60_000
    )
    accessible(page)
    page.reload()
    expect(page.get_by_label("Rules, as")).to_have_value(re.compile("Every event"))


def test_the_settings_tell_what_is_in_force_and_no_secret(page: Page) -> None:
    page.goto("/settings")
    page.get_by_text("integration wrong").click()
    for text in ("forward-batch", "At 2.0 GiB fetching pauses", "archive", "waitress", "README.md"):
        expect(page.get_by_text(text).first).to_be_visible()
    expect(page.locator(".log li").first).to_be_visible()
    for secret in (SECRET, "no-such-secret"):
        assert secret not in page.content()
    expect(page.get_by_text("•••••• (from an environment variable)").first).to_be_attached()
    page.locator("a[href='/docs/operations.md']").click()
    expect(page.get_by_text("dead-letters").first).to_be_attached()


def test_everything_is_reached_with_the_keyboard(page: Page) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Settings":
            break
        outline = page.evaluate(
            "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle"
        )
        assert outline in (True, "solid")
    names = page.evaluate(
        "[...document.querySelectorAll('a,button,input,select,summary')].filter(e => e.tabIndex < 0).length"
    )
    assert names == 0


def test_it_is_dark_where_wanted_fits_a_phone_and_prints_without_buttons(
    browser: Browser, served: tuple[Site, Emulator]
) -> None:
    with browser.new_context(
        base_url=served[1].url(""), color_scheme="dark", viewport={"width": 360, "height": 740}
    ) as context:
        page = context.new_page()
        for path in PAGES:
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 27)"
        page.goto("/streams")
        expect(page.locator("tbody tr").first).to_have_css("display", "grid")  # Asked again if a look replaces the row.
        accessible(page)
        page.emulate_media(media="print")
        page.goto("/")
        expect(page.get_by_role("navigation", name="Main")).to_be_hidden()
        expect(page.get_by_role("button", name="Run now").first).to_be_hidden()
        expect(page.get_by_role("heading", level=1)).to_be_visible()


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
    assert set(raws) - own <= set(served[0].central.raws(DEFAULT_TENANT_ID)) | {b'"no object"'}
