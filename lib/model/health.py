"""How a connector stands: `ok`, `attention` or `failing`, with the reasons. Every surface takes its verdict from here.

`failing`: events do not flow, or are not delivered, and a person has to act. `attention`: a person should know.
What heals by itself within minutes, and what only waits for its turn, is `ok` and is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from lib.errors import title_of
from lib.model.checkpoint import Problem

ENGINE_GRACE = timedelta(minutes=2)
"""How long the engine may be out of reach before that is failing: UTMStack's own restart takes less."""
PASSING = timedelta(minutes=5)
"""How long Sophos may be out of reach, or throttle, before somebody is told."""
LATE_SECONDS = 900.0
UNDELIVERED_SECONDS = 600.0
"""How long a batch may wait for delivery, before a person has to look."""
LATE_TURNS = 3
"""A stream is late after so many seconds without a read, and after so many missed turns."""
STALE_TICKS = 3
STALE_SECONDS = 60.0
"""A figure that is older than so many ticks, and than so many seconds, may no longer be true."""


class Health(IntEnum):
    """In order of badness."""

    OK = 0
    ATTENTION = 1
    FAILING = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of reason, stated once: page, status, metrics and alerts take their words from it."""

    health: Health
    title: str
    remedy: str


_FAILS, _TELLS = Health.FAILING, Health.ATTENTION
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
        _FAILS, "The store cannot be written", "Check free space and permissions of the store. Nothing is half-written."
    ),
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
        _FAILS, "A function does not work", "Look in the log for its error. Nothing is fetched or delivered meanwhile."
    ),
    "gap": Kind(
        _TELLS,
        "Events can no longer be fetched",
        "Look at that interval in Sophos Central itself; then `gaps --acknowledge ID`.",
    ),
    "dead_letters": Kind(
        _TELLS,
        "Events could not be delivered",
        "`dead-letters` shows them with the reason. Send them again with `replay --batch`, or "
        "`dead-letters --acknowledge ID`.",
    ),
    "paused": Kind(_TELLS, "Paused by an operator", "`resume NAME` goes on. Sophos keeps 24 hours."),
    "observing": Kind(_TELLS, "Observe mode: no event is sent to the engine", "Set `observe: off` to deliver events."),
    "credential_ending": Kind(_TELLS, "A credential is about to end", ""),
    "credential_ended": Kind(_TELLS, "A credential has ended", ""),
    "credential_old": Kind(_TELLS, "A credential is old", ""),
    "next_credential_used": Kind(_TELLS, "The second credential is in use", ""),
    "late": Kind(_TELLS, "A stream is late", "Sophos keeps 24 hours; nothing is lost yet. `status` says why."),
    "silent": Kind(
        _TELLS,
        "A stream that usually has events has none",
        "Sophos answers, without events. Check in Sophos Central that its devices still report.",
    ),
    "config_edit_broken": Kind(
        _TELLS,
        "The newest edit of the configuration cannot be used",
        "The last good configuration is in force. Run `check`, correct the file; a restart would fail.",
    ),
    "followed_config": Kind(_TELLS, "UTMStack's own configuration has a fault", ""),
    "stale": Kind(
        _TELLS, "The figures are old", "Nothing has been fetched for several ticks. Check that the connector runs."
    ),
    "object_damaged": Kind(
        _TELLS, "An object of the store is damaged", "`audit` names it. Put it back from a copy, or remove it."
    ),
    "heartbeat_late": Kind(
        _TELLS,
        "The heartbeat is late",
        "UTMStack has had no heartbeat for two intervals. Check the engine; the next one counts the missing ones.",
    ),
    "wrong_customer": Kind(
        _TELLS,
        "Events of another customer",
        "Check the proxy between this machine and Sophos: answers may be mixed up.",
    ),
}
"""The reasons by code. A remedy that is empty comes with the problem itself. Any other problem is `attention`."""
WAITING = ("over_budget",)
"""Codes that mean: it goes on by itself, within the limits that Sophos sets."""
STOPS_ALL = ("store_full", "store_unavailable", "observing")
"""What concerns every stream as much as the whole."""
ACKNOWLEDGED = ("gap", "dead_letters", "credential_ending")
"""What a person can acknowledge: it stays listed, and is no reason any more."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something about a credential that a person should know of."""

    code: str
    detail: str
    remedy: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What is known of one stream. Acknowledged gaps and dead letters are not counted."""

    name: str
    integration: str
    problem: Problem | None = None
    lag_seconds: float | None = None
    interval_seconds: float | None = None
    gaps: int = 0
    gap_since: datetime | None = None
    dead_letters: int = 0
    """Events."""
    silent_since: datetime | None = None
    undelivered_seconds: float = 0.0
    """Age of the oldest batch that waits for delivery."""
    other_customers: int = 0
    """Events that name another customer than the stream's tenant."""


