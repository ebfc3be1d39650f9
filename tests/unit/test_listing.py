"""Search, filters, order, pages and charts of the operator's page."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from emulator.web.actions import local
from emulator.web.charts import (
    CHART_DAY,
    DAY,
    HOUR,
    RANGES,
    Day,
    Mark,
    Range,
    Scope,
    StreamSamples,
    bucketed,
    counts_of,
    day_from_body,
    day_name,
    days_of,
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
    days: Iterable[Day], chosen: Range, now: float, scope: Scope = WHOLE, **options: float
) -> dict[str, list[Any]]:
    step = scope.step(chosen)
    samples = samples_of(days, scope.integration)
    return bucketed(counts_of(days, scope), samples, chosen=chosen, step=step, now=now, **options)


@given(st.lists(st.tuples(st.integers(0, 3 * 3600 - 60), st.integers(0, 500), st.integers(0, 500)), max_size=50))
def test_a_chart_holds_each_event_of_its_range_once(counted: list[tuple[int, int, int]]) -> None:
    now = 1_800_000_000.0
    days = {name: Day(name) for name in days_of(RANGES["3h"], now)}
    for back, fetched, acked in counted:
        at = now - back
        days[day_name(at)].add(ONE, at, fetched=fetched, acked=acked)
    kept = [day_from_body(CHART_DAY.encode(each)) for each in days.values()]
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
        assert abs(sum(of_stream["acked"]) * 60 - sum(each[2] for each in counted)) <= 0.3 * len(of_stream["t"])
    assert not any(chart(kept, RANGES["24h"], now, Scope("acme", "t-1", "alerts"))["acked"])


def test_what_was_before_anything_is_known_is_no_zero() -> None:
    now = 10 * DAY + 3600.0
    found = chart([], RANGES["1h"], now, known_since=now - 600)
    assert [found["fetched"].count(None), found["fetched"].count(0)] == [49, 11]


def test_of_an_older_layout_only_the_samples_count() -> None:
    day = Day("1970-01-11", 5.0, samples={1: {"acme": [1.0, 2, 3]}})
    day.add(ONE, 10 * DAY, fetched=3)
    older = day_from_body(json.dumps(CHART_DAY.fields(day) | {"layout": 1}).encode())
    assert (older.until, older.minutes, older.hours) == (0.0, {}, {})
    assert older.samples == day.samples


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 900), st.integers(0, 9000))), max_size=5))
def test_a_streams_samples_are_the_worst_of_its_lines(taken: list[list[tuple[int, int, int]]]) -> None:
    samples, expected = StreamSamples(), []
    streams = [Stream("acme", "t-1", "events"), Stream("acme", "t-1", "alerts")]
    for minute, lines in enumerate(taken):
        seen = {number: (lag, waiting) for number, lag, waiting in lines}
        told = [
            {"integration": "acme", "tenant": f"t-{number // 2}", "stream": ("events", "alerts")[number % 2]}
            | {"lag_seconds": lag, "pending_bytes": waiting}
            for number, (lag, waiting) in seen.items()
        ]
        samples.take(minute, told)
        own = [seen[number] for number in (2, 3) if number in seen]
        if own:
            expected.append((minute, [float(max(each[0] for each in own)), float(sum(each[1] for each in own))]))
    assert [*samples.of(streams)] == expected


def test_a_buckets_sample_is_its_worst() -> None:
    now = 10 * DAY + 3600.0
    day = Day(day_name(now))
    day.samples = {
        int(now) // 60 - 5: {"acme": [10.0, 100, 3], "msp": [70.0, 1, 1]},
        int(now) // 60 - 4: {"acme": [1.0, 900, 9]},
    }
    found = chart([day], RANGES["24h"], now)
    assert [(found["lag"][at], found["waiting"][at], found["calls"][at]) for at in (-2,)] == [(70.0, 900, 9)]
    assert found["lag"][-30] is None


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
