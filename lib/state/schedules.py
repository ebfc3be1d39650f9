"""`schedules/`: when each stream was asked, where a credential has too many to ask all at each tick.

A damaged one is made again: every stream counts as never asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from lib.errors import ConflictError, DamagedError
from lib.model.schedule import Asked, choose
from lib.model.stream import encode_segment
from lib.state.codec import Codec
from lib.state.dead_letters import set_damaged_aside
from lib.store.base import ABSENT, ObjectStore

PREFIX = "schedules/"

ALL_ASKED = 30
"""Up to so many streams are all asked at each tick, and nothing is written down."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is known of an integration's streams, by their paths."""

    streams: Mapping[str, Asked]


SCHEDULE = Codec(Schedule, "a schedule")


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
        try:
            return dict(SCHEDULE.decode(stored.body).streams), stored.generation
        except DamagedError as error:
            set_damaged_aside(self._store, _key(name), stored.body, error)
            return {}, stored.generation

    def _write(self, name: str, asked: Mapping[str, Asked], generation: int) -> None:
        streams = {
            path: Asked(round(each.at, 3), round(each.every, 1), round(each.spoke_at)) for path, each in asked.items()
        }
        self._store.write(_key(name), SCHEDULE.encode(Schedule(streams)), expected=generation)


def _key(name: str) -> str:
    return f"{PREFIX}{encode_segment(name)}.json"
