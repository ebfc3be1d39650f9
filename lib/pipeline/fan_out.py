"""Add one task per stream and tick to a task queue, which then calls fetch-page once per stream.

A task's name is derived from its stream and tick. A tick that arrives twice, or is tried again, adds no task twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from lib.errors import ConnectorError
from lib.model.stream import Stream
from lib.pipeline.ports import TaskQueue
from lib.pipeline.read_result import RATE_LIMITED, ReadResult

log = logging.getLogger(__name__)

WORKERS = 40
"""Tasks added at the same time. At 50 ms each, 10,000 streams take 18 s of the 90 s that a hosted call has."""


@dataclass(frozen=True, slots=True)
class FanOut:
    """The use case; safe to call from several threads and processes at once."""

    queue: TaskQueue
    interval: timedelta
    """The time between two ticks. Ticks less than half of it apart count as one."""
    now: Callable[[], datetime]

    def tick(self, streams: Sequence[Stream]) -> int:
        """Add one task per stream; returns how many were new. Raises RetryableError if some could not be added."""
        tick = self._tick(self.now())
        with ThreadPoolExecutor(WORKERS) as pool:
            added = pool.map(lambda stream: self._add(stream, "tick", tick), streams)
            return sum(added)

    def follow(self, results: Iterable[ReadResult]) -> None:
        """Add a task for each stream that has more pages. If that fails, the next tick continues."""
        for result in results:
            after = result.next_try
            if result.tenant and (result.goes_on or (result.outcome == RATE_LIMITED and after is not None)):
                # The name contains the newest batch, so two calls that stored the same batch add one task. The time
                # is rounded to a tick, so two slightly different waits add one task.
                point = [*result.read.batches[-1:], self._tick(after or self.now())]
                stream = Stream(result.integration, result.tenant, result.kind)
                try:
                    self._add(stream, "more", *point, not_before=after)
                except ConnectorError as error:
                    log.warning("%s: %s", stream, error)

    def _tick(self, moment: datetime) -> str:
        # Rounded to the nearest, since this clock may be slightly ahead of the scheduler's.
        return str(round(moment.timestamp() / self.interval.total_seconds()))

    def _add(self, stream: Stream, *reason: str, not_before: datetime | None = None) -> bool:
        request = {"integration": stream.integration, "tenant": stream.tenant, "stream": stream.kind}
        return self.queue.add(name_of(stream, *reason), request, not_before)


def name_of(stream: Stream, *reason: str) -> str:
    """A task's name: letters and digits, and evenly distributed, as Cloud Tasks recommends."""
    return sha256("\n".join([stream.path, *reason]).encode("utf-8", "surrogatepass")).hexdigest()[:40]
