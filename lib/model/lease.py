"""Who forwards a stream just now, until when, and how far delivery has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lib.model.receipt import LastReceipt

TERM = timedelta(seconds=12)
"""How long a lease holds without renewal: a holder that died stalls its stream no longer."""
RENEWAL = TERM / 4
SKEW = timedelta(seconds=15)
"""How far ahead a holder's clock may be; with the term it is the longest that anybody waits for a dead holder."""


@dataclass(frozen=True, slots=True)
class PartOfBatch:
    """What the engine acknowledged of a batch behind a log that it did not acknowledge."""

    sequence: int
    digest: str
    acked: tuple[tuple[int, int], ...]
    """Ranges of its items, from 0: the first, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A log that the engine did not acknowledge in a call in which it acknowledged later ones."""

    calls: int
    """In so many calls."""
    reason: str
    """How the last of them ended."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The state of a stream's delivery."""

    holder: str | None = None
    until: datetime | None = None
    tail: LastReceipt = field(default_factory=LastReceipt)
    """The last receipt that the lease's last holder knew of."""
    tail_is_last: bool | None = None
    """Whether `tail` is the stream's last receipt, as long as nobody holds the lease; None: that is not known."""
    acked_sequence: int = 0
    """A batch that was delivered in part: the first one that is not settled."""
    acked_digest: str | None = None
    """Its digest. Another batch can get its number. None: an older version wrote the lease."""
    acked: int = 0
    """How many of its first items are done with: acknowledged, refused, or none that could be sent."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why the engine has refused logs of it, by id; they go to `dead/` with the whole batch."""
    refused_in_a_row: int | None = None
    """Logs that the engine has refused since it acknowledged one; None: none."""
    parts: tuple[PartOfBatch, ...] | None = None
    """What else is acknowledged of batches that are not settled."""
    overtaken: Mapping[str, Overtaken] | None = None
    """The first logs that later ones have overtaken, by id."""
    tidied: str = ""
    """The day of the last receipt when the ledger was last tidied to its end."""

    def is_held(self, now: datetime) -> bool:
        """Whether somebody holds it. An end farther off than clocks differ is a clock that jumped back."""
        return self.holder is not None and self.until is not None and now < self.until <= now + TERM + SKEW

    def done(self, sequence: int, digest: str, count: int) -> set[int]:
        """Which of the batch's items are done with; none where the lease tells of another batch of that number."""
        ranges = [(0, self.acked)] if self._tells_of(sequence, digest) else []
        for part in self.parts or ():
            if (part.sequence, part.digest) == (sequence, digest):
                ranges += part.acked
        return {place for start, end in ranges for place in range(max(0, start), min(end, count))}

    def refusals(self, sequence: int, digest: str) -> Mapping[str, str]:
        """Why the engine has refused logs of the batch, by id."""
        return self.refused if self._tells_of(sequence, digest) else {}

    def _tells_of(self, sequence: int, digest: str) -> bool:
        return self.acked_sequence == sequence and self.acked_digest in (None, digest)


def ranges_of(places: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """The places as ranges: of each the first, and the one after the last."""
    ranges: list[tuple[int, int]] = []
    for place in sorted(places):
        if ranges and ranges[-1][1] == place:
            ranges[-1] = ranges[-1][0], place + 1
        else:
            ranges.append((place, place + 1))
    return tuple(ranges)
