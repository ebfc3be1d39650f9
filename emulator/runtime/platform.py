"""A function platform for one machine: a clock, storage events and sweeps call the three functions.

No call of this file is needed for correctness. A storage event that is lost in a crash is made up for by the next
sweep, and a lost tick by the next tick. The functions themselves make repeated calls harmless.
"""

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
from emulator.runtime.functions import Function, FunctionAnswer, FunctionDownError
from emulator.runtime.work_queue import WorkQueue
from lib.config.settings import Config, Every
from lib.errors import ConnectorError, RetryableError, StoreError
from lib.http.cloud_events import FINALIZED
from lib.model.checkpoint import Problem, problem_after
from lib.model.clock import from_text
from lib.model.health import KINDS
from lib.model.stream import Stream
from lib.parts import open_store
from lib.pipeline.read_result import THAT_READ, goes_on
from lib.state.accounts import StoredAccounts
from lib.state.schedules import ALL_ASKED
from lib.state.state import State

log = logging.getLogger(__name__)

PAGES_A_CALL = 5
"""Pages of one call. So the first pages of a long catch-up are delivered while the next ones are fetched."""
SWEEP_SECONDS = 60.0
"""The answers of fetch-page name new batches at once. The sweep only finds those whose delivery has failed."""
POLL_SECONDS = 10.0
"""The interval of listing the store if another platform fetches, and so no call here reports new batches."""
LISTING_SECONDS = 1.0
"""The interval of listing the store during a call of fetch-page, which reports its batches only at its end."""
LISTING_SHARE = 20
"""With very many waiting batches the interval grows, so that these listings take a twentieth of one core."""
EVERY_SECONDS = 1.0
"""The interval of reading `every` again between two ticks."""
OVERDUE_SECONDS = 5.0
"""If the last tick still runs after this time, a tick also fetches each stream in a call of its own."""
RETRY_SECONDS = 10.0
"""The pause before an engine that takes no events is tried again, unless its answer names one."""
BUSY_SECONDS = 3.0
"""A quarter of a lease's term: a stream whose holder died is taken over soon after the term ends."""
DRAIN_SECONDS = 25.0
"""The time for calls under way at the end, before the functions are stopped."""
PROBE_SECONDS = 30.0
"""The interval of engine probes, so that an outage shows in a quiet hour too."""
UNUSABLE = 422
"""The status of an answer by which nothing was done, until a person changes something."""
FAILURES = 3
"""A function counts as failing after this many failed calls in a row."""


class FunctionFailedError(RetryableError):
    """A function answered a call with an internal error."""

    code = "function_failing"
    title = "A function does not work"
    remedy = "Find its error in the log. Nothing is fetched or delivered until it works."