@dataclass(frozen=True, slots=True)
class IntegrationFacts:
    """What is known of one integration."""

    name: str
    problem: Problem | None = None
    paused_at: datetime | None = None
    warnings: Sequence[Warned] = ()


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What is known of the whole."""

    now: datetime
    tick_seconds: float
    integrations: Sequence[IntegrationFacts] = ()
    streams: Sequence[StreamFacts] = ()
    """Without retired ones."""
    engine: Problem | None = None
    store: Problem | None = None
    functions: Sequence[Problem] = ()
    config_edit: Problem | None = None
    followed: Sequence[Problem] = ()
    """Faults of UTMStack's own configuration, where it is followed."""
    damaged: Sequence[str] = ()
    """Keys of objects that cannot be read."""
    newer: Sequence[str] = ()
    """Keys of objects that a newer version wrote."""
    pending_bytes: int = 0
    max_pending_bytes: int | None = None
    observing: bool = False
    is_heartbeat_late: bool = False
    read_at: datetime | None = None
    """When the last tick was answered; None where nothing runs, or nothing has run yet."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason in one place."""

    code: str
    health: Health
    title: str
    detail: str
    remedy: str
    since: datetime | None = None
    integration: str | None = None
    stream: str | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """One kind of reason with all that it concerns."""

    code: str
    health: Health
    title: str
    detail: str
    """Of the oldest finding."""
    remedy: str
    since: datetime | None
    integrations: tuple[str, ...]
    streams: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many streams it concerns; of what concerns no stream, how many integrations, or 1."""
        return len(self.streams) or len(self.integrations) or 1


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict."""

    health: Health
    reasons: tuple[Reason, ...]
    """Worst first, then the ones that concern most."""
    streams: dict[str, Health]
    integrations: dict[str, Health]
    waiting: tuple[str, ...]
    """Streams that wait for their turn, or for a passing problem to end: nothing for a person to do."""


def assess(site: SiteFacts) -> Assessment:
    """The health of the whole, of each integration and of each stream, with all reasons."""
    findings = tuple(_findings(site))
    names: dict[str, list[str]] = {}
    for stream in site.streams:
        names.setdefault(stream.integration, []).append(stream.name)
    streams = {each.name: Health.OK for each in site.streams}
    integrations = {each.name: Health.OK for each in site.integrations}
    for found in findings:
        for name in [found.stream] if found.stream else names.get(found.integration or "", ()):
            streams[name] = max(streams[name], found.health)
        if found.integration in integrations:
            integrations[found.integration] = max(integrations[found.integration], found.health)
        for stream in _struck(found, site):
            streams[stream.name] = max(streams[stream.name], found.health)
            if stream.integration in integrations:
                integrations[stream.integration] = max(integrations[stream.integration], found.health)
    return Assessment(
        health=max((each.health for each in findings), default=Health.OK),
        reasons=tuple(
            sorted(_grouped(findings, names, site.now), key=lambda each: (-each.health, -each.count, each.code))
        ),
        streams=streams,
        integrations=integrations,
        waiting=tuple(_waiting(site)),
    )


def _struck(found: Finding, site: SiteFacts) -> Iterator[StreamFacts]:
    """The streams that something of the whole keeps from being fetched or delivered."""
    if found.stream is None and found.integration is None:
        for stream in site.streams:
            if found.code in STOPS_ALL or (found.code == "engine_down" and stream.undelivered_seconds > 0):
                yield stream


def _findings(site: SiteFacts) -> Iterator[Finding]:
    yield from _of_site(site)
    for integration in site.integrations:
        yield from _of_integration(integration, site.now)
    integration_codes = {each.name: each.problem.code for each in site.integrations if each.problem}
    paused = {each.name for each in site.integrations if each.paused_at is not None}
    for stream in site.streams:
        yield from _of_stream(stream, site.now, integration_codes.get(stream.integration), stream.integration in paused)


