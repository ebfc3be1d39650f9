"""Search, filters, order, pages and charts of the operator's page."""

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from emulator.web.actions import local
from emulator.web.chart_days import CHART_DAY, Day, OpenDay, Samples, begin_of, day_from_body, together
from emulator.web.charts import (
    DAY,
    HOUR,
    ONGOING,
    OUTAGE,
    RANGES,
    Mark,
    Range,
    Scope,
    StreamSamples,
    bucketed,
    counts_of,
    day_name,
    days_of,
    joined,
    samples_of,
    within,
)
from emulator.web.exports import FORMULA, _cell
from emulator.web.formatting import coded, pretty, seconds, split_remark
from emulator.web.listing import HEALTHS, SORTS, Query, ResultPage, find, labelled, ordered, select, tiles, waits
from emulator.web.settings import value_text
from lib.config.secrets import Reference
from lib.model.stream import Stream

LINES: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.fixed_dictionaries(
        {
            "integration": st.sampled_from(["acme", "msp"]),
            "tenant": st.text("0123456789abcdef-", min_size=4, max_size=8),
            "tenant_name": st.sampled_from(["", "Alder Clinic", "Übung GmbH"]),
            "stream": st.sampled_from(["events", "alerts"]),
            "state": st.sampled_from(["fetched", "retired"]),
            "health": st.sampled_from(["ok", "attention", "failing"]),
            "lag_seconds": st.none() | st.floats(0, 1e6),
            "events": st.integers(0, 10**9),
            "pending_bytes": st.integers(0, 10**9),
            "last_event": st.none() | st.just("2026-11-26T00:00:00.000000Z"),
            "gaps": st.lists(st.just({}), max_size=1),
            "set_aside": st.integers(0, 2),
        },
        optional={"problem": st.just({"code": "over_budget"})},
    ),
    max_size=40,
)
QUERIES = st.builds(
    Query,
    q=st.sampled_from(["", "alder", "über", "0 a", "ACME events"]),
    health=st.sampled_from(["", *HEALTHS]),
    integration=st.sampled_from(["", "acme"]),
    kind=st.sampled_from(["", "alerts"]),
    sort=st.sampled_from(SORTS),
    page=st.integers(1, 9),
)


def searched(lines: list[dict[str, Any]], query: Query) -> ResultPage:
    labels = labelled({"streams": lines, "integrations": [], "reasons": []})
    return find(ordered(labels, query.sort), query, 7)


