"""The logs of a delivery that are read but not acknowledged, over all its streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lib.grpc_stream import framed
from lib.model.log import Log

LARGE = 64 * 1024
"""Bytes. No engine refuses a smaller log for its size; RESOURCE_EXHAUSTED for one means that the engine is full."""


class UnsettledLog(NamedTuple):
    """A log that is read but not settled; a tuple, as logs are."""

    number: int
    """The log's number in the delivery, from 1."""
    id: bytes
    message: bytes
    """The log as it is sent, with gRPC's prefix."""
    size: int


@dataclass(slots=True)
class Flight:
    """The logs that one stream has sent."""

    most: int
    """The limit of logs in flight."""
    is_narrow: bool = False
    """Whether only one log is sent at a time, to find the one that the engine refuses."""
    witness: int = 0
    """The number of a log that is sent before all others, to tell a refused log from a full engine; 0: none."""
    in_flight: dict[bytes, UnsettledLog] = field(default_factory=dict)
    """Logs sent on this stream and not acknowledged, by id, the oldest first."""
    next: int = 0
    """The number of the next log to send; 0 before the first."""
    acks: int = 0
    """Acknowledgements of logs in flight."""
    odd_acks: int = 0
    """Acknowledgements with an id that no log in flight has."""
    odd_id: bytes = b""
    """The id of the last one of them."""


class Window:
    """Reads logs ahead of their acknowledgements, up to a limit of logs and bytes.

    The limit counts from the first log that is not acknowledged. A log is *settled* when it and all logs before it are
    acknowledged.
    """

    def __init__(self, logs: Iterator[Log], most_logs: int, most_bytes: int, early: set[int]) -> None:
        """`early` always holds the numbers of acknowledged logs that are not settled."""
        self._logs = logs
        self._most_logs = most_logs
        self._most_bytes = most_bytes
        self._early = early
        self._entries: dict[int, UnsettledLog] = {}
        """Logs that are read but not settled, by number."""
        self._bytes = 0
        self._read = 0
        self._fault: Exception | None = None
        self.is_exhausted = False
        """Whether all logs are read."""
        self.settled = 0
        """The number of settled logs."""

    @property
    def is_done(self) -> bool:
        """Whether all logs are read and acknowledged."""
        return self.is_exhausted and self.settled == self._read

    @property
    def unacked(self) -> int:
        """The number of logs that are read but not settled."""
        return self._read - self.settled

    @property
    def last(self) -> int:
        """The number of the last log read."""
        return self._read

    @property
    def has_room(self) -> bool:
        """Whether another log may be read. One log always may, whatever its size."""
        return not self._entries or (len(self._entries) < self._most_logs and self._bytes < self._most_bytes)

    def read_one(self) -> bool:
        """Read the next log; False if there is none. An exception of the iterator is kept for `raise_fault`."""
        if self.is_exhausted:
            return False
        try:
            log = next(self._logs, None)
            message = b"" if log is None else framed(log.to_wire())
        except Exception as error:  # noqa: BLE001 - raised later, when all logs before it are acknowledged
            self._fault, log = error, None
        if log is None:
            self.is_exhausted = True
            return False
        self._read += 1
        self._entries[self._read] = UnsettledLog(self._read, log.id.encode(), message, len(log.raw))
        self._bytes += len(log.raw)
        return True

    def raise_fault(self) -> None:
        """Raise the iterator's exception, if there was one."""
        if self._fault is not None:
            raise self._fault

    def take(self, flight: Flight) -> UnsettledLog | None:
        """The next log to send: the witness, then unacknowledged logs, then new ones. None if none may be sent now."""
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
        # Two logs in flight never have the same id: their acknowledgements would be ambiguous.
        if len(flight.in_flight) >= flight.most or entry.id in flight.in_flight:
            return None
        flight.next += 1
        flight.in_flight[entry.id] = entry
        return entry

    def acknowledge(self, flight: Flight, log_id: bytes) -> bool:
        """Take the acknowledgement of an id (empty: the oldest log); return False if no log in flight has it."""
        entry = flight.in_flight.pop(log_id or next(iter(flight.in_flight), b""), None)
        if entry is None:
            flight.odd_acks += 1
            flight.odd_id = log_id
            return False
        flight.acks += 1
        if entry.number != self.settled + 1:
            self._early.add(entry.number)
            return True
        while True:
            self.settled += 1
            self._bytes -= self._entries.pop(self.settled).size
            if self.settled + 1 not in self._early:
                return True
            self._early.remove(self.settled + 1)

    def small(self) -> int:
        """The number of the first small log after the oldest one; 0 if none can be read now."""
        number = self.settled + 2
        while number <= self._read or (self.has_room and self.read_one()):
            entry = self._entries[number]
            if number not in self._early and entry.size < LARGE:
                return number
            number += 1
        return 0
