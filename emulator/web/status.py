"""The status of every stream and integration: from the store and, in a running emulator, from the last answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from lib.app import App
from lib.config.settings import Config
from lib.errors import KeptError, OverBudgetError, ThrottledError
from lib.model.checkpoint import Checkpoint, Problem, Recent, problem_after
from lib.model.clock import from_text, text_or_none, to_text
from lib.model.credential import CredentialWarning
from lib.model.duration import duration_text
from lib.model.health import WAITING, Health, Reason, assess
from lib.model.health_facts import DamagedObject, IntegrationFacts, SiteFacts, SiteProblems, StreamFacts, Warned
from lib.model.rate_policy import RatePolicy
from lib.model.receipt import LastReceipt, NotAcknowledged
from lib.model.reconciliation import ReconcileSums
from lib.model.schedule import Asked
from lib.model.stream import ENDPOINTS, Stream, encode_segment
from lib.pipeline import heartbeat
from lib.pipeline.accounts import Accounts, known_targets
from lib.pipeline.integration import Target
from lib.pipeline.read_result import THAT_READ
from lib.state.accounts import Account
from lib.state.acknowledgements import Acknowledgement, Acknowledgements, same_cause, short_id
from lib.state.damage import Whole, damaged
from lib.state.dead_letters import DeadLetter, dead_letters_by_stream
from lib.state.gaps import CURSOR_EXPIRED, Gap
from lib.state.leases import lease_of
from lib.state.schedules import Schedules
from lib.state.state import State
from lib.store.base import ABSENT, ObjectStore
from lib.version import VERSION

_WHOLE: dict[str, Whole] = {}
"""Objects that were read without damage before, by store: each pass checks only new generations."""


@dataclass(slots=True)
class _Pending:
    batches: int = 0
    bytes: int = 0
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """The part of a stream's stored state that its status needs."""

    checkpoint: Checkpoint
    """Without the keys of recent events: they take the most memory."""
    tail: LastReceipt
    acked_at: str | None
    counted: NotAcknowledged
    is_settled: bool
    """Whether nobody delivers the stream: during a delivery its ledger changes, and its lease does not."""
    has_reconciled: bool = False
    reconciled: ReconcileSums | None = None


def read_record(state: State, now: datetime, stream: Stream) -> StreamRecord:
    """The stream's record. An object of a newer layout becomes the record's problem."""
    record = StreamRecord(_checkpoint(state, now, stream), *_delivered(state, stream))
    with suppress(KeptError):
        progress, generation = state.reconciliations.read(stream)
        return replace(record, has_reconciled=generation != ABSENT, reconciled=progress.last)
    return record


@dataclass(frozen=True, slots=True)
class Running:
    """Facts that only a running connector has."""

    latest: Mapping[Stream, Mapping[str, Any]] = field(default_factory=dict)
    """fetch-page's last answers, with their time under `at`."""
    budgets: Sequence[Mapping[str, Any]] = ()
    """The credentials' calls in fetch-page's last answer."""
    engine: Problem | None = None
    functions: Sequence[Problem] = ()
    config_edit: Problem | None = None
    ticked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RecordedGap:
    """A gap, with its acknowledgement."""

    gap: Gap
    acknowledged: Acknowledgement | None

    def fields(self) -> dict[str, Any]:
        """As JSON fields, without the stream."""
        fields = self.gap.fields()
        return {
            "id": short_id(self.gap.key),
            "key": self.gap.key,
            **{name: fields[name] for name in ("from", "to", "reason", "noticed_at", "estimated_events")},
            "acknowledged": self.acknowledged.fields() if self.acknowledged else None,
        }


