"""The results of the use cases as JSON fields, for the answers of functions and commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lib.model.clock import to_text
from lib.model.stream import Stream

if TYPE_CHECKING:
    from lib.pipeline.audit import AuditReport, DaySums, StreamAudit
    from lib.pipeline.count_types import SeenFamily, SeenType, Share, TypeCount, TypesReport
    from lib.pipeline.delivery_result import DeliveryResult
    from lib.pipeline.fetch_page import CallsUsed, Fetched
    from lib.pipeline.observe import MissedEvents
    from lib.pipeline.read_result import ReadResult
    from lib.pipeline.reconcile import ReconcileReport
    from lib.pipeline.replay import ReplayReport
    from lib.pipeline.test_connection import Check, ConnectionReport

Fields = dict[str, Any]


def fetched(answer: Fetched) -> Fields:
    """fetch-page's answer."""
    fields: Fields = {
        "results": [read_line(result) for result in answer.results],
        "deferred": answer.deferred,
        "budgets": [_calls_used(budget) for budget in answer.budgets],
    }
    optional = {"queued": answer.queued, "heartbeat": answer.heartbeat}
    return fields | {key: value for key, value in optional.items() if value is not None}


def read_line(result: ReadResult) -> Fields:
    """A line of fetch-page's answer."""
    line: Fields = {
        "integration": result.integration,
        "tenant": result.tenant,
        "stream": result.kind,
        "outcome": result.outcome,
        "pages": result.read.pages,
        "events": result.read.events,
        "bytes": result.read.bytes,
        "batches": result.read.batches,
        "has_more": result.has_more,
        "lag_seconds": result.lag_seconds,
        "changed": result.read.changed,
        "other_customers": result.read.other_customers,
    }
    if result.read.total is not None:
        line["events_total"] = result.read.total
    if result.reconciled is not None:
        line["reconciled"] = reconciled(result.reconciled)
    if result.problem is not None:
        line["problem"] = result.problem.as_problem() | ({"id": result.error_id} if result.error_id else {})
    if result.next_try is not None:
        line["retry_at"] = to_text(result.next_try)
    return line


def delivered(results: Iterable[DeliveryResult]) -> list[Fields]:
    """The lines of forward-batch's answer."""
    return [_delivery_line(result) for result in results]


def met(counts: Mapping[str, int]) -> Fields:
    """Counts of this process's deliveries since its start: logs sent again, and unknown acknowledgements."""
    return {name: counts.get(name, 0) for name in ("resent", "odd_acks")}


def reconciled(report: ReconcileReport) -> Fields:
    """A stream's reconciliation."""
    line = {
        **{name: text or None for name, text in _stream(report.stream).items()},
        "outcome": report.outcome,
        "batches": list(report.batches),
        **report.sums.fields(),
    }
    return line if report.error is None else line | {"problem": report.error.as_problem()}


def audited(report: AuditReport) -> Fields:
    """The sums of the ledger, with its findings."""
    return {"ok": report.ok, "since": report.since, "streams": [_audited_stream(stream) for stream in report.streams]}


def connection(report: ConnectionReport) -> Fields:
    """test-connection's answer."""
    return {
        "ok": report.ok,
        "checks": [check(result) for result in report.checks],
        "tenant": dict(report.tenant),
        "streams": dict(report.streams),
    }


def check(result: Check) -> Fields:
    """One check of test-connection."""
    fields = {
        "name": result.name,
        "ok": result.ok,
        "outcome": result.outcome,
        "milliseconds": result.milliseconds,
        "detail": result.detail,
    }
    why = {"code": result.code, "title": result.title, "remedy": result.remedy}
    return fields | {name: text for name, text in why.items() if text is not None}


def replayed(report: ReplayReport) -> Fields:
    """The counts of a replay."""
    return {
        "ok": report.ok,
        "batches": report.batches,
        "acked": report.acked,
        "refused": report.refused,
        "damaged": list(report.damaged),
    }


def missed(events: MissedEvents) -> Fields:
    """The events of a stream that UTMStack's own plugin would have missed."""
    return {
        "integration": events.stream.integration,
        "tenant": events.stream.tenant,
        **asdict(events.total),
        "hours": {start: asdict(hour) for start, hour in events.hours.items()},
    }


def types(report: TypesReport) -> Fields:
    """The types of events of an integration's tenants."""
    return {
        "integration": report.integration,
        "hours": report.hours,
        "complete": report.is_complete,
        "problems": [
            {
                "tenant": problem.tenant.id if problem.tenant else None,
                "tenant_name": problem.tenant.name if problem.tenant else None,
                "code": problem.error.code,
                "detail": str(problem.error),
            }
            for problem in report.problems
        ],
        **_seen("", report.seen.all),
        **_seen("excluded_", report.seen.excluded),
        "families": [_family(family) for family in report.seen.families],
    }


def _calls_used(calls: CallsUsed) -> Fields:
    return {"integration": calls.integration, **asdict(calls.used), "outcomes": dict(calls.outcomes)}


def _delivery_line(result: DeliveryResult) -> Fields:
    line: Fields = {
        **_stream(result.stream),
        "outcome": result.outcome,
        "batches": result.batches,
        "acked": result.acked,
        "observed": result.observed,
        "pending": result.pending,
        "set_aside": result.set_aside,
    }
    if result.acked_total is not None:
        line["acked_total"] = result.acked_total
    return line if result.error is None else line | {"problem": result.error.as_problem()}


def _audited_stream(audit: StreamAudit) -> Fields:
    names = ("from", "to", "reason", "noticed_at", "sequence", "estimated_events")
    return {
        **_stream(audit.stream),
        "ok": audit.ok,
        "receipts": sum(day.batches for day in audit.days.values()),
        "events": audit.events,
        "days": {name: _day(sums) for name, sums in audit.days.items()},
        "removed_until": audit.removed_until,
        "gaps": [{name: fields[name] for name in names} for fields in (gap.fields() for gap in audit.gaps)],
        "findings": [asdict(finding) for finding in audit.findings],
    }


def _day(sums: DaySums) -> Fields:
    return {name: value for name, value in asdict(sums).items() if value or name != "observed"}


def _stream(stream: Stream) -> Fields:
    return {"integration": stream.integration, "tenant": stream.tenant, "stream": stream.kind}


def _seen(prefix: str, seen: TypeCount) -> Fields:
    return {f"{prefix}events": seen.events, f"{prefix}bytes": seen.bytes}


def _shares(share: Share) -> Fields:
    return {
        "events": share.events,
        "bytes": share.bytes,
        "share_of_events": share.of_events,
        "share_of_bytes": share.of_bytes,
    }


def _family(family: SeenFamily) -> Fields:
    return {
        "family": family.name,
        "exclude": family.exclude,
        **_shares(family.share),
        "types": [_type(seen) for seen in family.types],
    }


def _type(seen: SeenType) -> Fields:
    return {
        "type": seen.name or None,
        **_shares(seen.share),
        "excluded": seen.is_excluded,
        "needed": seen.is_needed,
    }
