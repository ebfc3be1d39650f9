"""`status`: the health of a site, its problems and its streams."""

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
from emulator.cli.terminal import headline, height, say, say_wrapped, show, window
from emulator.web import status as statuses
from emulator.web.formatting import ALONE, plural, size
from emulator.web.health_changes import stored_changes
from lib.app import App
from lib.config import loading as configuration
from lib.config.reloading import read_followed, with_followed
from lib.config.settings import Config
from lib.errors import ConnectorError, NotFoundError
from lib.model.checkpoint import Problem, problem_after
from lib.model.stream import Stream

WATCH_SECONDS = 2.0
SOME = 5
"""The number of streams that are named for each kind of problem, without `--problems`."""
NAMES = (
    "STREAM",
    "HEALTH",
    "STATE",
    "LAG",
    "WAITING",
    "GAPS",
    "DEAD LETTERS",
    "LAST EVENT",
    "FETCHED",
    "ACKED",
    "EVERY",
    "TENANT",
)
"""The columns, the most important one first."""
WORST_FIRST = ("failing", "attention", "ok")


@dataclass(frozen=True, slots=True)
class Choice:
    """The integration and tenant (an id or a name) to show; None: all."""

    integration: str | None = None
    tenant: str | None = None

    def of(self, whole: dict[str, Any]) -> dict[str, Any]:
        """The status of the chosen ones. Reasons that concern no stream stay. NotFoundError if none is chosen."""
        if self == Choice():
            return whole
        lines = [line for line in whole["streams"] if self._is_chosen(line)]
        own = {line["integration"] for line in lines} if self.tenant else {self.integration}
        integrations = [line for line in whole["integrations"] if line["name"] in own]
        if not integrations:
            names = ", ".join(repr(line["name"]) for line in whole["integrations"]) or "none"
            name = f"tenant {self.tenant!r}" if self.tenant else f"integration {self.integration!r}"
            raise NotFoundError(f"there is no {name}", remedy=f"The integrations are: {names}.")
        paths = {Stream.of(line).path for line in lines}
        reasons = []
        for reason in whole["reasons"]:
            streams = [path for path in reason["streams"] if path in paths]
            if streams or (not reason["streams"] and (not reason["integrations"] or own & {*reason["integrations"]})):
                reasons.append(reason | {"streams": streams, "count": len(streams) or reason["count"]})
        changes = [change for change in whole.get("health_changes", ()) if _concerns(change, own, paths)]
        healths = {reason["health"] for reason in reasons}
        health = next((worst for worst in WORST_FIRST if worst in healths), "ok")
        sums = {name: sum(line[name] for line in lines) for name in (*_SUMS, "set_aside")}
        sums["gaps"] = sum(len(line["gaps"]) for line in lines)
        chosen = {"health": health, "ok": health == "ok", "reasons": reasons}
        return whole | chosen | sums | {"integrations": integrations, "streams": lines, "health_changes": changes}

    def _is_chosen(self, line: dict[str, Any]) -> bool:
        return self.integration in (None, line["integration"]) and self.tenant in (
            None,
            line["tenant"],
            line["tenant_name"],
        )


def _concerns(change: dict[str, Any], integrations: set[str | None], paths: set[str]) -> bool:
    """Whether a change of health is one of these, or may be: of many at once, not all are named."""
    return change["count"] > len(change["names"]) or not ({*change["names"]}.isdisjoint(integrations | paths))


_SUMS = ("events", "acked", "pending_batches", "pending_bytes")


def status(
    location: str | None,
    choice: Choice = Choice(),
    *,
    problems_alone: bool = False,
    history: bool = False,
    watch: bool = False,
    as_json: bool,
) -> int:
    """Print the health, the problems and every stream; 0 if the health is `ok`, otherwise 1; 2 if it is unknown."""
    if watch:
        # The process may end at any moment: it only reads.
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    while True:
        if watch and window() is not None:
            print("\x1b[H\x1b[2J", end="")
        exit_status = _shown(location, choice, problems_alone=problems_alone, history=history, as_json=as_json)
        if not watch:
            return exit_status
        time.sleep(WATCH_SECONDS)


