"""Replay: send archived batches and dead letters to the engine again, with the same ids.

A dead letter is removed from `dead/` only after the engine acknowledged it. A crash between the two leaves it in
`dead/`, and the next replay sends it again. UTMStack recognizes the id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from lib.errors import ConflictError, DamagedError, LogRefusedError, NotFoundError
from lib.model.clock import day_before
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
"""Called after each batch with the number of events sent so far."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The result of a replay."""

    batches: int
    acked: int
    refused: int
    damaged: Sequence[str] = ()
    """The keys of batches and dead letters that cannot be read."""

    @property
    def ok(self) -> bool:
        """Whether the engine acknowledged everything."""
        return self.refused == 0 and not self.damaged


@dataclass(frozen=True, slots=True)
class Replay:
    """The use case. It writes no receipts, since the ledger already has one for each batch."""

    state: State
    engine: Engine
    event_fields: ReadFields

    def since(
        self, since: datetime | None, on_batch: OnBatch = lambda _: None, *, only_dead_letters: bool = False
    ) -> ReplayReport:
        """Send the archived batches fetched since then (None: all), and the dead letters written since then.

        Dead letters that the engine acknowledges are removed.
        """
        damaged: list[str] = []
        letters = list(self._dead_letters(since, damaged))
        batches: Iterator[StoredBatch] = iter(())
        if not only_dead_letters:
            # Batches are filed by Sophos's clock, and this machine's may be ahead by a midnight.
            archived = self._archived(damaged, since=day_before(since) if since else "")
            batches = (batch for batch in archived if since is None or batch.header.fetched_at >= since)
        # An archived batch contains its dead letters too. They are sent once, below, where they can be removed.
        report = self._sent(batches, damaged, on_batch, without={log.id for _, logs in letters for log in logs})
        count, acked, refused = report.batches, report.acked, report.refused
        for key, _ in letters:
            try:
                sent = self.named(key)
            except NotFoundError:
                continue  # Another replay has sent it since the listing.
            count, acked, refused = count + 1, acked + sent.acked, refused + sent.refused
            on_batch(acked + refused)
        return ReplayReport(count, acked, refused, tuple(damaged))

    def _dead_letters(self, since: datetime | None, damaged: list[str]) -> Iterator[tuple[str, Sequence[Log]]]:
        """Keys and logs of the dead letters written since then. Keys of unreadable ones are added to `damaged`."""
        for entry in self.state.store.list(PREFIX):
            if holds_letters(entry.key) and (since is None or entry.updated >= since):
                try:
                    stored = self.state.store.read(entry.key)
                    if stored is not None:
                        yield entry.key, letters_of(stored.body)
                except UNREADABLE as error:
                    log.warning("%s: %s", entry.key, error)
                    damaged.append(entry.key)

    def observed_after(self, native_id: str, on_batch: OnBatch = lambda _: None) -> ReplayReport:
        """Send the observed events that follow the event with the id in its stream.

        NotFoundError if no event with the id was observed, or its batch is no longer in the archive.
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
                "no events were observed, so there are none to forward",
                remedy="`switch-over` is for the end of observe mode (`observe: on`). Without it, events are forwarded "
                "as they arrive.",
            )
        unread = f"; damaged: {', '.join(damaged)}" if damaged else ""
        raise NotFoundError(
            f"no event with the id {native_id!r} was observed, or it is no longer in the archive{unread}",
            remedy="Give the `id` of the newest Sophos event in UTMStack, from this connector's observe mode.",
        )

    def _archived(self, damaged: list[str], *, since: str = "", stream: Stream | None = None) -> Iterator[StoredBatch]:
        """The archived batches. Keys of unreadable ones are added to `damaged`."""
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
        """The archived, observed events after the event with the id, as batches; empty if it is not in the archive."""
        behind: list[StoredBatch] = []
        for batch in self._archived(damaged, stream=stream):
            if batch.header.sequence not in sequences:
                continue
            place = next((at for at, raw in enumerate(batch.items) if self.event_fields(raw).id == native_id), None)
            if place is not None:
                behind = [replace(batch, items=batch.items[place + 1 :])]
                damaged.clear()  # Damaged batches before the event do not matter.
            elif behind:
                behind.append(batch)
        return behind

    def named(self, key: str) -> ReplayReport:
        """Send one archived batch or one object of dead letters. Acknowledged dead letters are removed.

        Raises NotFoundError for an unknown key, DamagedError for an object without events.
        """
        try:
            segments_of(key)
        except ValueError as error:
            raise NotFoundError(str(error), remedy="List the folders archive/ and dead/ of the store.") from None
        if key.startswith("archive/"):
            archived = self.state.batches.kept(key)
            if archived is None:
                raise NotFoundError(
                    f"there is no archived batch {key!r}", remedy="List the folder archive/ of the store."
                )
            return self._sent([archived])
        stored = self.state.store.read(key) if key.startswith("dead/") else None
        if stored is None:
            raise NotFoundError(f"there are no dead letters {key!r}", remedy="List the folder dead/ of the store.")
        lines = stored.body.splitlines(keepends=True)
        try:
            logs = letters_of(stored.body)
        except DamagedError:
            raise DamagedError(
                f"{key} contains no events to send",
                remedy="It is a damaged object, kept for inspection. `reconcile` reads its events from Sophos again.",
            ) from None
        refused = self._refused(logs)
        if len(refused) < len(logs):
            # Only now are the others acknowledged. A crash before this line sends them again at the next replay.
            body = b"".join(line for line, log in zip(lines, logs, strict=True) if log.id in refused)
            with suppress(ConflictError):  # Another replay has sent them too, and has removed them.
                if body:
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
            logs = [log for log in logs_of(batch, self.event_fields) if log.id not in without]
            left = len(self._refused(logs))
            count, acked, refused = count + 1, acked + len(logs) - left, refused + left
            on_batch(acked + refused)
        return ReplayReport(count, acked, refused, tuple(damaged))

    def _refused(self, logs: Sequence[Log]) -> set[str]:
        """Send the logs; returns the ids of the logs that the engine refuses."""
        refused = {log.id for log in logs if self._reason(log)}
        while True:
            try:
                for _ in self.engine.deliver(iter([log for log in logs if log.id not in refused])):
                    continue
            except LogRefusedError as error:
                # The engine has ended the stream with it. The others go on a new one, with the same ids.
                refused.add(error.log_id)
                continue
            return refused

    def _reason(self, log: Log) -> str | None:
        if log.wire_size() > MAX_LOG_BYTES:
            return "too large"
        return unacceptable(log.raw, is_object=self.event_fields(log.raw).is_object)
