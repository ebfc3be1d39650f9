"""A stream's lease: its holder, its expiry, and how far delivery has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lib.model.receipt import LastReceipt

TERM = timedelta(seconds=12)
"""How long a lease is valid without renewal. A holder that died blocks its stream for this long."""
RENEWAL = TERM / 4
"""Three renewals may fail before the term ends."""
SKEW = timedelta(seconds=15)
"""How far ahead a holder's clock may be. The longest wait for a dead holder is TERM + SKEW."""


@dataclass(frozen=True, slots=True)
class PartOfBatch:
    """The items of a batch that the engine acknowledged after a log that it did not acknowledge."""

    sequence: int
    digest: str
    acked: tuple[tuple[int, int], ...]
    """Ranges of item numbers, from 0: the first item, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A log that the engine did not acknowledge in a call in which it acknowledged later logs."""

    calls: int
    """The number of such calls."""
    reason: str
    """How the last such call ended."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The state of a stream's delivery.

    It holds what is acknowledged but has no receipt yet, so that the next holder does not send it again.
    """

    holder: str | None = None
    until: datetime | None = None
    tail: LastReceipt = field(default_factory=LastReceipt)
    """The last receipt that the last holder wrote or read. A later receipt may exist."""
    tail_is_last: bool | None = None
    """Whether no later receipt exists, as long as nobody holds the lease; None: that is not known."""
    acked_sequence: int = 0
    """The number of the first batch without a receipt, if it was delivered in part."""
    acked_digest: str | None = None
    """The digest of that batch: another batch can get its number. None: an older version wrote the lease."""
    acked: int = 0
    """How many of its first items are done: acknowledged, refused, or impossible to send."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Reasons of the engine's refusals of its logs, by id. They become dead letters when the batch is done."""
    refused_in_a_row: int | None = None
    """Logs that the engine has refused since it last acknowledged one; None: none."""
    parts: tuple[PartOfBatch, ...] | None = None
    """Other acknowledged items of batches without a receipt."""
    overtaken: Mapping[str, Overtaken] | None = None
    """The first logs that later logs have overtaken, by id."""
    tidied: str = ""
    """The day of the last receipt when the ledger was last tidied completely."""

    def is_held(self, now: datetime) -> bool:
        """Whether a holder's term runs. An expiry beyond TERM + SKEW means that the clock jumped back: it is void."""
        return self.holder is not None and self.until is not None and now < self.until <= now + TERM + SKEW

    def done(self, sequence: int, digest: str, count: int) -> set[int]:
        """The numbers of the batch's items that are done; none if the lease is about another batch of that number."""
        ranges = [(0, self.acked)] if self._is_about(sequence, digest) else []
        for part in self.parts or ():
            if (part.sequence, part.digest) == (sequence, digest):
                ranges += part.acked
        return {place for start, end in ranges for place in range(max(0, start), min(end, count))}

    def refusals(self, sequence: int, digest: str) -> Mapping[str, str]:
        """The reasons of the engine's refusals of the batch's logs, by id."""
        return self.refused if self._is_about(sequence, digest) else {}

    def _is_about(self, sequence: int, digest: str) -> bool:
        return self.acked_sequence == sequence and self.acked_digest in (None, digest)


def ranges_of(places: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """The numbers as ranges: the first of each range, and the one after its last."""
    ranges: list[tuple[int, int]] = []
    for place in sorted(places):
        if ranges and ranges[-1][1] == place:
            ranges[-1] = ranges[-1][0], place + 1
        else:
            ranges.append((place, place + 1))
    return tuple(ranges)
