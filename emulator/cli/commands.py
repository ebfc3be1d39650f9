"""The operator's commands: `check`, `status`, `test-connection`, `audit`, `reconcile`, `backfill`, `replay`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from emulator.cli.terminal import refuse, say, show
from emulator.web import status as statuses
from lib.config import loading as configuration
from lib.config.loading import ENVIRONMENT, FOLLOWED, Config, InvalidConfigError
from lib.config.reloading import read_followed, with_followed
from lib.errors import ConfigError, ConnectorError, NotFoundError
from lib.http.handler import Refused
from lib.model.clock import day_of
from lib.model.duration import parse_duration
from lib.model.families import expanded
from lib.model.page import Tenant
from lib.model.stream import Stream
from lib.model.text import printable
from lib.pipeline import audit as audits
from lib.pipeline.observe import Observations
from lib.state.state import State

if TYPE_CHECKING:
    from emulator.utmstack.watcher import SettingsWatcher

DAY = timedelta(days=1)
TEST_SECONDS = 300.0
"""How long testing one integration may take; a person can end it before."""


def check(location: str | None, *, as_json: bool) -> int:
    """Validate the configuration; 0 where it can be used, else 1 and every fault."""
    try:
        location = configuration.located(location)
        config = configuration.load(location)
        followed = _followed(config)
    except InvalidConfigError as error:
        faults = [{"line": fault.line, "key": fault.path, "fault": fault.message} for fault in error.faults]
        say(*([json.dumps({"ok": False, "faults": faults})] if as_json else str(error).split("\n")))
        return 1
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    names = [each.name for each in config.integrations]
    left_out = {each.name: list(expanded(each.exclude_types)) for each in config.integrations if each.exclude_types}
    problems = followed.status()["problems"] if followed else []
    if as_json:
        found = {"ok": not problems, "integrations": names, "exclude_types": left_out}
        say(json.dumps(found | ({"utmstack": followed.status()} if followed else {}), ensure_ascii=False))
        return 1 if problems else 0
    say(f"{location} can be used: {len(names)} integration(s): {', '.join(map(repr, names))}")
    for each in config.integrations:
        if each.exclude_types:
            say(f"{each.name!r} leaves out {', '.join(each.exclude_types)}: {len(left_out[each.name])} type(s)")
    if followed:
        _print_followed(followed.status())
    return 1 if problems else 0


def status(location: str | None, *, as_json: bool) -> int:
    """Every stream: state, lag, what waits, gaps, problems with remedies; 1 where something needs a look."""
    try:
        config = configuration.load(location)
        found = _running(config) or _stored(config)
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
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
        _print_problem(line)
    _print_rest(found)
    return 0 if found["ok"] else 1


def _print_rest(found: dict[str, Any]) -> None:
    """What is to be said of none of the lines."""
    if "engine_problem" in found:
        _print_problem({"name": "engine", "problem": found["engine_problem"]})
    if "utmstack" in found:
        _print_followed(found["utmstack"])
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


def test_connection(location: str | None, integration: str | None, *, as_json: bool) -> int:
    """Test one integration or each; 0 where everything works."""
    try:
        followed = _configure(location)
        from lib import app  # noqa: PLC0415 - it reads the configuration that was named just now

        app.known(integration)
        names = [integration] if integration else [each.name for each in app.config().integrations]
        problems = followed.problems if followed and integration is None else ()
        if not names:
            raise NotFoundError("there is no integration to test yet") if not problems else problems[0]
        answers = {}
        for name in names:
            if not as_json:
                say(name)
            tell = _untold if as_json else _print_check
            answers[name] = app.examine(name, deadline=time.monotonic() + TEST_SECONDS, tell=tell)
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    if as_json:
        say(json.dumps(answers, ensure_ascii=False))
    return 0 if all(answer["ok"] for answer in answers.values()) and not problems else 1


def _stored(config: Config) -> dict[str, Any]:
    """What the store and UTMStack's configuration say where nothing runs."""
    followed = _followed(config)
    if followed is None:
        return statuses.collect(config)
    found = statuses.collect(with_followed(config, read_followed(Path(followed.path))))
    return found | {"ok": found["ok"] and not followed.problems, "utmstack": followed.status()}


