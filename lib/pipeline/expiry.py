"""Remove archived batches and receipts that are older than their retention, of busy and of quiet streams.

The same visit to a stream looks for damage where nobody else does: in the archive, and in the receipts of streams
without deliveries. A visit a day reads a part, so that all is read within LOOKED_OVER.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache

from lib.errors import ConnectorError
from lib.model.clock import FARTHEST, day_of, number_of, to_text
from lib.model.stream import ENDPOINTS, Stream
from lib.state.leases import held
from lib.state.ledger import KEPT, LOOKED_OVER, Listed, place_of
from lib.state.state import State

log = logging.getLogger(__name__)

EXPIRED_A_CALL = 100
"""The most archived batches of a stream that one call removes, so that expiry does not delay delivery."""

CHECKED_AGAIN = timedelta(hours=1)
"""The pause before the clocks are compared again after they differed."""


class Expiry:
    """Looks once a day in each process for objects that are too old, or damaged. Without any it writes nothing."""

    def __init__(self) -> None:
        self._done = ""
        """The day on which all streams were last checked."""
        self._refused_at: datetime | None = None
        """When this machine's clock last differed from Sophos's."""
        self._last_stream: Stream | None = None
        """The last stream that was checked. The next call continues after it."""
        self._is_rest = False
        """Whether old objects remain in the streams checked so far."""

    def run(
        self,
        state: State,
        streams: Sequence[Stream],
        *,
        archive: timedelta,
        holder: Callable[[], str],
        now: Callable[[], datetime],
        goes_on: Callable[[], bool],
    ) -> None:
        """Remove each stream's archived batches older than `archive`, and its receipts older than KEPT."""
        today = day_of(now())
        if self._done == today:
            return
        turn, turns = number_of(today), LOOKED_OVER.days
        # Called only if there is something that may be old: it reads every checkpoint.
        moment = cache(lambda: self._moment(state, now()))
        archives = next(iter(state.store.list("archive/")), None) is not None
        last_stream = self._last_stream
        for stream in sorted(stream for stream in streams if last_stream is None or stream > last_stream):
            if not goes_on() or (archives and moment() is None):
                return
            # Set before the work: an error in this stream must not keep the next call from the others.
            self._last_stream = stream
            try:
                at = moment() if archives else None
                if at is not None:
                    removed = state.batches.expire(stream, day_of(at - archive), EXPIRED_A_CALL)
                    self._is_rest |= removed == EXPIRED_A_CALL
                    state.batches.look_over_archive(stream, turn, turns, goes_on)
                receipts = [*state.ledger.entries(stream)]
                if _has_expired(receipts, day_of(now() - KEPT)):
                    self._is_rest |= not _receipts(state, stream, holder, now, moment=moment, goes_on=goes_on)
                if receipts and receipts[-1][0].day < today:  # Delivery looks once a day on which there is one.
                    state.ledger.look_over(stream, turn, turns, goes_on, receipts)
            except ConnectorError as error:
                log.warning("%s: old batches and receipts are not looked for now: %s", stream, error)
        if not self._is_rest:
            self._done = today
        self._last_stream, self._is_rest = None, False

    def _moment(self, state: State, now: datetime) -> datetime | None:
        """The present time if this machine's clock and Sophos's agree, else None: then no age is certain.

        In a store where every stream has paused for long, the clocks seem to differ too. Expiry then waits for the
        next answer from Sophos.
        """
        if self._refused_at is not None and abs(now - self._refused_at) < CHECKED_AGAIN:
            return None
        latest = _latest_answer(state) or now
        if abs(now - latest) <= FARTHEST:
            return min(now, latest)
        self._refused_at = now
        log.warning(
            "no old batches or receipts are removed: this machine's clock shows %s, and Sophos was read up to %s. "
            "Correct the clock, or wait for the next answer from Sophos.",
            to_text(now),
            to_text(latest),
        )
        return None


def _latest_answer(state: State) -> datetime | None:
    """The newest time, by Sophos's clock, up to which a stream was read; inventories use this machine's clock."""
    times: list[datetime] = []
    for stream in state.checkpoints.streams():
        with suppress(ConnectorError):
            checkpoint = state.checkpoints.read(stream).checkpoint
            times += [checkpoint.as_of] if checkpoint.as_of and stream.kind != ENDPOINTS else []
    return max(times, default=None)


def _receipts(
    state: State,
    stream: Stream,
    holder: Callable[[], str],
    now: Callable[[], datetime],
    *,
    moment: Callable[[], datetime | None],
    goes_on: Callable[[], bool],
) -> bool:
    """Remove the old receipts of a quiet stream; delivery does it once a day for a busy one. Whether it finished."""
    at = moment()
    if at is None:
        return False
    oldest = day_of(at - KEPT)
    # Under the lease: only its holder writes receipts, so none is written to a day that is removed here.
    with held(state.store, stream, holder(), now) as lease:
        tail = place_of(state.ledger.tail(stream, lease.state.tail).key) if lease else None
        return tail is None or state.ledger.tidy(stream, closed=tail.day, oldest=oldest, goes_on=goes_on)


def _has_expired(entries: Sequence[Listed], oldest: str) -> bool:
    """Whether a day before `oldest` can be removed. The last day never is, since the chain continues from it."""
    return bool(entries) and entries[0][0].day < oldest and entries[-1][0].day != entries[0][0].day
