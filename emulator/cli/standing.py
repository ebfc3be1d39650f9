"""`status`: how a site stands."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emulator.cli.site import (
    LOOKING,
    followed_of,
    print_followed,
    refused,
    running_status,
)
from emulator.cli.terminal import headline, height, say, show, window
from emulator.web import status as statuses
from emulator.web.formatting import ALONE, plural, size
from lib.app import App
from lib.config import loading as configuration
from lib.config.reloading import read_followed, with_followed
from lib.config.settings import Config
from lib.errors import ConnectorError, NotFoundError
from lib.model.checkpoint import problem_after
from lib.model.stream import Stream

WATCH_SECONDS = 2.0
SOME = 5
"""Streams of a kind of problem that are named, where not each is asked for."""
NAMES = (
    "STREAM",
    "HEALTH",
    "STATE",
    "LAG",
    "WAITING",
    "GAPS",
    "SET ASIDE",
    "LAST EVENT",
    "FETCHED",
    "ACKED",
    "EVERY",
    "TENANT",
)
"""The columns, the most important first."""
WORST_FIRST = ("failing", "attention", "ok")


@dataclass(frozen=True, slots=True)
class Choice:
    """Of which integration and tenant (an id or a name) something is shown; None: of each."""

    integration: str | None = None
    tenant: str | None = None

    def of(self, found: dict[str, Any]) -> dict[str, Any]:
        """The status of these alone; what concerns no stream concerns them too. NotFoundError where there are none."""
        if self == Choice():
            return found
        lines = [line for line in found["streams"] if self._is_chosen(line)]
        own = {line["integration"] for line in lines} if self.tenant else {self.integration}
        integrations = [line for line in found["integrations"] if line["name"] in own]
        if not integrations:
            names = ", ".join(repr(line["name"]) for line in found["integrations"]) or "none"
            what = f"a tenant {self.tenant!r}" if self.tenant else f"an integration {self.integration!r}"
            raise NotFoundError(f"nothing is read of {what}", remedy=f"The integrations are: {names}.")
        paths = {Stream.of(line).path for line in lines}
        reasons = []
        for reason in found["reasons"]:
            streams = [each for each in reason["streams"] if each in paths]
            if streams or (not reason["streams"] and (not reason["integrations"] or own & {*reason["integrations"]})):
                reasons.append(reason | {"streams": streams, "count": len(streams) or reason["count"]})
        health = next((each for each in WORST_FIRST if any(one["health"] == each for one in reasons)), "ok")
        sums = {name: sum(line[name] for line in lines) for name in (*_SUMS, "set_aside")}
        sums["gaps"] = sum(len(line["gaps"]) for line in lines)
        chosen = {"health": health, "ok": health == "ok", "reasons": reasons}
        return found | chosen | sums | {"integrations": integrations, "streams": lines}

    def _is_chosen(self, line: dict[str, Any]) -> bool:
        return self.integration in (None, line["integration"]) and self.tenant in (
            None,
            line["tenant"],
            line["tenant_name"],
        )


_SUMS = ("events", "acked", "pending_batches", "pending_bytes")


def status(
    location: str | None,
    choice: Choice = Choice(),
    *,
    problems_alone: bool = False,
    watch: bool = False,
    as_json: bool,
) -> int:
    """The verdict, what needs a person, and every stream; 0 where health is `ok`, 1 otherwise; 2: unknown."""
    if watch:
        # At once, whatever it waits for: nothing is under way that would have to be ended.
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    while True:
        if watch and window() is not None:
            print("\x1b[H\x1b[2J", end="")
        ended = _shown(location, choice, problems_alone=problems_alone, as_json=as_json)
        if not watch:
            return ended
        time.sleep(WATCH_SECONDS)


def _shown(location: str | None, choice: Choice, *, problems_alone: bool, as_json: bool) -> int:
    try:
        config = configuration.load(location)
        found = choice.of(running_status(config) or _stored(config))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps(found, ensure_ascii=False))
        return 0 if found["ok"] else 1
    verdict, totals = _verdict(found), _totals(found)
    headline(found["health"], verdict)
    say(totals)
    lines = {Stream.of(line).path: line for line in found["streams"]}
    integrations = {line["name"]: line for line in found["integrations"]}
    told = height(f"{found['health']}  {verdict}", totals)
    for reason in found["reasons"]:
        told += _print_reason(reason, lines if reason["streams"] else integrations, None if problems_alone else SOME)
    told += _print_passing([*integrations.values(), *lines.values()])
    if not problems_alone and lines:
        say("")
        _print_streams(list(lines.values()), told)
        for line in found["integrations"]:
            if line["exclude_types"]:
                say(f"{line['name']} leaves out: {', '.join(line['exclude_types'])}")
        _print_rest(found)
    return 0 if found["ok"] else 1


def _verdict(found: dict[str, Any]) -> str:
    """How many streams stand how."""
    counts = Counter(line["health"] for line in found["streams"])
    told = ", ".join(f"{counts[each]} {each}" for each in WORST_FIRST if counts[each]) or "nothing is read yet"
    kinds = plural(len(found["reasons"]), "kind of problem", "kinds of problems") if found["reasons"] else "all is well"
    waits = f"; {found['waiting']} waiting for a turn" if found["waiting"] else ""
    read = f"{plural(len(found['streams']), 'stream')} of {plural(len(found['integrations']), 'integration')}"
    return f"{kinds}; {read}: {told}{waits}"


def _totals(found: dict[str, Any]) -> str:
    waiting = f"{plural(found['pending_batches'], 'batch', 'batches')} waiting ({size(found['pending_bytes'])})"
    lost = f"{plural(found['gaps'], 'gap')}, {plural(found['set_aside'], 'event')} set aside"
    return f"{found['events']:,} events fetched, {found['acked']:,} acknowledged; {waiting}; {lost}"


def _print_reason(reason: dict[str, Any], lines: dict[str, dict[str, Any]], most: int | None) -> int:
    """Print a kind of problem, the remedy and whom it concerns (None: each); how many lines that took."""
    concerned = [lines[name] for name in reason["streams"] or reason["integrations"] if name in lines]
    whom = plural(reason["count"], "stream") if reason["streams"] else ", ".join(reason["integrations"])
    since = f"since {reason['since'][:16]}Z" if reason["since"] else ""
    place = ", ".join(filter(None, (whom, since)))
    say("")
    headline(reason["health"], f"{reason['title']}{f' ({place})' if place else ''}")
    own = [_concerned(line, reason["code"]) for line in concerned[:most]]
    more = len(concerned) - len(own)
    rest = [f"  … and {more} more: `status --problems` names all"] if more else []
    detail = [] if any(": " in line for line in own) else [f"  {reason['detail']}"]
    text = [*detail, f"  → {reason['remedy']}", *own, *rest]
    say(*text)
    return height("", reason["title"] + whom, *text)


def _print_passing(lines: Sequence[dict[str, Any]]) -> int:
    """Print what went wrong and heals by itself, by kind; how many lines that took."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line.get("problem") and line["health"] == "ok":
            kinds.setdefault(line["problem"]["code"], []).append(line)
    text: list[str] = []
    for code, concerned in kinds.items():
        names = [_concerned(line, code) for line in concerned[:SOME]]
        more = [f"  … and {len(concerned) - SOME} more"] if len(concerned) > SOME else []
        text += ["", "This passes by itself:", *names, *more, f"  → {concerned[0]['problem']['remedy']}"]
    if text:
        say(*text)
    return height(*text)


