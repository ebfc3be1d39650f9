"""`schedules/`: when each stream was asked, where a credential has too many to ask all at each tick."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from lib.errors import ConflictError
from lib.model.batch import LAYOUT
from lib.model.schedule import Asked, choose
from lib.model.stream import encode_segment
from lib.store.base import ABSENT, ObjectStore

ALL_ASKED = 30
"""Up to so many streams are all asked at each tick, and nothing is written down."""


class Schedules:
    """One object an integration, written twice a tick."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def choose(self, name: str, streams: Sequence[str], most: int, now: datetime) -> list[str]:
        """The streams that this tick asks, and write down that it does; ConflictError where another tick just chose."""
        asked, generation = self._read(name)
        chosen = choose(streams, asked, now.timestamp(), most)
        here = set(streams)
        kept = {path: each for path, each in asked.items() if path in here}
        again = {path: asked.get(path, Asked(now.timestamp())).again(now.timestamp()) for path in chosen}
        self._write(name, kept | again, generation)
        return chosen

    def answered(self, name: str, *, spoke: Collection[str], missed: Collection[str], now: datetime) -> None:
        """Write down which of them brought something, and which could not be asked after all."""
        if not spoke and not missed:
            return
        asked, generation = self._read(name)
        moment = now.timestamp()
        heard = {path: Asked(each.at, each.every, moment) for path, each in asked.items() if path in spoke}
        left = {path: each for path, each in (asked | heard).items() if path not in missed}
        # Not worth a second try: it only makes a stream be asked sooner.
        with suppress(ConflictError):
            self._write(name, left, generation)

    def asked(self, name: str) -> Mapping[str, Asked]:
        """What is known of each stream of an integration that has many; empty for one that has few."""
        return self._read(name)[0]

    def _read(self, name: str) -> tuple[dict[str, Asked], int]:
        stored = self._store.read(_key(name))
        if stored is None:
            return {}, ABSENT
        with suppress(ValueError, TypeError, AttributeError):
            streams = json.loads(stored.body)["streams"]
            return {path: Asked(*map(float, times)) for path, times in streams.items()}, stored.generation
        # Nothing is lost with it: every stream counts as never asked.
        return {}, stored.generation

    def _write(self, name: str, asked: Mapping[str, Asked], generation: int) -> None:
        streams = {
            path: [round(each.at, 3), round(each.every, 1), round(each.spoke_at)] for path, each in asked.items()
        }
        body = json.dumps({"layout": LAYOUT, "streams": streams}).encode() + b"\n"
        self._store.write(_key(name), body, expected=generation)


def _key(name: str) -> str:
    return f"schedules/{encode_segment(name)}.json"