def _print_followed(found: dict[str, Any]) -> None:
    if found["groups"]:
        say("", f"{found['source']}: {len(found['groups'])} group(s): {', '.join(map(repr, found['groups']))}")
    if "note" in found:
        say("", f"{found['note']}")
    for problem in found["problems"]:
        _print_problem({"name": "UTMStack's configuration", "problem": problem})


def _untold(_: dict[str, Any]) -> None:
    """For machines, all checks are told at once."""


def _print_check(check: dict[str, Any]) -> None:
    marks = {"ok": "ok  ", "warning": "warn", "failed": "FAIL", "skipped": "skip" if check["ok"] else "----"}
    say(f"  {marks[check['outcome']]} {check['name']:<17} {check['milliseconds']:>6} ms  {check['detail']}")
    if "remedy" in check:
        say(f"       {'':<17} {'':>9}  → {check['remedy']}")


def pause(location: str | None, integration: str, *, resume: bool, as_json: bool) -> int:
    """Pause an integration, or go on with it."""
    try:
        _configure(location)
        from lib import app  # noqa: PLC0415 - it reads the configuration that was named just now

        app.pause(integration, resume=resume)
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    if as_json:
        say(json.dumps({"integration": integration, "paused": not resume}))
    else:
        say(f"{integration}: {'goes on with the next tick' if resume else 'nothing is fetched until `resume`'}")
    return 0


def audit(location: str | None, since: str | None, *, as_json: bool) -> int:
    """Add the ledger up; 0 where the chain is whole, 1 where it is not."""
    try:
        config = configuration.load(location)
        from lib import app  # noqa: PLC0415 - opens the store

        state = State.of(app.open_store(config.store))
        found = audits.audit(state, _day(since))
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
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


def types(location: str | None, integration: str | None, hours: float, *, as_json: bool) -> int:
    """Which types of events Sophos holds, by family, and what leaving each out would save; 1 where not all was read."""
    try:
        _configure(location)
        from lib import app  # noqa: PLC0415 - it reads the configuration that was named just now

        reports = app.count_types(integration, timedelta(hours=hours))
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    if as_json:
        say(json.dumps({"ok": all(each["complete"] for each in reports), "results": reports}, ensure_ascii=False))
    for each in () if as_json else reports:
        rows = [("TO LEAVE OUT", "EVENTS", "OF ALL", "BYTES", "OF ALL", "")]
        for family in each["families"]:
            rows.append((family["exclude"] or "(no family)", *_saving(family), ""))
            for one in family["types"]:
                note = "left out now" if one["excluded"] else "stays, unless named itself" if one["needed"] else ""
                rows.append((f"  {one['type'] or '(no type)'}", *_saving(one), note))
        say(f"{each['integration']}: {each['events']} events, {each['bytes']} bytes in {each['hours']:g} h")
        show(rows)
        for problem in each["problems"]:
            say(f"NOT READ  {Tenant(problem['tenant'], problem['tenant_name'], None)}: {problem['detail']}")
    return 0 if all(each["complete"] for each in reports) else 1


def _saving(line: dict[str, Any]) -> tuple[str, str, str, str]:
    shares = (f"{line[key]:.1%}" for key in ("share_of_events", "share_of_bytes"))
    return str(line["events"]), next(shares), str(line["bytes"]), next(shares)


def reconcile(location: str | None, integration: str | None, since: str | None, *, as_json: bool) -> int:
    """Read Sophos again, store what the ledger does not hold, and forward it; 0 where the engine has taken it."""
    try:
        _configure(location)
        from lib import app  # noqa: PLC0415 - it reads the configuration that was named just now

        window = None if since is None else _window(since)
        reports = app.reconcile(integration, window, _Progress(window or DAY).tell)
        forwarded = app.forward_batch(integration)
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    waits = isinstance(forwarded, Refused)
    if as_json:
        say(json.dumps({"ok": not waits, "results": reports}, ensure_ascii=False))
        return 1 if waits else 0
    rows = [("STREAM", "READ", "MISSING", "HOW LATE")]
    for line in reports:
        late = ", ".join(f"{count} within {bound}" for bound, count in line["lateness"].items())
        name = str(Stream.of(line))
        rows.append((name, str(line["read"]), str(line["missing"]), late or "-"))
    show(rows)
    if isinstance(forwarded, Refused):
        say("", f"What was missing is stored, and waits: {forwarded.detail}")
    return 1 if waits else 0


