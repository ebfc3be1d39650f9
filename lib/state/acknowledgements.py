"""`acknowledged/`: what a person has seen and settled, such as a gap or a dead letter; it is no reason any more."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from lib.errors import ConflictError
from lib.model.batch import LAYOUT
from lib.model.clock import from_text, to_text
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


class Acknowledgements:
    """One object for each acknowledged object, beside it: nothing that is proof is ever changed."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def all(self) -> dict[str, Acknowledgement]:
        """Every acknowledgement by the key that it is of. One that cannot be read counts as none."""
        found = {}
        for entry in self._store.list(PREFIX):
            stored = self._store.read(entry.key)
            with suppress(ValueError, KeyError, TypeError):
                fields = json.loads(stored.body) if stored else {}
                found[fields["key"]] = Acknowledgement(fields["key"], fields["by"], from_text(fields["at"]))
        return found

    def add(self, key: str, *, by: str, at: datetime) -> bool:
        """Acknowledge the object; False where that was done before: the first one stays."""
        body = json.dumps({"layout": LAYOUT, "key": key, "by": by, "at": to_text(at)}, ensure_ascii=False)
        try:
            self._store.write(f"{PREFIX}{key}.json", body.encode() + b"\n", expected=ABSENT)
        except ConflictError:
            return False
        return True


def short_id(key: str) -> str:
    """A short name of an object, to type."""
    return sha256(key.encode()).hexdigest()[:10]