@dataclass(frozen=True, slots=True)
class ListedWarning:
    """A warning about an integration's credential, with its acknowledgement."""

    key: str
    warning: CredentialWarning
    acknowledged: Acknowledgement | None

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        return {
            "id": short_id(self.key),
            "key": self.key,
            **self.warning.as_fields(),
            "acknowledged": self.acknowledged.fields() if self.acknowledged else None,
        }


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """The status of a site: JSON fields for people and programs, and what the page itself computes with."""

    fields: dict[str, Any]
    now: datetime
    gaps: Mapping[Stream, Sequence[RecordedGap]] = field(default_factory=dict)
    reconciled: Mapping[Stream, ReconcileSums] = field(default_factory=dict)
    """The last reconciliation of each stream that had one."""
    engine: Problem | None = None
    """The engine's outage."""

    def with_fields(self, **more: Any) -> SiteStatus:
        """The status with further JSON fields."""
        return replace(self, fields=self.fields | more)


@dataclass(frozen=True, slots=True)
class _View:
    """The inputs of one status."""

    pending: Mapping[Stream, _Pending]
    gaps: Mapping[Stream, Sequence[RecordedGap]]
    dead_letters: Mapping[Stream, Sequence[DeadLetter]]
    latest: Mapping[Stream, Mapping[str, Any]]
    accounts: Mapping[str, Account]
    targets: Mapping[Stream, Target]
    retired: Set[Stream]
    """Streams that the configuration or Sophos no longer names. Their checkpoints stay, in case they come back."""
    asked: Mapping[str, Asked]
    turns: Mapping[str, float]
    """Seconds in which the rate limit allows one poll of each stream, by integration."""
    inventory: Mapping[str, float]
    """Seconds between two polls of an integration's devices."""
    now: datetime


