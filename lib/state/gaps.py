"""`gaps/`: intervals that can no longer be fetched, and lost batches. Each is recorded once.

A damaged gap stays where it is, and `status` names it. Listings skip it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from lib.errors import ConflictError
from lib.model.clock import text_or_none, to_text
from lib.model.stream import Stream
from lib.state.codec import UNREADABLE, Codec
from lib.store.base import ABSENT, ObjectStore

EVENT_TYPE = "Connector::Gap"
"""The type of the connector's own event about a gap."""
PREFIX = "gaps/"
CURSOR_EXPIRED = "cursor_expired"
BATCH_DAMAGED = "batch_damaged"
BATCH_MISSING = "batch_missing"


@dataclass(frozen=True, slots=True)
class Gap:
    """An interval whose events can no longer be fetched, or no longer be delivered."""

    stream: Stream
    sequence: int
    """The number of the lost batch; for an interval, the number of the next batch when it was noticed."""
    reason: str
    start: datetime | None
    end: datetime | None
    noticed_at: datetime
    estimated: int | None = None
    """The estimated number of lost events; None if there is no estimate."""

    def __post_init__(self) -> None:
        if self.reason == CURSOR_EXPIRED and self.start is None:
            raise ValueError("the begin of the interval is missing")

    @property
    def key(self) -> str:
        """The gap's key. It is the same each time the gap is noticed, so a repeat after a crash changes nothing."""
        if self.reason == CURSOR_EXPIRED:
            name = f"{self.start:%Y%m%dT%H%M%S%fZ}-cursor"
        else:
            # A batch that is damaged now may be missing later. Both have one key, so only the first is recorded.
            name = f"{self.sequence:020d}-batch"
        return f"{PREFIX}{self.stream.path}/{name}.json"

    def fields(self) -> dict[str, Any]:
        """The gap as JSON fields."""
        return {
            "integration": self.stream.integration,
            "tenant": self.stream.tenant,
            "kind": self.stream.kind,
            "sequence": self.sequence,
            "reason": self.reason,
            "from": text_or_none(self.start),
            "to": text_or_none(self.end),
            "noticed_at": to_text(self.noticed_at),
            "estimated_events": self.estimated,
        }

    def event(self) -> bytes:
        """The gap as an event for the engine, so that a rule can match it."""
        fields = self.fields()
        del fields["kind"]
        event = {
            "id": sha256(self.key.encode()).hexdigest(),
            "type": EVENT_TYPE,
            "severity": "high",
            "name": f"Events of {self.stream} are missing: {self.reason}",
            "stream": self.stream.kind,
        }
        return json.dumps(event | fields, ensure_ascii=False).encode("utf-8", "replace")


GAP = Codec(Gap, "a gap", names={"stream": {}, "start": "from", "end": "to", "estimated": "estimated_events"})


class Gaps:
    """A store's gaps."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def record(self, gap: Gap) -> bool:
        """Record the gap; return whether it is new. Recording it again, after a crash, changes nothing."""
        try:
            self._store.write(gap.key, GAP.encode(gap), expected=ABSENT)
        except ConflictError:
            return False
        return True

    def all(self, stream: Stream | None = None, *, unreadable: list[str] | None = None) -> Iterator[Gap]:
        """All readable gaps, of one stream or of all. The keys of the others are added to `unreadable`."""
        prefix = PREFIX if stream is None else f"{PREFIX}{stream.path}/"
        for entry in self._store.list(prefix):
            try:
                stored = self._store.read(entry.key)
                gap = None if stored is None else GAP.decode(stored.body)
            except UNREADABLE:  # `damage.damaged` reports it.
                if unreadable is not None:
                    unreadable.append(entry.key)
                continue
            if gap is not None:
                yield gap
