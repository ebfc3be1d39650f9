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
    """The session's report; `ok` if every rule could match and everything was evaluated.

    Without an event nothing was found out, so it is not well either.
    """
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
        "types": {name: {"count": each.count, "fields": sorted(each.fields)} for name, each in types},
        "rules": rules,
        "unmatched_types": [name for name, each in types if not each.matched],
        "not_evaluated": [{"where": each.where, "what": each.what, "count": each.count} for each in remarks],
    }


def line_of(outcome: Outcome) -> dict[str, Any]:
    """The result of one event as JSON fields."""
    return {"id": outcome.id, "type": outcome.type, "fields": outcome.fields, "rules": list(outcome.rules)}


def tables_of(session: Session, found: dict[str, Any]) -> list[list[tuple[str, ...]]]:
    """The rows for people: of the rules, and of the types."""
    rules: list[tuple[str, ...]] = [("RULE", "MATCHES", "AS", "EXAMPLE")]
    for tally, each in zip(session.rules, found["rules"], strict=True):
        kind = (
            "never" if each["never"] else "-" if not tally.matches else "candidate" if tally.rule.history else "alert"
        )
        rules.append((each["name"][:_WIDTH], str(each["matches"]), kind, each["example"] or "-"))
    types: list[tuple[str, ...]] = [("TYPE", "EVENTS", "FIELDS", "RULES")]
    unmatched = set(found["unmatched_types"])
    for name, each in found["types"].items():
        numbers = (str(each["count"]), str(len(each["fields"])))
        types.append((name or "(none)", *numbers, "no" if name in unmatched else "yes"))
    return [rules, types]


def words_of(session: Session, found: dict[str, Any]) -> list[str]:
    """The lines below the tables."""
    lines = [f"{several(found['events'], 'event')}, {session.dropped} of them dropped by the filter."]
    if not session.events:
        lines = ["There was no event, so the rules could not be tested."]
    lines += [f"NEVER  {each['name']}: {each['never']}" for each in found["rules"] if each["never"]]
    # The lines above already name the rules that can never match.
    told = tuple(f"{each['file']}, " for each in found["rules"] if each["never"])
    lines += [
        f"NOT EVALUATED  {each['where']}: {each['what']} ({several(each['count'], 'event')})"
        for each in found["not_evaluated"]
        if not each["where"].startswith(told)
    ]
    return [*lines, "", NOTE]