def status(
    config: Config,
    state: State,
    accounts: Accounts,
    *,
    now: datetime,
    running: Running | None = None,
    followed: Sequence[Problem] = (),
    record: Callable[[Stream], StreamRecord] | None = None,
) -> SiteStatus:
    """Every stream and every integration, with their health. `followed`: faults of UTMStack's own configuration."""
    running = running or Running()
    latest, engine = running.latest, running.engine
    pending: dict[Stream, _Pending] = {}
    for waiting in state.batches.waiting():
        waiting_sum = pending.setdefault(waiting.stream, _Pending())
        waiting_sum.batches += 1
        waiting_sum.bytes += waiting.entry.size
        waiting_sum.oldest = min(waiting_sum.oldest or waiting.entry.updated, waiting.entry.updated)
    damages = damaged(
        state.store, _WHOLE.setdefault(config.store, set())
    )  # First of all: reading a damaged object may rebuild it.
    seen = Acknowledgements(state.store).all()
    gaps = gaps_by_stream(state)
    # A lost batch is one problem: its gap.
    explained = {
        key: recorded.gap.key
        for of_stream in gaps.values()
        for recorded in of_stream
        for key in same_cause(recorded.gap.key)
    }
    dead_letters = dead_letters_by_stream(state.store)
    accounts_by_name = {settings.name: _account(accounts, settings.name, now) for settings in config.integrations}
    read = (
        target
        for settings in config.integrations
        for target in known_targets(settings, accounts_by_name[settings.name])
    )
    targets = {target.stream: target for target in read}
    streams = {*state.checkpoints.streams(), *pending, *latest, *targets, *dead_letters, *gaps} - {heartbeat.STREAM}
    asked: dict[str, Asked] = {}
    for integration in config.integrations:
        with suppress(KeptError):
            asked |= Schedules(state.store).asked(integration.name)
    unknown = {settings.name for settings in config.integrations} - {stream.integration for stream in targets}
    view = _View(
        pending,
        gaps,
        dead_letters,
        latest,
        accounts_by_name,
        targets,
        # An integration without known tenants has no retired stream: its tenants may only not be read yet.
        {stream for stream in streams - targets.keys() if stream.integration not in unknown},
        asked,
        _turns(config, targets, now),
        {settings.name: settings.inventory.total_seconds() for settings in config.integrations},
        now,
    )
    read_stream = record or partial(read_record, state, now)
    records = {stream: read_stream(stream) for stream in sorted(streams)}
    reconciled = {stream: kept.reconciled for stream, kept in records.items() if kept.reconciled is not None}
    shown = [_stream(view, stream, kept) for stream, kept in records.items()]
    lines = [line for line, _ in shown]
    total = sum(of_stream.bytes for of_stream in pending.values())
    paused = total >= config.limits.max_pending_bytes
    integrations = list(_integrations(config, accounts_by_name, lines, running.budgets, now=now, seen=seen))
    beat = None if config.heartbeat is None else heartbeat.shown(state, config.heartbeat, now)
    verdict = assess(
        SiteFacts(
            now=now,
            tick_seconds=config.every.seconds_around(now),
            integrations=[_integration_facts(name, account, now, seen) for name, account in accounts_by_name.items()],
            streams=[facts for _, facts in shown if facts is not None],
            problems=SiteProblems(
                engine=engine, functions=running.functions, config_edit=running.config_edit, followed=followed
            ),
            pending_bytes=total,
            max_pending_bytes=config.limits.max_pending_bytes,
            observing=config.observe,
            damaged=[
                DamagedObject(damage.key, damage.what, damage.remedy, damage.is_unreadable)
                for damage in damages
                if damage.key not in seen and damage.key not in explained and not damage.is_newer
            ],
            newer=[damage.key for damage in damages if damage.is_newer],
            read_at=running.ticked_at,
            is_heartbeat_late=bool(beat and beat["late"]),
        )
    )
    for line, facts in shown:
        line["health"] = str(verdict.streams[facts.name]) if facts else str(Health.OK)
    for line in integrations:
        line["health"] = str(verdict.integrations[line["name"]])
    fields: dict[str, Any] = {
        "ok": verdict.health is Health.OK,
        "health": str(verdict.health),
        "reasons": [_reason(reason) for reason in verdict.reasons],
        "waiting": len(verdict.waiting),
        "version": VERSION,
        "now": to_text(now),
        "every": _every(config),
        "store": config.store,
        "engine": config.engine,
        "observe": config.observe,
        "paused": paused,
        "pending_batches": sum(line["pending_batches"] for line in lines),
        "pending_bytes": total,
        "events": sum(line["events"] for line in lines),
        "acked": sum(line["acked"] for line in lines),
        "observed": sum(line["observed"] for line in lines),
        "gaps": sum(len(line["gaps"]) for line in lines),
        "set_aside": sum(line["set_aside"] for line in lines),
        "damaged": [
            {
                **damage.fields(),
                "acknowledged": seen[damage.key].fields() if damage.key in seen else None,
                "gap": short_id(explained[damage.key]) if damage.key in explained else None,
            }
            for damage in damages
        ],
        "integrations": integrations,
        "streams": lines,
        **({} if beat is None else {"heartbeat": beat}),
        **({} if engine is None else {"engine_problem": engine.as_problem() | {"since": to_text(engine.since)}}),
    }
    return SiteStatus(fields, now, gaps, reconciled, engine)


def _every(config: Config) -> str:
    every = config.every
    return duration_text(every.interval) if every.interval else str(every.cron)


def _reason(reason: Reason) -> dict[str, Any]:
    return {
        "code": reason.code,
        "health": str(reason.health),
        "title": reason.title,
        "detail": reason.detail,
        "remedy": reason.remedy,
        "since": text_or_none(reason.since),
        "count": reason.count,
        "integrations": list(reason.integrations),
        "streams": list(reason.streams),
    }


def _integration_facts(
    name: str, account: Account, now: datetime, seen: Mapping[str, Acknowledgement]
) -> IntegrationFacts:
    warned = [
        Warned(listed.warning.code, listed.warning.text, listed.warning.remedy, listed.warning.date)
        for listed in warnings_of(name, account, now, seen)
        if listed.acknowledged is None
    ]
    return IntegrationFacts(name, account.problem, account.paused_at, warned)


