"""`python -m emulator.web.work FOLDER`: carries out the order in the folder (see background.py)."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from emulator.web.background import ANSWER, ORDER, PROGRESS
from lib.config import environment
from lib.config.loading import located
from lib.config.reloading import ReloadingConfig
from lib.config.settings import Config
from lib.errors import ConnectorError
from lib.model.clock import day_of
from lib.model.text import several

# ruff: noqa: PLC0415 - each order loads what it needs

MEMORY = 2 << 30
"""The most bytes of address space: a larger order fails, and the machine does not run out of memory."""
PROGRESS_SECONDS = 0.5
DAYS_AT_ONCE = 10
"""Days that are counted in one pass over the streams. More days save time, and take memory."""
MOST_EVENTS = 100_000
"""The most events of a preview; they take about a minute."""
EXAMPLE = 4_000
"""Characters of an example that are shown."""

OnProgress = Callable[[str], None]


def main(place: Path) -> int:
    """Carry out the order, and write the answer or the problem beside it."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    order = json.loads((place / ORDER).read_text("utf-8"))
    try:
        config = ReloadingConfig(located(), environment.followed(), store=environment.store()).current()
        answer: dict[str, Any] = {"found": ORDERS[order["work"]](config, order, _progress_writer(place))}
    except ConnectorError as error:
        answer = {"problem": {"detail": str(error), "remedy": error.remedy}}
    except MemoryError:
        answer = {"problem": {"detail": "It needs more memory than its limit.", "remedy": "Choose fewer events."}}
    _write(place / ANSWER, json.dumps(answer, ensure_ascii=False))
    return 0


def _progress_writer(place: Path) -> OnProgress:
    reported_at = 0.0

    def on_progress(text: str) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= PROGRESS_SECONDS:
            reported_at = time.monotonic()
            _write(place / PROGRESS, text)

    return on_progress


def _write(path: Path, text: str) -> None:
    half = path.with_suffix(".half")
    half.write_text(text, "utf-8")
    half.replace(path)


def preview(config: Config, order: dict[str, Any], on_progress: OnProgress) -> dict[str, Any]:
    """The report of `preview`, with an example event of each rule for the page."""
    from emulator.preview.command import DAMAGED
    from emulator.preview.events import Event, from_simulator, from_store, site_of
    from emulator.preview.files import read_filters, read_rules
    from emulator.preview.report import report_of
    from emulator.preview.session import Session

    on_progress("Reading filter and rules")
    session = Session(read_filters(order["filters"]), read_rules(order["rules"]), site_of(config))
    events: Iterator[Event] = (
        from_store(config, timedelta(days=order["days"]), partial(session.remarks.add, what=DAMAGED))
        if order["days"]
        else from_simulator(session.site)
    )
    examples: dict[str, str] = {}
    for event in islice(events, MOST_EVENTS):
        for name in session.run(event).rules:
            examples.setdefault(name, event.raw[:EXAMPLE].decode("utf-8", "replace"))
        on_progress(f"{several(session.events, 'event')} processed")
    report = report_of(session)
    for tally, rule in zip(session.rules, report["rules"], strict=True):
        rule |= {"raw": examples.get(rule["name"]), "candidate": tally.rule.history}
    return report | {"dropped": session.dropped, "cut": next(events, None) is not None}


def attest(config: Config, order: dict[str, Any], on_progress: OnProgress) -> int:
    """Count days, and store each one beside the charts; the number of days. The newest one gets the proposals."""
    from emulator.web.chart_objects import update_object
    from emulator.web.completeness import FIRST, PREFIX
    from emulator.web.counted_days import COUNTED_DAY, FIRST_DAY, CountedDay, FirstDay, counted_day, removed_day
    from lib.app import App
    from lib.pipeline.accounts import streams_read
    from lib.pipeline.attest import Measured, counted, first_day, statement, streams_of
    from lib.state.accounts import StoredAccounts

    state = App(lambda: config).state

    def put(day: CountedDay) -> None:
        key = f"{PREFIX}{day.day}.json"
        update_object(state.store, key, COUNTED_DAY, lambda stored: day if day.replaces(stored) else None)

    known_streams = streams_of(state)
    read = streams_read(config.integrations, StoredAccounts(state.store), known_streams)
    streams = sorted({*known_streams, *read})
    first = first_day(state, streams) or day_of(datetime.now(UTC))
    earliest = FirstDay(first)
    update_object(
        state.store, f"{PREFIX}{FIRST}.json", FIRST_DAY, lambda stored: None if stored == earliest else earliest
    )
    days = [asked for asked in order["days"] if asked["day"] >= first or asked["gaps"]]
    measured = [
        Measured(integration.name, integration.settle, integration.reconcile) for integration in config.integrations
    ]
    done = 0
    for begin in range(0, len(days), DAYS_AT_ONCE):
        some = {asked["day"]: asked["gaps"] for asked in days[begin : begin + DAYS_AT_ONCE]}
        days_counted, now = counted(state, some, streams), datetime.now(UTC)
        for day, gaps in some.items():
            if day in days_counted:
                attested = statement(
                    state, day, now=now, measured=measured, versions={}, key="", read=read, days=days_counted[day]
                )
                put(counted_day(attested, gaps, now))
                measured = []
            else:
                put(removed_day(day, gaps, now))
            done += 1
            on_progress(f"Counting: {done} of {several(len(days), 'day')} done")
    return len(days)


ORDERS: dict[str, Callable[[Config, dict[str, Any], OnProgress], Any]] = {"preview": preview, "attest": attest}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
