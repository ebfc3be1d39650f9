"""Logs between being read and being acknowledged, over as many streams as a delivery takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lib.grpc_stream import framed
from lib.model.log import Log

LARGE = 64 * 1024
"""No engine refuses a smaller log for its size: behind a RESOURCE_EXHAUSTED for one, there is want of capacity."""


class Entry(NamedTuple):
    """A log that is read and not settled; a tuple, as logs are."""

    number: int
    """Its place among the delivery's logs, from 1."""
    id: bytes
    message: bytes
    """As it is sent, with its length before it."""
    size: int


@dataclass(slots=True)
class Flight:
    """What one stream has sent of a window."""

    most: int
    """How many logs may be in flight at once."""
    is_narrow: bool = False
    """Whether that is one, to find out which log the engine refuses."""
    witness: int = 0
    """The number of a log that goes before all others, to tell a log that is refused from an engine that is full."""
    in_flight: dict[bytes, Entry] = field(default_factory=dict)
    """Sent on this stream and not acknowledged, by id, oldest first."""
    next: int = 0
    """The number of the log that is looked at next; 0 before the first."""
    acks: int = 0
    """Acknowledgements of logs in flight."""
    odd_acks: int = 0
    """Acknowledgements that name no log in flight."""
    odd_id: bytes = b""
    """What the last one of them named."""


class Window:
    """Reads logs ahead of their acknowledgements, up to a bound in logs and bytes.

    The bound counts from the first log that is not acknowledged. A log is settled once it and all before it are.
    """

    def __init__(self, logs: Iterator[Log], most_logs: int, most_bytes: int, early: set[int]) -> None:
        """`early` is kept up to date: the numbers of acknowledged logs that are not settled."""
        self._logs = logs
        self._most_logs = most_logs
        self._most_bytes = most_bytes
        self._early = early
        self._entries: dict[int, Entry] = {}
        """Read and not settled, by number."""
        self._bytes = 0
        self._read = 0
        self._fault: Exception | None = None
        self.is_exhausted = False
        """Whether there is no more to read."""
        self.settled = 0
        """How many of the first logs are acknowledged."""

    @property
    def is_done(self) -> bool:
        """Whether everything was read and is acknowledged."""
        return self.is_exhausted and self.settled == self._read

    @property
    def unacked(self) -> int:
        """How many logs were read and are not settled."""
        return self._read - self.settled

    @property
    def last(self) -> int:
        """The number of the log that was read last."""
        return self._read

    @property
    def has_room(self) -> bool:
        """Whether another log may be read."""
        return not self._entries or (len(self._entries) < self._most_logs and self._bytes < self._most_bytes)

    def read_one(self) -> bool:
        """Read the next log; False where there is none, or what the iterator raised is kept for `raise_fault`."""
        if self.is_exhausted:
            return False
        try:
            log = next(self._logs, None)
            message = b"" if log is None else framed(log.to_wire())
        except Exception as error:  # noqa: BLE001 - raised once all before it is acknowledged
            self._fault, log = error, None
        if log is None:
            self.is_exhausted = True
            return False
        self._read += 1
        self._entries[self._read] = Entry(self._read, log.id.encode(), message, len(log.raw))
        self._bytes += len(log.raw)
        return True

    def raise_fault(self) -> None:
        """Raise what the iterator of logs raised."""
        if self._fault is not None:
            raise self._fault

    def take(self, flight: Flight) -> Entry | None:
        """The next entry to send: the witness, what is not acknowledged, what is new; None where none may go now."""
        if flight.next == 0:
            flight.next = self.settled + 1
            witness = self._entries.get(flight.witness)
            if witness is not None:
                flight.in_flight[witness.id] = witness
                return witness
        while flight.next in self._early or flight.next <= self.settled:
            flight.next += 1
        entry = self._entries.get(flight.next)
        if entry is None:
            if not self.has_room or not self.read_one():
                return None
            entry = self._entries[flight.next]
        # Never two logs in flight with one id: their acknowledgements could not be told apart.
        if len(flight.in_flight) >= flight.most or entry.id in flight.in_flight:
            return None
        flight.next += 1
        flight.in_flight[entry.id] = entry
        return entry

    def acknowledge(self, flight: Flight, log_id: bytes) -> bool:
        """Settle the log of that id (no id: the oldest); False where it names no log in flight."""
        entry = flight.in_flight.pop(log_id or next(iter(flight.in_flight), b""), None)
        if entry is None:
            flight.odd_acks += 1
            flight.odd_id = log_id
            return False
        flight.acks += 1
        if entry.number != self.settled + 1:
            self._early.add(entry.number)
            return True
        self._settle()
        while self._early and self.settled + 1 in self._early:
            self._early.remove(self.settled + 1)
            self._settle()
        return True

    def _settle(self) -> None:
        self.settled += 1
        self._bytes -= self._entries.pop(self.settled).size

    def small(self) -> int:
        """The number of the first small log behind the oldest one, 0 where none is at hand."""
        number = self.settled + 2
        while number <= self._read or (self.has_room and self.read_one()):
            entry = self._entries[number]
            if number not in self._early and entry.size < LARGE:
                return number
            number += 1
        return 0