def warnings_of(name: str, account: Account, now: datetime, seen: Mapping[str, Acknowledgement]) -> list[ListedWarning]:
    """The warnings about an integration's credential."""
    return [
        ListedWarning(key, warning, seen.get(key))
        for warning in account.warnings(now)
        for key in [f"integrations/{encode_segment(name)}/{warning.code}/{warning.mark or f'{warning.date:%Y-%m-%d}'}"]
    ]


def gaps_by_stream(state: State) -> dict[Stream, list[RecordedGap]]:
    """Every recorded gap by stream."""
    seen = Acknowledgements(state.store).all()
    gaps: dict[Stream, list[RecordedGap]] = {}
    for gap in state.gaps.all():
        gaps.setdefault(gap.stream, []).append(RecordedGap(gap, seen.get(gap.key)))
    return gaps


def _integrations(
    config: Config,
    accounts: Mapping[str, Account],
    streams: Sequence[Mapping[str, Any]],
    budgets: Sequence[Mapping[str, Any]],
    *,
    now: datetime,
    seen: Mapping[str, Acknowledgement],
) -> Iterator[dict[str, Any]]:
    calls = {budget["integration"]: {key: budget[key] for key in budget if key != "integration"} for budget in budgets}
    for settings in config.integrations:
        account = accounts[settings.name]
        problem = account.problem
        own = [line for line in streams if line["integration"] == settings.name and line["state"] != "retired"]
        line: dict[str, Any] = {
            "name": settings.name,
            "state": _state(account, own),
            "since": text_or_none(problem.since if problem else account.paused_at),
            "credential": account.who.id_type if account.who else None,
            "tenants": len({line["tenant"] for line in own}),
            "region": settings.region,
            "streams": list(settings.streams),
            "exclude_types": list(settings.exclude_types),
            "warnings": [listed.fields() for listed in warnings_of(settings.name, account, now, seen)],
        }
        if account.life.since is not None:
            line |= {
                "credential_pair": "next" if account.life.is_next else "first",
                "credential_since": to_text(account.life.since),
            }
        if settings.name in calls:
            line["calls"] = calls[settings.name]
        if problem is not None:
            line |= {"problem": problem.as_problem(), "retry_at": text_or_none(_if_future(problem.retry_at, now))}
        yield line


def _state(account: Account, streams: Sequence[Mapping[str, Any]]) -> str:
    """The state of an integration in one word."""
    if account.paused_at is not None:
        return "paused"
    if account.problem is not None:
        return "throttled" if account.problem.code == ThrottledError.code else "failed"
    if account.who is None:
        return "pending"
    if not any(line["read_up_to"] for line in streams):
        return "authenticated"
    return "collecting"


def _interval(view: _View, stream: Stream) -> float | None:
    """Seconds between two polls of the stream."""
    if stream.kind == ENDPOINTS:
        return view.inventory.get(stream.integration)
    asked, turn = view.asked.get(stream.path), view.turns.get(stream.integration)
    if asked is None or turn is None or not asked.every:
        return turn
    # A stream with events is polled out of turn. When it is quiet, its turn decides again.
    return asked.every if asked.speaks(view.now.timestamp()) else max(asked.every, turn)


def _turns(config: Config, streams: Collection[Stream], now: datetime) -> dict[str, float]:
    every = config.every.seconds_around(now)
    asked = Counter(stream.integration for stream in streams if stream.kind != ENDPOINTS)
    return {
        settings.name: every * max(1.0, asked[settings.name] / RatePolicy(settings.calls_per_minute).firsts(every))
        for settings in config.integrations
    }