def replay(location: str | None, since: str | None, name: str | None, *, as_json: bool) -> int:
    """Send kept batches, or what was set aside, to the engine again; 0 where it has taken all."""
    try:
        _configure(location)
        from lib import app  # noqa: PLC0415 - it reads the configuration that was named just now

        found = app.replay(since=None if since is None else datetime.now(UTC) - _window(since), name=name)
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    return _sent(found, as_json=as_json)


def switch_over(location: str | None, after: str, *, as_json: bool) -> int:
    """Forward what was observed behind the last event of UTMStack's own plugin; 0 where the engine has taken all."""
    try:
        _configure(location)
        from lib import app  # noqa: PLC0415 - it reads the configuration that was named just now

        if _running(app.config()):
            raise ConfigError("the connector runs, and observes more meanwhile", remedy="Stop it first (SIGTERM).")
        found = app.switch_over(after)
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    return _sent(found, as_json=as_json)


def missed(location: str | None, since: str | None, *, as_json: bool) -> int:
    """What UTMStack's own plugin missed of what was observed, hour by hour; 1 where it missed any."""
    try:
        config = configuration.load(location)
        from lib import app  # noqa: PLC0415 - opens the store

        found = Observations(State.of(app.open_store(config.store))).missed(_day(since))
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    total = sum(line["missed"] for line in found)
    if as_json:
        say(json.dumps({"missed": total, "streams": found}, ensure_ascii=False))
        return 1 if total else 0
    rows = [("STREAM", "HOUR", "OBSERVED", "MISSED", "LATE")]
    for line in found:
        name = f"{line['integration']}/{line['tenant']}"
        for hour, sums in line["hours"].items():
            rows.append((name, hour, *(str(sums[key]) for key in ("observed", "missed", "late"))))
    show(rows)
    say(f"{total} of {sum(line['observed'] for line in found)} events never reached UTMStack by its own plugin.")
    return 1 if total else 0


