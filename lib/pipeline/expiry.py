"""What is older than it is kept goes: of every stream, whether anything is delivered in it or not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from lib.errors import ConnectorError
from lib.model.stream import Stream
from lib.state.leases import held
from lib.state.ledger import KEPT, place_of
from lib.state.state import State, day_of

log = logging.getLogger(__name__)

EXPIRED_A_CALL = 100
"""Kept batches of a stream that one call removes at most: expiry never holds delivery up."""


class Expiry:
    """Looks once a day in a process, by whole days; a look that finds nothing old writes nothing."""

    def __init__(self) -> None:
        self._done = ""
        """The day on which all was looked through last."""

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
        today, expired = day_of(now()), day_of(now() - archive)
        if self._done == today:
            return
        archives = next(iter(state.store.list("archive/")), None) is not None
        is_done = True
        for stream in streams:
            if not goes_on():
                return
            try:
                if archives:
                    is_done &= state.batches.expire(stream, expired, EXPIRED_A_CALL) < EXPIRED_A_CALL
                is_done &= _receipts(state, stream, holder, now, goes_on)
            except ConnectorError as error:
                log.warning("%s: what is old stays for now: %s", stream, error)
        if is_done:
            self._done = today


def _receipts(
    state: State, stream: Stream, holder: Callable[[], str], now: Callable[[], datetime], goes_on: Callable[[], bool]
) -> bool:
    """Delivery tidies a busy stream's ledger once a day; this is for the others. Whether it came to its end."""
    oldest = day_of(now() - KEPT)
    if not state.ledger.has_expired(stream, oldest):
        return True
    with held(state.store, stream, holder(), now) as lease:
        tail = place_of(state.ledger.tail(stream, lease.state.tail).key) if lease else None
        return tail is None or state.ledger.tidy(stream, closed=tail.day, oldest=oldest, goes_on=goes_on)