def _lag(stream: Stream, read_at: datetime | None, interval: float | None, now: datetime) -> float | None:
    """Seconds that are not read yet; for an inventory, seconds since a poll was due."""
    if read_at is None:
        return None
    due = interval or 0.0 if stream.kind == ENDPOINTS else 0.0
    return round(max(0.0, (now - read_at).total_seconds() - due), 3)


def _account(accounts: Accounts, name: str, now: datetime) -> Account:
    """An integration's record. A newer layout becomes the record's problem."""
    try:
        return accounts.read(name)
    except KeptError as error:
        return Account(problem=problem_after(None, error, now, None))


def _checkpoint(state: State, now: datetime, stream: Stream) -> Checkpoint:
    """A stream's checkpoint. A newer layout becomes the checkpoint's problem."""
    try:
        return replace(state.checkpoints.read(stream).checkpoint, recent=Recent())
    except KeptError as error:
        return Checkpoint(problem=problem_after(None, error, now, None))


def _delivered(state: State, stream: Stream) -> tuple[LastReceipt, str | None, NotAcknowledged, bool]:
    """A stream's last receipt, its time, the events that were not acknowledged, and whether nobody holds its lease.

    All is empty for a newer layout.
    """
    with suppress(KeptError):
        lease, _ = lease_of(state.store, stream)
        return *state.ledger.last(stream, lease.tail), lease.holder is None
    return LastReceipt(), None, NotAcknowledged(), False


def _stream(view: _View, stream: Stream, record: StreamRecord) -> tuple[dict[str, Any], StreamFacts | None]:
    """The stream's line, and the facts for its health; None for a retired stream."""
    now, latest = view.now, view.latest.get(stream)
    pending = view.pending.get(stream, _Pending())
    checkpoint = record.checkpoint
    target, retired = view.targets.get(stream), stream in view.retired
    account = view.accounts.get(stream.integration)
    problem = None if retired else (account.problem if account else None) or checkpoint.problem
    if problem is None and target is not None and target.refusal is not None:
        problem = problem_after(None, target.refusal, now, None)
    if problem is None and latest and not retired:
        problem = _reported_problem(latest)
    read_at = checkpoint.as_of
    if latest and stream.kind != ENDPOINTS and latest["outcome"] in THAT_READ and not latest["has_more"]:
        # An idle tick writes nothing, so the answer is newer than the checkpoint.
        read_at = max(read_at or latest["at"], latest["at"])
    interval, dead = _interval(view, stream), view.dead_letters.get(stream, ())
    line: dict[str, Any] = {
        "integration": stream.integration,
        "tenant": stream.tenant,
        "tenant_name": target.tenant.name if target else "",
        "stream": stream.kind,
        "state": _stream_state(latest, problem, is_retired=retired),
        "interval_seconds": interval,
        "measured_interval_seconds": _measured(latest, interval, now),
        "lag_seconds": _lag(stream, read_at, interval, now),
        "has_more": bool(latest and latest["has_more"]),
        "read_up_to": text_or_none(read_at),
        "last_event": text_or_none(checkpoint.newest.at),
        "last_ack": record.acked_at,
        # What has a receipt was fetched, even if the checkpoint cannot be read now.
        "events": max(checkpoint.counts.events, record.tail.total),
        "repeats": checkpoint.counts.repeats,
        "changed": checkpoint.counts.changed,
        "other_customers": checkpoint.counts.other_customers_lately(now),
        "other_customers_total": checkpoint.counts.other_customers,
        "acked": record.tail.total - record.counted.set_aside - record.counted.observed,
        "observed": record.counted.observed,
        "pending_batches": pending.batches,
        "pending_bytes": pending.bytes,
        "oldest_pending_seconds": (
            round(max(0.0, (now - pending.oldest).total_seconds()), 3) if pending.oldest else 0.0
        ),
        "gaps": [recorded.fields() for recorded in view.gaps.get(stream, ())],
        "set_aside": sum(letter.events for letter in dead),
        "dead_letter_objects": len(dead),
        "dead_letters_unacknowledged": sum(
            letter.events for letter in dead if letter.acknowledged is None and not letter.is_copy
        ),
    }
    if record.has_reconciled:
        line["reconciled"] = None if record.reconciled is None else record.reconciled.fields()
    # A problem explains the silence already.
    silent = None if problem or retired else checkpoint.silent_since(read_at)
    if silent is not None:
        line["silent_since"] = to_text(silent)
    if problem is not None:
        line["problem"] = problem.as_problem()
        retry_at = _if_future(problem.retry_at, now)
        if retry_at is not None:
            line["retry_at"] = to_text(retry_at)
    return line, None if retired else _facts(view, stream, line, problem, silent)


