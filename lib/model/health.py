"""The health of a connector: `ok`, `attention` or `failing`, with the reasons. Every surface takes its verdict here.

`failing`: events are not read or not delivered, and a person has to act. `attention`: a person should know.
A problem that usually passes within minutes, and a stream that waits for its turn, are `ok` and are counted apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from lib.errors import title_of
from lib.model.checkpoint import Problem
from lib.model.health_facts import IntegrationFacts, SiteFacts, StreamFacts
from lib.model.text import several, span

ENGINE_GRACE = timedelta(minutes=2)
"""How long the engine may be unreachable before the health is `failing`. A restart of UTMStack takes less."""
PASSING = timedelta(minutes=5)
"""How long Sophos may be unreachable, or throttle, before that becomes a reason."""
LATE_SECONDS = 900.0
UNDELIVERED_SECONDS = 600.0
"""How long a batch may wait for delivery before the health is `failing`."""
LATE_TURNS = 3
"""A stream is late after LATE_SECONDS without a read, and after LATE_TURNS times its interval."""
STALE_TICKS = 3
STALE_SECONDS = 60.0
"""Figures older than STALE_TICKS ticks, and than STALE_SECONDS, are reported as old."""


class Health(IntEnum):
    """The verdict; a greater value is worse."""

    OK = 0
    ATTENTION = 1
    FAILING = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of reason. Page, status, metrics and alerts take their words from here."""

    health: Health
    title: str
    remedy: str


_FAILS, _WARNS = Health.FAILING, Health.ATTENTION
KINDS = {
    "credentials_refused": Kind(_FAILS, "Sophos refuses the credential", ""),
    "permission_missing": Kind(_FAILS, "The credential lacks a permission", ""),
    "wrong_tenant": Kind(_FAILS, "The credential does not read a tenant", ""),
    "wrong_region": Kind(_FAILS, "The configured region is wrong", ""),
    "host_refused": Kind(_FAILS, "A host that may not receive credentials", ""),
    "config_invalid": Kind(_FAILS, "The configuration cannot be used", ""),
    "engine_down": Kind(
        _FAILS,
        "The engine takes no events",
        "Check that UTMStack's event processor runs and that `engine` names its socket. Events wait in the store.",
    ),
    "store_unavailable": Kind(
        _FAILS,
        "The store cannot be written",
        "Check free space and permissions of the store. No object is half-written.",
    ),
    "object_unreadable": Kind(_FAILS, "An object of the store cannot be read", ""),
    "layout_newer": Kind(_FAILS, "The store was written by a newer version", "Install the newer version again."),
    "undelivered": Kind(
        _FAILS,
        "Stored events are not delivered",
        "`test-connection` tests the engine. Events wait in the store, in order, until the engine acknowledges them.",
    ),
    "store_full": Kind(
        _FAILS,
        "Fetching stopped: too many events wait",
        "Bring the engine back, or raise `limits.max_pending_bytes` if the disk has room. Sophos keeps 24 hours.",
    ),
    "function_failing": Kind(
        _FAILS, "A function does not work", "Find its error in the log. Nothing is fetched or delivered until it works."
    ),
    "gap": Kind(
        _WARNS,
        "Events can no longer be fetched",
        "Review that interval in Sophos Central itself. Then run `gaps --acknowledge ID`.",
    ),
    "dead_letters": Kind(
        _WARNS,
        "Events could not be delivered",
        "`dead-letters` lists them with the reason. Send them again with `replay --since 7d --dead-letters`, or run "
        "`dead-letters --acknowledge ID`.",
    ),
    "paused": Kind(_WARNS, "Paused by an operator", "Run `resume NAME` to continue. Sophos keeps events for 24 hours."),
    "observing": Kind(_WARNS, "Observe mode: no event is sent to the engine", "Set `observe: off` to deliver events."),
    "credential_ending": Kind(_WARNS, "A credential is about to end", ""),
    "credential_ended": Kind(_WARNS, "A credential has ended", ""),
    "credential_old": Kind(_WARNS, "A credential is old", ""),
    "next_credential_used": Kind(_WARNS, "The second credential is in use", ""),
    "tenant_left_out": Kind(_WARNS, "A tenant is not read", ""),
    "late": Kind(_WARNS, "A stream is late", "Run `status` for the reason. Sophos keeps events for 24 hours."),
    "silent": Kind(
        _WARNS,
        "A stream that usually has events has none",
        "Sophos answers, without events. Check in Sophos Central that its devices still report.",
    ),
    "config_edit_broken": Kind(
        _WARNS,
        "The newest edit of the configuration is not in use",
        "Run `check` and correct the file. If `check` finds no fault, restart the connector.",
    ),
    "followed_config": Kind(_WARNS, "UTMStack's own configuration has a fault", ""),
    "stale": Kind(
        _WARNS, "The figures are old", "Nothing has been fetched for several ticks. Check that the connector runs."
    ),
    "object_damaged": Kind(_WARNS, "An object of the store is damaged", ""),
    "heartbeat_late": Kind(
        _WARNS,
        "The heartbeat is late",
        "UTMStack has had no heartbeat for two intervals. Check the engine. The next heartbeat counts the missed ones.",
    ),
    "wrong_customer": Kind(
        _WARNS, "Events of another customer", "Check the proxy between this machine and Sophos. It may mix up answers."
    ),
}
"""The reasons by code. An empty remedy means that the problem brings its own. A code not in here is `attention`."""
_LOST_BATCH = "The connector itself recovers events of the last 24 hours. Then run `gaps --acknowledge ID`."
"""The remedy for a gap that is a lost batch: its bounds are not known, and Sophos may still have its events."""
WAITING = ("over_budget",)
"""Codes of problems that end by themselves, within the limits that Sophos sets."""
STOPS_ALL = ("store_full", "store_unavailable", "observing")
"""Codes of problems of the whole connector that stop every stream."""


