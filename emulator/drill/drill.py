"""The drill: cut off a part, restore it, wait until all events have arrived; repeat, and count at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from emulator.drill import site
from emulator.drill.parts import Connector, DrillEngine, NotReadyError, Simulator, free_port, kill_group, until
from emulator.drill.site import Copied
from lib.model.clock import to_text
from lib.pipeline.audit import audit
from lib.state.state import State

SOPHOS = "sophos"
SOPHOS_ERRORS = "sophos_errors"
ENGINE = "engine"
CONNECTOR = "connector"
FETCHING = "fetch-page"
FORWARDING = "forward-batch"
CUTS = (SOPHOS, ENGINE, FETCHING, SOPHOS_ERRORS, FORWARDING, CONNECTOR)
BACKLOG = 2000
PER_MINUTE = 600.0
HEALS_WITHIN_SECONDS = 180.0
ENDS_WITHIN_SECONDS = 300.0


@dataclass(slots=True)
class Cut:
    """One outage."""

    what: str
    began_at: str
    at: float
    """Seconds since the drill began."""
    seconds: float = 0.0
    """The outage's length."""
    healed_seconds: float | None = None
    """Seconds from its end until all events that Sophos held then had arrived; None: they did not in time."""


@dataclass(slots=True)
class EventCounts:
    """The events of a drill, counted at Sophos, in the receipts and at the engine."""

    events: int = 0
    """Events and alerts that Sophos held for these integrations."""
    acked: int = 0
    """Events with a receipt."""
    arrived: int = 0
    lost: int = 0
    doubled: int = 0
    """Repeated deliveries of events, with the same id."""
    altered: int = 0
    """Events whose bytes differ from those that Sophos sent."""


