"""`types`, `reconcile` and `backfill`: what Sophos holds, read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from emulator.cli.progress import Progress, part_of
from emulator.cli.site import (
    LOOKING,
    graph,
    refused,
    window_of,
)
from emulator.cli.terminal import say, show
from lib import answers
from lib.app import App
from lib.errors import ConfigError, ConnectorError
from lib.pipeline.reconcile import RECONCILED

if TYPE_CHECKING:
    from lib.pipeline.count_types import Share

DAY = timedelta(days=1)

T = TypeVar("T")


def types(location: str | None, integration: str | None, hours: float, *, as_json: bool) -> int:
    """Which types of events Sophos holds, by family, and what leaving each out would save; 1 where not all was read."""
    try:
        app, _ = graph(location, LOOKING)
        reports = _told(timedelta(hours=hours), partial(app.count_types, integration, timedelta(hours=hours)))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        found = {"ok": all(each.is_complete for each in reports), "results": list(map(answers.types, reports))}
        say(json.dumps(found, ensure_ascii=False))
    for report in () if as_json else reports:
        rows = [("TO LEAVE OUT", "EVENTS", "OF ALL", "BYTES", "OF ALL", "")]
        for family in report.seen.families:
            rows.append((family.exclude or "(no family)", *_saving(family.share), ""))
            for seen in family.types:
                note = "left out now" if seen.is_excluded else "stays, unless named itself" if seen.is_needed else ""
                rows.append((f"  {seen.name or '(no type)'}", *_saving(seen.share), note))
        whole = report.seen.all
        say(f"{report.integration}: {whole.events} events, {whole.bytes} bytes in {report.hours:g} h")
        show(rows)
        for problem in report.problems:
            say(f"NOT READ  {problem.tenant or report.integration}: {problem.error}", f"→ {problem.error.remedy}")
    return 0 if all(each.is_complete for each in reports) else 1


def _told(window: timedelta, read: Callable[..., list[T]]) -> list[T]:
    """What comes of the reading, of which a person hears how far it has come."""
    with Progress("events") as progress:
        return read(on_progress=lambda what, count, up_to: progress.tell(what, count, part_of(window, up_to)))


def _saving(share: Share) -> tuple[str, str, str, str]:
    return str(share.events), f"{share.of_events:.1%}", str(share.bytes), f"{share.of_bytes:.1%}"


def reconcile(
    location: str | None, integration: str | None, tenant: str | None, since: str | None, *, as_json: bool
) -> int:
    """Read Sophos again, store what the ledger does not hold, and forward it.

    0 where all of it was read and the engine has taken what was missing.
    """
    try:
        app, _ = graph(location)
        window = None if since is None else _served_window(since)
        reports = _told(window or DAY, partial(app.reconcile_all, integration, window, tenant=tenant))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    obstacle = _forwarded(app, integration)
    ok = obstacle is None and all(each.outcome == RECONCILED for each in reports)
    if as_json:
        found: dict[str, Any] = {"ok": ok, "results": list(map(answers.reconciled, reports))}
        say(json.dumps(found | ({"problem": obstacle.as_problem()} if obstacle else {}), ensure_ascii=False))
        return 0 if ok else 1
    rows = [("STREAM", "OUTCOME", "READ", "MISSING", "HOW LATE")]
    for report in reports:
        late = ", ".join(f"{count} within {bound}" for bound, count in report.found["lateness"].items())
        name = str(report.stream) if report.stream.tenant else report.stream.integration
        rows.append((name, report.outcome.replace("_", " "), str(report.read), str(report.missing), late or "-"))
    show(rows)
    for report, row in zip(reports, rows[1:], strict=True):
        if report.error is not None:
            say("", f"{row[0]}: {report.error}", f"→ {report.error.remedy}")
        elif report.outcome != RECONCILED:
            say("", f"{row[0]}: not all was read in time. Call it again: it goes on from there.")
    if obstacle is not None:
        say("", f"What was missing is stored, and waits: {obstacle}", f"→ {obstacle.remedy}")
    return 0 if ok else 1


def _forwarded(app: App, integration: str | None) -> ConnectorError | None:
    """Forward what waits; what stands in its way, which takes nothing from what was found."""
    try:
        return next((each.error for each in app.forward(integration) if each.error is not None), None)
    except ConnectorError as error:
        return error


def _served_window(since: str) -> timedelta:
    window = window_of(since)
    if window > DAY:
        raise ConfigError(
            f"--since {since} lies too far back: Sophos serves the events of the last 24 hours only",
            remedy="Write 24h at most. What was fetched before may be in the archive: `replay --since` sends that.",
        )
    return window