@given(LINES, QUERIES)
def test_the_pages_of_a_query_hold_each_stream_that_it_asks_for_once(lines: list[dict[str, Any]], query: Query) -> None:
    numbered = [line | {"number": number} for number, line in enumerate(lines)]
    wanted = [line["number"] for line in numbered if _is_wanted(line, query)]
    pages = [searched(numbered, replace(query, page=1 + at)) for at in range(1 + len(lines) // 7)]
    shown = [line["number"] for at, page in enumerate(pages, 1) if page.page == at for line in page.lines]
    assert sorted(shown) == wanted
    assert {page.total for page in pages} == {len(wanted)}
    assert all(len(page.lines) <= 7 for page in pages)


def _is_wanted(line: dict[str, Any], query: Query) -> bool:
    """What a person means by the query, filter by filter."""
    means = {
        "": True,
        "retired": True,
        "waiting": line["health"] == "ok" and "problem" in line,
        "gaps": line["gaps"] != [],
        "dead_letters": line["set_aside"] > 0,
    }
    text = " ".join(line[key] for key in ("integration", "tenant_name", "tenant", "stream")).casefold()
    return (
        (line["state"] == "retired") == (query.health == "retired")
        and line["integration"] in (query.integration or line["integration"])
        and line["stream"] in (query.kind or line["stream"])
        and means.get(query.health, line["health"] == query.health)
        and all(word in text for word in query.q.casefold().split())
    )


def test_a_stream_tells_the_worst_reason_that_concerns_it() -> None:
    place = {"integration": "acme", "stream": "events", "tenant_name": ""}
    lines = [{**place, "tenant": tenant, "health": health} for tenant, health in (("t", "failing"), ("u", "ok"))]
    reasons = [
        {"title": "The engine takes no events", "streams": []},
        {"title": "The credential lacks a permission", "streams": ["acme/t/events"]},
        {"title": "Events can no longer be fetched", "streams": ["acme/t/events", "acme/u/events"]},
    ]
    found = labelled({"streams": lines, "integrations": [], "reasons": reasons})
    assert [line["why"] for line in found] == ["The credential lacks a permission", None]


@given(QUERIES)
def test_a_query_is_all_in_its_url(query: Query) -> None:
    split = urlsplit(query.url(page=query.page))
    assert (split.path, Query.of(dict(parse_qsl(split.query)))) == ("/streams", query)


@given(st.dictionaries(st.sampled_from(["page", "sort", "health", "q"]), st.text(max_size=30)))
@example({"page": "0"})
def test_a_url_that_means_nothing_is_the_first_page_of_everything(arguments: dict[str, str]) -> None:
    query = Query.of(arguments)
    assert query.page >= 1
    assert query.sort in SORTS
    assert find([], query).pages == 1


@given(LINES)
def test_trouble_comes_first_then_the_largest_lag(lines: list[dict[str, Any]]) -> None:
    found = ordered(lines, "trouble")
    badness = [["ok", "attention", "failing"].index(line["health"]) for line in found]
    assert badness == sorted(badness, reverse=True)
    healthy = [line["lag_seconds"] or 0.0 for line in found if line["health"] == "ok" and "problem" not in line]
    assert healthy == sorted(healthy, reverse=True)


@given(LINES)
def test_the_tiles_count_what_their_filters_show(lines: list[dict[str, Any]]) -> None:
    status = {"streams": lines, "integrations": [], "gaps": 0, "set_aside": 0}
    found = tiles(status)
    for health in ("failing", "attention", "ok", "waiting"):
        assert found[health] == len(select(lines, Query(health=health)))
    assert found["waiting"] == sum(waits(line) for line in lines if line["state"] != "retired")


ONE = Stream("acme", "t-1", "events")
WHOLE = Scope()


def chart(
    days: Sequence[Day], chosen: Range, now: float, scope: Scope = WHOLE, **options: float
) -> dict[str, list[Any]]:
    of_streams = [day.of(stream).figures(begin_of(day.day)) for day in days for stream in scope.streams]
    if of_streams:
        of_all = chain.from_iterable(day.counts for day in of_streams)
        return bucketed(of_all, together(day.samples for day in of_streams), chosen=chosen, now=now)
    counts = counts_of((day.minutes for day in days), scope.integration)
    samples = samples_of((day.samples for day in days), scope.integration)
    return bucketed(counts, samples, chosen=chosen, now=now, **options)


@given(st.lists(st.tuples(st.integers(0, 3 * 3600 - 60), st.integers(0, 500), st.integers(0, 500)), max_size=50))
def test_a_chart_holds_each_event_of_its_range_once(counted: list[tuple[int, int, int]]) -> None:
    now = 1_800_000_000.0
    days = {name: OpenDay(name) for name in days_of(RANGES["3h"], now)}
    for back, fetched, acked in counted:
        at = now - back
        days[day_name(at)].add(ONE, at, fetched=fetched, acked=acked)
    kept = [day_from_body(CHART_DAY.encode(each.stored())) for each in days.values()]
    for name in ("3h", "24h", "7d", "90d"):
        chosen = RANGES[name]
        found = chart(kept, chosen, now)
        minutes = chosen.step / 60
        assert abs(sum(found["fetched"]) * minutes - sum(each[1] for each in counted)) <= 0.005 * minutes * len(
            found["t"]
        )
        assert found["t"] == sorted(found["t"])
        if chosen.step >= HOUR:
            assert chart([each.coarse() for each in kept], chosen, now) == found
    for scope in (Scope("acme", "t-1"), Scope("acme", "t-1", "events")):
        of_stream = chart(kept, RANGES["24h"], now, scope)
        assert of_stream["acked"] == chart(kept, RANGES["24h"], now)["acked"]
    assert not any(chart(kept, RANGES["24h"], now, Scope("acme", "t-1", "alerts"))["acked"])


def test_what_was_before_anything_is_known_is_no_zero() -> None:
    now = 10 * DAY + 3600.0
    found = chart([], RANGES["1h"], now, known_since=now - 600)
    assert [found["fetched"].count(None), found["fetched"].count(0)] == [49, 11]


def test_of_an_older_layout_only_the_samples_count() -> None:
    fields = {"day": "1970-01-11", "until": 5.0, "samples": {"1": {"acme": [1.0, 2, 3]}}}
    counts = {"minutes": {"acme": {"14400": [3, 0]}}, "hours": {"acme": {"t-1": {"240": [3, 0]}}}}
    older = day_from_body(json.dumps({"layout": 1, **fields, **counts}).encode())
    assert (older.until, older.minutes, older.streams) == (0.0, {}, {})
    assert older.samples == {1: {"acme": [1.0, 2, 3]}}


def test_a_day_of_layout_2_keeps_the_hours_of_its_streams() -> None:
    fields = {"layout": 2, "day": "1970-01-11", "until": 5.0, "samples": {}, "minutes": {"acme": {"14460": [3, 2]}}}
    older = day_from_body(json.dumps(fields | {"hours": {"acme": {"t-1/events": {"241": [3, 2]}}}}).encode())
    now = 10 * DAY + 3 * 3600.0
    for scope in (WHOLE, Scope("acme", "t-1", "events")):
        assert sum(filter(None, chart([older], RANGES["24h"], now, scope)["acked"])) == 0.2
    assert not any(chart([older], RANGES["24h"], now, Scope("acme", "t-2", "events"))["acked"])


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 900), st.integers(0, 9000), st.integers(0, 9))), max_size=5
    )
)
def test_the_samples_of_a_tenant_are_the_worst_lag_and_the_sums_of_its_streams(
    taken: list[list[tuple[int, int, int, int]]],
) -> None:
    samples, expected, day = StreamSamples(), [], OpenDay("1970-01-01")
    streams = [Stream("acme", f"t-{number // 2}", ("events", "alerts")[number % 2]) for number in range(6)]
    for minute, lines in enumerate(taken):
        seen = {number: figures for number, *figures in lines}
        figures = array("f", [value for of_stream in seen.values() for value in of_stream])
        samples.take(minute, [streams[number] for number in seen], figures)
        day.sample(Samples(minute, {}, [streams[number] for number in seen], figures))
        own = [seen[number] for number in (2, 3) if number in seen]
        if own:
            lags, waiting, calls = zip(*own, strict=True)
            expected.append((minute * 60, [float(max(lags)), float(sum(waiting)), float(sum(calls))]))
    assert sorted(together(samples.of(stream) for stream in streams[2:4])) == expected
    stored = day_from_body(CHART_DAY.encode(day.stored()))
    for at, sample in together([stored.of(streams[2]).figures(0).samples]):
        of_stream = [figures for minute, figures in samples.of(streams[2])]
        assert (at, sample) == (0, [max(figures[at] for figures in of_stream) for at in range(3)])


