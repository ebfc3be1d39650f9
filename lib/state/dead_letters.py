"""`dead/`: events that cannot be delivered, with their reason, and damaged objects that stood in the way."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from lib.model.stream import Stream
from lib.state.acknowledgements import Acknowledgement, Acknowledgements, short_id
from lib.state.state import State, set_aside_by_stream
from lib.store.base import ObjectStore


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


def dead_letters_by_stream(state: State) -> dict[Stream, list[DeadLetter]]:
    """All dead letters of each stream, in order."""
    keys = set_aside_by_stream(state.store)
    seen = Acknowledgements(state.store).all() if keys else {}
    return {
        stream: [DeadLetter(key, *_content(state.store, key), seen.get(key)) for key in each]
        for stream, each in keys.items()
    }


def _content(store: ObjectStore, key: str) -> tuple[int, Counter[str]]:
    """How many events an object holds, and why."""
    stored = store.read(key)
    lines = stored.body.splitlines() if stored else []
    try:
        reasons = Counter(str(json.loads(line)["reason"]) for line in lines)
        return reasons.total(), reasons
    except (ValueError, KeyError, TypeError):
        return max(1, len(lines) - 1), Counter(["a damaged batch; a gap tells what was lost"])
