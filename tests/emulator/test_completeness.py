"""The page tells of each of the last 90 days what became of its events, and counts a day once."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import requests

from emulator.central import DEFAULT_TENANT_ID, CentralServer, Clock
from emulator.web.completeness import PREFIX, gaps_by_day
from emulator.web.counted_days import FINAL, counted_day
from emulator.web.status import RecordedGap
from lib.model.clock import day_of
from lib.model.stream import Stream
from lib.pipeline.attest import statement
from lib.state.gaps import BATCH_MISSING, CURSOR_EXPIRED, Gap
from tests.site import Emulator, Site, site, until

STREAM = Stream("acme", DEFAULT_TENANT_ID, "events")
DAY = timedelta(days=1)
BEGAN = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - 5 * DAY


def day(back: int) -> str:
    return day_of(datetime.now(UTC) - back * DAY)


@pytest.fixture
def served() -> Iterator[tuple[Site, Emulator]]:
    """Five days ago all went well, four days ago there was a dead letter, and then nobody read on."""
    with CentralServer(clock=Clock(start=BEGAN.timestamp())) as central, site(central, every="1h") as found:
        central.emit(30)
        found.results("fetch-page")
        found.results("forward-batch")
        central.clock.advance(DAY.total_seconds())
        central.emit(9)
        central.append(DEFAULT_TENANT_ID, "events", [b'"no object"'])
        found.results("fetch-page")
        found.results("forward-batch")
        central.clock.advance(DAY.total_seconds())
        found.results("fetch-page")
        start = datetime.fromisoformat(f"{day(3)}T10:00:00+00:00")
        found.state.gaps.record(Gap(STREAM, 9, CURSOR_EXPIRED, start, start + timedelta(hours=1), start + DAY, 12))
        with Emulator(found) as emulator:
            until(lambda: emulator.status() is not None, "the page")
            until(lambda: len(cells(emulator)) == 5, "the days since the first receipt, read after the start")
            yield found, emulator


def cells(emulator: Emulator) -> list[tuple[str, str]]:
    shown = requests.get(emulator.url("/completeness"), timeout=30).text
    return re.findall(r'href="/day\?day=([^"]+)".*?</span> ([^<]+)</span></a>', shown)


def words(emulator: Emulator) -> dict[str, str]:
    """The strip: days by their word, without those on which nothing happened."""
    found = cells(emulator)
    assert len(found) == 5
    return {name: word for name, word in found if word != "no event"}


def counted(emulator: Emulator) -> dict[str, str]:
    until(lambda: "not counted" not in words(emulator).values() and bool(words(emulator)), "every day")
    return words(emulator)


def test_each_day_says_in_a_word_what_became_of_it_and_leads_to_its_numbers(served: tuple[Site, Emulator]) -> None:
    _, emulator = served
    assert counted(emulator) == {
        day(5): "whole",
        day(4): "dead letters",
        day(3): "gap",
        **dict.fromkeys((day(2), day(1)), "not read to the end"),
    }
    shown = html.unescape(requests.get(emulator.url(f"/day?day={day(4)}"), timeout=30).text)
    assert "90.0000 % of the day’s events are acknowledged" in shown
    assert "<dt>Received</dt><dd>10</dd>" in shown
    assert "1 event is a dead letter" in shown
    assert "not known" in requests.get(emulator.url(f"/day?day={day(3)}"), timeout=30).text
    assert requests.get(emulator.url("/day?day=1999-01-01"), timeout=30).status_code == 404
    overview = requests.get(emulator.url("/"), timeout=30).text
    assert "Of the last 90 days: 1 whole, 1 with a gap, 1 with dead letters, 2 not read to the end" in overview


def test_settings_are_proposed_with_the_reason(served: tuple[Site, Emulator]) -> None:
    _, emulator = served
    counted(emulator)
    shown = html.unescape(requests.get(emulator.url("/completeness"), timeout=30).text)
    assert "<code>settle</code>" in shown
    assert re.search(r"0 of \d+ events came late: under 0\.1%", shown)


def test_a_day_that_is_over_is_counted_once_and_again_where_another_gap_touches_it(
    served: tuple[Site, Emulator],
) -> None:
    found, emulator = served
    counted(emulator)
    made = {entry.key: entry.generation for entry in found.state.store.list(PREFIX)}
    assert {key.removeprefix(PREFIX) for key in made} >= {f"{day(back)}.json" for back in (5, 4, 3, 2, 1)}
    start = datetime.fromisoformat(f"{day(5)}T10:00:00+00:00")
    found.state.gaps.record(Gap(STREAM, 10, CURSOR_EXPIRED, start, start + timedelta(hours=1), datetime.now(UTC), 3))
    until(lambda: words(emulator).get(day(5)) == "gap", "the day with its new gap")
    now = {entry.key: entry.generation for entry in found.state.store.list(PREFIX)}
    final = {f"{PREFIX}{day(back)}.json" for back in (4, 3)}
    assert {key: now[key] for key in final} == {key: made[key] for key in final}


def test_a_day_is_final_once_nothing_can_change_it(served: tuple[Site, Emulator]) -> None:
    found, _ = served
    over = datetime.fromisoformat(f"{day(5)}T00:00:00+00:00") + DAY
    for now, is_final in ((over + FINAL / 2, False), (over + 2 * FINAL, True)):
        told = statement(found.state, day(5), now=now, measured=(), versions={}, key="")
        assert counted_day(told, "", now).final is is_final
        waits = json.loads(json.dumps(told))
        waits["totals"] |= {"waiting": 1, "gaps": 0}
        assert counted_day(waits, "", now).final is False
        assert counted_day(waits, "", now).kind == "waiting"


def test_a_gap_touches_every_day_of_its_interval_and_a_lost_batch_that_of_its_notice() -> None:
    start, end, noticed_at = (datetime(2026, 3, day, hour, tzinfo=UTC) for day, hour in ((1, 23), (3, 1), (9, 0)))
    gap = Gap(STREAM, 1, CURSOR_EXPIRED, start, end, noticed_at, 3)
    lost = Gap(STREAM, 2, BATCH_MISSING, None, None, noticed_at, 3)
    touched = gaps_by_day({STREAM: [RecordedGap(gap, None), RecordedGap(lost, None)]})
    assert sorted(touched) == ["2026-03-01", "2026-03-02", "2026-03-03", "2026-03-09"]
    assert touched["2026-03-01"] == touched["2026-03-02"] != touched["2026-03-09"]
    more = {STREAM: [RecordedGap(replace(gap, estimated=4), None)]}
    assert gaps_by_day(more)["2026-03-01"] != touched["2026-03-01"]