def test_a_buckets_sample_is_its_worst() -> None:
    now = 10 * DAY + 3600.0
    samples = {
        int(now) // 60 - 5: {"acme": [10.0, 100, 3], "msp": [70.0, 1, 1]},
        int(now) // 60 - 4: {"acme": [1.0, 900, 9]},
    }
    day = Day(day_name(now), samples=samples)
    found = chart([day], RANGES["24h"], now)
    assert [(found["lag"][at], found["waiting"][at], found["calls"][at]) for at in (-2,)] == [(70.0, 900, 9)]
    assert found["lag"][-30] is None


def test_an_outage_that_two_saw_is_one_mark() -> None:
    seen = [Mark("outage", 0, 100, OUTAGE), Mark("restart", 50, 50, "started"), Mark("outage", 900, 950, ONGOING)]
    more = [Mark("outage", 130, 200, OUTAGE), Mark("restart", 50, 50, "started"), Mark("outage", 870, 980, ONGOING)]
    assert [(each.kind, each.begin, each.end) for each in joined(seen, more)] == [
        ("outage", 0, 200),
        ("restart", 50, 50),
        ("outage", 870, 980),
    ]
    down = Mark("outage", 0, 100, "The connector was not running")
    assert len(joined(seen, [down, Mark("restart", 51, 51, "started")])) == 5


def test_marks_are_those_that_the_range_touches() -> None:
    marks = [
        Mark("gap", 0, 10, "before"),
        Mark("outage", 50, 90_000, "into it"),
        Mark("restart", 99_000, 99_000, "in it"),
    ]
    assert [each.text for each in within(marks, RANGES["3h"], 100_000)] == ["into it", "in it"]


@given(st.text(max_size=60))
def test_nobody_is_led_elsewhere_after_an_action(path: str) -> None:
    found = urlsplit(local(path))
    assert (found.scheme, found.netloc) == ("", "")
    assert local(path).startswith("/")
    assert not local(path).startswith(("//", "/\\"))
    assert "\n" not in local(path)


def test_the_way_back_keeps_its_query() -> None:
    assert parse_qs(urlsplit(local("/stream?integration=a%2Fb&tenant=t")).query)["integration"] == ["a/b"]


@given(st.text(max_size=20))
def test_no_cell_is_a_formula(text: str) -> None:
    assert not _cell(text).startswith(FORMULA)


@given(st.text("a`<&", max_size=20))
def test_words_between_backticks_are_code_and_nothing_else_is_markup(text: str) -> None:
    found = str(coded(text))
    assert found.count("<") == found.count("</") * 2
    assert found.count("<code>") == (text.count("`") // 2 if text.count("`") % 2 == 0 else 0)


def test_a_secret_is_told_by_where_it_comes_from_only() -> None:
    for text in ("s3cret-value", "${env:NAME_OF_IT}", "${file:/run/secrets/it}"):
        assert value_text(Reference(text, "client_secret")).startswith("••••••")
        assert text not in value_text(Reference(text, "client_secret"))


def test_durations_have_two_units_at_most() -> None:
    assert [seconds(each) for each in (None, 0.4, 119, 120, 7_140, 7_260, 86_400, 200_000)] == [
        "–", "0 s", "119 s", "2 min", "119 min", "2 h 1 min", "24 h", "2 days",
    ]  # fmt: skip


def test_json_nested_beyond_reason_is_shown_as_it_is() -> None:
    assert pretty("[" * 100_000) is None
    assert pretty('{"a":1}') == '{\n  "a": 1\n}'


def test_the_stream_that_a_remark_names_is_told_from_its_text() -> None:
    streams = ["a: b/t/events", "a/t/events"]
    assert split_remark("a: b/t/events: read: up to noon", streams) == ("a: b/t/events", "read: up to noon")
    assert split_remark("a/t/events: never read", streams) == ("a/t/events", "never read")
    assert split_remark("somebody/t/events: never read", streams) == (None, "somebody/t/events: never read")
