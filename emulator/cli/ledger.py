"""`audit` and `missed`: checks and sums of the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from emulator.cli.progress import ProgressLine
from emulator.cli.site import (
    LOOKING,
    day_of_option,
    refused,
    stream_names,
)
from emulator.cli.terminal import bounds, say, say_wrapped, show, window
from lib import answers
from lib.app import App
from lib.config import loading as configuration
from lib.errors import ConnectorError
from lib.model.stream import Stream
from lib.model.text import several
from lib.pipeline import audit as audits
from lib.pipeline.observe import Observations

COLUMNS = {
    "BATCHES": "batches",
    "EVENTS": "events",
    "OBSERVED ONLY": "observed",
    "DEAD LETTERS": "set_aside",
    "DUPLICATES": "repeats",
}
"""The columns of `audit` after the day, with the sums that they show."""
ALWAYS = ("BATCHES", "EVENTS")
"""The columns that a terminal window shows even if all is 0."""


def audit(location: str | None, since: str | None, *, as_json: bool) -> int:
    """Check the ledger; 0 if every batch is accounted for, 1 if there are findings."""
    try:
        config = configuration.load(location)
        app = App(lambda: config, LOOKING)
        with ProgressLine("streams") as progress:
            report = audits.audit(
                app.state,
                day_of_option(since),
                lambda done, all_: progress.update("audit", done, done / all_),
            )
        answer = answers.audited(report)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps(answer, ensure_ascii=False))
        return 0 if answer["ok"] else 1
    named = stream_names(app)
    _print_days(answer["streams"], named)
    for line in answer["streams"]:
        name = named(Stream.of(line))
        for gap in line["gaps"]:
            lost = "" if gap["estimated_events"] is None else f", about {several(gap['estimated_events'], 'event')}"
            say_wrapped(f"gap      {name}: {gap['reason']}, {bounds(gap['from'], gap['to'])} UTC{lost}")
        for finding in line["findings"]:
            say_wrapped(f"FINDING  {name}: {finding['code']}: {finding['detail']}")
    say_wrapped(
        "Every batch is accounted for." if answer["ok"] else "Some batches are not accounted for: see the findings."
    )
    return 0 if answer["ok"] else 1


def _print_days(streams: Sequence[dict[str, Any]], named: Callable[[Stream], str]) -> None:
    days = [(named(Stream.of(line)), day, sums) for line in streams for day, sums in line["days"].items()]
    shown = {
        title: key
        for title, key in COLUMNS.items()
        if title in ALWAYS or window() is None or any(sums.get(key) for _, _, sums in days)
    }
    rows = [(name, day, *(str(sums.get(key, 0)) for key in shown.values())) for name, day, sums in days]
    show([("STREAM", "DAY", *shown), *rows])


def missed(location: str | None, since: str | None, *, as_json: bool) -> int:
    """Count the observed events that UTMStack's own plugin missed, by hour; 1 if it missed any."""
    try:
        config = configuration.load(location)
        app = App(lambda: config, LOOKING)
        streams = Observations(app.state).missed(day_of_option(since))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    total = sum(stream.total.missed for stream in streams)
    hint = None if streams else _not_observed(config.observe, since)
    if as_json:
        answer = {"ok": total == 0, "missed": total, "streams": list(map(answers.missed, streams))}
        say(json.dumps(answer | ({"hint": hint} if hint else {}), ensure_ascii=False))
        return 1 if total else 0
    if hint:
        say_wrapped(hint)
        return 0
    rows, named = [("STREAM", "HOUR", "OBSERVED", "MISSED", "LATE")], stream_names(app)
    for events in streams:
        name = named(events.stream)
        for start, hour in events.hours.items():
            rows.append((name, start, str(hour.observed), str(hour.missed), str(hour.late)))
    show(rows)
    observed = several(sum(stream.total.observed for stream in streams), "event")
    say_wrapped(f"UTMStack's own plugin missed {total} of {observed}.")
    return 1 if total else 0


def _not_observed(observes: bool, since: str | None) -> str:  # noqa: FBT001 - a fact, not an option
    when = f"since {since}" if since else "yet"
    if observes:
        return f"No event was observed {when}: no batch is finished. Run `status` to see the streams."
    return f"No event was observed {when}: `observe` is off. Set `observe: on` while UTMStack's own plugin still runs."
