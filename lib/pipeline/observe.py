"""Observe mode: batches are counted and settled without the engine, before the switch from UTMStack's own plugin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from lib.model.batch import RECONCILE
from lib.model.log import Log
from lib.model.missed import Hour, hours_of
from lib.model.receipt import OBSERVED, Receipt
from lib.model.stream import EVENTS, Stream
from lib.state.state import State

KEPT = timedelta(days=7)
"""The shortest retention of observed batches: the switch forwards events from them."""


class NullEngine:
    """An engine that acknowledges every log and sends it nowhere."""

    def deliver(
        self, logs: Iterator[Log], *, deadline: float | None = None, early: set[int] | None = None
    ) -> Iterator[int]:
        """Acknowledge each log at once."""
        del deadline, early
        for count, _ in enumerate(logs, 1):
            yield count


@dataclass(frozen=True, slots=True)
class MissedEvents:
    """The events of one stream that UTMStack's plugin missed."""

    stream: Stream
    hours: Mapping[str, Hour]
    """By the hour's beginning."""

    @property
    def total(self) -> Hour:
        """The sum of all hours."""
        hours = self.hours.values()
        return Hour(
            observed=sum(hour.observed for hour in hours),
            missed=sum(hour.missed for hour in hours),
            late=sum(hour.late for hour in hours),
        )


@dataclass(frozen=True, slots=True)
class Observations:
    """The ledger's record of the time in observe mode."""

    state: State

    def missed(self, since: str = "") -> list[MissedEvents]:
        """For each stream of events from the day `since` on: the events observed and missed by the plugin, by hour."""
        lines = []
        for stream in sorted(self.state.ledger.streams()):
            polled: Counter[int] = Counter()
            late: Counter[int] = Counter()
            for receipt in self._receipts(stream) if stream.kind == EVENTS else ():
                if receipt.header.day >= since:
                    counts = late if receipt.header.origin == RECONCILE else polled
                    counts.update(
                        {int(start): count for start, count in (receipt.windows or {}).items() if start.isdecimal()}
                    )
            hours = hours_of(polled, late)
            if hours:
                lines.append(MissedEvents(stream, hours))
        return lines

    def sequences(self, stream: Stream) -> set[int]:
        """The numbers of the stream's observed batches, which were not forwarded."""
        return {receipt.header.sequence for receipt in self._receipts(stream)}

    def _receipts(self, stream: Stream) -> Iterator[Receipt]:
        for _, receipt, _ in self.state.ledger.receipts(stream):
            if receipt.outcome == OBSERVED:
                yield receipt
