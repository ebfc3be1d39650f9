"""`schedules/`: when each stream was polled, if a credential has too many streams to poll all at each tick.

A damaged schedule is replaced by an empty one: every stream counts as never polled.
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
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

PREFIX = "schedules/"

ALL_ASKED = 30
"""Up to this many streams are all polled at each tick, without a stored schedule."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The poll times of an integration's streams, by path."""

    streams: Mapping[str, Asked]


SCHEDULE = Codec(Schedule, "a schedule")


class Schedules:
    """A store's schedules: one object for each integration, written twice a tick."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def choose(self, name: str, streams: Sequence[str], most: int, now: datetime) -> list[str]:
        """Choose the streams that this tick polls, and write the choice; ConflictError if another tick has just chosen.

        The write comes before the polls, so that two ticks at once never poll the same streams. A tick that crashes
        after it costs its streams one turn.
        """
        asked, generation = self._read(name)
        chosen = choose(streams, asked, now.timestamp(), most)
        # Streams that are gone are dropped, so that the object does not grow for ever.
        present = set(streams)
        kept = {path: times for path, times in asked.items() if path in present}
        again = {path: asked.get(path, Asked(now.timestamp())).again(now.timestamp()) for path in chosen}
        self._write(name, kept | again, generation)
        return chosen

    def answered(self, name: str, *, spoke: Collection[str], missed: Collection[str], now: datetime) -> None:
        """Write which chosen streams brought events (`spoke`) and which were not polled after all (`missed`)."""
        if not spoke and not missed:
            return
        asked, generation = self._read(name)
        moment = now.timestamp()
        busy = {path: Asked(times.at, times.every, moment) for path, times in asked.items() if path in spoke}
        polled = {path: times for path, times in (asked | busy).items() if path not in missed}
        # A conflict is not worth a retry: without this write, some streams are only polled at a less suitable time.
        with suppress(ConflictError):
            self._write(name, polled, generation)

    def asked(self, name: str) -> Mapping[str, Asked]:
        """The poll times of each stream; empty for an integration with few streams."""
        return self._read(name)[0]

    def _read(self, name: str) -> tuple[dict[str, Asked], int]:
        stored = self._store.read(_key(name))
        if stored is None:
            return {}, ABSENT
        try:
            return dict(SCHEDULE.decode(stored.body).streams), stored.generation
        except DamagedError as error:
            copy_damaged_to_dead(self._store, _key(name), stored.body, error)
            return {}, stored.generation

    def _write(self, name: str, asked: Mapping[str, Asked], generation: int) -> None:
        streams = {
            path: Asked(round(times.at, 3), round(times.every, 1), round(times.spoke_at))
            for path, times in asked.items()
        }
        self._store.write(_key(name), SCHEDULE.encode(Schedule(streams)), expected=generation)


def _key(name: str) -> str:
    return f"{PREFIX}{encode_segment(name)}.json"
