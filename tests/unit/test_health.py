"""The verdict: what is failing, what needs attention, and what heals by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import ConnectorError, PermanentError, catalogue
from lib.model import health
from lib.model.checkpoint import Problem
from lib.model.health import KINDS, Health, assess
from lib.model.health_facts import DamagedObject, IntegrationFacts, SiteFacts, SiteProblems, StreamFacts, Warned

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SITE = SiteFacts(NOW, 60.0, [IntegrationFacts("acme")], [StreamFacts("acme/t/events", "acme")])


def problem(code: str, age: timedelta = timedelta(hours=1)) -> Problem:
    return Problem(code, "what happened", "what to do", NOW - age, 1, None)


def with_stream(**facts: object) -> SiteFacts:
    return replace(SITE, streams=[replace(SITE.streams[0], **facts)])  # type: ignore[arg-type]


def with_problem(**problems: object) -> SiteFacts:
    return replace(SITE, problems=SiteProblems(**problems))  # type: ignore[arg-type]


def with_integration(**facts: object) -> SiteFacts:
    return replace(SITE, integrations=[replace(SITE.integrations[0], **facts)])  # type: ignore[arg-type]


def test_a_site_of_which_nothing_bad_is_known_is_ok() -> None:
    found = assess(SITE)
    assert (found.health, found.reasons, found.waiting) == (Health.OK, (), ())


CAUSES = {
    "gap": (with_stream(gaps=1), Health.ATTENTION),
    "dead_letters": (with_stream(dead_letters=3), Health.ATTENTION),
    "undelivered": (with_stream(undelivered_seconds=601.0), Health.FAILING),
    "silent": (with_stream(silent_since=NOW - timedelta(hours=3)), Health.ATTENTION),
    "late": (with_stream(lag_seconds=901.0, interval_seconds=60.0), Health.ATTENTION),
    "wrong_customer": (with_stream(other_customers=1), Health.ATTENTION),
    "paused": (with_integration(paused_at=NOW), Health.ATTENTION),
    "observing": (replace(SITE, observing=True), Health.ATTENTION),
    "config_edit_broken": (with_problem(config_edit=problem("config_invalid")), Health.ATTENTION),
    "followed_config": (with_problem(followed=[problem("config_invalid")]), Health.ATTENTION),
    "stale": (replace(SITE, read_at=NOW - timedelta(seconds=181)), Health.ATTENTION),
    "heartbeat_late": (replace(SITE, is_heartbeat_late=True), Health.ATTENTION),
    "object_damaged": (
        replace(SITE, damaged=[DamagedObject("leases/x.json", "cut off", "Acknowledge it.")]),
        Health.ATTENTION,
    ),
    "engine_down": (with_problem(engine=problem("engine_unavailable", timedelta(minutes=2))), Health.FAILING),
    "store_unavailable": (with_problem(store=problem("store_unavailable")), Health.FAILING),
    "object_unreadable": (with_stream(problem=problem("object_unreadable")), Health.FAILING),
    "layout_newer": (with_problem(store=problem("layout_newer")), Health.FAILING),
    "store_full": (replace(SITE, pending_bytes=10, max_pending_bytes=10), Health.FAILING),
    "function_failing": (with_problem(functions=[problem("unexpected")]), Health.FAILING),
    **{
        code: (with_integration(problem=problem(code, timedelta(0))), Health.FAILING)
        for code in ("credentials_refused", "permission_missing", "wrong_tenant", "wrong_region", "host_refused")
    },
    "config_invalid": (with_integration(problem=problem("config_invalid", timedelta(0))), Health.FAILING),
    **{
        code: (with_integration(warnings=[Warned(code, "text", "remedy", NOW)]), Health.ATTENTION)
        for code in (
            "credential_ending",
            "credential_ended",
            "credential_old",
            "next_credential_used",
            "tenant_left_out",
        )
    },
}


@pytest.mark.parametrize("code", KINDS)
def test_each_kind_of_reason_has_its_cause_and_its_health(code: str) -> None:
    site, expected = CAUSES[code]
    found = assess(site)
    assert found.health is expected is KINDS[code].health
    (reason,) = found.reasons
    assert (reason.code, reason.title) == (code, KINDS[code].title)
    assert reason.remedy, "says what to do"
    assert reason.detail


@pytest.mark.parametrize(
    ("site", "waits", "expected"),
    [
        (CAUSES["engine_down"][0], 5.0, Health.FAILING),
        (CAUSES["engine_down"][0], 0.0, Health.OK),
        (CAUSES["store_full"][0], 5.0, Health.FAILING),
        (CAUSES["store_unavailable"][0], 0.0, Health.FAILING),
        (CAUSES["observing"][0], 0.0, Health.ATTENTION),
    ],
)
def test_what_stops_the_whole_stops_its_streams_and_integrations(
    site: SiteFacts, waits: float, expected: Health
) -> None:
    found = assess(replace(site, streams=[replace(SITE.streams[0], undelivered_seconds=waits)]))
    assert found.streams == {"acme/t/events": expected}
    assert found.integrations == {"acme": expected}
    (reason,) = found.reasons
    assert (reason.streams, reason.count) == ((), 1), "it is one reason, of the whole"


def test_every_error_that_a_person_has_to_mend_is_failing_at_once() -> None:
    heals = {"cursor_refused", "log_refused", "not_found", "object_damaged", "engine_refused", "no_store"}
    for code, kind in catalogue().items():
        if issubclass(kind, PermanentError) and code not in heals and kind.__module__ == "lib.errors":
            assert assess(with_stream(problem=problem(code, timedelta(0)))).health is Health.FAILING, code


@pytest.mark.parametrize("code", ["rate_limited", "sophos_unavailable", "dns_failed", "protocol_error", "unexpected"])
def test_what_mostly_passes_waits_for_five_minutes_and_then_needs_attention(code: str) -> None:
    young = assess(with_stream(problem=problem(code, timedelta(minutes=4, seconds=59))))
    assert (young.health, young.waiting) == (Health.OK, ("acme/t/events",))
    old = assess(with_stream(problem=problem(code, timedelta(minutes=5))))
    assert (old.health, old.waiting) == (Health.ATTENTION, ())
    assert old.reasons[0].title == catalogue().get(code, ConnectorError).title


def test_waiting_for_the_turn_is_ok_however_long() -> None:
    found = assess(with_stream(problem=problem("over_budget", timedelta(days=1))))
    assert (found.health, found.waiting) == (Health.OK, ("acme/t/events",))


def test_an_engine_that_restarts_is_no_reason_yet() -> None:
    assert assess(with_problem(engine=problem("engine_unavailable", timedelta(seconds=119)))).health is Health.OK


def test_one_kind_is_counted_once_with_all_its_streams_and_the_worst_comes_first() -> None:
    streams = [StreamFacts(f"acme/{number}/events", "acme", gaps=1) for number in range(40)]
    refused = IntegrationFacts("other", problem=problem("credentials_refused"))
    found = assess(replace(SITE, integrations=[*SITE.integrations, refused], streams=streams))
    assert [(each.code, each.count) for each in found.reasons] == [("credentials_refused", 1), ("gap", 40)]
    assert found.integrations == {"acme": Health.ATTENTION, "other": Health.FAILING}


def test_a_refused_credential_is_told_once_and_makes_all_its_streams_failing() -> None:
    refused = problem("credentials_refused")
    streams = [StreamFacts(f"acme/{number}/events", "acme", problem=refused) for number in range(3)]
    found = assess(replace(SITE, integrations=[IntegrationFacts("acme", refused)], streams=streams))
    assert [(each.code, each.count) for each in found.reasons] == [("credentials_refused", 3)]
    assert set(found.streams.values()) == {Health.FAILING}


def test_a_stream_of_many_is_late_after_three_missed_turns() -> None:
    assert not health.is_late(2000.0, 700.0)
    assert health.is_late(2101.0, 700.0)


FACTS = st.builds(
    StreamFacts,
    name=st.sampled_from(["a/1/events", "a/2/events", "b/1/events"]),
    integration=st.sampled_from(["a", "b"]),
    problem=st.none() | st.sampled_from([*KINDS, "over_budget", "rate_limited", "new"]).map(problem),
    lag_seconds=st.none() | st.floats(0, 1e6),
    interval_seconds=st.none() | st.floats(0, 1e4),
    gaps=st.integers(0, 2),
    dead_letters=st.integers(0, 2),
)


@given(st.lists(FACTS, unique_by=lambda each: each.name), st.lists(FACTS, max_size=1))
def test_the_whole_is_as_bad_as_its_worst_part_and_more_facts_never_make_it_better(
    streams: list[StreamFacts], more: list[StreamFacts]
) -> None:
    site = replace(SITE, integrations=[IntegrationFacts("a"), IntegrationFacts("b")], streams=streams)
    found = assess(site)
    parts = [*found.streams.values(), *found.integrations.values()]
    assert found.health == max([each.health for each in found.reasons], default=Health.OK)
    assert found.health == max(parts, default=Health.OK)
    assert [each.health for each in found.reasons] == sorted((each.health for each in found.reasons), reverse=True)
    others = [each for each in more if each.name not in {stream.name for stream in streams}]
    assert assess(replace(site, streams=[*streams, *others])).health >= found.health
    for reason in found.reasons:
        assert set(reason.streams) <= {stream.name for stream in streams}


@pytest.mark.parametrize(
    ("facts", "detail"),
    [
        ({"gaps": 1}, "1 interval can no longer be fetched"),
        ({"gaps": 2}, "2 intervals can no longer be fetched"),
        ({"dead_letters": 1}, "1 event could not be delivered"),
        ({"lag_seconds": 7204.0}, "Not read for 2 h"),
        ({"lag_seconds": 1200.0}, "Not read for 20 min"),
        ({"undelivered_seconds": 700.0}, "The oldest batch has waited for 11 min"),
    ],
)
def test_a_detail_is_a_sentence_in_the_units_of_people(facts: dict[str, Any], detail: str) -> None:
    found = assess(SiteFacts(now=NOW, tick_seconds=60.0, streams=[StreamFacts("acme/t/events", "acme", **facts)]))
    assert [each.detail for each in found.reasons] == [detail]


def test_the_number_in_a_detail_is_that_of_all_its_streams() -> None:
    one = StreamFacts("acme/t/events", "acme", gaps=2, dead_letters=3, undelivered_seconds=700.0, lag_seconds=1200.0)
    other = StreamFacts("acme/u/events", "acme", gaps=1, dead_letters=1, undelivered_seconds=800.0, lag_seconds=1800.0)
    lost = StreamFacts("acme/v/events", "acme", gaps=1, lost_batches=1)
    found = assess(SiteFacts(now=NOW, tick_seconds=60.0, streams=[one, other, lost]))
    assert {each.code: each.detail for each in found.reasons} == {
        "gap": "3 intervals can no longer be fetched",
        "dead_letters": "4 events could not be delivered",
        "undelivered": "The oldest batch has waited for 13 min",
        "late": "Not read for 30 min",
    }
