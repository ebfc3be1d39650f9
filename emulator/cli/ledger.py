"""`audit` and `missed`: what the ledger adds up to."""

from __future__ import annotations

import json

from emulator.cli.progress import Progress
from emulator.cli.site import (
    LOOKING,
    day_of_option,
    refused,
)
from emulator.cli.terminal import say, show
from lib import answers
from lib.app import App
from lib.config import loading as configuration
from lib.errors import ConnectorError
from lib.model.stream import Stream
from lib.pipeline import audit as audits
from lib.pipeline.observe import Observations


def audit(location: str | None, since: str | None, *, as_json: bool) -> int:
    """Add the ledger up; 0 where the chain is whole, 1 where it is not."""
    try:
        config = configuration.load(location)
        with Progress("streams") as progress:
            report = audits.audit(
                App(lambda: config, LOOKING).state,
                day_of_option(since),
                lambda done, all_: progress.tell("audit", done, done / all_),
            )
        found = answers.audited(report)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps(found, ensure_ascii=False))
        return 0 if found["ok"] else 1
    rows = [("STREAM", "DAY", "BATCHES", "EVENTS", "OBSERVED ONLY", "SET ASIDE", "REPEATS")]
    for line in found["streams"]:
        name = str(Stream.of(line))
        for day, sums in line["days"].items():
            rows.append(
                (
                    name,
                    day,
                    *(str(sums.get(key, 0)) for key in ("batches", "events", "observed", "set_aside", "repeats")),
                )
            )
    show(rows)
    for line in found["streams"]:
        name = str(Stream.of(line))
        for gap in line["gaps"]:
            lost = "" if gap["estimated_events"] is None else f", about {gap['estimated_events']} events"
            say(f"gap      {name}: {gap['reason']}, from {gap['from'] or '?'} to {gap['to'] or '?'}{lost}")
        for finding in line["findings"]:
            say(f"FINDING  {name}: {finding['code']}: {finding['detail']}")
    say("The chain is whole." if found["ok"] else "The chain does not hold: see the findings.")
    return 0 if found["ok"] else 1


def missed(location: str | None, since: str | None, *, as_json: bool) -> int:
    """What UTMStack's own plugin missed of what was observed, hour by hour; 1 where it missed any."""
    try:
        config = configuration.load(location)
        found = Observations(App(lambda: config, LOOKING).state).missed(day_of_option(since))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    total = sum(each.total.missed for each in found)
    hint = None if found else _not_observed(config.observe, since)
    if as_json:
        answer = {"ok": total == 0, "missed": total, "streams": list(map(answers.missed, found))}
        say(json.dumps(answer | ({"hint": hint} if hint else {}), ensure_ascii=False))
        return 1 if total else 0
    if hint:
        say(hint)
        return 0
    rows = [("STREAM", "HOUR", "OBSERVED", "MISSED", "LATE")]
    for each in found:
        name = f"{each.stream.integration}/{each.stream.tenant}"
        for start, hour in each.hours.items():
            rows.append((name, start, str(hour.observed), str(hour.missed), str(hour.late)))
    show(rows)
    say(f"{total} of {sum(each.total.observed for each in found)} events never reached UTMStack by its own plugin.")
    return 1 if total else 0


def _not_observed(observes: bool, since: str | None) -> str:  # noqa: FBT001 - a fact, no switch
    when = f"since {since}" if since else "yet"
    if observes:
        return f"Nothing was observed {when}: no batch has come to its turn. `status` tells how the streams stand."
    return f"Nothing was observed {when}: `observe` is off. Set `observe: on` while UTMStack's own plugin still runs."
