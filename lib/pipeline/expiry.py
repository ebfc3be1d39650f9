"""What is older than it is kept goes: of every stream, whether anything is delivered in it or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache

from lib.errors import ConnectorError
from lib.model.clock import FARTHEST, day_of, to_text
from lib.model.stream import ENDPOINTS, Stream
from lib.state.leases import held
from lib.state.ledger import KEPT, place_of
from lib.state.state import State

log = logging.getLogger(__name__)

EXPIRED_A_CALL = 100
"""Kept batches of a stream that one call removes at most: expiry never holds delivery up."""

ASKED_AGAIN = timedelta(hours=1)
"""How long it is left at that, where the clocks differ."""


class Expiry:
    """Looks once a day in a process, by whole days; a look that finds nothing old writes nothing."""

    def __init__(self) -> None:
        self._done = ""
        """The day on which all was looked through last."""
        self._refused_at: datetime | None = None
        """When this machine's clock was last found to differ from Sophos's."""
        self._place: Stream | None = None
        """The last stream that was looked at: out of time, the next call goes on behind it."""
        self._is_rest = False
        """Whether anything old was left behind on the way there."""

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
        """Remove of each stream the batches kept for longer than `archive`, and the receipts older than theirs."""
        today = day_of(now())
        if self._done == today:
            return
        # Asked only where something looks old: it reads every cursor.
        moment = cache(lambda: self._moment(state, now()))
        archives = next(iter(state.store.list("archive/")), None) is not None
        place = self._place
        for stream in sorted(each for each in streams if place is None or each > place):
            if not goes_on() or (archives and moment() is None):
                return
            # Before it is looked at: what raises there stops none of the others for good.
            self._place = stream
            try:
                at = moment() if archives else None
                if at is not None:
                    removed = state.batches.expire(stream, day_of(at - archive), EXPIRED_A_CALL)
                    self._is_rest |= removed == EXPIRED_A_CALL
                self._is_rest |= not _receipts(state, stream, holder, now, moment=moment, goes_on=goes_on)
            except ConnectorError as error:
                log.warning("%s: what is old stays for now: %s", stream, error)
        if not self._is_rest:
            self._done = today
        self._place, self._is_rest = None, False

    def _moment(self, state: State, now: datetime) -> datetime | None:
        """The time by which things are old: by this machine's clock and by Sophos's. None where the two differ.

        Then the age of nothing is known. A store whose every stream has rested for so long looks the same, and waits
        for the next answer.
        """
        if self._refused_at is not None and abs(now - self._refused_at) < ASKED_AGAIN:
            return None
        latest = _latest_answer(state) or now
        if abs(now - latest) <= FARTHEST:
            return min(now, latest)
        self._refused_at = now
        log.warning(
            "nothing is removed for its age: this machine's clock shows %s, and Sophos was read up to %s. "
            "Set the clock right, or wait for the next answer.",
            to_text(now),
            to_text(latest),
        )
        return None


def _latest_answer(state: State) -> datetime | None:
    """Sophos's time up to which any stream was read; that of an inventory is this machine's."""
    found: list[datetime] = []
    for stream in state.checkpoints.streams():
        with suppress(ConnectorError):
            checkpoint = state.checkpoints.read(stream).checkpoint
            found += [checkpoint.as_of] if checkpoint.as_of and stream.kind != ENDPOINTS else []
    return max(found, default=None)


def _receipts(
    state: State,
    stream: Stream,
    holder: Callable[[], str],
    now: Callable[[], datetime],
    *,
    moment: Callable[[], datetime | None],
    goes_on: Callable[[], bool],
) -> bool:
    """Delivery tidies a busy stream's ledger once a day; this is for the others. Whether it came to its end."""
    if not state.ledger.has_expired(stream, day_of(now() - KEPT)):
        return True
    at = moment()
    if at is None:
        return False
    oldest = day_of(at - KEPT)
    with held(state.store, stream, holder(), now) as lease:
        tail = place_of(state.ledger.tail(stream, lease.state.tail).key) if lease else None
        return tail is None or state.ledger.tidy(stream, closed=tail.day, oldest=oldest, goes_on=goes_on)