def _of_site(site: SiteFacts) -> Iterator[Finding]:
    if site.engine is not None and site.now - site.engine.since >= ENGINE_GRACE:
        yield _finding("engine_down", site.engine.detail, site.engine.since, remedy=site.engine.remedy)
    if site.store is not None:
        yield _finding(site.store.code, site.store.detail, site.store.since, remedy=site.store.remedy)
    for problem in site.functions:
        yield _finding("function_failing", problem.detail, problem.since)
    if site.max_pending_bytes is not None and site.pending_bytes >= site.max_pending_bytes:
        yield _finding("store_full", f"{site.pending_bytes} bytes wait for the engine", None)
    if site.config_edit is not None:
        yield _finding("config_edit_broken", site.config_edit.detail, site.config_edit.since)
    for problem in site.followed:
        yield _finding("followed_config", problem.detail, problem.since, remedy=problem.remedy)
    if site.is_heartbeat_late:
        yield _finding("heartbeat_late", "The engine has acknowledged none for two intervals", None)
    yield from _of_objects(site)
    if site.observing:
        yield _finding("observing", "Events are fetched and counted; the engine gets none.", None)
    yield from _of_figures(site)


def _of_objects(site: SiteFacts) -> Iterator[Finding]:
    for key in site.damaged:
        yield _finding("object_damaged", f"{key} cannot be read", None)
    for key in site.newer:
        yield _finding("layout_newer", f"{key} was written by a newer version", None)


def _of_figures(site: SiteFacts) -> Iterator[Finding]:
    """Whether what is shown may no longer be true."""
    bound = max(STALE_SECONDS, STALE_TICKS * site.tick_seconds)
    if site.read_at is not None and (site.now - site.read_at).total_seconds() > bound:
        yield _finding("stale", "No tick was answered", site.read_at)


def _of_integration(integration: IntegrationFacts, now: datetime) -> Iterator[Finding]:
    if integration.problem is not None:
        found = _of_problem(integration.problem, now, integration=integration.name)
        if found is not None:
            yield found
    if integration.paused_at is not None:
        yield _finding("paused", "Nothing is fetched", integration.paused_at, integration=integration.name)
    for each in integration.warnings:
        yield _finding(each.code, each.detail, each.since, integration=integration.name, remedy=each.remedy)


def _of_stream(stream: StreamFacts, now: datetime, known: str | None, is_paused: bool) -> Iterator[Finding]:  # noqa: FBT001
    def finding(code: str, detail: str, since: datetime | None) -> Finding:
        return _finding(code, detail, since, stream=stream.name, integration=stream.integration)

    problem = stream.problem
    if problem is not None and problem.code != known:
        found = _of_problem(problem, now, stream=stream.name, integration=stream.integration)
        if found is not None:
            yield found
    if stream.gaps:
        yield finding("gap", f"{stream.gaps} interval(s) can no longer be fetched", stream.gap_since)
    if stream.dead_letters:
        yield finding("dead_letters", f"{stream.dead_letters} event(s) could not be delivered", None)
    if stream.undelivered_seconds > UNDELIVERED_SECONDS:
        yield finding("undelivered", f"The oldest batch has waited for {stream.undelivered_seconds:.0f} s", None)
    if stream.silent_since is not None:
        yield finding("silent", "No event has come since", stream.silent_since)
    if stream.other_customers:
        yield finding("wrong_customer", f"{stream.other_customers} event(s) name another customer", None)
    if not is_paused and is_late(stream.lag_seconds, stream.interval_seconds):
        yield finding("late", f"Not read for {stream.lag_seconds:.0f} s", None)


def is_late(lag_seconds: float | None, interval_seconds: float | None) -> bool:
    """Whether a stream was not read for longer than its turn explains."""
    return lag_seconds is not None and lag_seconds > max(LATE_SECONDS, LATE_TURNS * (interval_seconds or 0.0))


def _of_problem(
    problem: Problem, now: datetime, *, stream: str | None = None, integration: str | None = None
) -> Finding | None:
    """The finding of a problem; None while it is one that mostly passes by itself."""
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
    """One reason a kind; `names` are each integration's streams."""
    by_code: dict[str, list[Finding]] = {}
    for found in findings:
        by_code.setdefault(found.code, []).append(found)
    for code, group in by_code.items():
        first = min(group, key=lambda each: (each.since is None, each.since or now))
        streams = dict.fromkeys(each.stream for each in group if each.stream)
        whole = [each.integration for each in group if each.integration and not each.stream]
        streams |= dict.fromkeys(name for integration in whole for name in names.get(integration, ()))
        integrations = dict.fromkeys(each.integration for each in group if each.integration)
        yield Reason(
            code,
            max(each.health for each in group),
            first.title,
            first.detail,
            first.remedy,
            first.since,
            tuple(integrations),
            tuple(streams),
        )


def _waiting(site: SiteFacts) -> Iterator[str]:
    problems = {each.name: each.problem for each in site.integrations}
    for stream in site.streams:
        for problem in (stream.problem, problems.get(stream.integration)):
            if problem is not None and _of_problem(problem, site.now) is None:
                yield stream.name
                break