def _sent(found: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        say(json.dumps(found, ensure_ascii=False))
    else:
        say(
            f"{found['acked']} events of {found['batches']} batches were acknowledged; {found['refused']} were refused."
        )
        for key in found["damaged"]:
            say(f"{key} is damaged, and was not sent.")
    return 0 if found["ok"] else 1


def _configure(location: str | None) -> SettingsWatcher | None:
    """Have what runs in this process use the configuration, and what UTMStack configures beside it."""
    os.environ[ENVIRONMENT] = configuration.located(location)
    followed = _followed(configuration.load(location))
    if followed:
        for each in followed.problems:
            refuse(each)
        os.environ[FOLLOWED] = followed.path
    return followed


def _followed(config: Config) -> SettingsWatcher | None:
    """UTMStack's own configuration as it is now; None where it is not followed."""
    if config.utmstack is None:
        return None
    from emulator.utmstack.watcher import SettingsWatcher  # noqa: PLC0415 - only where UTMStack is followed

    followed = SettingsWatcher(config.utmstack.workdir)
    followed.look()
    return followed


def _window(since: str) -> timedelta:
    """How long ago a date, or the duration itself."""
    with suppress(ValueError):
        return parse_duration(since)
    with suppress(ValueError):
        window = datetime.now(UTC) - datetime.fromisoformat(since).astimezone(UTC)
        if window > timedelta(0):
            return window
    raise ConfigError(
        f"--since {since!r} is neither a past time nor a duration", remedy="Write 12h, or 2026-03-10T08:00."
    )


def _day(since: str | None) -> str:
    """The ledger's day of a date, or of so long ago."""
    if not since:
        return ""
    with suppress(ValueError):
        return day_of(datetime.now(UTC) - parse_duration(since))
    try:
        return day_of(datetime.fromisoformat(since).astimezone(UTC))
    except ValueError:
        raise ConfigError(
            f"--since {since!r} is neither a date nor a duration", remedy="Write 2026-03-10, or 7d."
        ) from None


def _running(config: Config) -> dict[str, Any] | None:
    """What a running emulator says, which knows more than the store; None where none answers."""
    try:
        answer = _asked(config.listen, "/status", reading=5)
        found: dict[str, Any] = answer.json()
    except (requests.RequestException, ValueError):
        return None
    # Something else may listen there, or an emulator with another store.
    return found if answer.status_code == 200 and found.get("store") == config.store else None


def _asked(listen: tuple[str, int], path: str, *, reading: float | None, stream: bool = False) -> requests.Response:
    """What listens there answers, asked on this machine and under this machine's name, so that it lets us in."""
    host, port = listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - everywhere is here too
    return requests.get(
        f"http://{f'[{host}]' if ':' in host else host}:{port}{path}",
        headers={"Host": f"localhost:{port}"},
        proxies={"http": "", "https": ""},
        timeout=(5, reading),
        stream=stream,
    )


def _refused(error: ConnectorError, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


class _Progress:
    """Tells a person how far a long reading has come; nobody else."""

    def __init__(self, window: timedelta) -> None:
        self._window = window
        self._began: dict[str, float] = {}

    def tell(self, stream: str, read: int, up_to: datetime | None) -> None:
        """So many events were read, up to that time."""
        if not sys.stderr.isatty():
            return
        began = self._began.setdefault(stream, time.monotonic())
        seconds = max(time.monotonic() - began, 0.001)
        line = f"{printable(stream)}: {read} read, {read / seconds:.0f}/s"
        if up_to is not None:
            done = 1 - max(timedelta(0), datetime.now(UTC) - up_to) / self._window
            if 0.01 < done <= 1:
                bar = "█" * round(20 * done)
                line += f" [{bar:░<20}] {done:4.0%}, {seconds / done - seconds:.0f} s left"
        print(f"\r\x1b[K{line}", end="\n" if up_to is None else "", file=sys.stderr, flush=True)


def tail(location: str | None, *, as_json: bool) -> int:
    """Print the raw events that a running emulator fetches, which are JSON, as they pass, until it ends or Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # At once, whatever it waits for; also where a shell has started it with SIGINT ignored. Each line is flushed.
        signal.signal(number, lambda *_: os._exit(0))
    try:
        host, port = configuration.load(location).listen
        with _asked((host, port), "/tail", reading=None, stream=True) as answer:
            if answer.status_code != 200:
                say(*_told(answer), file=sys.stderr)
                return 1
            for line in answer.iter_lines(chunk_size=1):
                if line:
                    # A tab stands between an event's fields only; it would be one of its text as an escape.
                    say(line.decode("utf-8", "replace").replace("\t", " "))
    except ConnectorError as error:
        return _refused(error, as_json=as_json)
    except requests.RequestException:
        say(f"no emulator answers on {host}:{port}: start `python -m emulator run`", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os._exit(0)  # Whoever read it has had enough.
    return 0


def _told(answer: requests.Response) -> list[str]:
    """Why something was refused, and what to do, in the words of whoever refused it."""
    try:
        problem = answer.json()
        return [str(problem["detail"]), *([f"→ {problem['remedy']}"] if "remedy" in problem else [])]
    except (ValueError, TypeError, KeyError):
        return [f"{answer.url} answers {answer.status_code}: is it an emulator?"]


def _print_problem(line: dict[str, Any]) -> None:
    if "problem" in line:
        name = line.get("tenant_name")
        what = line.get("name") or f"{Stream.of(line)}{f' ({name})' if name else ''}"
        until = f" (next try {line['retry_at']})" if line.get("retry_at") else ""
        say("", f"{what}: {line['problem']['detail']}{until}", f"→ {line['problem']['remedy']}")
    for each in line.get("warnings", ()):
        say("", f"{line['name']}: {each['text']}", f"→ {each['remedy']}")
