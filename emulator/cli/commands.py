"""The operator's commands: `status`, `test-connection`, `audit`, `reconcile`, `backfill`, `replay`."""

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
from lib import answers
from lib.app import App
from lib.config import loading as configuration
from lib.config.reloading import read_followed, with_followed
from lib.config.settings import Config
from lib.errors import ConfigError, ConnectorError, NotFoundError
from lib.model.checkpoint import problem_after
from lib.model.clock import day_of
from lib.model.duration import parse_duration
from lib.model.stream import Stream
from lib.model.text import printable
from lib.parts import Parts, existing_store
from lib.pipeline import audit as audits
from lib.pipeline.observe import Observations
from lib.pipeline.reconcile import RECONCILED

if TYPE_CHECKING:
    from emulator.utmstack.watcher import SettingsWatcher
    from lib.pipeline.count_types import Share
    from lib.pipeline.replay import ReplayReport
    from lib.pipeline.test_connection import Check

DAY = timedelta(days=1)
LOOKING = Parts(store=existing_store)
"""What a command is built on that only looks: it makes no store."""
TEST_SECONDS = 300.0
"""How long testing one integration may take; a person can end it before."""


def status(location: str | None, *, as_json: bool) -> int:
    """Every stream: state, lag, what waits, gaps, problems with remedies; 1 where something needs a look."""
    try:
        config = configuration.load(location)
        found = _running(config) or _stored(config)
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
        _print_problem(line)
    _print_rest(found)
    return 0 if found["ok"] else 1


def _print_rest(found: dict[str, Any]) -> None:
    """What is to be said of none of the lines."""
    if "engine_problem" in found:
        _print_problem({"name": "engine", "problem": found["engine_problem"]})
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


def test_connection(location: str | None, integration: str | None, *, as_json: bool) -> int:
    """Test one integration or each; 0 where everything works."""
    try:
        app, followed = _graph(location)
        app.require(integration)
        names = [integration] if integration else [each.name for each in app.config().integrations]
        problems = followed.problems if followed and integration is None else ()
        if not names:
            raise NotFoundError("there is no integration to test yet") if not problems else problems[0]
        reports = {}
        for name in names:
            if not as_json:
                say(name)
            on_progress = _ignore if as_json else _print_check
            reports[name] = app.examine(name, deadline=time.monotonic() + TEST_SECONDS, on_progress=on_progress)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps({name: answers.connection(each) for name, each in reports.items()}, ensure_ascii=False))
    return 0 if all(each.ok for each in reports.values()) and not problems else 1


def _stored(config: Config) -> dict[str, Any]:
    """What the store and UTMStack's configuration say where nothing runs."""
    followed = followed_of(config)
    if followed is None:
        return statuses.collect(App(lambda: config, LOOKING))
    problems = [problem_after(None, each, datetime.now(UTC), None) for each in followed.problems]
    whole = with_followed(config, read_followed(Path(followed.path)))
    return statuses.collect(App(lambda: whole, LOOKING), followed=problems) | {"utmstack": followed.status()}


def print_followed(found: dict[str, Any]) -> None:
    """Print how UTMStack's own configuration stands."""
    if found["groups"]:
        say("", f"{found['source']}: {len(found['groups'])} group(s): {', '.join(map(repr, found['groups']))}")
    if "note" in found:
        say("", f"{found['note']}")
    for problem in found["problems"]:
        _print_problem({"name": "UTMStack's configuration", "problem": problem})


def _ignore(_: Check) -> None:
    """For machines, all checks are told at once."""


def _print_check(check: Check) -> None:
    marks = {"ok": "ok  ", "warning": "warn", "failed": "FAIL", "skipped": "skip" if check.ok else "----"}
    say(f"  {marks[check.outcome]} {check.name:<17} {check.milliseconds:>6} ms  {check.detail}")
    if check.remedy is not None:
        say(f"       {'':<17} {'':>9}  → {check.remedy}")


def pause(location: str | None, integration: str, *, resume: bool, as_json: bool) -> int:
    """Pause an integration, or go on with it."""
    try:
        app, _ = _graph(location)
        app.pause(integration, resume=resume)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps({"integration": integration, "paused": not resume}))
    else:
        say(f"{integration}: {'goes on with the next tick' if resume else 'nothing is fetched until `resume`'}")
    return 0


def audit(location: str | None, since: str | None, *, as_json: bool) -> int:
    """Add the ledger up; 0 where the chain is whole, 1 where it is not."""
    try:
        config = configuration.load(location)
        found = answers.audited(audits.audit(App(lambda: config, LOOKING).state, _day(since)))
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


def types(location: str | None, integration: str | None, hours: float, *, as_json: bool) -> int:
    """Which types of events Sophos holds, by family, and what leaving each out would save; 1 where not all was read."""
    try:
        app, _ = _graph(location, LOOKING)
        reports = app.count_types(integration, timedelta(hours=hours))
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
            say(f"NOT READ  {problem.tenant}: {problem.error}")
    return 0 if all(each.is_complete for each in reports) else 1


def _saving(share: Share) -> tuple[str, str, str, str]:
    return str(share.events), f"{share.of_events:.1%}", str(share.bytes), f"{share.of_bytes:.1%}"