def _shown(location: str | None, choice: Choice, *, problems_alone: bool, history: bool, as_json: bool) -> int:
    try:
        config = configuration.load(location)
        site = choice.of(running_status(config) or _stored(config))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps(site, ensure_ascii=False))
        return 0 if site["ok"] else 1
    verdict, totals = _verdict(site), _totals(site)
    headline(site["health"], verdict)
    say_wrapped(totals)
    lines = {Stream.of(line).path: line for line in site["streams"]}
    if history:
        _print_changes(site.get("health_changes", []), lines)
        return 0 if site["ok"] else 1
    integrations = {line["name"]: line for line in site["integrations"]}
    printed = height(f"{site['health']}  {verdict}", totals)
    for reason in site["reasons"]:
        printed += _print_reason(reason, lines if reason["streams"] else integrations, None if problems_alone else SOME)
    printed += _print_passing([*integrations.values(), *lines.values()])
    if not problems_alone and lines:
        say("")
        _print_streams(list(lines.values()), printed)
        for line in site["integrations"]:
            if line["exclude_types"]:
                say_wrapped(f"{line['name']} excludes: {', '.join(line['exclude_types'])}")
        _print_rest(site)
    return 0 if site["ok"] else 1


def _verdict(site: dict[str, Any]) -> str:
    """The number of streams of each health."""
    counts = Counter(line["health"] for line in site["streams"])
    by_health = ", ".join(f"{counts[health]} {health}" for health in WORST_FIRST if counts[health]) or "no stream yet"
    problems = len(site["reasons"])
    kinds = plural(problems, "kind of problem", "kinds of problems") if problems else "no problems"
    waits = f"; {site['waiting']} waiting for their turn" if site["waiting"] else ""
    read = f"{plural(len(site['streams']), 'stream')} of {plural(len(site['integrations']), 'integration')}"
    return f"{kinds}; {read}: {by_health}{waits}"


def _totals(site: dict[str, Any]) -> str:
    waiting = f"{plural(site['pending_batches'], 'batch', 'batches')} waiting ({size(site['pending_bytes'])})"
    lost = f"{plural(site['gaps'], 'gap')}, {plural(site['set_aside'], 'dead letter')}"
    fetched = f"{site['events']:,} {'event' if site['events'] == 1 else 'events'} fetched"
    return f"{fetched}, {site['acked']:,} acknowledged; {waiting}; {lost}"


def _print_reason(reason: dict[str, Any], lines: dict[str, dict[str, Any]], most: int | None) -> int:
    """Print a kind of problem, its remedy and the first `most` streams (None: all); return the lines printed."""
    concerned = [lines[name] for name in reason["streams"] or reason["integrations"] if name in lines]
    whom = plural(reason["count"], "stream") if reason["streams"] else ", ".join(reason["integrations"])
    since = f"since {reason['since'][:16]}Z" if reason["since"] else ""
    place = ", ".join(filter(None, (whom, since)))
    say("")
    headline(reason["health"], f"{reason['title']}{f' ({place})' if place else ''}")
    own = [_concerned(line, reason["code"]) for line in concerned[:most]]
    more = len(concerned) - len(own)
    hint = [f"  … and {more} more: `status --problems` lists all"] if more else []
    detail = [] if any(": " in line for line in own) else [f"  {reason['detail']}"]
    text = [*detail, f"  → {reason['remedy']}", *own, *hint]
    say_wrapped(*text)
    return height("", reason["title"] + whom, *text)


def _print_changes(changes: Sequence[dict[str, Any]], lines: dict[str, dict[str, Any]]) -> None:
    """Print when the health changed, newest first."""
    say("")
    if not changes:
        say_wrapped("No change of health is known. A running connector notes them.")
        return
    for change in changes:
        at, arrow = change["at"][:16].replace("T", " "), f"{change['from']:>9} → {change['to']:<9}"
        say_wrapped(f"{at}Z  {arrow}  {_whom(change, lines)}")


def _whom(change: dict[str, Any], lines: dict[str, dict[str, Any]]) -> str:
    """What changed, and why."""
    why = f": {'; '.join(reason['title'] for reason in change['reasons'])}" if change["reasons"] else ""
    if change["of"] == "all":
        return f"the whole connector{why}"
    if change["count"] != 1:
        return f"{plural(change['count'], change['of'].removesuffix('s'))}{why}"
    name = change["names"][0]
    line = lines.get(name) if change["of"] == "streams" else None
    return f"{_readable(line) if line else name}{why}"


def _readable(line: dict[str, Any]) -> Stream:
    """The stream with its tenant's name, or with the beginning of its id."""
    return Stream.of(line | {"tenant": line["tenant_name"] or f"{line['tenant'][:8]}…"})