def _reported_problem(latest: Mapping[str, Any]) -> Problem | None:
    """The problem that fetch-page answered and did not store."""
    reported = latest.get("problem")
    if reported is None:
        return None
    retry_at = from_text(latest["retry_at"]) if "retry_at" in latest else None
    if reported["code"] == ThrottledError.code:
        # If the credential were still throttled, it would have a problem of its own: only this stream waits.
        turn = OverBudgetError("Sophos had asked to slow down; the stream waits for its turn")
        return Problem(turn.code, str(turn), turn.remedy, latest["at"], 1, None)
    return Problem(reported["code"], reported["detail"], reported["remedy"], latest["at"], 1, retry_at)


def _if_future(moment: datetime | None, now: datetime) -> datetime | None:
    """The time if it is in the future, otherwise None: a retry time in the past is not shown."""
    return moment if moment is not None and moment > now else None


def _stream_state(latest: Mapping[str, Any] | None, problem: Problem | None, *, is_retired: bool) -> str:
    """The state of a stream in one word."""
    if is_retired:
        return "retired"
    if problem is not None and problem.code in WAITING:
        return "waiting"
    if latest:
        return str(latest["outcome"])
    return "failed" if problem else "idle"


def _measured(latest: Mapping[str, Any] | None, interval: float | None, now: datetime) -> float | None:
    """Seconds between the last two polls of a stream, or since the last one if that is longer."""
    if not latest or "looked_at" not in latest:
        return None
    measured: float | None = latest.get("looked_every")
    waited: float = (now - latest["looked_at"]).total_seconds()
    if waited > (measured or interval or 0.0):
        return round(waited, 1)
    return None if measured is None else round(measured, 1)


def _facts(
    view: _View, stream: Stream, line: Mapping[str, Any], problem: Problem | None, silent: datetime | None
) -> StreamFacts:
    gaps = [recorded.gap for recorded in view.gaps.get(stream, ()) if recorded.acknowledged is None]
    return StreamFacts(
        name=stream.path,
        integration=stream.integration,
        problem=problem,
        lag_seconds=line["lag_seconds"],
        interval_seconds=line["interval_seconds"],
        gaps=len(gaps),
        lost_batches=sum(gap.reason != CURSOR_EXPIRED for gap in gaps),
        gap_since=min((gap.noticed_at for gap in gaps), default=None),
        dead_letters=line["dead_letters_unacknowledged"],
        silent_since=silent,
        undelivered_seconds=line["oldest_pending_seconds"],
        other_customers=line["other_customers"],
    )


def site_status(
    app: App,
    running: Running | None = None,
    followed: Sequence[Problem] = (),
    *,
    store: ObjectStore | None = None,
    record: Callable[[Stream], StreamRecord] | None = None,
) -> SiteStatus:
    """The status now. `store` and `record` replace the app's own, for a reader that keeps objects."""
    return status(
        app.config(),
        app.state if store is None else State.of(store),
        app.accounts,
        now=app.parts.now(),
        running=running,
        followed=followed,
        record=record,
    )


def collect(app: App, followed: Sequence[Problem] = ()) -> dict[str, Any]:
    """The status now, as JSON fields."""
    return site_status(app, followed=followed).fields