@dataclass(frozen=True, slots=True)
class Amount:
    """The number in a detail. Of several findings it is their sum, or the largest."""

    value: float
    text: Callable[[Any], str]
    """The detail with that number."""
    of_all: Callable[[Iterable[float]], float] = sum


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason at one stream, one integration, or the whole."""

    code: str
    health: Health
    title: str
    detail: str
    remedy: str
    since: datetime | None = None
    integration: str | None = None
    stream: str | None = None
    amount: Amount | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """All findings of one kind."""

    code: str
    health: Health
    title: str
    detail: str
    """That of the oldest finding, with the number of all of them."""
    remedy: str
    since: datetime | None
    integrations: tuple[str, ...]
    streams: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of streams concerned; without streams, the number of integrations; at least 1."""
        return len(self.streams) or len(self.integrations) or 1


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict with its reasons."""

    health: Health
    reasons: tuple[Reason, ...]
    """The worst first; among equals, the one that concerns most streams first."""
    streams: dict[str, Health]
    integrations: dict[str, Health]
    waiting: tuple[str, ...]
    """Streams that wait for their turn, or for a temporary problem to end. A person has nothing to do."""


def assess(site: SiteFacts) -> Assessment:
    """The health of the connector, of each integration and of each stream, with all reasons."""
    findings = tuple(_findings(site))
    names: dict[str, list[str]] = {}
    for stream in site.streams:
        names.setdefault(stream.integration, []).append(stream.name)
    streams = {facts.name: Health.OK for facts in site.streams}
    integrations = {integration.name: Health.OK for integration in site.integrations}
    for finding in findings:
        for name in [finding.stream] if finding.stream else names.get(finding.integration or "", ()):
            streams[name] = max(streams[name], finding.health)
        if finding.integration in integrations:
            integrations[finding.integration] = max(integrations[finding.integration], finding.health)
        for stream in _struck(finding, site):
            streams[stream.name] = max(streams[stream.name], finding.health)
            integrations[stream.integration] = max(integrations.get(stream.integration, Health.OK), finding.health)
    reasons = sorted(
        _grouped(findings, names, site.now), key=lambda reason: (-reason.health, -reason.count, reason.code)
    )
    return Assessment(
        health=max((finding.health for finding in findings), default=Health.OK),
        reasons=tuple(reasons),
        streams=streams,
        integrations=integrations,
        waiting=tuple(_waiting(site)),
    )


def _struck(finding: Finding, site: SiteFacts) -> Iterator[StreamFacts]:
    """The streams that a problem of the whole connector stops from being fetched or delivered."""
    is_whole = finding.stream is None and finding.integration is None
    for stream in site.streams if is_whole else ():
        if finding.code in STOPS_ALL or (finding.code == "engine_down" and stream.undelivered_seconds > 0):
            yield stream


def _findings(site: SiteFacts) -> Iterator[Finding]:
    yield from _of_site(site)
    for integration in site.integrations:
        yield from _of_integration(integration, site.now)
    integration_codes = {facts.name: facts.problem.code for facts in site.integrations if facts.problem}
    paused = {facts.name for facts in site.integrations if facts.paused_at is not None}
    for stream in site.streams:
        code, is_paused = integration_codes.get(stream.integration), stream.integration in paused
        yield from _of_stream(stream, site.now, code, is_paused=is_paused)


def _of_site(site: SiteFacts) -> Iterator[Finding]:
    problems = site.problems
    if problems.engine is not None and site.now - problems.engine.since >= ENGINE_GRACE:
        yield _finding("engine_down", problems.engine.detail, problems.engine.since, remedy=problems.engine.remedy)
    if problems.store is not None:
        yield _finding(problems.store.code, problems.store.detail, problems.store.since, remedy=problems.store.remedy)
    for problem in problems.functions:
        code = problem.code if problem.code in KINDS else "function_failing"
        yield _finding(code, problem.detail, problem.since, remedy=problem.remedy)
    if site.max_pending_bytes is not None and site.pending_bytes >= site.max_pending_bytes:
        yield _finding("store_full", f"Waiting for the engine: {several(site.pending_bytes, 'byte')}", None)
    # A function that cannot start with the edit tells of it as a failure. It is one problem.
    is_told = any(problem.code == "config_invalid" for problem in problems.functions)
    if problems.config_edit is not None and not is_told:
        yield _finding("config_edit_broken", problems.config_edit.detail, problems.config_edit.since)
    for problem in problems.followed:
        yield _finding("followed_config", problem.detail, problem.since, remedy=problem.remedy)
    if site.is_heartbeat_late:
        yield _finding("heartbeat_late", "The engine has acknowledged no heartbeat for two intervals", None)
    yield from _of_objects(site)
    if site.observing:
        yield _finding("observing", "Events are fetched and counted, but not sent to the engine", None)
    yield from _of_figures(site)


def _of_objects(site: SiteFacts) -> Iterator[Finding]:
    for damaged in site.damaged:
        code = "object_unreadable" if damaged.is_unreadable else "object_damaged"
        finding = _finding(code, f"{damaged.key}: {damaged.what}", None, remedy=damaged.remedy)
        yield replace(finding, health=Health.ATTENTION)  # The streams that need it say for themselves that they fail.
    for key in site.newer:
        yield _finding("layout_newer", f"{key} was written by a newer version", None)


def _of_figures(site: SiteFacts) -> Iterator[Finding]:
    bound = max(STALE_SECONDS, STALE_TICKS * site.tick_seconds)
    if site.read_at is not None and (site.now - site.read_at).total_seconds() > bound:
        yield _finding("stale", "No tick has finished", site.read_at)


def _of_integration(integration: IntegrationFacts, now: datetime) -> Iterator[Finding]:
    problem = integration.problem
    if problem is not None and (finding := _of_problem(problem, now, integration=integration.name)) is not None:
        yield finding
    if integration.paused_at is not None:
        yield _finding("paused", "Nothing is fetched", integration.paused_at, integration=integration.name)
    for warning in integration.warnings:
        yield _finding(warning.code, warning.detail, warning.since, integration=integration.name, remedy=warning.remedy)


def _of_stream(
    stream: StreamFacts, now: datetime, integration_code: str | None, *, is_paused: bool
) -> Iterator[Finding]:
    """The findings of a stream. A problem that its integration has too is reported there, once."""

    def finding(code: str, detail: str | Amount, since: datetime | None = None) -> Finding:
        amount = detail if isinstance(detail, Amount) else None
        text = amount.text(amount.value) if amount else str(detail)
        plain = _finding(code, text, since, stream=stream.name, integration=stream.integration)
        return replace(plain, amount=amount)

    problem = stream.problem
    if problem is not None and problem.code != integration_code:
        of_problem = _of_problem(problem, now, stream=stream.name, integration=stream.integration)
        if of_problem is not None:
            yield of_problem
    if stream.gaps:
        yield _of_gaps(stream, finding)
    if stream.dead_letters:
        dead = Amount(stream.dead_letters, lambda count: f"{several(count, 'event')} could not be delivered")
        yield finding("dead_letters", dead)
    if stream.undelivered_seconds > UNDELIVERED_SECONDS:
        waited = Amount(stream.undelivered_seconds, lambda most: f"The oldest batch has waited for {span(most)}", max)
        yield finding("undelivered", waited)
    if stream.silent_since is not None:
        yield finding("silent", "No event has come since", stream.silent_since)
    if stream.other_customers:
        others = Amount(stream.other_customers, lambda count: f"{several(count, 'event')} of another customer")
        yield finding("wrong_customer", others)
    if not is_paused and is_late(stream.lag_seconds, stream.interval_seconds):
        yield finding("late", Amount(stream.lag_seconds or 0.0, lambda most: f"Not read for {span(most)}", max))


def _of_gaps(stream: StreamFacts, finding: Callable[[str, Amount, datetime | None], Finding]) -> Finding:
    if stream.gaps > stream.lost_batches:
        gone = Amount(stream.gaps, lambda count: f"{several(count, 'interval')} can no longer be fetched")
        return finding("gap", gone, stream.gap_since)
    lost = Amount(stream.gaps, lambda count: f"Damaged or missing: {several(count, 'batch', 'batches')}")
    gap = finding("gap", lost, stream.gap_since)
    return replace(gap, title="A stored batch was lost before delivery", remedy=_LOST_BATCH)


def is_late(lag_seconds: float | None, interval_seconds: float | None) -> bool:
    """Whether the time since the last read is too long for the stream's interval; both in seconds."""
    return lag_seconds is not None and lag_seconds > max(LATE_SECONDS, LATE_TURNS * (interval_seconds or 0.0))


