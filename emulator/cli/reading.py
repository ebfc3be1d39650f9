"""`types`, `reconcile` and `backfill`: commands that read Sophos again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from emulator.cli.progress import ProgressLine, part_of
from emulator.cli.site import (
    LOOKING,
    graph,
    refused,
    stream_names,
    window_of,
)
from emulator.cli.terminal import say, say_wrapped, show, show_names
from lib import answers
from lib.app import App
from lib.errors import ConfigError, ConnectorError
from lib.model.stream import Stream
from lib.model.text import several
from lib.pipeline.reconcile import RECONCILED

if TYPE_CHECKING:
    from lib.pipeline.count_types import Share

DAY = timedelta(days=1)

T = TypeVar("T")


def types(location: str | None, integration: str | None, hours: float, *, as_json: bool) -> int:
    """Count the types of events by family, and what excluding each would save; 1 if not everything was read."""
    try:
        app, _ = graph(location, LOOKING)
        window = timedelta(hours=hours)
        reports = _with_progress(window, partial(app.count_types, integration, window), stream_names(app))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        answer = {"ok": all(report.is_complete for report in reports), "results": list(map(answers.types, reports))}
        say(json.dumps(answer, ensure_ascii=False))
    for report in () if as_json else reports:
        # Names stand last: there they have the most room.
        rows = [("EVENTS", "OF ALL", "BYTES", "OF ALL", "EXCLUDE")]
        for family in report.seen.families:
            rows.append((*_saving(family.share), family.exclude or "(no family)"))
            for seen in family.types:
                note = " (excluded now)" if seen.is_excluded else " (only if named itself)" if seen.is_needed else ""
                rows.append((*_saving(seen.share), f" {seen.name or '(no type)'}{note}"))
        whole = report.seen.all
        counts = f"{several(whole.events, 'event')}, {several(whole.bytes, 'byte')}"
        say_wrapped(f"{report.integration}: {counts} in {report.hours:g} h")
        if whole.events:
            show_names(rows)
        for problem in report.problems:
            say_wrapped(
                f"NOT READ  {problem.tenant or report.integration}: {problem.error}", f"→ {problem.error.remedy}"
            )
    return 0 if all(report.is_complete for report in reports) else 1


def _with_progress(window: timedelta, read: Callable[..., list[T]], named: Callable[[Stream], str]) -> list[T]:
    """The results of the reading, with progress on a terminal."""
    with ProgressLine("events") as progress:

        def on_progress(stream: str, count: int, up_to: datetime | None) -> None:
            progress.update(named(Stream(*stream.rsplit("/", 2))), count, part_of(window, up_to))

        return read(on_progress=on_progress)


def _saving(share: Share) -> tuple[str, str, str, str]:
    return str(share.events), f"{share.of_events:.1%}", str(share.bytes), f"{share.of_bytes:.1%}"


def reconcile(
    location: str | None, integration: str | None, tenant: str | None, since: str | None, *, as_json: bool
) -> int:
    """Read Sophos again, store the events that the ledger lacks, and forward them.

    0 if everything was read and the engine acknowledged the missing events.
    """
    try:
        app, _ = graph(location)
        window, named = None if since is None else _served_window(since), stream_names(app)
        reports = _with_progress(window or DAY, partial(app.reconcile_all, integration, window, tenant=tenant), named)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    obstacle = _forwarded(app, integration)
    ok = obstacle is None and all(report.outcome == RECONCILED for report in reports)
    if as_json:
        answer: dict[str, Any] = {"ok": ok, "results": list(map(answers.reconciled, reports))}
        say(json.dumps(answer | ({"problem": obstacle.as_problem()} if obstacle else {}), ensure_ascii=False))
        return 0 if ok else 1
    rows = [("STREAM", "OUTCOME", "READ", "MISSING", "HOW LATE")]
    for report in reports:
        late = ", ".join(f"{count} within {bound}" for bound, count in report.sums.lateness.items())
        name = named(report.stream) if report.stream.tenant else report.stream.integration
        rows.append(
            (name, report.outcome.replace("_", " "), str(report.sums.read), str(report.sums.missing), late or "-")
        )
    show(rows)
    for report, row in zip(reports, rows[1:], strict=True):
        if report.error is not None:
            say_wrapped("", f"{row[0]}: {report.error}", f"→ {report.error.remedy}")
        elif report.outcome != RECONCILED:
            say_wrapped(
                "", f"{row[0]}: not everything was read in time. Run the command again: it continues from there."
            )
    if obstacle is not None:
        say_wrapped("", f"The missing events are stored, but not delivered yet: {obstacle}", f"→ {obstacle.remedy}")
    return 0 if ok else 1


def _forwarded(app: App, integration: str | None) -> ConnectorError | None:
    """Forward the waiting batches; the first error, or None. An error does not change what was read."""
    try:
        return next((result.error for result in app.forward(integration) if result.error is not None), None)
    except ConnectorError as error:
        return error


def _served_window(since: str) -> timedelta:
    window = window_of(since)
    if window > DAY:
        raise ConfigError(
            f"--since {since} is too long ago: Sophos serves only the last 24 hours",
            remedy="Write at most 24h. Older events may be in the archive: send them with `replay --since`.",
        )
    return window
