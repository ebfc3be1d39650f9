"""`dead/`: undeliverable events (`dead/<stream>/<batch>.ndjson`), and copies of damaged objects (`dead/<their key>`).

A damaged dead letter stays where it is, and `status` names it. Only `replay` reads it.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lib.errors import ConflictError, ConnectorError, DamagedError, UnreadableError
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
    """The undeliverable events of one batch: one object below `dead/`."""

    key: str
    events: int
    reasons: Counter[str]
    acknowledged: Acknowledgement | None = None

    @property
    def is_copy(self) -> bool:
        """Whether it is the copy of a damaged batch: a gap or the damage itself is the reason for attention then."""
        return not holds_letters(self.key)

    @property
    def id(self) -> str:
        """A short id that people can type."""
        return short_id(self.key)


def dead_letters_by_stream(store: ObjectStore) -> dict[Stream, list[DeadLetter]]:
    """All dead letters of each stream, in order."""
    keys = dead_keys_by_stream(store)
    seen = Acknowledgements(store).all() if keys else {}
    return {
        stream: [DeadLetter(key, *_content(store, key), seen.get(key)) for key in of_stream]
        for stream, of_stream in keys.items()
    }


def _content(store: ObjectStore, key: str) -> tuple[int, Counter[str]]:
    """The number of events in an object, and the counts of their reasons."""
    try:
        stored = store.read(key)
    except UnreadableError as error:
        return 1, Counter([error.title])
    lines = stored.body.splitlines() if stored else []
    try:
        reasons = Counter(str(json.loads(line)["reason"]) for line in lines)
        return reasons.total(), reasons
    except (ValueError, KeyError, TypeError, RecursionError):
        return max(1, len(lines) - 1), Counter(["a damaged batch, kept for inspection"])


def copy_to_dead(store: ObjectStore, key: str, body: bytes) -> bool:
    """Copy an unusable object to `dead/`; return whether the copy is new. Repeating it after a crash adds no copy.

    Another object that was there before under the same key keeps its place: the new copy's key gets a `~`.
    """
    try:
        store.write(PREFIX + key, body, expected=ABSENT)
    except ConflictError:
        # The same bytes are this copy, from before a crash. Other bytes are evidence of another damage.
        present = store.read(PREFIX + key)
        return (present is None or present.body != body) and copy_to_dead(store, f"{key}~", body)
    return True


def copy_damaged_to_dead(store: ObjectStore, key: str, body: bytes, error: ConnectorError) -> None:
    """Copy a damaged object to `dead/`. The caller then continues without it and may overwrite it.

    The copy comes first, so that no crash between the two loses the evidence of the damage.
    """
    if copy_to_dead(store, key, body):
        log.warning("%s: %s; a copy is in dead/", key, error)


def dead_keys_by_stream(store: ObjectStore) -> dict[Stream, list[str]]:
    """The keys below `dead/` of each stream: undeliverable events of a batch, or a damaged batch."""
    by_stream: dict[Stream, list[str]] = {}
    for entry in store.list(PREFIX):
        match = _OF_STREAM.fullmatch(entry.key)
        if match:
            by_stream.setdefault(stream_of(match[1]), []).append(entry.key)
    return by_stream


def holds_letters(key: str) -> bool:
    """Whether the object with this key holds undeliverable events. Otherwise it is a copy of a damaged object."""
    return _LETTERS.fullmatch(key) is not None


def original_of(key: str) -> str:
    """The key of the damaged object whose copy has this key."""
    return key.removeprefix(PREFIX).rstrip("~")


def letters_of(body: bytes) -> Sequence[Log]:
    """The undeliverable events of an object, one on each line; DamagedError if it holds none or cannot be read."""
    try:
        logs = [from_fields(json.loads(line)) for line in body.splitlines()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedError("the dead letters cannot be read") from None
    if not logs:
        raise DamagedError("the dead letters cannot be read: the object is empty")
    return logs
