"""The drill itself: cut something off, restore it, wait until everything has arrived; at the end count."""

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
from emulator.drill.parts import Connector, Engine, NotReadyError, Simulator, free_port, kill_group, until
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
    """How long it lasted."""
    healed_seconds: float | None = None
    """From its end until everything that Sophos held then had arrived; None: it did not."""


@dataclass(slots=True)
class Result:
    """What the drill has shown."""

    seed: int
    minutes: float
    integrations: list[str]
    streams: int
    began_at: str = ""
    ended_at: str = ""
    events: int = 0
    """Events and alerts that Sophos held for us."""
    acked: int = 0
    """Those with a receipt."""
    arrived: int = 0
    lost: int = 0
    doubled: int = 0
    """Deliveries beyond each one's first; they carry the same id."""
    altered: int = 0
    """Events that arrived with other bytes than Sophos sent."""
    audit: bool = False
    exit_status: int | None = None
    cuts: list[Cut] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost or altered, every outage healed, and the ledger is whole."""
        healed = all(cut.healed_seconds is not None for cut in self.cuts)
        complete = self.events > 0 and self.acked >= self.events
        return not (self.lost or self.altered) and healed and complete and self.audit and self.exit_status == 0

    def fields(self) -> dict[str, Any]:
        """As JSON fields."""
        healed = [cut.healed_seconds for cut in self.cuts if cut.healed_seconds is not None]
        return {"ok": self.ok, **asdict(self), "healed_seconds": max(healed, default=0.0)}


class Drill:
    """One run, in a folder of its own."""

    def __init__(
        self,
        integrations: Sequence[Copied],
        folder: Path,
        *,
        minutes: float,
        seed: int,
        tell: Callable[[str], None],
        backlog: int = BACKLOG,
    ) -> None:
        """`folder` has a short path: those of sockets end at 107 bytes."""
        self._integrations = {tenant: integration for integration in integrations for tenant in integration.tenants}
        self._folder = folder
        self._tell = tell
        self._random = Random(seed)  # noqa: S311 - which outage comes next is no secret
        log = folder / "drill.log"
        account = site.write_account(integrations, folder)
        self._sophos = Simulator(folder, backlog=backlog, per_minute=PER_MINUTE, account=account, log=log)
        self._engine = Engine(folder / "engine.sock", folder / "engine.jsonl", log=log)
        port = free_port()
        config = site.write(integrations, folder, self._sophos.url, port)
        self._connector = Connector(config, port, {site.SECRET_NAME: site.SECRET}, log)
        self._expected: dict[str, int] = {}
        """By id of the log, a hash of its bytes."""
        self._arrived: Counter[str] = Counter()
        self._altered: set[str] = set()
        streams = sum(len(each.tenants) * len(each.kinds) for each in integrations)
        self.result = Result(seed, minutes, [each.name for each in integrations], streams)

    def run(self) -> Result:
        """Everything; NotReadyError where a part does not come up. Ctrl-C ends the outages early."""
        result = self.result
        try:
            for part in (self._engine, self._sophos, self._connector):
                part.start()
            result.began_at = to_text(datetime.now(UTC))
            began = time.monotonic()
            try:
                self._cut_in_turn(began, began + result.minutes * 60)
            except KeyboardInterrupt:
                self._tell("ended early; now everything is counted")
                self._restore()
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
            if time.monotonic() >= end:
                return
            left = left or self._random.sample(CUTS, len(CUTS))
            self._cut(left.pop(), self._random.uniform(1.0, longest), began)

    def _cut(self, what: str, seconds: float, began: float) -> None:
        cut = Cut(what, to_text(datetime.now(UTC)), round(time.monotonic() - began, 1))
        self.result.cuts.append(cut)
        started = time.monotonic()
        if what == SOPHOS_ERRORS:
            self._sophos.fail(self._random.randrange(2, 10))
        elif what in (FETCHING, FORWARDING):
            kill_group(self._connector.pids()[what])
        else:
            part = {SOPHOS: self._sophos, ENGINE: self._engine, CONNECTOR: self._connector}[what]
            part.kill()
            self._tell(f"{what} is cut off for {seconds:.1f} s")
            time.sleep(seconds)
            part.start()
        restored = time.monotonic()
        cut.seconds = round(restored - started, 1)
        if self._caught_up(HEALS_WITHIN_SECONDS):
            cut.healed_seconds = round(time.monotonic() - restored, 1)
        told = "did not heal" if cut.healed_seconds is None else f"healed in {cut.healed_seconds} s"
        self._tell(
            f"{what}: cut off for {cut.seconds} s, {told}; {len(self._arrived)} of {len(self._expected)} arrived"
        )

    def _restore(self) -> None:
        for part in (self._engine, self._connector):
            part.kill()
            part.start()

    def _caught_up(self, seconds: float) -> bool:
        """Wait until everything that Sophos holds now has arrived; whether it has in time."""
        self._look()
        wanted = self._expected.keys() - self._arrived.keys()

        def has_arrived() -> bool:
            self._look()
            wanted.difference_update(self._arrived)
            return not wanted

        try:
            until(has_arrived, "all events", seconds)
        except NotReadyError:
            return False
        return True

    def _look(self) -> None:
        """Take in what Sophos has come to hold, and what the engine has taken."""
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

        self._look()
        found = audit(State.of(open_store(f"file:{self._folder}/store")))
        result, expected = self.result, self._expected.keys()
        result.events = len(expected)
        result.acked = sum(line.events for line in found.streams)
        result.arrived = len(expected & self._arrived.keys())
        result.lost = result.events - result.arrived
        result.doubled = sum(self._arrived[each] - 1 for each in expected & self._arrived.keys())
        result.altered = len(self._altered)
        result.audit = found.ok
