"""`dead/`: undeliverable events (`dead/<stream>/<batch>.ndjson`), and copies of damaged objects (`dead/<their key>`).

A dead letter that cannot be read stays where it is, and is named: nobody else reads it but `replay`.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lib.errors import ConflictError, ConnectorError, DamagedError
from lib.model.log import Log, from_fields
from lib.model.stream import Stream, stream_of
from lib.state.acknowledgements import Acknowledgement, Acknowledgements, short_id
from lib.store.base import ABSENT, ObjectStore

log = logging.getLogger(__name__)

PREFIX = "dead/"
_LETTERS = re.compile(r"dead/([^/]+/[^/]+/[^/]+)/\d{20}\.ndjson~*", re.ASCII)
_OF_STREAM = re.compile(r"dead/(?:batches/)?([^/]+/[^/]+/[^/]+)/\d{20}\.ndjson~*", re.ASCII)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One object below `dead/`: what could not be delivered of one batch."""

    key: str
    events: int
    reasons: Counter[str]
    acknowledged: Acknowledgement | None = None

    @property
    def id(self) -> str:
        """A short name, to type."""
        return short_id(self.key)


def dead_letters_by_stream(store: ObjectStore) -> dict[Stream, list[DeadLetter]]:
    """All dead letters of each stream, in order."""
    keys = set_aside_by_stream(store)
    seen = Acknowledgements(store).all() if keys else {}
    return {
        stream: [DeadLetter(key, *_content(store, key), seen.get(key)) for key in each] for stream, each in keys.items()
    }


def _content(store: ObjectStore, key: str) -> tuple[int, Counter[str]]:
    """How many events an object holds, and why."""
    stored = store.read(key)
    lines = stored.body.splitlines() if stored else []
    try:
        reasons = Counter(str(json.loads(line)["reason"]) for line in lines)
        return reasons.total(), reasons
    except (ValueError, KeyError, TypeError, RecursionError):
        return max(1, len(lines) - 1), Counter(["a damaged batch; a gap tells what was lost"])


def set_aside(store: ObjectStore, key: str, body: bytes) -> bool:
    """Keep under `dead/` what cannot be used, and say whether it is new: doing it twice keeps one."""
    try:
        store.write(PREFIX + key, body, expected=ABSENT)
    except ConflictError:
        present = store.read(PREFIX + key)
        return (present is None or present.body != body) and set_aside(store, f"{key}~", body)
    return True


def set_damaged_aside(store: ObjectStore, key: str, body: bytes, error: ConnectorError) -> None:
    """Keep a copy of a damaged object before everything goes on without it, so that the damage stays known."""
    if set_aside(store, key, body):
        log.warning("%s: %s; dead/ keeps a copy", key, error)


def set_aside_by_stream(store: ObjectStore) -> dict[Stream, list[str]]:
    """The keys of what is set aside of each stream: undeliverable events of a batch, or a damaged batch."""
    found: dict[Stream, list[str]] = {}
    for entry in store.list(PREFIX):
        match = _OF_STREAM.fullmatch(entry.key)
        if match:
            found.setdefault(stream_of(match[1]), []).append(entry.key)
    return found


def holds_letters(key: str) -> bool:
    """Whether the key is that of undeliverable events; otherwise it is that of a damaged object's copy."""
    return _LETTERS.fullmatch(key) is not None


def original_of(key: str) -> str:
    """Where the damaged object was whose copy has that key."""
    return key.removeprefix(PREFIX).rstrip("~")


def letters_of(body: bytes) -> Sequence[Log]:
    """The events that are set aside, a line each; DamagedError where there are none."""
    try:
        logs = [from_fields(json.loads(line)) for line in body.splitlines()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError("the events that are set aside cannot be read") from None
    if not logs:
        raise DamagedError("the events that are set aside cannot be read: there are none")
    return logs