def _concerned(line: dict[str, Any], code: str) -> str:
    name = f"  {line['name'] if 'name' in line else Stream.of(line)}"
    name += f" ({line['tenant_name']})" if line.get("tenant_name") else ""
    if line.get("problem", {}).get("code") != code:
        return name
    until = f" (next try {line['retry_at'][:19]}Z)" if line.get("retry_at") else ""
    return f"{name}: {line['problem']['detail']}{until}"


def _print_streams(lines: list[dict[str, Any]], told: int) -> None:
    """Print the table; in a window the worst first, and not more of them than it has lines."""
    space = window()
    if space is None:
        show([NAMES, *map(_row, lines)])
        return
    worst = sorted(lines, key=lambda line: (WORST_FIRST.index(line["health"]), -(line["lag_seconds"] or 0)))
    most = max(SOME, space[1] - told - 6)
    named = [
        line | {"tenant": line["tenant_name"] or line["tenant"], "tenant_name": line["tenant"]} for line in worst[:most]
    ]
    show([NAMES, *map(_row, named)], one_line=True)
    if len(worst) > most:
        say(f"… and {len(worst) - most} more: `--integration`, `--tenant`, or `status | less` shows them")


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(Stream.of(line)),
        line["health"],
        line["state"],
        "-" if line["lag_seconds"] is None else f"{line['lag_seconds']:.0f}s",
        str(line["pending_batches"]),
        str(len(line["gaps"])),
        str(line["set_aside"]),
        f"{line['last_event'][:19]}Z" if line["last_event"] else "-",
        str(line["events"]),
        str(line["acked"]),
        _every(line["interval_seconds"], line.get("measured_interval_seconds")),
        line["tenant_name"] or "-",
    )


def _every(planned: float | None, measured: float | None) -> str:
    """How often a stream is asked; beside it the interval that was measured, where that is longer by a quarter."""
    if planned is None:
        return "-" if measured is None else f"{measured:.0f}s"
    is_longer = measured is not None and measured > 1.25 * planned + 1.0
    return f"{planned:.0f}s ({measured:.0f}s measured)" if is_longer else f"{planned:.0f}s"


def _print_rest(found: dict[str, Any]) -> None:
    """What is to be said of none of the lines."""
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
    for key, (_, _, what) in ALONE.items():
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