class Platform:
    """Calls the functions when something is due, and keeps their last answers."""

    def __init__(
        self,
        config: Config,
        functions: Mapping[str, Function],
        config_env: Mapping[str, str],
        probe: Callable[[], None] | None = None,
        every: Callable[[], Every] | None = None,
    ) -> None:
        """`functions` are running with the same configuration; `stop` stops them.

        `config_env` tells other processes of this site the locations of the configuration and the store.
        `probe` raises ConnectorError if the engine is unreachable; None: nothing is delivered to an engine.
        `every` returns the ticks of the configuration as it is now; None: as in `config`.
        """
        self._config = config
        self._every = every or (lambda: config.every)
        self.functions = dict(functions)
        self.config_env = config_env
        self.calls: Counter[tuple[str, int]] = Counter()
        """Calls by function and status; 0: no answer."""
        self.latest: dict[Stream, dict[str, Any]] = {}
        """fetch-page's last answer for each stream, with its time and the seconds between its last two reads."""
        self.result_listeners: list[Callable[[str, list[dict[str, Any]]], None]] = []
        """Each is called with the function's name and the lines of every answer."""
        self.batch_listeners: list[Callable[[str], None]] = []
        """Each is called with a new batch's name before the batch is forwarded."""
        self.bytes: Counter[tuple[str, str, str]] = Counter()
        """Bytes of stored batches, by stream."""
        self.delivery = delivery_histogram()
        self._waiting_since: dict[str, float] = {}
        self.budgets: list[dict[str, Any]] = []
        """fetch-page's last counts of the credentials' calls."""
        self.engine_counts: Mapping[str, int] = {}
        """forward-batch's last counts of its deliveries since its process started."""
        self.engine_problem: Problem | None = None
        self.function_problems: dict[str, Problem] = {}
        """Functions whose last calls failed, each with the time of the first failure and the number of calls."""
        self.ticked_at: datetime | None = None
        """The time of fetch-page's last good answer."""
        self._probe = probe
        self._over = threading.Event()
        self._fetches: WorkQueue[Stream | None] = WorkQueue(self._fetch, "fetch", workers=4)
        self._forwards: WorkQueue[str | None] = WorkQueue(self._forward, "forward", workers=4)
        self._names: dict[str, str] = {}
        """The newest batch of each stream, by the path of its folder."""
        self._names_lock = threading.Lock()
        self._state = State.of(open_store(config.store))
        self.outages = run_log.Outages(StoredAccounts(self._state.store).tenant_names)
        self.result_listeners += [self.outages.add_results, run_log.Summary().add_results]
        clocks = {self._tick: "fetch-page", self._forward_stored: "fetch-page", self._sweep: "forward-batch"}
        self._clocks = [
            threading.Thread(target=clock, name=f"clock of {name}", daemon=True)
            for clock, name in clocks.items()
            if name in self.functions
        ]
        if probe is not None and "forward-batch" in self.functions:
            self._clocks.append(threading.Thread(target=self._watch_engine, name="engine probe", daemon=True))

    def tick(self) -> None:
        """Fetch now, because the configuration has changed."""
        if "fetch-page" in self.functions:
            self._fetches.ask(None)

    def deliver(self) -> None:
        """Forward now, because a batch was stored without a call of fetch-page here."""
        if "forward-batch" in self.functions:
            self._forwards.ask(None)

    def start(self) -> None:
        """Start the queues and the clocks."""
        self._fetches.start()
        self._forwards.start()
        for clock in self._clocks:
            clock.start()

    def stop(self) -> None:
        """Finish the calls under way, within DRAIN_SECONDS; then stop the functions.

        The clocks stop first, so that no new work comes. Fetching drains before forwarding, so that the last fetched
        batches are still delivered. Undelivered batches stay in the store for the next start.
        """
        self._over.set()
        for clock in self._clocks:
            clock.join()
        end = time.monotonic() + DRAIN_SECONDS
        for queue in (self._fetches, self._forwards):
            queue.drain(max(0.0, end - time.monotonic()))
        stoppers = [threading.Thread(target=function.stop) for function in self.functions.values()]
        for stopper in stoppers:
            stopper.start()
        # A call that outlasts the drain ends only with its process. So the queues are joined after the stop began.
        self._fetches.stop()
        self._forwards.stop()
        for stopper in stoppers:
            stopper.join()

    @property
    def lives(self) -> bool:
        """Whether all clock threads run."""
        return all(clock.is_alive() for clock in self._clocks)

    def call(self, name: str, body: bytes, headers: Mapping[str, str] | None = None) -> FunctionAnswer:
        """Call a function, keep its answer, and forward the batches that it stored; FunctionDownError."""
        if name not in self.functions:
            raise FunctionDownError(
                f"{name} does not run here", remedy="This connector was started with --only. Start it without."
            )
        try:
            answer = self.functions[name].call(body, headers)
        except FunctionDownError as error:
            self.calls[name, 0] += 1
            self._note_failure(name, error)
            raise
        self.calls[name, answer.status] += 1
        # The page's calls come through here too, so the status misses no answer.
        self._judge(name, answer)
        results = self._results(answer)
        for add_results in self.result_listeners:
            add_results(name, results)
        if name == "fetch-page":
            self._fetched(answer, results)
        elif name == "forward-batch":
            self._forwarded(results)
            if results:
                self.engine_counts = answer.fields.get("engine", self.engine_counts)
        return answer

    def _judge(self, name: str, answer: FunctionAnswer) -> None:
        """Keep whether the function works. A 503 with results is a good answer; 422 and any other 5xx are failures."""
        if not _is_failure(name, answer):
            self.function_problems.pop(name, None)
            self.outages.note(name, None)
            if name == "fetch-page" and answer.status == 200:
                self.ticked_at = datetime.now(UTC)
        else:
            self._note_failure(name, _failure_of(name, answer))

    def _note_failure(self, name: str, error: ConnectorError) -> None:
        problem = problem_after(self.function_problems.get(name), error, datetime.now(UTC), None)
        self.function_problems[name] = problem
        if problem.failures >= FAILURES:
            self.outages.note(name, problem.as_problem())

    @property
    def failing_functions(self) -> list[Problem]:
        """The problems of failing functions; fewer than FAILURES failed calls do not count."""
        return [problem for problem in self.function_problems.values() if problem.failures >= FAILURES]

    def _watch_engine(self) -> None:
        """Probe the engine every PROBE_SECONDS, so that `engine_up` is right in a quiet hour too."""
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
        while not self._over.is_set():
            began, start = datetime.now(UTC), time.monotonic()
            self._fetches.ask(None)
            if self._fetches.under_way().get(None, 0.0) > OVERDUE_SECONDS:
                # One slow stream may hold up the tick for a minute. The stream that it reads now answers `busy`.
                with suppress(StoreError):
                    streams = [*self._state.checkpoints.streams()]
                    for stream in streams if len(streams) <= ALL_ASKED else ():
                        self._fetches.ask(stream)
            self._wait_for_tick(began, start)

    def _wait_for_tick(self, began: datetime, start: float) -> None:
        """Wait until the tick after the one that began then, at `start`. A changed `every` counts within a second."""
        while (seconds := start + self._every().seconds_after(began) - time.monotonic()) > 0:
            if self._over.wait(min(seconds, EVERY_SECONDS)):
                return

    def _forward_stored(self) -> None:
        """Forward stored batches during a long call of fetch-page."""
        delay = LISTING_SECONDS
        while not self._over.wait(delay):
            began = time.thread_time()
            if max(self._fetches.under_way().values(), default=0.0) > LISTING_SECONDS:
                with suppress(StoreError):
                    for waiting in self._state.batches.waiting():
                        self._stored(waiting.entry.key, again=False)
            delay = max(LISTING_SECONDS, LISTING_SHARE * (time.thread_time() - began))

    def _sweep(self) -> None:
        while not self._over.is_set():
            self._forwards.ask(None)
            # Without fetch-page, no answer here names new batches. So the store is listed more often.
            poll = min(POLL_SECONDS, self._every().seconds_after(datetime.now(UTC)))
            self._over.wait(SWEEP_SECONDS if "fetch-page" in self.functions else poll)

    def _fetch(self, stream: Stream | None) -> float | None:
        """Run a tick, or fetch the next pages of a stream; return seconds until a retry, or None."""
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
        """Send the storage event of a stream's newest batch, or sweep all waiting batches; seconds until a retry."""
        body, headers = (b"{}", {}) if path is None else finalized(self._names[path], self._config.store)
        try:
            answer = self.call("forward-batch", body, headers)
        except FunctionDownError as error:
            log.debug("%s", error)
            return 1.0
        if answer.status == 503:
            wait = answer.headers.get("Retry-After", "")
            return float(wait) if wait.isdigit() else RETRY_SECONDS
        outcomes = {line["outcome"] for line in self._results(answer)}
        if "engine_unavailable" in outcomes:
            return RETRY_SECONDS  # Sooner than the next sweep.
        # Another holder forwards the stream, or has died. A call after the lease's end takes over.
        return BUSY_SECONDS if "busy" in outcomes else None

    def _fetched(self, answer: FunctionAnswer, results: list[dict[str, Any]]) -> None:
        now = datetime.now(UTC)
        if answer.status == 200:
            self._take_site_fields(answer.fields)
        for line in results:
            if line["tenant"] is not None:
                stream = Stream.of(line)
                if line["outcome"] != "busy" or stream not in self.latest:
                    self.latest[stream] = {**line, "at": now} | _read_times(self.latest.get(stream), line, now)
                self.bytes[stream.integration, stream.tenant, stream.kind] += line["bytes"]
                if line["outcome"] == "fetched":
                    log.debug("%s: events: %d, pages: %d", stream, line["events"], line["pages"])
                code = line["problem"]["code"] if "problem" in line else None
                if goes_on(has_more=line["has_more"], outcome=line["outcome"], problem_code=code):
                    wait = (from_text(line["retry_at"]) - now).total_seconds() if "retry_at" in line else 0.0
                    self._fetches.ask(stream, max(0.0, wait))
            for name in line["batches"]:
                self._stored(name)

    def _take_site_fields(self, fields: dict[str, Any]) -> None:
        """Keep the fields of fetch-page's answer that belong to no stream."""
        self.budgets = fields["budgets"]
        if "heartbeat" in fields:
            self._stored(fields["heartbeat"])

    def _stored(self, name: str, *, again: bool = True) -> None:
        """Queue a batch for forwarding; with `again`, even if it was queued before."""
        if "forward-batch" not in self.functions:
            return
        path = name.rpartition("/")[0]
        # Under the lock, so that each watcher gets a stream's batches once and in order.
        with self._names_lock:
            is_new = name > self._names.get(path, "")
            if is_new:
                self._names[path] = name
                for listener in [*self.batch_listeners]:
                    listener(name)
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
                outcome = "acknowledged" if line["outcome"] == "delivered" else "observed"
                log.debug("%s: events %s: %d", stream, outcome, line["acked"])
        if any(line["outcome"] == "engine_unavailable" for line in results):
            problem = next(line["problem"] for line in results if "problem" in line)
            code, detail, remedy = problem["code"], problem["detail"], problem["remedy"]
            self._engine_failed(Problem(code, detail, remedy, datetime.now(UTC), 1, None))
        elif any(line["outcome"] == "delivered" for line in results):
            self.engine_problem = None

    def _results(self, answer: FunctionAnswer) -> list[dict[str, Any]]:
        if answer.status not in (200, 503):
            # What counts as a failure of the function is logged as its outage.
            level = logging.WARNING if answer.status < UNUSABLE else logging.DEBUG
            log.log(level, "a function answered %d: %s", answer.status, answer.body[:500].decode("utf-8", "replace"))
            return []
        results: list[dict[str, Any]] = answer.fields.get("results", [])
        return results


