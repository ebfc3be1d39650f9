"""One status for all readers: it is refreshed in passes, not computed for each request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

import msgspec

from emulator.web.listing import Line, labelled, ordered, tiles
from emulator.web.status import SiteStatus, StreamRecord, read_record
from lib.errors import ConnectorError
from lib.http.problems import to_json
from lib.model.stream import Stream
from lib.state.checkpoints import checkpoint_key
from lib.state.leases import lease_key
from lib.state.reconciliations import progress_key
from lib.state.state import State
from lib.store.base import Entry, ObjectStore, Stored

log = logging.getLogger(__name__)

FRESH_SECONDS = 0.25
"""A status older than this is refreshed at the next request, if a pass is cheap."""
CHEAP_SECONDS = 0.01
"""CPU of a cheap pass: the request waits for it. An expensive pass runs in the thread."""
SHARE = 20
"""Expensive passes use at most one twentieth of a core."""
QUIET_SECONDS = 60.0
"""Time between two passes without requests, so that the first request finds a status."""
OLDEST_SECONDS = 60.0
"""An older status is never shown: the request waits for a new one, or gets the error of the pass."""
KEPT_BYTES = 16_384
MARKED_PREFIXES = ("cursors/", "leases/", "reconciliations/")
"""A stream's record is read again only if an object here has changed. Each prefix is listed once a pass."""
KEPT_PREFIXES = ("gaps/", "dead/", "acknowledged/")


@dataclass(frozen=True)
class Taken:
    """A status and its time. What is derived from it is computed once."""

    site: SiteStatus
    number: int
    """Rises with each pass."""
    at: float
    """Monotonic time."""
    cost: float
    """CPU seconds of the pass."""
    lines: Sequence[dict[str, Any]] = field(default=())
    """Every stream's line, with what views need."""
    _orders: dict[str, Sequence[Line]] = field(default_factory=dict, repr=False)

    @property
    def status(self) -> dict[str, Any]:
        """The status as JSON fields."""
        return self.site.fields

    @property
    def age(self) -> float:
        """Seconds since the pass."""
        return time.monotonic() - self.at

    @cached_property
    def body(self) -> bytes:
        """The status as JSON."""
        try:
            return msgspec.json.encode(self.status)
        except UnicodeEncodeError:
            return to_json(self.status)  # A name holds half of a surrogate pair.

    @cached_property
    def by_stream(self) -> Mapping[Stream, dict[str, Any]]:
        """Each stream's line."""
        return {Stream.of(line): line for line in self.lines}

    @cached_property
    def by_path(self) -> Mapping[str, dict[str, Any]]:
        """Each stream's line by the stream's path. Reasons name paths."""
        return {stream.path: line for stream, line in self.by_stream.items()}

    @cached_property
    def streams(self) -> Sequence[dict[str, Any]]:
        """The lines of streams that are not retired."""
        return [line for line in self.lines if line["state"] != "retired"]

    @cached_property
    def tiles(self) -> Mapping[str, int]:
        """The numbers of streams of each health."""
        return tiles(self.status)

    @cached_property
    def newest(self) -> Mapping[str, str]:
        """The time of the newest event and of the newest acknowledgement; empty if there is none."""
        return {key: max((line[key] or "" for line in self.streams), default="") for key in ("last_event", "last_ack")}

    @cached_property
    def late(self) -> int | None:
        """Events that the last reconciliations found; None if there was none."""
        missing = [line["reconciled"]["missing"] for line in self.streams if line.get("reconciled")]
        return sum(missing) if missing else None

    def ordered(self, sort: str) -> Sequence[Line]:
        """All lines in that order, sorted once."""
        if sort not in self._orders:
            self._orders[sort] = ordered(self.lines, sort)
        return self._orders[sort]

    def prepare(self) -> None:
        """Compute what most views need, so that no request has to."""
        self.ordered("trouble")
        for value in (self.by_path, self.tiles, self.newest, self.late):
            del value


class Read(Protocol):
    """Makes a status. It reads the store only through `store` and `record`."""

    def __call__(self, store: ObjectStore, record: Callable[[Stream], StreamRecord]) -> SiteStatus:
        """The status now."""
        ...


