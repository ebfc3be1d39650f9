"""The operator's page: how everything stands, and what can be done about it."""

from __future__ import annotations

import json
import logging
import queue
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask, Response, redirect, render_template, request
from werkzeug.wrappers import Response as AnyResponse

from emulator.runtime.platform import Platform
from lib import answers
from lib.app import App
from lib.errors import ConnectorError
from lib.http.access import Access, AccessError
from lib.http.handler import authorize
from lib.http.problems import problem
from lib.model.clock import day_of, to_text
from lib.model.duration import parse_duration
from lib.model.stream import Stream
from lib.state.batches import batch_of
from lib.state.codec import UNREADABLE
from lib.state.dead_letters import set_aside_by_stream
from lib.state.ledger import last_of
from lib.state.receipts import RECEIPT, digest
from lib.state.state import State
from lib.store.base import ObjectStore
from lib.version import VERSION

log = logging.getLogger(__name__)

MINUTES = 180
"""How far back the chart goes."""
RECEIPTS = 20
DEAD = 20
EVENTS = 20
"""Kept of each stream, and shown."""
EVENT_BYTES = 16_384
"""Larger ones are not kept."""
JOBS = 5
TAILS = 3
"""Each holds one of the server's threads."""
TAIL_EVENTS = 10_000
"""How far a slow reader of the tail may be behind, before it misses some."""
TAIL_SECONDS = 2.0
TEST_SECONDS = 60.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}

Status = Callable[[], dict[str, Any]]


@dataclass(slots=True)
class Job:
    """What somebody asked for on the page."""

    what: str
    at: str
    result: str = "under way"


