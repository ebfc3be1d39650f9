"""`leases/`: each stream's lease and the progress of its delivery.

Only the holder of a stream's lease forwards its batches, so the logs reach the engine in order.

The progress is kept in memory and written with the next renewal or when the lease is given back. A crash loses the
progress since the last write. The ledger then names the last receipt, and a batch that was delivered in part is sent
again from the last written progress. A damaged lease is rebuilt the same way, without any progress.
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
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

PREFIX = "leases/"
MOST_PARTS = 500
"""The batches with partial progress that a lease records. Further ones are sent again from their beginning."""
_NOTHING_ACKED: Mapping[str, Any] = {"acked_sequence": 0, "acked_digest": None, "acked": 0, "refused": {}}
LATER = ("tail_is_last", "refused", "refused_in_a_row", "acked_digest", "parts", "overtaken", "tidied")
LEASE = Codec(Lease, "a lease", later=LATER)


def lease_key(stream: Stream) -> str:
    """The key of the stream's lease."""
    return f"{PREFIX}{stream.path}.json"


def from_body(body: bytes) -> Lease:
    """The lease of a stored object; DamagedError if it cannot be read, LayoutError if a newer version wrote it."""
    fields = LEASE.load(body)
    # An old version without `refused` did not count refused logs in `acked`: send the batch from its beginning.
    return LEASE.value(fields if "refused" in fields else fields | {"acked": 0})


class HeldLease:
    """A lease that this call holds. A thread renews it, since an engine may take long to answer."""

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
        """The lease's content, including progress that is not written yet."""
        return self._state

    def set_tail(self, tail: LastReceipt) -> None:
        """Record the ledger's last receipt."""
        self._note(tail=tail, tail_is_last=True)

    def in_doubt(self) -> None:
        """Record that a receipt is being written. After a crash here, the next holder lists the ledger."""
        self._note(tail_is_last=None)

    def delivered(self, tail: LastReceipt, refused: Collection[str]) -> None:
        """Record that a batch is settled up to the receipt `tail`, with the refused logs in `dead/`.

        The next renewal writes it, or the release at the end, as with all that is recorded here.
        """
        self.set_tail(tail)
        self._note(**_NOTHING_ACKED, parts=self._parts_after(tail.sequence))
        self.overtaken({key: counted for key, counted in (self._state.overtaken or {}).items() if key not in refused})

    def delivered_in_part(
        self, header: Header, acked: int, refused: Mapping[str, str], parts: Sequence[PartOfBatch], last: int
    ) -> None:
        """Record the progress in a batch, its refused logs, and the parts of later batches up to the batch `last`."""
        self._note(
            acked_sequence=header.sequence,
            acked_digest=header.digest,
            acked=acked,
            refused=refused,
            parts=(*parts, *(self._parts_after(last) or ()))[:MOST_PARTS] or None,
        )

    def replaced(self, sequence: int) -> None:
        """Drop the progress of a batch whose number will be used again."""
        self._note(**_NOTHING_ACKED, parts=self._parts_after(sequence))

    def overtaken(self, logs: Mapping[str, Overtaken]) -> None:
        """Record the logs that the engine did not acknowledge although it acknowledged later ones."""
        self._note(overtaken=logs or None)

    def _parts_after(self, sequence: int) -> tuple[PartOfBatch, ...] | None:
        return tuple(part for part in self._state.parts or () if part.sequence > sequence) or None

    def refused_in_a_row(self, count: int) -> None:
        """Record how many logs the engine has refused since its last acknowledgement."""
        self._note(refused_in_a_row=count or None)

    def tidied(self, day: str) -> None:
        """Record the day up to which the ledger is packed."""
        self._note(tidied=day)

    def write(self) -> None:
        """Write the progress now; ConflictError if another call has taken the lease."""
        with self._lock:
            self._write(replace(self._state, until=self._now() + TERM))

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)

    def check(self) -> None:
        """Raise ConflictError if another call has taken the lease."""
        if self._lost:
            raise ConflictError("another run forwards this stream now")

    def __enter__(self) -> Self:
        self._renewer.start()
        return self

    # The renewer ends first: a renewal after the release would write the lease again.
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
                    # The next holder waits until the term ends, and reads the last receipt from the ledger.
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
                    continue  # The store fails at the moment. There are three more renewals before the term ends.

    def _write(self, state: Lease) -> None:
        # The caller holds the lock: the generation must be the one of this instance's last write.
        self._generation = self._store.write(self._key, LEASE.encode(state), expected=self._generation)
        self._state = state


def lease_of(store: ObjectStore, stream: Stream) -> tuple[Lease, int]:
    """The stream's lease and its generation. A damaged lease is copied to `dead/` and read as empty."""
    stored = store.read(lease_key(stream))
    if stored is None:
        return Lease(), ABSENT
    try:
        return from_body(stored.body), stored.generation
    except DamagedError as error:
        copy_damaged_to_dead(store, lease_key(stream), stored.body, error)
        return Lease(), stored.generation


@contextmanager
def held(store: ObjectStore, stream: Stream, holder: str, now: Callable[[], datetime]) -> Iterator[HeldLease | None]:
    """The stream's lease for the time of the block, or None if another call holds it."""
    state, present = lease_of(store, stream)
    # Compared with this machine's clock. If it is ahead, two calls hold the lease: duplicates, but no loss and no
    # other order, because both start after the same receipt.
    if state.is_held(now()):
        yield None
        return
    # A holder that did not give it back may have crashed after writing a receipt that the lease does not name.
    is_last = state.tail_is_last if state.holder is None else None
    taken = replace(state, holder=holder, until=now() + TERM, tail_is_last=is_last)
    try:
        generation = store.write(lease_key(stream), LEASE.encode(taken), expected=present)
    except ConflictError:
        yield None
        return
    with HeldLease(store, stream, taken, generation, now) as lease:
        yield lease