def _print_passing(lines: Sequence[dict[str, Any]]) -> int:
    """Print temporary problems by kind; return the number of lines printed."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line.get("problem") and line["health"] == "ok":
            kinds.setdefault(line["problem"]["code"], []).append(line)
    text: list[str] = []
    for code, concerned in kinds.items():
        names = [_concerned(line, code) for line in concerned[:SOME]]
        more = [f"  … and {len(concerned) - SOME} more"] if len(concerned) > SOME else []
        text += ["", "Temporary problem:", *names, *more, f"  → {concerned[0]['problem']['remedy']}"]
    if text:
        say_wrapped(*text)
    return height(*text)


def _concerned(line: dict[str, Any], code: str) -> str:
    if "name" in line:
        name = f"  {line['name']}"
    elif line["tenant_name"]:
        name = f"  {_readable(line)} ({line['tenant']})"
    else:
        name = f"  {Stream.of(line) if window() is None else _readable(line)}"
    if line.get("problem", {}).get("code") != code:
        return name
    until = f" (next try {line['retry_at'][:19]}Z)" if line.get("retry_at") else ""
    return f"{name}: {line['problem']['detail']}{until}"


def _print_streams(lines: list[dict[str, Any]], printed: int) -> None:
    """Print the table. In a terminal window, the worst streams come first, and only as many as fit."""
    space = window()
    if space is None:
        show([NAMES, *map(_row, lines)])
        return
    worst = sorted(lines, key=lambda line: (WORST_FIRST.index(line["health"]), -(line["lag_seconds"] or 0)))
    most = max(SOME, space[1] - printed - 6)
    named = [line | {"tenant": _readable(line).tenant, "tenant_name": line["tenant"]} for line in worst[:most]]
    show([NAMES, *map(_row, named)], one_line=True)
    if len(worst) > most:
        say_wrapped(f"… and {len(worst) - most} more: use `--integration`, `--tenant`, or `status | less`")


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
    """A stream's planned interval, with the measured one if that is longer by a quarter."""
    if planned is None:
        return "-" if measured is None else f"{measured:.0f}s"
    is_longer = measured is not None and measured > 1.25 * planned + 1.0
    return f"{planned:.0f}s ({measured:.0f}s measured)" if is_longer else f"{planned:.0f}s"


def _print_rest(site: dict[str, Any]) -> None:
    """Print the parts of the status that belong to no stream."""
    if "utmstack" in site:
        print_followed(site["utmstack"])
    details = {reason["detail"] for reason in site["reasons"]}
    for damage in site.get("damaged", ()):  # The running connector may be an older version without this field.
        if f"{damage['key']}: {damage['what']}" in details:
            continue
        settled = " (acknowledged)" if damage.get("acknowledged") else ""
        say_wrapped("", f"damaged  {damage['key']}: {damage['what']}{settled}")
    tenants = {(line["integration"], line["tenant"]): _readable(line).tenant for line in site["streams"]}
    for line in site.get("links", ()):
        _print_link(line, tenants.get((line["integration"], line["tenant"]), line["tenant"]))
    if (beat := site.get("heartbeat")) is not None:
        trip = "none yet" if beat["acked_at"] is None else f"{beat['acked_at']}, {beat['round_trip_seconds']:.1f} s"
        say_wrapped("", f"Heartbeat every {beat['every']}: {'LATE; ' if beat['late'] else ''}last acknowledged: {trip}")
    if site["set_aside"] and "dead_letters" not in {reason["code"] for reason in site["reasons"]}:
        say_wrapped("", "Run `dead-letters` to list the acknowledged dead letters.")
    if site["observe"]:
        say_wrapped("", "Observe mode: no event is forwarded. Run `missed` to see what UTMStack's own plugin missed.")


def _print_link(line: dict[str, Any], tenant: str) -> None:
    """Print a tenant's alerts without their event, and events without their alert."""
    for key, (_, _, plural_name) in ALONE.items():
        if key in line:
            say_wrapped(
                "",
                f"{line['integration']}/{tenant}: {line[key]['count']} {plural_name}, such as {line[key]['ids'][-1]}",
            )


def _stored(config: Config) -> dict[str, Any]:
    """The status from the store and UTMStack's configuration, if the connector does not run."""
    followed = followed_of(config)
    if followed is None:
        return _collected(App(lambda: config, LOOKING))
    problems = [problem_after(None, problem, datetime.now(UTC), None) for problem in followed.problems]
    whole = with_followed(config, read_followed(Path(followed.path)))
    return _collected(App(lambda: whole, LOOKING), problems) | {"utmstack": followed.status()}


def _collected(app: App, followed: Sequence[Problem] = ()) -> dict[str, Any]:
    """The status, with the changes of health that the connector has kept."""
    kept = stored_changes(app.store)
    return statuses.collect(app, followed=followed) | {"health_changes": [change.fields() for change in kept]}
