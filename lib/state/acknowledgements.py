"""`acknowledged/`: items that a person has acknowledged, such as a gap or a dead letter. They are no longer reasons.

A damaged acknowledgement does not count: its item needs attention again.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from lib.errors import ConflictError
from lib.model.clock import to_text
from lib.state.codec import UNREADABLE, Codec
from lib.store.base import ABSENT, ObjectStore

PREFIX = "acknowledged/"
_LOST_BATCH = re.compile(
    r"gaps/([^/]+/[^/]+/[^/]+)/(\d{20})-batch\.json|(?:dead/)?batches/([^/]+/[^/]+/[^/]+)/(\d{20})\.ndjson", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The person who acknowledged an object, and the time."""

    key: str
    """The key of the acknowledged object."""
    by: str
    at: datetime

    def fields(self) -> dict[str, str]:
        """The acknowledgement as JSON fields, without the key."""
        return {"by": self.by, "at": to_text(self.at)}


ACKNOWLEDGEMENT = Codec(Acknowledgement, "an acknowledgement")


class Acknowledgements:
    """A store's acknowledgements. Each is an object of its own, so that the acknowledged object never changes."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def all(self) -> dict[str, Acknowledgement]:
        """All acknowledgements by the keys of what each settles (`same_cause`). Unreadable ones are skipped."""
        by_key: dict[str, Acknowledgement] = {}
        for entry in self._store.list(PREFIX):
            with suppress(*UNREADABLE):
                stored = self._store.read(entry.key)
                if stored is not None:
                    acknowledged = ACKNOWLEDGEMENT.decode(stored.body)
                    by_key |= dict.fromkeys(same_cause(acknowledged.key), acknowledged)
        return by_key

    def add(self, key: str, *, by: str, at: datetime) -> bool:
        """Acknowledge the object; return False if it was acknowledged before. The first acknowledgement stays."""
        body = ACKNOWLEDGEMENT.encode(Acknowledgement(key, by, at))
        try:
            self._store.write(f"{PREFIX}{key}.json", body, expected=ABSENT)
        except ConflictError:
            return False
        return True


def same_cause(key: str) -> tuple[str, ...]:
    """The keys under which the damage of one object is listed: its own, its copy's, and that of a lost batch's gap."""
    lost = _LOST_BATCH.fullmatch(key)
    if lost:
        path, number = lost[1] or lost[3], lost[2] or lost[4]
        batch = f"batches/{path}/{number}.ndjson"
        return f"gaps/{path}/{number}-batch.json", batch, f"dead/{batch}"
    original = key.removeprefix("dead/").rstrip("~")
    return key, original, f"dead/{original}"


def short_id(key: str) -> str:
    """A short id of an object that people can type."""
    return sha256(key.encode()).hexdigest()[:10]