@dataclass(slots=True)
class Result:
    """The result of a drill."""

    seed: int
    minutes: float
    integrations: list[str]
    streams: int
    began_at: str = ""
    ended_at: str = ""
    counts: EventCounts = field(default_factory=EventCounts)
    audit: bool = False
    exit_status: int | None = None
    cuts: list[Cut] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there was an outage, no event was lost or altered, every outage healed, and the audit passed."""
        healed = bool(self.cuts) and all(cut.healed_seconds is not None for cut in self.cuts)
        counts = self.counts
        complete = counts.events > 0 and counts.acked >= counts.events
        return not (counts.lost or counts.altered) and healed and complete and self.audit and self.exit_status == 0

    def fields(self) -> dict[str, Any]:
        """The result as JSON fields."""
        healed = [cut.healed_seconds for cut in self.cuts if cut.healed_seconds is not None]
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            flat |= value if name == "counts" else {name: value}
        return {"ok": self.ok, **flat, "healed_seconds": max(healed, default=0.0)}


class Drill:
    """One run, in a folder of its own."""

    def __init__(
        self,
        integrations: Sequence[Copied],
        folder: Path,
        *,
        minutes: float,
        seed: int,
        on_progress: Callable[[str], None],
        backlog: int = BACKLOG,
    ) -> None:
        """`folder` must have a short path, because a socket's path is limited to 107 bytes."""
        self._integrations = {tenant: integration for integration in integrations for tenant in integration.tenants}
        self._folder = folder
        self._on_progress = on_progress
        self._random = Random(seed)  # noqa: S311 - the order of outages is not a secret
        log = folder / "drill.log"
        account = site.write_account(integrations, folder)
        self._sophos = Simulator(folder, backlog=backlog, per_minute=PER_MINUTE, account=account, log=log)
        self._engine = DrillEngine(folder / "engine.sock", folder / "engine.jsonl", log=log)
        port = free_port()
        config = site.write(integrations, folder, self._sophos.url, port)
        self._connector = Connector(config, port, {site.SECRET_NAME: site.SECRET}, log)
        self._expected: dict[str, int] = {}
        """Hashes of the logs' bytes, by log id."""
        self._arrived: Counter[str] = Counter()
        self._altered: set[str] = set()
        streams = sum(len(integration.tenants) * len(integration.kinds) for integration in integrations)
        self.result = Result(seed, minutes, [integration.name for integration in integrations], streams)

    def run(self) -> Result:
        """Run the whole drill; NotReadyError if a part does not start. Ctrl-C ends the outages early."""
        result = self.result
        try:
            for part in (self._engine, self._sophos, self._connector):
                part.start()
            result.began_at = to_text(datetime.now(UTC))
            began = time.monotonic()
            try:
                self._cut_in_turn(began, began + result.minutes * 60)
            except KeyboardInterrupt:
                self._on_progress("interrupted; counting the events")
                self._restore(began)
            self._sophos.quiet()
            self._caught_up(ENDS_WITHIN_SECONDS)
            result.exit_status = self._connector.end()
            result.ended_at = to_text(datetime.now(UTC))
            self._count()
        finally:
            for part in (self._connector, self._sophos, self._engine):
                part.kill()
        return result

    def _cut_in_turn(self, began: float, end: float) -> None:
        left: list[str] = []
        longest = min(15.0, max(2.0, (end - began) / 40))
        self._caught_up(HEALS_WITHIN_SECONDS)
        while True:
            time.sleep(self._random.uniform(0.2, longest / 2))
            if time.monotonic() >= end and self.result.cuts:
                return
            left = left or self._random.sample(CUTS, len(CUTS))
            self._cut(left.pop(), self._random.uniform(1.0, longest), began)

    def _cut(self, name: str, seconds: float, began: float) -> None:
        cut = Cut(name, to_text(datetime.now(UTC)), round(time.monotonic() - began, 1))
        self.result.cuts.append(cut)
        started = time.monotonic()
        if name == SOPHOS_ERRORS:
            self._sophos.fail(self._random.randrange(2, 10))
        elif name in (FETCHING, FORWARDING):
            kill_group(self._connector.pids()[name])
        else:
            process = {SOPHOS: self._sophos, ENGINE: self._engine, CONNECTOR: self._connector}[name]
            process.kill()
            self._on_progress(f"{name} is cut off for {seconds:.1f} s")
            time.sleep(seconds)
            process.start()
        restored = time.monotonic()
        cut.seconds = round(restored - started, 1)
        if self._caught_up(HEALS_WITHIN_SECONDS):
            cut.healed_seconds = round(time.monotonic() - restored, 1)
        healed = "did not heal" if cut.healed_seconds is None else f"healed in {cut.healed_seconds} s"
        self._on_progress(
            f"{name}: cut off for {cut.seconds} s, {healed}; {len(self._arrived)} of {len(self._expected)} arrived"
        )

    def _restore(self, began: float) -> None:
        """Restore all parts, and heal the outage that was interrupted."""
        for part in (self._engine, self._sophos, self._connector):
            part.kill()
            part.start()
        cut = self.result.cuts[-1] if self.result.cuts else None
        if cut is not None and cut.healed_seconds is None and not cut.seconds:
            restored = time.monotonic()
            cut.seconds = round(restored - began - cut.at, 1)
            if self._caught_up(HEALS_WITHIN_SECONDS):
                cut.healed_seconds = round(time.monotonic() - restored, 1)

    def _caught_up(self, seconds: float) -> bool:
        """Wait until all events that Sophos holds now have arrived; return whether they did in time."""
        self._check()
        wanted = self._expected.keys() - self._arrived.keys()

        def has_arrived() -> bool:
            self._check()
            wanted.difference_update(self._arrived)
            return not wanted

        try:
            until(has_arrived, "all events", seconds)
        except NotReadyError:
            return False
        return True

    def _check(self) -> None:
        """Read new records of the simulator, and new logs of the engine."""
        for tenant, kind, record in self._sophos.news():
            owner = self._integrations[tenant]
            if owner.wants(kind, record.type):
                self._expected[owner.log_id(kind, record.id, record.raw)] = hash(record.raw)
        for log in self._engine.news():
            self._arrived[log["id"]] += 1
            if log["id"] in self._expected and hash(log["raw"].encode()) != self._expected[log["id"]]:
                self._altered.add(log["id"])

    def _count(self) -> None:
        from lib.parts import open_store  # noqa: PLC0415 - opens the store

        self._check()
        report = audit(State.of(open_store(f"file:{self._folder}/store")))
        result, expected = self.result, self._expected.keys()
        arrived = expected & self._arrived.keys()
        result.counts = EventCounts(
            events=len(expected),
            acked=sum(stream.events for stream in report.streams),
            arrived=len(arrived),
            lost=len(expected) - len(arrived),
            doubled=sum(self._arrived[log_id] - 1 for log_id in arrived),
            altered=len(self._altered),
        )
        result.audit = report.ok