class Page:
    """The page's routes; the configuration's `access` says who may do more than look."""

    def __init__(self, app: Flask, platform: Platform, status: Status, graph: App) -> None:
        self._platform = platform
        self._status = status
        self._app = graph
        self._token = secrets.token_urlsafe(32)
        """Only a page of ours holds it: another site cannot make a browser act here."""
        self._jobs: deque[Job] = deque(maxlen=JOBS)
        self._newest: dict[Stream, deque[bytes]] = {}
        """The events that have passed last: a delivered batch is gone."""
        self._tails: list[queue.Queue[bytes]] = []
        platform.watchers.append(self._passes)
        for name, show in (("number", _number), ("bytes", _bytes), ("seconds", _seconds), ("short", _short)):
            app.jinja_env.filters[name] = show
        app.jinja_env.globals["version"] = VERSION
        app.add_url_rule("/", "page", self._index)
        # Names in the query: a path cannot hold every name, such as one with a slash.
        app.add_url_rule("/stream", "stream", self._stream)
        app.add_url_rule("/events", "events", self._events)
        app.add_url_rule("/tail", "tail", self._tail)
        app.add_url_rule("/test", "test", self._test, methods=["GET", "POST"])
        app.add_url_rule("/actions/<name>", "action", self._action, methods=["POST"])

    def _index(self) -> Response:
        return _html(
            "index.html",
            s=self._status(),
            chart=chart(self._platform.fetched),
            jobs=[*self._jobs][::-1],
            token=self._token,
        )

    def _stream(self) -> Response:
        stream = Stream(*(request.args.get(key, "") for key in ("integration", "tenant", "stream")))
        lines = self._status()["streams"]
        line = next((each for each in lines if Stream.of(each) == stream), None)
        if line is None:
            return problem(404, "not_found", f"no stream {stream} is known")
        state = self._app.state
        return _html(
            "stream.html",
            line=line,
            waiting=[
                {"sequence": each.sequence, "size": each.entry.size, "since": to_text(each.entry.updated)}
                for each in state.batches.waiting(stream)
            ],
            receipts=last_receipts(state, stream),
            dead=set_aside(state.store, stream),
            newest=self._events_of(state, stream) if self._admits() else None,
        )

    def _events(self) -> Response:
        authorize(request, self._access)
        parts = request.args.get("stream", "").rsplit("/", 2)
        if len(parts) != 3:
            return problem(400, "invalid_request", "name a stream: /events?stream=INTEGRATION/TENANT/KIND")
        raws = self._events_of(self._app.state, Stream(*parts))
        return Response("".join(f"{raw}\n" for raw in raws), content_type="application/x-ndjson", headers=HEADERS)

    def _tail(self) -> Response:
        authorize(request, self._access)
        if len(self._tails) >= TAILS:
            return problem(429, "busy", f"{TAILS} tails are being read already", remedy="End one of them.")
        return Response(self._passing(), content_type="application/x-ndjson", headers=HEADERS)

    def _passing(self) -> Iterator[bytes]:
        """Raw events as they are fetched; an empty line now and then shows whether somebody still listens."""
        passing = queue.Queue[bytes](TAIL_EVENTS)
        self._tails.append(passing)
        try:
            yield b"\n"
            while True:
                try:
                    yield passing.get(timeout=TAIL_SECONDS) + b"\n"
                except queue.Empty:
                    yield b"\n"
        finally:
            self._tails.remove(passing)

    def _passes(self, name: str) -> None:
        """A batch has been stored, and is about to be forwarded."""
        batch = batch_of(name)
        if batch is None:
            return
        with suppress(ConnectorError):
            # A bucket charges for reading, and so is read for those only who wait for it.
            if not self._tails and self._app.config().store.startswith("gs://"):
                return
            found = self._app.state.batches.read(*batch)
            items = found.items if found else []
            kept = self._newest.setdefault(batch[0], deque(maxlen=EVENTS))
            kept.extend(raw for raw in items[-EVENTS:] if len(raw) <= EVENT_BYTES)
            for tail in [*self._tails]:
                with suppress(queue.Full):
                    for raw in items:
                        tail.put_nowait(raw)

    def _events_of(self, state: State, stream: Stream) -> list[str]:
        """The stream's newest events, newest first: those that passed, else what the store still has."""
        raws = [*self._newest.get(stream, ())] or stored_events(state, stream)
        return [raw.decode("utf-8", "replace") for raw in reversed(raws)]

    def _test(self) -> Response:
        name = request.args.get("integration", "")
        self._app.require(name)
        if request.method == "GET":
            return _html("test.html", name=name, token=self._token, checks=[], ok=None)
        self._admit(rare=True)
        if "ndjson" in request.headers.get("Accept", ""):
            return Response(_checks_as_made(self._app, name), content_type="application/x-ndjson", headers=HEADERS)
        report = self._app.examine(name, deadline=time.monotonic() + TEST_SECONDS)
        return _html("test.html", name=name, token=self._token, checks=report.checks, ok=report.ok)

    def _action(self, name: str) -> AnyResponse:
        self._admit()
        integration = request.form.get("integration")
        self._app.require(integration)
        match name:
            case "run":
                if integration:
                    self._app.retry_now(integration)
                self._platform.tick()
            case "pause" | "resume" if integration:
                self._app.pause(integration, resume=name == "resume")
                self._platform.tick()
            case "reconcile":
                self._begin(f"reconcile {integration or 'all'}", lambda: self._reconciled(integration))
            case "replay":
                try:
                    since = datetime.now(UTC) - parse_duration(request.form.get("since", ""))
                except ValueError as error:
                    return problem(400, "invalid_request", f"since: {error}")
                self._begin(f"replay since {to_text(since)}", lambda: self._replayed(since))
            case _:
                return problem(404, "not_found", f"there is no action {name!r}")
        return redirect("/", 303)

    def _admits(self) -> bool:
        """Whether the caller may see more than how things stand."""
        try:
            authorize(request, self._access)
        except AccessError:
            return False
        return True

    def _admit(self, *, rare: bool = False) -> None:
        authorize(request, self._access, rare=rare)
        if not secrets.compare_digest(request.form.get("token", "").encode(), self._token.encode()):
            raise StaleTokenError

    def _reconciled(self, integration: str | None) -> str:
        reports = self._app.reconcile_all(integration)
        self._platform.deliver()
        return f"{sum(each.read for each in reports)} read, {sum(each.missing for each in reports)} were missing"

    def _replayed(self, since: datetime) -> str:
        return json.dumps(answers.replayed(self._app.send_again(since=since)))

    def _access(self) -> Access:
        return self._app.access

    def _begin(self, what: str, do: Callable[[], str]) -> None:
        job = Job(what, to_text(datetime.now(UTC)))
        self._jobs.append(job)

        def run() -> None:
            try:
                job.result = do()
            except ConnectorError as error:
                job.result = f"{error} {error.remedy}"
            except Exception:
                log.exception("%s", what)
                job.result = "failed; the log says why"

        threading.Thread(target=run, name=what, daemon=True).start()