class Snapshot:
    """The newest status.

    A pass lists the store, and reads only objects with a new generation. Every write changes the generation, so a
    change is visible after the next pass, whoever made it. The time between two passes is bounded, and the status shows
    its age. If a pass fails, the request gets the error, never an older status. The functions' last answers are in
    memory and part of each pass.
    """

    def __init__(self, store: Callable[[], ObjectStore], read: Read, quiet: float = QUIET_SECONDS) -> None:
        """`quiet`: seconds between two passes without requests."""
        self._store = store
        self._quiet = quiet
        self._read = read
        self._taken: Taken | None = None
        self._edition = 0
        self._passing = threading.Lock()
        self._wanted = threading.Event()
        self._over = threading.Event()
        self._listed: ListedStore | None = None
        self._records: dict[Stream, tuple[tuple[int, ...], StreamRecord]] = {}
        self._thread = threading.Thread(target=self._keep, name="snapshot", daemon=True)

    def start(self) -> None:
        """Start the thread that makes passes."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def current(self) -> Taken:
        """The newest status; a ConnectorError if the store cannot be read."""
        taken = self._taken
        if taken is None or taken.age > OLDEST_SECONDS + SHARE * taken.cost:
            return self._pass(taken)
        if taken.age > FRESH_SECONDS and taken.cost < CHEAP_SECONDS:
            return self._pass(taken)
        if taken.age > max(FRESH_SECONDS, SHARE * taken.cost):
            self._wanted.set()
        return taken

    def status(self) -> dict[str, Any]:
        """The newest status, as `/status` answers it."""
        return self.current().status

    def expire(self) -> None:
        """Make a pass at the next request: an action has just changed the store."""
        self._edition += 1
        self._taken = None

    def _keep(self) -> None:
        while not self._over.is_set():
            taken = self._taken
            try:
                self._pass(taken)
            except ConnectorError as error:
                # Without a status the next request makes a pass, and gets the error.
                self._taken = None
                log.warning("%s", error)
            except Exception:
                self._taken = None
                log.exception("the status cannot be made")
            self._wanted.wait(self._quiet)
            self._wanted.clear()

    def _pass(self, before: Taken | None) -> Taken:
        with self._passing:
            if self._taken is not None and self._taken is not before:
                return self._taken  # Another thread made a pass while this one waited for the lock.
            edition, began, used = self._edition, time.monotonic(), time.thread_time()
            store = self._store()
            if self._listed is None or self._listed.store is not store:
                self._listed = ListedStore(store)
                self._records.clear()
            self._listed.begin()
            site = self._read(self._listed, self._record_reader(self._listed))
            number = time.monotonic_ns()
            lines = labelled(site.fields)
            taken = Taken(site, number, began, time.thread_time() - used, lines)
            taken.prepare()
            self._listed.end()
            # A pass that began before `expire` may not contain the action's change.
            self._taken = taken if edition == self._edition else None
            return taken

    def _record_reader(self, store: ListedStore) -> Callable[[Stream], StreamRecord]:
        generations = {entry.key: entry.generation for prefix in MARKED_PREFIXES for entry in store.list(prefix)}
        state = State.of(store)

        def read(stream: Stream) -> StreamRecord:
            mark = tuple(generations.get(key(stream), 0) for key in (checkpoint_key, lease_key, progress_key))
            kept = self._records.get(stream)
            if kept is not None and kept[0] == mark:
                return kept[1]
            record = read_record(state, datetime.now(UTC), stream)
            # During a delivery the ledger is ahead of the lease, so the marks do not show every change.
            if mark[1] and record.is_settled:
                self._records[stream] = (mark, record)
            else:
                self._records.pop(stream, None)
            return record

        return read


class ListedStore:
    """A store for one reader: small objects are read again only when a listing shows another generation.

    Within a pass a stream's small objects are read once. An object that is not in the pass's listing does not exist.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._listed: dict[str, int] = {}
        self._kept: dict[str, Stored] = {}
        self._lists: dict[str, list[Entry]] = {}
        self._present: dict[str, set[str]] = {}
        """By prefix, the keys in `_lists`, as sets."""
        self._once: dict[str, Stored] = {}

    def begin(self) -> None:
        """Begin a pass: forget the listings of the last one."""
        self._kept = {key: stored for key, stored in self._kept.items() if key in self._listed}
        self._listed.clear()
        self._lists.clear()
        self._present.clear()
        self._once.clear()

    def end(self) -> None:
        """End a pass: free the objects that only this pass needed."""
        self._once.clear()

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        """As the store's. It notes generations, and lists the MARKED_PREFIXES once a pass."""
        if prefix in MARKED_PREFIXES and not after:
            if prefix not in self._lists:
                self._lists[prefix] = [*self.store.list(prefix)]
                self._present[prefix] = {entry.key for entry in self._lists[prefix]}
            yield from self._lists[prefix]
            return
        for entry in self.store.list(prefix, after=after):
            if entry.key.startswith(KEPT_PREFIXES):
                self._listed[entry.key] = entry.generation
            yield entry

    def folders(self, prefix: str, depth: int) -> Iterator[str]:
        """As the store's own."""
        return self.store.folders(prefix, depth)

    def read(self, key: str) -> Stored | None:
        """The object as of the last listing if it is kept, otherwise read from the store."""
        kept = self._kept.get(key)
        if kept is not None and self._listed.get(key) == kept.generation:
            return kept
        once = self._once.get(key)
        prefix = f"{key.partition('/')[0]}/"
        if once is not None or (prefix in self._present and key not in self._present[prefix]):
            return once
        stored = self.store.read(key)
        if stored is not None and len(stored.body) <= KEPT_BYTES:
            if key in self._listed:
                self._kept[key] = stored
            elif prefix in MARKED_PREFIXES:
                self._once[key] = stored
        return stored

    def write(self, key: str, body: bytes, *, expected: int) -> int:
        """As the store's own."""
        self._forget(key)
        return self.store.write(key, body, expected=expected)

    def delete(self, key: str, *, expected: int) -> None:
        """As the store's own."""
        self._forget(key)
        self.store.delete(key, expected=expected)

    def _forget(self, key: str) -> None:
        """An object that is written in a pass is read again in the same pass."""
        self._once.pop(key, None)
        for keys in self._present.values():
            keys.add(key)