def _read_times(before: Mapping[str, Any] | None, line: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The time of a stream's last read (`looked_at`), and the seconds since the read before (`looked_every`)."""
    keys = ("looked_at", "looked_every", "looked_on")
    fields = {key: before[key] for key in keys if key in before} if before else {}
    if line["outcome"] not in THAT_READ:
        return fields
    if "looked_at" in fields and not fields["looked_on"]:
        fields["looked_every"] = (now - fields["looked_at"]).total_seconds()
    # The next pages of a long catch-up belong to the same read.
    return fields | {"looked_at": now, "looked_on": line["has_more"]}


def _is_failure(name: str, answer: FunctionAnswer) -> bool:
    if answer.status == UNUSABLE:
        return name != "test-connection"  # There, it answers what the caller wrote.
    return answer.status >= 500 and not (answer.status == 503 and b'"results"' in answer.body)


def _failure_of(name: str, answer: FunctionAnswer) -> FunctionFailedError:
    """The failure that an answer tells. One that the health has a name for keeps its name."""
    code, detail = answer.fields.get("code"), str(answer.fields.get("detail", "no explanation"))
    if code not in KINDS:
        return FunctionFailedError(f"{name} answers {answer.status}: {detail}")
    failure = FunctionFailedError(f"{name}: {detail}", remedy=str(answer.fields.get("remedy", "")))
    failure.code = code
    return failure


def finalized(name: str, bucket: str) -> tuple[bytes, dict[str, str]]:
    """The CloudEvent in binary mode for a new object: body and headers."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": str(uuid4()),
        "ce-type": FINALIZED,
        "ce-source": "//storage.googleapis.com/projects/_/buckets/emulator",
        "ce-subject": f"objects/{name}",
        "ce-time": datetime.now(UTC).isoformat(),
    }
    return json.dumps({"bucket": bucket, "name": name}).encode(), headers
