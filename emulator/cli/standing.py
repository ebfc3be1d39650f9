"""`status`: how a site stands."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emulator.cli.site import (
    LOOKING,
    followed_of,
    print_followed,
    print_problem,
    refused,
    running_status,
)
from emulator.cli.terminal import say, show
from emulator.web import status as statuses
from lib.app import App
from lib.config import loading as configuration
from lib.config.reloading import read_followed, with_followed
from lib.config.settings import Config
from lib.errors import ConnectorError
from lib.model.checkpoint import problem_after
from lib.model.stream import Stream


def status(location: str | None, *, as_json: bool) -> int:
    """Every stream: state, lag, what waits, gaps, problems with remedies; 1 where something needs a look."""
    try:
        config = configuration.load(location)
        found = running_status(config) or _stored(config)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps(found, ensure_ascii=False))
        return 0 if found["ok"] else 1
    rows = [
        ("STREAM", "TENANT", "STATE", "EVERY", "LAG", "FETCHED", "ACKED", "WAITING", "GAPS", "SET ASIDE", "LAST EVENT")
    ]
    for line in found["streams"]:
        lag = "-" if line["lag_seconds"] is None else f"{line['lag_seconds']:.0f}s"
        name = str(Stream.of(line))
        numbers = (line["events"], line["acked"], line["pending_batches"], len(line["gaps"]), line["set_aside"])
        every = "-" if line["interval_seconds"] is None else f"{line['interval_seconds']:.0f}s"
        rows.append(
            (name, line["tenant_name"] or "-", line["state"], every, lag, *map(str, numbers), line["last_event"] or "-")
        )
    show(rows)
    for line in found["integrations"]:
        if line["exclude_types"]:
            say(f"{line['name']} leaves out: {', '.join(line['exclude_types'])}")
    for line in (*found["integrations"], *found["streams"]):
        print_problem(line)
    _print_rest(found)
    return 0 if found["ok"] else 1


def _print_rest(found: dict[str, Any]) -> None:
    """What is to be said of none of the lines."""
    if "engine_problem" in found:
        print_problem({"name": "engine", "problem": found["engine_problem"]})
    if "utmstack" in found:
        print_followed(found["utmstack"])
    for each in found.get("damaged", ()):  # An older version, which runs just now, tells none.
        say("", f"damaged  {each['key']}: {each['what']}")
    for line in found.get("links", ()):
        _print_link(line)
    if (beat := found.get("heartbeat")) is not None:
        trip = "none yet" if beat["acked_at"] is None else f"{beat['acked_at']}, {beat['round_trip_seconds']:.1f} s"
        say("", f"Heartbeat each {beat['every']}: {'LATE; ' if beat['late'] else ''}last acknowledged: {trip}")
    if found["set_aside"]:
        say("", "What is set aside lies in the store's dead/, with the reason; `replay --batch NAME` sends it again.")
    if found["observe"]:
        say("", "Observing: nothing is forwarded; `missed` tells what UTMStack's own plugin missed.")


def _print_link(line: dict[str, Any]) -> None:
    """What of a tenant's alerts and events lacks the other one."""
    for key, what in (
        ("alerts_without_event", "alerts whose event never came"),
        ("events_without_alert", "events of high severity without an alert"),
    ):
        if key in line:
            name = f"{line['integration']}/{line['tenant']}"
            say("", f"{name}: {line[key]['count']} {what}, such as {line[key]['ids'][-1]}")


def _stored(config: Config) -> dict[str, Any]:
    """What the store and UTMStack's configuration say where nothing runs."""
    followed = followed_of(config)
    if followed is None:
        return statuses.collect(App(lambda: config, LOOKING))
    problems = [problem_after(None, each, datetime.now(UTC), None) for each in followed.problems]
    whole = with_followed(config, read_followed(Path(followed.path)))
    return statuses.collect(App(lambda: whole, LOOKING), followed=problems) | {"utmstack": followed.status()}
