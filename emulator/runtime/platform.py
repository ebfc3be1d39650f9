"""A function platform for one machine: clock, storage events, sweeps, and the three functions behind them."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from emulator.runtime import run_log
from emulator.runtime.delivery import delivery_histogram
from emulator.runtime.functions import Answer, Function, FunctionDownError
from emulator.runtime.work_queue import WorkQueue
from lib.config.settings import Config
from lib.errors import ConnectorError, RetryableError, StoreError
from lib.http.cloud_events import FINALIZED
from lib.model.checkpoint import Problem, problem_after
from lib.model.clock import from_text
from lib.model.stream import Stream
from lib.parts import open_store
from lib.pipeline.read_result import THAT_READ, goes_on
from lib.state.accounts import StoredAccounts
from lib.state.schedules import ALL_ASKED
from lib.state.state import State

log = logging.getLogger(__name__)

PAGES_A_CALL = 5
"""So that the first pages of a long catch-up are on their way while the next ones are fetched."""
SWEEP_SECONDS = 60.0
POLL_SECONDS = 10.0
"""How often the store is listed for batches where another platform fetches, so that nobody tells of them."""
LOOK_SECONDS = 1.0
"""How often the store is listed for batches while a call of fetch-page lasts, which tells of them at its end."""
LOOK_SHARE = 20
"""Where very much waits, it is listed more seldom: such looks take a twentieth of one core."""
OVERDUE_SECONDS = 5.0
"""After so long the streams that a tick is not waiting for are asked for without it."""
RETRY_SECONDS = 10.0
BUSY_SECONDS = 3.0
DRAIN_SECONDS = 25.0
"""For fetching and delivering together, before the functions are ended."""
PROBE_SECONDS = 30.0
"""How often the engine is probed: a quiet hour must not hide that it is down."""
FAILURES = 3
"""A function has a problem after so many calls in a row that it did not answer properly."""


class FunctionFailedError(RetryableError):
    """A function answered a call with an error of its own."""

    code = "function_failing"
    title = "A function does not work"
    remedy = "Look in the log for its error. Nothing is fetched or delivered meanwhile."


class Platform:
    """Runs the functions, calls them when something is due, and remembers what they answered last."""

    def __init__(
        self,
        config: Config,
        functions: Mapping[str, Function],
        config_env: Mapping[str, str],
        probe: Callable[[], None] | None = None,
    ) -> None:
        """`functions` by their names, started with the same configuration; `stop` ends them.

        `config_env` tells another process of this site where the configuration is.
        `probe` raises ConnectorError where the engine cannot be reached; None: nothing is delivered to an engine.
        """
        self._config = config
        self.functions = dict(functions)
        self.config_env = config_env
        self.calls: Counter[tuple[str, int]] = Counter()
        """Calls by function and status; 0: no answer."""
        self.latest: dict[Stream, dict[str, Any]] = {}
        """What fetch-page answered last for each stream, with the time, and the seconds between its last two looks."""
        self.hearers: list[Callable[[str, list[dict[str, Any]]], None]] = []
        """Each is told the lines of every answer, with the function's name."""
        self.watchers: list[Callable[[str], None]] = []
        """Each is told a new batch's name before it is forwarded."""
        self.bytes: Counter[tuple[str, str, str]] = Counter()
        """Of batches, by stream."""
        self.delivery = delivery_histogram()
        self._waiting_since: dict[str, float] = {}
        self.budgets: list[dict[str, Any]] = []
        """What it told last of the credentials' calls."""
        self.engine_counts: Mapping[str, int] = {}
        """What forward-batch told last of its deliveries since its process began."""
        self.engine_problem: Problem | None = None
        self.function_problems: dict[str, Problem] = {}
        """Functions that have not answered properly since then, with the number of calls."""
        self.ticked_at: datetime | None = None
        """When fetch-page answered a call last."""
        self._probe = probe
        self._over = threading.Event()
        self._fetches: WorkQueue[Stream | None] = WorkQueue(self._fetch, "fetch", workers=4)
        self._forwards: WorkQueue[str | None] = WorkQueue(self._forward, "forward", workers=4)
        self._names: dict[str, str] = {}
        """The newest batch of each path."""
        self._telling = threading.Lock()
        self._state = State.of(open_store(config.store))
        self.outages = run_log.Outages(self._tenant_names)
        self.hearers += [self.outages.hear, run_log.Summary().hear]
        clocks = {self._tick: "fetch-page", self._look: "fetch-page", self._sweep: "forward-batch"}
        self._clocks = [
            threading.Thread(target=clock, name=f"clock of {name}", daemon=True)
            for clock, name in clocks.items()
            if name in self.functions
        ]
        if probe is not None and "forward-batch" in self.functions:
            self._clocks.append(threading.Thread(target=self._watch_engine, name="engine probe", daemon=True))

    def tick(self) -> None:
        """Fetch now: the configuration has changed."""
        if "fetch-page" in self.functions:
            self._fetches.ask(None)

    def deliver(self) -> None:
        """Forward now: something was stored that no call of fetch-page here tells of."""
        if "forward-batch" in self.functions:
            self._forwards.ask(None)

    def start(self) -> None:
        """Start the clock."""
        self._fetches.start()
        self._forwards.start()
        for clock in self._clocks:
            clock.start()

    def stop(self) -> None:
        """Let what has begun come to its end, within bounds; then end the functions."""
        self._over.set()
        for clock in self._clocks:
            clock.join()
        end = time.monotonic() + DRAIN_SECONDS
        for queue in (self._fetches, self._forwards):
            queue.drain(max(0.0, end - time.monotonic()))
        stoppers = [threading.Thread(target=each.stop) for each in self.functions.values()]
        for each in stoppers:
            each.start()
        self._fetches.stop()
        self._forwards.stop()
        for each in stoppers:
            each.join()

    @property
    def lives(self) -> bool:
        """Whether the clocks run."""
        return all(clock.is_alive() for clock in self._clocks)

    def call(self, name: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """Call a function, and hand on the storage events of the batches that it made."""
        if name not in self.functions:
            raise FunctionDownError(f"{name} does not run here", remedy="This emulator was started with --only.")
        try:
            answer = self.functions[name].call(body, headers)
        except FunctionDownError as error:
            self.calls[name, 0] += 1
            self._note_failure(name, error)
            raise
        self.calls[name, answer.status] += 1
        self._judge(name, answer)
        results = self._results(answer)
        for hear in self.hearers:
            hear(name, results)
        if name == "fetch-page":
            self._fetched(answer, results)
        elif name == "forward-batch":
            self._forwarded(results)
            if results:
                self.engine_counts = answer.fields.get("engine", self.engine_counts)
        return answer

    def _judge(self, name: str, answer: Answer) -> None:
        """Remember whether the function works: 503 with results is an answer, any other 5xx is none."""
        if answer.status < 500 or (answer.status == 503 and b'"results"' in answer.body):
            self.function_problems.pop(name, None)
            self.outages.note(name, None)
            if name == "fetch-page" and answer.status == 200:
                self.ticked_at = datetime.now(UTC)
        else:
            self._note_failure(name, FunctionFailedError(f"{name} answers {answer.status}: {_detail_of(answer)}"))

    def _note_failure(self, name: str, error: ConnectorError) -> None:
        problem = problem_after(self.function_problems.get(name), error, datetime.now(UTC), None)
        self.function_problems[name] = problem
        if problem.failures >= FAILURES:
            self.outages.note(name, problem.as_problem())

    def _tenant_names(self, integration: str) -> dict[str, str]:
        with suppress(ConnectorError):
            account, _ = StoredAccounts(self._state.store).read(integration)
            return {tenant.id: tenant.name for tenant in account.tenants}
        return {}

    @property
    def failing_functions(self) -> list[Problem]:
        """The problems of functions that do not work; one failed call is none yet."""
        return [problem for problem in self.function_problems.values() if problem.failures >= FAILURES]

    def _watch_engine(self) -> None:
        """Probe the engine now and then, so that `engine_up` is true in a quiet hour as well."""
        delay = 0.0
        while self._probe is not None and not self._over.wait(delay):
            delay = PROBE_SECONDS
            try:
                self._probe()
            except ConnectorError as error:
                self._engine_failed(problem_after(None, error, datetime.now(UTC), None))
            else:
                self.engine_problem = None
            problem = self.engine_problem
            self.outages.note("engine", None if problem is None else problem.as_problem())

    def _engine_failed(self, problem: Problem) -> None:
        before = self.engine_problem
        self.engine_problem = problem if before is None else replace(problem, since=before.since)

    def _tick(self) -> None:
        delay = 0.0
        while not self._over.wait(delay):
            self._fetches.ask(None)
            if self._fetches.under_way().get(None, 0.0) > OVERDUE_SECONDS:
                # One stream may keep it for a minute: what it reads itself answers `busy`.
                with suppress(StoreError):
                    streams = [*self._state.checkpoints.streams()]
                    for stream in streams if len(streams) <= ALL_ASKED else ():
                        self._fetches.ask(stream)
            delay = self._config.every.seconds_after(datetime.now(UTC))

    def _look(self) -> None:
        """While a call of fetch-page lasts, hand on what it has stored."""
        delay = LOOK_SECONDS
        while not self._over.wait(delay):
            began = time.thread_time()
            if max(self._fetches.under_way().values(), default=0.0) > LOOK_SECONDS:
                with suppress(StoreError):
                    for waiting in self._state.batches.waiting():
                        self._stored(waiting.entry.key, again=False)
            delay = max(LOOK_SECONDS, LOOK_SHARE * (time.thread_time() - began))

    def _sweep(self) -> None:
        while not self._over.is_set():
            self._forwards.ask(None)
            poll = min(POLL_SECONDS, self._config.every.seconds_after(datetime.now(UTC)))
            self._over.wait(SWEEP_SECONDS if "fetch-page" in self.functions else poll)

    def _fetch(self, stream: Stream | None) -> float | None:
        """A tick, or the next pages of a stream that has more."""
        if self._over.is_set():
            return None
        request: dict[str, Any] = {"max_pages": PAGES_A_CALL}
        if stream is not None:
            request |= {"integration": stream.integration, "tenant": stream.tenant, "stream": stream.kind}
        try:
            self.call("fetch-page", json.dumps(request).encode())
        except FunctionDownError as error:
            log.debug("%s", error)
            return 1.0
        return None

    def _forward(self, path: str | None) -> float | None:
        """The storage event of a stream's newest batch, or a sweep over everything that waits."""
        body, headers = (b"{}", {}) if path is None else finalized(self._names[path], self._config.store)
        try:
            answer = self.call("forward-batch", body, headers)
        except FunctionDownError as error:
            log.debug("%s", error)
            return 1.0
        if answer.status == 503:
            wait = answer.headers.get("Retry-After", "")
            return float(wait) if wait.isdigit() else RETRY_SECONDS
        # Somebody else forwards the stream, or did and died: whoever asks when the lease has ended goes on.
        return BUSY_SECONDS if any(line["outcome"] == "busy" for line in self._results(answer)) else None

    def _fetched(self, answer: Answer, results: list[dict[str, Any]]) -> None:
        now = datetime.now(UTC)
        if answer.status == 200:
            self._heard(answer.fields)
        for line in results:
            if line["tenant"] is not None:
                stream = Stream.of(line)
                if line["outcome"] != "busy" or stream not in self.latest:
                    self.latest[stream] = {**line, "at": now} | _looked(self.latest.get(stream), line, now)
                self.bytes[stream.integration, stream.tenant, stream.kind] += line["bytes"]
                if line["outcome"] == "fetched":
                    log.debug("%s: %d events in %d pages", stream, line["events"], line["pages"])
                code = line["problem"]["code"] if "problem" in line else None
                if goes_on(has_more=line["has_more"], outcome=line["outcome"], problem_code=code):
                    wait = (from_text(line["retry_at"]) - now).total_seconds() if "retry_at" in line else 0.0
                    self._fetches.ask(stream, max(0.0, wait))
            for name in line["batches"]:
                self._stored(name)

    def _heard(self, told: dict[str, Any]) -> None:
        """What an answer of fetch-page tells beside its streams."""
        self.budgets = told["budgets"]
        if "heartbeat" in told:
            self._stored(told["heartbeat"])

    def _stored(self, name: str, *, again: bool = True) -> None:
        """Hand on a batch's storage event; with `again` even where it was handed on before."""
        if "forward-batch" not in self.functions:
            return
        path = name.rpartition("/")[0]
        with self._telling:
            is_new = name > self._names.get(path, "")
            if is_new:
                self._names[path] = name
                for watcher in [*self.watchers]:
                    watcher(name)
        if is_new or again:
            self._waiting_since.setdefault(path, time.monotonic())
            self._forwards.ask(path)

    def _forwarded(self, results: list[dict[str, Any]]) -> None:
        for line in results:
            if line["outcome"] in ("delivered", "observed"):
                stream = Stream.of(line)
                since = self._waiting_since.pop(f"batches/{stream.path}", None)
                if since is not None:
                    self.delivery.observe(time.monotonic() - since)
                what = "acknowledged" if line["outcome"] == "delivered" else "observed"
                log.debug("%s: %d events %s", stream, line["acked"], what)
        if any(line["outcome"] == "engine_unavailable" for line in results):
            told = next(line["problem"] for line in results if "problem" in line)
            self._engine_failed(Problem(told["code"], told["detail"], told["remedy"], datetime.now(UTC), 1, None))
        elif any(line["outcome"] == "delivered" for line in results):
            self.engine_problem = None

    def _results(self, answer: Answer) -> list[dict[str, Any]]:
        if answer.status not in (200, 503):
            # Those of 500 and more are told as an outage of the function.
            level = logging.WARNING if answer.status < 500 else logging.DEBUG
            log.log(level, "a function answered %d: %s", answer.status, answer.body[:500].decode("utf-8", "replace"))
            return []
        results: list[dict[str, Any]] = answer.fields.get("results", [])
        return results


def _looked(before: Mapping[str, Any] | None, line: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """When Sophos was looked at last (`looked_at`), and how many seconds after the time before (`looked_every`)."""
    known = {key: before[key] for key in ("looked_at", "looked_every", "looked_on") if key in before} if before else {}
    if line["outcome"] not in THAT_READ:
        return known
    if "looked_at" in known and not known["looked_on"]:
        known["looked_every"] = (now - known["looked_at"]).total_seconds()
    # The next pages of a long catch-up are the same look.
    return known | {"looked_at": now, "looked_on": line["has_more"]}


def _detail_of(answer: Answer) -> str:
    return str(answer.fields.get("detail", "no explanation"))


def finalized(name: str, bucket: str) -> tuple[bytes, dict[str, str]]:
    """The CloudEvent, in binary mode, that a platform sends for a new object."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(uuid4()),
        "ce-type": FINALIZED,
        "ce-source": "//storage.googleapis.com/projects/_/buckets/emulator",
        "ce-subject": f"objects/{name}",
        "ce-time": datetime.now(UTC).isoformat(),
    }
    return json.dumps({"bucket": bucket, "name": name}).encode(), headers
