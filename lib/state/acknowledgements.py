"""`acknowledged/`: what a person has seen and settled, such as a gap or a dead letter; it is no reason any more.

A damaged acknowledgement counts as none: what it settled needs attention again.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from lib.errors import ConflictError
from lib.model.clock import to_text
from lib.state.codec import UNREADABLE, Codec
from lib.store.base import ABSENT, ObjectStore

PREFIX = "acknowledged/"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Who has seen something, and when."""

    key: str
    """The object in the store that was seen."""
    by: str
    at: datetime

    def fields(self) -> dict[str, str]:
        """As JSON fields."""
        return {"by": self.by, "at": to_text(self.at)}


ACKNOWLEDGEMENT = Codec(Acknowledgement, "an acknowledgement")


class Acknowledgements:
    """One object for each acknowledged object, beside it: nothing that is proof is ever changed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def all(self) -> dict[str, Acknowledgement]:
        """Every acknowledgement by the key that it is of. One that cannot be read counts as none."""
        found = {}
        for entry in self._store.list(PREFIX):
            stored = self._store.read(entry.key)
            if stored is not None:
                with suppress(*UNREADABLE):
                    acknowledged = ACKNOWLEDGEMENT.decode(stored.body)
                    found[acknowledged.key] = acknowledged
        return found

    def add(self, key: str, *, by: str, at: datetime) -> bool:
        """Acknowledge the object; False where that was done before: the first one stays."""
        body = ACKNOWLEDGEMENT.encode(Acknowledgement(key, by, at))
        try:
            self._store.write(f"{PREFIX}{key}.json", body, expected=ABSENT)
        except ConflictError:
            return False
        return True


def short_id(key: str) -> str:
    """A short name of an object, to type."""
    return sha256(key.encode()).hexdigest()[:10]
