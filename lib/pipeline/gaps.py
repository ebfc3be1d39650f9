"""Gaps: intervals that can no longer be fetched, written down once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from lib.errors import ConflictError
from lib.model.batch import LAYOUT
from lib.model.clock import text_or_none, to_text
from lib.model.stream import Stream
from lib.store.base import ABSENT, ObjectStore

CURSOR_EXPIRED = "cursor_expired"
BATCH_DAMAGED = "batch_damaged"
BATCH_MISSING = "batch_missing"


class Gaps:
    """`gaps/`: one object a gap, named by the batch number at which it was noticed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def record(
        self, stream: Stream, sequence: int, reason: str, *, start: datetime | None, end: datetime | None, now: datetime
    ) -> bool:
        """Write the gap down, and say whether it is new: noticing it again, after a crash, changes nothing."""
        fields = {
            "layout": LAYOUT,
            "integration": stream.integration,
            "tenant": stream.tenant,
            "kind": stream.kind,
            "sequence": sequence,
            "reason": reason,
            "from": text_or_none(start),
            "to": text_or_none(end),
            "noticed_at": to_text(now),
            "estimated_events": None,
        }
        # A batch is either damaged or missing: whichever was noticed first names it.
        what = "cursor" if reason == CURSOR_EXPIRED else "batch"
        key = f"gaps/{stream.path}/{sequence:020d}-{what}.json"
        try:
            self._store.write(key, json.dumps(fields, ensure_ascii=False).encode() + b"\n", expected=ABSENT)
        except ConflictError:
            return False
        return True

    def all(self, stream: Stream | None = None) -> Iterator[dict[str, Any]]:
        """Every recorded gap, of one stream or of all."""
        prefix = "gaps/" if stream is None else f"gaps/{stream.path}/"
        for entry in self._store.list(prefix):
            stored = self._store.read(entry.key)
            if stored is not None:
                yield json.loads(stored.body)
