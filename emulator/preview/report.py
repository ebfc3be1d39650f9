"""The report of a session, as JSON and as tables."""

from __future__ import annotations

from typing import Any

from emulator.preview.reasons import never
from emulator.preview.session import Outcome, Session
from lib.model.text import several

NOTE = "This preview uses public sources, not UTMStack's closed engine. Test a rule there before you rely on it."
_WIDTH = 44
"""The longest shown name of a rule."""


def report_of(session: Session) -> dict[str, Any]:
    """The session's report; `ok` if every rule could match, everything was evaluated, and there was an event."""
    remarks = session.not_evaluated()
    rules = [
        {
            "name": tally.rule.name,
            "file": tally.rule.file,
            "matches": tally.matches,
            "example": tally.example,
            "never": never(session, tally),
        }
        for tally in session.rules
    ]
    types = sorted(session.types.items())
    is_well = not any(rule["never"] for rule in rules) and all(remark.limit for remark in remarks)
    return {
        "ok": is_well and session.events > 0,
        "events": session.events,
        "types": {name: {"count": tally.count, "fields": sorted(tally.fields)} for name, tally in types},
        "rules": rules,
        "unmatched_types": [name for name, tally in types if not tally.matched],
        "not_evaluated": [{"where": remark.where, "what": remark.what, "count": remark.count} for remark in remarks],
        **({"links": session.links()} if session.links()["alerts"] else {}),
    }


def line_of(outcome: Outcome) -> dict[str, Any]:
    """The result of one event as JSON fields."""
    return {"id": outcome.id, "type": outcome.type, "fields": outcome.fields, "rules": list(outcome.rules)}


def tables_of(session: Session, report: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """Two tables for people: the rules, and the types."""
    rules: list[tuple[str, ...]] = [("RULE", "MATCHES", "AS", "EXAMPLE")]
    for tally, rule in zip(session.rules, report["rules"], strict=True):
        kind = (
            "never" if rule["never"] else "-" if not tally.matches else "candidate" if tally.rule.history else "alert"
        )
        rules.append((rule["name"][:_WIDTH], str(rule["matches"]), kind, rule["example"] or "-"))
    types: list[tuple[str, ...]] = [("TYPE", "EVENTS", "FIELDS", "RULES")]
    unmatched = set(report["unmatched_types"])
    for name, counts in report["types"].items():
        numbers = (str(counts["count"]), str(len(counts["fields"])))
        types.append((name or "(none)", *numbers, "no" if name in unmatched else "yes"))
    return [rules, types]


def words_of(session: Session, report: dict[str, Any]) -> list[str]:
    """The lines below the tables."""
    lines = [f"{several(report['events'], 'event')}, {session.dropped} of them dropped by the filter."]
    if not session.events:
        lines = ["There was no event, so the rules could not be tested."]
    if session.links()["alerts"]:
        lines.append("{alerts} alerts, {alerts_without_event} of them without their event.".format(**session.links()))
    lines += [f"NEVER  {rule['name']}: {rule['never']}" for rule in report["rules"] if rule["never"]]
    # The lines above already name the rules that can never match.
    named_files = tuple(f"{rule['file']}, " for rule in report["rules"] if rule["never"])
    lines += [
        f"NOT EVALUATED  {remark['where']}: {remark['what']} ({several(remark['count'], 'event')})"
        for remark in report["not_evaluated"]
        if not remark["where"].startswith(named_files)
    ]
    return [*lines, "", NOTE]