def reconcile(
    location: str | None, integration: str | None, tenant: str | None, since: str | None, *, as_json: bool
) -> int:
    """Read Sophos again, store what the ledger does not hold, and forward it.

    0 where all of it was read and the engine has taken what was missing.
    """
    try:
        app, _ = _graph(location)
        window = None if since is None else _served_window(since)
        reports = app.reconcile_all(integration, window, _Progress(window or DAY).show, tenant=tenant)
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
    window = _window(since)
    if window > DAY:
        raise ConfigError(
            f"--since {since} lies too far back: Sophos serves the events of the last 24 hours only",
            remedy="Write 24h at most. What was fetched before may be in the archive: `replay --since` sends that.",
        )
    return window


def replay(location: str | None, since: str | None, name: str | None, *, as_json: bool) -> int:
    """Send kept batches, or what was set aside, to the engine again; 0 where it has taken all."""
    try:
        app, _ = _graph(location)
        found = app.send_again(since=None if since is None else datetime.now(UTC) - _window(since), name=name)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    return _sent(found, as_json=as_json)


def switch_over(location: str | None, after: str, *, as_json: bool) -> int:
    """Forward what was observed behind the last event of UTMStack's own plugin; 0 where the engine has taken all."""
    try:
        app, _ = _graph(location)
        if _running(app.config()):
            raise ConfigError("the connector runs, and observes more meanwhile", remedy="Stop it first (SIGTERM).")
        found = app.replay.observed_after(after)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    return _sent(found, as_json=as_json)


def missed(location: str | None, since: str | None, *, as_json: bool) -> int:
    """What UTMStack's own plugin missed of what was observed, hour by hour; 1 where it missed any."""
    try:
        config = configuration.load(location)
        found = Observations(App(lambda: config, LOOKING).state).missed(_day(since))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    total = sum(each.total.missed for each in found)
    if as_json:
        say(json.dumps({"missed": total, "streams": list(map(answers.missed, found))}, ensure_ascii=False))
        return 1 if total else 0
    rows = [("STREAM", "HOUR", "OBSERVED", "MISSED", "LATE")]
    for each in found:
        name = f"{each.stream.integration}/{each.stream.tenant}"
        for start, hour in each.hours.items():
            rows.append((name, start, str(hour.observed), str(hour.missed), str(hour.late)))
    show(rows)
    say(f"{total} of {sum(each.total.observed for each in found)} events never reached UTMStack by its own plugin.")
    return 1 if total else 0


def _sent(report: ReplayReport, *, as_json: bool) -> int:
    if as_json:
        say(json.dumps(answers.replayed(report), ensure_ascii=False))
    else:
        say(f"{report.acked} events of {report.batches} batches were acknowledged; {report.refused} were refused.")
        for key in report.damaged:
            say(f"{key} is damaged, and was not sent.")
    return 0 if report.ok else 1


def _graph(location: str | None, parts: Parts | None = None) -> tuple[App, SettingsWatcher | None]:
    """The use cases over the configuration, and over what UTMStack configures beside it."""
    config = configuration.load(location)
    followed = followed_of(config)
    if followed:
        for problem in followed.problems:
            refuse(problem)
        config = with_followed(config, read_followed(Path(followed.path)))
    return App(lambda: config, parts), followed


def followed_of(config: Config) -> SettingsWatcher | None:
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
        answer = _asked(config, "/status", reading=5)
        found: dict[str, Any] = answer.json()
    except (requests.RequestException, ValueError):
        return None
    # Something else may listen there, or an emulator with another store.
    return found if answer.status_code == 200 and found.get("store") == config.store else None


def _asked(config: Config, path: str, *, reading: float | None, stream: bool = False) -> requests.Response:
    """What listens there answers, asked on this machine and under this machine's name, so that it lets us in."""
    host, port = config.listen
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - everywhere is here too
    return requests.get(
        f"http://{f'[{host}]' if ':' in host else host}:{port}{path}",
        headers={"Host": f"localhost:{port}", **_key_of(config)},
        proxies={"http": "", "https": ""},
        timeout=(5, reading),
        stream=stream,
    )


def _key_of(config: Config) -> dict[str, str]:
    """The header that shows a key, where callers on this machine show one too."""
    if config.access.local != "key" or not config.access.keys:
        return {}
    return {"Authorization": f"Bearer {config.access.keys[0].resolve()}"}


def refused(error: ConnectorError, *, as_json: bool) -> int:
    """Say why a command cannot do its work; 2, its exit status."""
    if as_json:
        say(json.dumps({"ok": False, "problem": error.as_problem()}))
    refuse(error)
    return 2


class _Progress:
    """Tells a person how far a long reading has come; nobody else."""

    def __init__(self, window: timedelta) -> None:
        self._window = window
        self._began: dict[str, float] = {}

    def show(self, stream: str, read: int, up_to: datetime | None) -> None:
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
        config = configuration.load(location)
        host, port = config.listen
        with _asked(config, "/tail", reading=None, stream=True) as answer:
            if answer.status_code != 200:
                say(*_told(answer), file=sys.stderr)
                return 1
            for line in answer.iter_lines(chunk_size=1):
                if line:
                    # A tab stands between an event's fields only; it would be one of its text as an escape.
                    say(line.decode("utf-8", "replace").replace("\t", " "))
    except ConnectorError as error:
        return refused(error, as_json=as_json)
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