def _of_problem(
    problem: Problem, now: datetime, *, stream: str | None = None, integration: str | None = None
) -> Finding | None:
    """The finding of a problem; None while the problem usually passes by itself."""
    kind = KINDS.get(problem.code)
    if kind is None and (problem.code in WAITING or now - problem.since < PASSING):
        return None
    return Finding(
        problem.code,
        kind.health if kind else Health.ATTENTION,
        kind.title if kind else title_of(problem.code),
        problem.detail,
        problem.remedy,
        problem.since,
        integration,
        stream,
    )


def _finding(
    code: str,
    detail: str,
    since: datetime | None,
    *,
    integration: str | None = None,
    stream: str | None = None,
    remedy: str = "",
) -> Finding:
    kind = KINDS[code]
    return Finding(code, kind.health, kind.title, detail, kind.remedy or remedy, since, integration, stream)


def _grouped(findings: Sequence[Finding], names: Mapping[str, Sequence[str]], now: datetime) -> Iterator[Reason]:
    """One reason for each kind; `names` holds the streams of each integration."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    for code, group in by_code.items():
        first = min(group, key=lambda finding: (finding.since is None, finding.since or now))
        streams = dict.fromkeys(finding.stream for finding in group if finding.stream)
        whole = [finding.integration for finding in group if finding.integration and not finding.stream]
        streams |= dict.fromkeys(name for integration in whole for name in names.get(integration, ()))
        integrations = dict.fromkeys(finding.integration for finding in group if finding.integration)
        yield Reason(
            code,
            max(finding.health for finding in group),
            first.title,
            _detail(first, group),
            first.remedy,
            first.since,
            tuple(integrations),
            tuple(streams),
        )


def _detail(first: Finding, group: Sequence[Finding]) -> str:
    """The first finding's detail, with the number of all findings that say the same."""
    if first.amount is None:
        return first.detail
    same = (finding.amount.value for finding in group if finding.amount and finding.title == first.title)
    return first.amount.text(first.amount.of_all(same))


def _waiting(site: SiteFacts) -> Iterator[str]:
    problems = {integration.name: integration.problem for integration in site.integrations}
    for stream in site.streams:
        candidates = (stream.problem, problems.get(stream.integration))
        if any(problem is not None and _of_problem(problem, site.now) is None for problem in candidates):
            yield stream.name
