"""Replay: what was kept or set aside goes to the engine again, under the same ids."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from lib.errors import DamagedError, LogRefusedError, NotFoundError
from lib.model.clock import day_of
from lib.model.log import MAX_LOG_BYTES, Log, unacceptable
from lib.model.stream import Stream
from lib.pipeline.observe import Observations
from lib.pipeline.outgoing_batch import logs_of
from lib.pipeline.ports import Engine
from lib.state.advance import ReadFields
from lib.state.batches import StoredBatch
from lib.state.codec import UNREADABLE
from lib.state.dead_letters import PREFIX, holds_letters, letters_of
from lib.state.state import State
from lib.store.base import segments_of

log = logging.getLogger(__name__)

OnBatch = Callable[[int], None]
"""Hears, after each batch, how many events were sent so far."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What was sent again."""

    batches: int
    acked: int
    refused: int
    damaged: Sequence[str] = ()
    """The keys of batches that cannot be read."""

    @property
    def ok(self) -> bool:
        """Whether the engine has taken everything."""
        return self.refused == 0 and not self.damaged


@dataclass(frozen=True, slots=True)
class Replay:
    """The use case. It writes no receipts: that the events were delivered once stands in the ledger already."""

    state: State
    engine: Engine
    event_fields: ReadFields

    def since(
        self, since: datetime | None, on_batch: OnBatch = lambda _: None, *, only_dead_letters: bool = False
    ) -> ReplayReport:
        """Send the kept batches that were fetched at that time or later (None: all), and what was set aside since then.

        What the engine takes is set aside no more.
        """
        damaged: list[str] = []
        letters = list(self._set_aside(since, damaged))
        batches: Iterator[StoredBatch] = iter(())
        if not only_dead_letters:
            kept = self._kept(damaged, since=day_of(since) if since else "")
            batches = (batch for batch in kept if since is None or batch.header.fetched_at >= since)
        report = self._sent(batches, damaged, on_batch, without={log.id for _, logs in letters for log in logs})
        count, acked, refused = report.batches, report.acked, report.refused
        for key, _ in letters:
            found = self.named(key)
            count, acked, refused = count + 1, acked + found.acked, refused + found.refused
            on_batch(acked + refused)
        return ReplayReport(count, acked, refused, tuple(damaged))

    def _set_aside(self, since: datetime | None, damaged: list[str]) -> Iterator[tuple[str, Sequence[Log]]]:
        """The dead letters of that time or later by key; the keys of those that cannot be read go to `damaged`."""
        for entry in self.state.store.list(PREFIX):
            if holds_letters(entry.key) and (since is None or entry.updated >= since):
                stored = self.state.store.read(entry.key)
                try:
                    if stored is not None:
                        yield entry.key, letters_of(stored.body)
                except DamagedError as error:
                    log.warning("%s: %s", entry.key, error)
                    damaged.append(entry.key)

    def observed_after(self, native_id: str, on_batch: OnBatch = lambda _: None) -> ReplayReport:
        """Send what was observed, and not forwarded, behind the event with that id in its stream.

        NotFoundError where no such event was observed, or its batch is no longer kept.
        """
        damaged: list[str] = []
        observed = False
        for stream in sorted(self.state.ledger.streams()):
            sequences = Observations(self.state).sequences(stream)
            observed |= bool(sequences)
            rest = self._behind(native_id, stream, sequences, damaged) if sequences else []
            if rest:
                return self._sent(rest, damaged, on_batch)
        if not observed:
            raise NotFoundError(
                "nothing was observed, so that nothing waits to be forwarded",
                remedy="`switch-over` ends a time of `observe: on`. Without one, events are forwarded as they come.",
            )
        unread = f"; damaged: {', '.join(damaged)}" if damaged else ""
        raise NotFoundError(
            f"no event with the id {native_id!r} was observed, or it is no longer kept{unread}",
            remedy="Name the `id` of the newest Sophos event in UTMStack, of a time in which this connector observed.",
        )

    def _kept(self, damaged: list[str], *, since: str = "", stream: Stream | None = None) -> Iterator[StoredBatch]:
        """The batches that were kept; the keys of those that cannot be read are added to `damaged`."""
        for key in self.state.batches.archived(since, stream):
            try:
                batch = self.state.batches.kept(key)
            except UNREADABLE as error:
                log.warning("%s", error)
                damaged.append(key)
            else:
                if batch is not None:
                    yield batch

    def _behind(self, native_id: str, stream: Stream, sequences: set[int], damaged: list[str]) -> list[StoredBatch]:
        found: list[StoredBatch] = []
        for batch in self._kept(damaged, stream=stream):
            if batch.header.sequence not in sequences:
                continue
            place = next((at for at, raw in enumerate(batch.items) if self.event_fields(raw).id == native_id), None)
            if place is not None:
                found = [replace(batch, items=batch.items[place + 1 :])]
                damaged.clear()  # What lies before it is not wanted.
            elif found:
                found.append(batch)
        return found

    def named(self, key: str) -> ReplayReport:
        """Send one kept batch, or what is set aside under the key; what the engine takes is set aside no more.

        Raises NotFoundError for an unknown key, DamagedError for an object that holds no events.
        """
        try:
            segments_of(key)
        except ValueError as error:
            raise NotFoundError(str(error), remedy="List the folders archive/ and dead/ of the store.") from None
        if key.startswith("archive/"):
            found = self.state.batches.kept(key)
            if found is None:
                raise NotFoundError(f"no batch is kept as {key!r}", remedy="List the folder archive/ of the store.")
            return self._sent([found])
        stored = self.state.store.read(key) if key.startswith("dead/") else None
        if stored is None:
            raise NotFoundError(f"nothing is set aside as {key!r}", remedy="List the folder dead/ of the store.")
        lines = stored.body.splitlines(keepends=True)
        try:
            logs = letters_of(stored.body)
        except DamagedError:
            raise DamagedError(
                f"{key} holds no events that could be sent",
                remedy="It is a damaged object, kept for inspection; `reconcile` reads its events from Sophos again.",
            ) from None
        refused = self._refused(logs)
        if len(refused) < len(logs):
            if refused:
                body = b"".join(line for line, log in zip(lines, logs, strict=True) if log.id in refused)
                self.state.store.write(key, body, expected=stored.generation)
            else:
                self.state.store.delete(key, expected=stored.generation)
        return ReplayReport(1, len(logs) - len(refused), len(refused))

    def _sent(
        self,
        batches: Iterator[StoredBatch] | Sequence[StoredBatch],
        damaged: Sequence[str] = (),
        on_batch: OnBatch = lambda _: None,
        *,
        without: Collection[str] = (),
    ) -> ReplayReport:
        count = acked = refused = 0
        for batch in batches:
            logs = [log for _, log, _ in logs_of(batch, self.event_fields) if log.id not in without]
            left = len(self._refused(logs))
            count, acked, refused = count + 1, acked + len(logs) - left, refused + left
            on_batch(acked + refused)
        return ReplayReport(count, acked, refused, tuple(damaged))

    def _refused(self, logs: Sequence[Log]) -> set[str]:
        """Send the logs; the ids of those that the engine does not take."""
        refused = {log.id for log in logs if self._reason(log)}
        while True:
            try:
                for _ in self.engine.deliver(iter([log for log in logs if log.id not in refused])):
                    continue
            except LogRefusedError as error:
                refused.add(error.log_id)
                continue
            return refused

    def _reason(self, log: Log) -> str | None:
        if log.wire_size() > MAX_LOG_BYTES:
            return "too large"
        return unacceptable(log.raw, is_object=self.event_fields(log.raw).is_object)
