"""`leases/`: one forwarder a stream, so that a stream's logs reach the engine in order; how far delivery has come.

A damaged lease is made again: the ledger tells the last receipt, and a batch that was delivered in part is sent again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from lib.errors import ConflictError, ConnectorError, DamagedError
from lib.model.batch import Header
from lib.model.lease import RENEWAL, TERM, Lease, Overtaken, PartOfBatch
from lib.model.receipt import LastReceipt
from lib.model.stream import Stream
from lib.state.codec import Codec
from lib.state.dead_letters import set_damaged_aside
from lib.store.base import ABSENT, ObjectStore

PREFIX = "leases/"
MOST_PARTS = 500
"""Of so many batches a lease remembers parts; what it does not remember is sent again."""
_NOTHING_ACKED: Mapping[str, Any] = {"acked_sequence": 0, "acked_digest": None, "acked": 0, "refused": {}}
LATER = ("tail_is_last", "refused", "refused_in_a_row", "acked_digest", "parts", "overtaken", "tidied")
LEASE = Codec(Lease, "a lease", later=LATER)


def lease_key(stream: Stream) -> str:
    """Where the stream's lease is."""
    return f"{PREFIX}{stream.path}.json"


def from_body(body: bytes) -> Lease:
    """The lease that an object holds; DamagedError where it holds none, LayoutError for a newer one."""
    fields = LEASE.load(body)
    # Without the refused it counted without them, too: the batch is sent from its beginning.
    return LEASE.value(fields if "refused" in fields else fields | {"acked": 0})


class HeldLease:
    """A lease that this call holds; renewed by a thread of its own, since an engine may be silent for long."""

    def __init__(
        self, store: ObjectStore, stream: Stream, state: Lease, generation: int, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._key = lease_key(stream)
        self._state = state
        self._generation = generation
        self._now = now
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._lost = False
        self._renewer = threading.Thread(target=self._renew, name=f"lease {stream}", daemon=True)

    @property
    def state(self) -> Lease:
        """What the lease says."""
        return self._state

    def found(self, tail: LastReceipt) -> None:
        """Keep which receipt the ledger ends with."""
        self._note(tail=tail, tail_is_last=True)

    def in_doubt(self) -> None:
        """Keep that a receipt is being written: where nobody hears how that ended, the ledger has to be listed."""
        self._note(tail_is_last=None)

    def delivered(self, tail: LastReceipt, refused: Collection[str]) -> None:
        """Keep that a whole batch is settled, and those logs set aside.

        It is written with the next renewal, or at the end, as all that is kept here is.
        """
        self.found(tail)
        self._note(**_NOTHING_ACKED, parts=self._parts_after(tail.sequence))
        self.overtaken({key: each for key, each in (self._state.overtaken or {}).items() if key not in refused})

    def delivered_in_part(
        self, header: Header, acked: int, refused: Mapping[str, str], parts: Sequence[PartOfBatch], last: int
    ) -> None:
        """Keep how far into a batch delivery has come, what was refused of it, and the parts up to the last batch."""
        self._note(
            acked_sequence=header.sequence,
            acked_digest=header.digest,
            acked=acked,
            refused=refused,
            parts=(*parts, *(self._parts_after(last) or ()))[:MOST_PARTS] or None,
        )

    def replaced(self, sequence: int) -> None:
        """Keep nothing of a batch whose number another one gets."""
        self._note(**_NOTHING_ACKED, parts=self._parts_after(sequence))

    def overtaken(self, logs: Mapping[str, Overtaken]) -> None:
        """Keep which logs later ones have overtaken."""
        self._note(overtaken=logs or None)

    def _parts_after(self, sequence: int) -> tuple[PartOfBatch, ...] | None:
        return tuple(part for part in self._state.parts or () if part.sequence > sequence) or None

    def refused_in_a_row(self, count: int) -> None:
        """Keep how many logs the engine has refused since it acknowledged one."""
        self._note(refused_in_a_row=count or None)

    def tidied(self, day: str) -> None:
        """Keep up to which day the ledger is tidy."""
        self._note(tidied=day)

    def write(self) -> None:
        """Write what is kept now; ConflictError when another call has taken the lease."""
        with self._lock:
            self._write(replace(self._state, until=self._now() + TERM))

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)

    def check(self) -> None:
        """Raise ConflictError when another call has taken the lease."""
        if self._lost:
            raise ConflictError("another run forwards this stream now")

    def __enter__(self) -> Self:
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._renewer.join()
        with self._lock:
            if not self._lost:
                try:
                    self._write(replace(self._state, holder=None, until=None))
                except ConnectorError:
                    # Whoever comes next waits for the end of the term, and reads the ledger for what is missing here.
                    self._lost = True

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL.total_seconds()):
            with self._lock:
                try:
                    self._write(replace(self._state, until=self._now() + TERM))
                except ConflictError:
                    self._lost = True
                    return
                except ConnectorError:
                    continue  # The store fails just now: there are three more renewals before the term ends.

    def _write(self, state: Lease) -> None:
        self._generation = self._store.write(self._key, LEASE.encode(state), expected=self._generation)
        self._state = state


def lease_of(store: ObjectStore, stream: Stream) -> tuple[Lease, int]:
    """The stream's lease and the generation of its object; a damaged one is an empty one: the ledger tells the rest."""
    stored = store.read(lease_key(stream))
    if stored is None:
        return Lease(), ABSENT
    try:
        return from_body(stored.body), stored.generation
    except DamagedError as error:
        set_damaged_aside(store, lease_key(stream), stored.body, error)
        return Lease(), stored.generation


@contextmanager
def held(store: ObjectStore, stream: Stream, holder: str, now: Callable[[], datetime]) -> Iterator[HeldLease | None]:
    """The stream's lease for the time of the block, or None while somebody else has it."""
    state, present = lease_of(store, stream)
    if state.is_held(now()):
        yield None
        return
    # Who did not give it back may have died behind a receipt that the lease does not tell of.
    is_last = state.tail_is_last if state.holder is None else None
    taken = replace(state, holder=holder, until=now() + TERM, tail_is_last=is_last)
    try:
        generation = store.write(lease_key(stream), LEASE.encode(taken), expected=present)
    except ConflictError:
        yield None
        return
    with HeldLease(store, stream, taken, generation, now) as lease:
        yield lease