class StaleTokenError(ConnectorError):
    """A form that is not from a page of this process."""

    code = "stale_page"
    title = "The page is out of date"
    remedy = "Load the page again, and repeat what you did."

    def __init__(self) -> None:
        super().__init__("This page is from before the emulator was started.")


def _checks_as_made(app: App, name: str) -> Iterator[str]:
    """Each check once it is made, then the verdict, as JSON lines."""
    told: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def run() -> None:
        try:
            end = time.monotonic() + TEST_SECONDS
            report = app.examine(name, deadline=end, on_progress=lambda check: told.put(answers.check(check)))
            told.put(answers.connection(report))
        except ConnectorError as error:
            told.put({"detail": f"{error} {error.remedy}"})
        finally:
            told.put(None)

    threading.Thread(target=run, name=f"test {name}", daemon=True).start()
    while (line := told.get()) is not None:
        yield json.dumps(line, ensure_ascii=False) + "\n"


def chart(fetched: dict[int, int]) -> dict[str, Any]:
    """Bars for the events of each of the last minutes."""
    now = int(time.time()) // 60
    counts = [(minute, fetched.get(minute, 0)) for minute in range(now - MINUTES + 1, now + 1)]
    most = max(count for _, count in counts)
    bars = [
        {
            "x": index * 4,
            "count": count,
            "height": max(1, round(58 * count / most)) if count else 0,
            "minute": f"{datetime.fromtimestamp(minute * 60, UTC):%H:%M}",
        }
        for index, (minute, count) in enumerate(counts)
    ]
    return {"bars": bars, "most": most, "total": sum(count for _, count in counts)}


def remembered(state: State, before: datetime) -> Counter[int]:
    """Events by the minute in which they were fetched, of the last hours before a time, as receipts tell it."""
    begin = before - timedelta(minutes=MINUTES)
    found: Counter[int] = Counter()
    for stream in state.checkpoints.streams():
        for body in state.ledger.newest(stream, day_of(begin), written=begin):
            with suppress(*UNREADABLE):
                receipt = RECEIPT.decode(body)
                if begin <= receipt.fetched_at < before:
                    found[int(receipt.fetched_at.timestamp()) // 60] += receipt.events
    return found


def last_receipts(state: State, stream: Stream) -> list[dict[str, Any]]:
    """The stream's newest receipts of today and yesterday, newest first."""
    since = day_of(datetime.now(UTC) - timedelta(days=1))
    found = []
    for body in reversed(state.ledger.newest(stream, since, most=RECEIPTS)):
        with suppress(*UNREADABLE):
            fields = RECEIPT.load(body)
            RECEIPT.value(fields)
            found.append({**fields, "digest": digest(body)[:16]})
    return found


def set_aside(store: ObjectStore, stream: Stream) -> list[dict[str, Any]]:
    """What is set aside of the stream, newest last, and why."""
    found = []
    for key in set_aside_by_stream(store).get(stream, [])[-DEAD:]:
        stored = store.read(key)
        found.append({"key": key, "reasons": _reasons(stored.body) if stored else {}})
    return found


def _reasons(body: bytes) -> Counter[str]:
    try:
        return Counter(str(json.loads(line)["reason"]) for line in body.splitlines())
    except (ValueError, KeyError, TypeError):
        return Counter(["a damaged batch; a gap tells what was lost"])


def stored_events(state: State, stream: Stream) -> list[bytes]:
    """The newest events that the store still has: of a batch that waits, else of one that was kept."""
    items: list[bytes] = []
    for each in [*state.batches.waiting(stream)][-1:]:
        with suppress(*UNREADABLE):
            found = state.batches.read(stream, each.sequence)
            items = found.items if found else []
    if not items:
        newest = last_of(state.store.list(f"archive/{stream.path}/"))
        with suppress(*UNREADABLE):
            kept = state.batches.kept(newest.key) if newest else None
            items = kept.items if kept else []
    return items[-EVENTS:]


def _html(template: str, **values: Any) -> Response:
    return Response(render_template(template, **values), content_type="text/html; charset=utf-8", headers=HEADERS)


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _bytes(value: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min" if value < 36_000 else f"{value / 3600:.0f} h"


def _short(text: str | None) -> str:
    """A time to the second."""
    return f"{text[:10]} {text[11:19]}" if text else "–"
