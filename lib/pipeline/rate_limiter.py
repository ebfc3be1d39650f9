"""The rate limit of a credential, shared by all instances that use it.

Each instance counts its own calls exactly, by a monotonic clock. It publishes them in the store at most once in 20
calls. So no object is written often, and an instance with few calls never writes. The calls of others since they last
published are unknown. An answer 429 corrects that, and is published at once.
"""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from lib.errors import ConflictError, KeptError, OverBudgetError, StoreError
from lib.model.rate_policy import KEPT_SECONDS, RatePolicy, Used, count, merged
from lib.model.text import several
from lib.state.rate_limits import CallCount, RateLimit, RateLimits
from lib.store.base import ObjectStore

PUBLISH_EACH = 20
"""Unpublished calls of the last minute after which they are published; a fifth of the limit if that is more."""
PUBLISH_EACH_AMONG_OTHERS = 5
"""The same while other instances use the credential; a twentieth of the limit if that is more."""
PATIENCE_SECONDS = 2.0
"""The longest wait for a page after a stream's first; the next call continues."""
STRICT_FOR = timedelta(days=1)
"""How long no bursts are tried after a 429."""
BACK_OFF_SECONDS = 5.0
"""The first wait after a 429 that comes below the known limit. It doubles: what uses up the calls is unknown."""
ALONE_AFTER = 2
"""Ticks without a request for a further page, after which first pages may use the calls kept for those."""
LONGEST_SECONDS = 900.0
"""The longest wait, whatever an answer or the store says: a wrong one must not stop a credential for hours."""
_HOUR = 3600.0
_STEP = 5.0
"""Seconds whose calls are published as one number."""
_NEVER = float("-inf")


class RateLimiter:
    """One credential's rate limit in one instance; safe for use from several threads."""

    def __init__(
        self,
        store: Callable[[], ObjectStore],
        client_id: Callable[[], str],
        per_minute: int,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
        sleep: Callable[[float], None],
        jitter: Callable[[], float],
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """`client_id` identifies the credential. A page after a stream's first waits `patience` seconds at most."""
        self._store = store
        self._client_id = client_id
        self._per_minute = per_minute
        # Two integrations of one process may share a credential. They count as two instances.
        self._holder = uuid.uuid4().hex[:12]
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self._lock = threading.Lock()
        self._mine: list[float] = []
        self._others: list[float] = []
        self._published_at = _NEVER
        self._firsts: list[float] = []
        self._asked: dict[str, float] = {}
        self._instances = 0
        self._wanted_more_at = _NEVER
        self._streams = 0
        self._every = 60.0
        self._strict_at: float | None = None
        self._blocked_until = _NEVER
        self._others_published: dict[str, tuple[tuple[CallCount, ...], list[float]]] = {}
        """Each other instance's last published steps, and the times of its calls by this instance's clock."""
        self._others_read_at = _NEVER
        self._limits_read: tuple[float | None, float] | None = None
        self._refusals = 0
        self._refused = 0
        self._made = 0
        self._patience = patience

    def reserve(self, streams: int, every: float) -> int:
        """Keep calls free for `streams` streams, each polled every `every` seconds; how many may be polled now."""
        self._refresh()
        with self._lock:
            now = self._time()
            self._streams, self._every = streams, max(1.0, every)
            policy = self._policy(now)
            alone = not 0.0 <= now - self._wanted_more_at < ALONE_AFTER * self._every
            return max(policy.firsts(self._every, alone=alone), policy.spare(self._everybody(now), now))

    @property
    def has_room(self) -> bool:
        """Whether a page after a stream's first could be requested now."""
        with self._lock:
            return self._wait(self._time(), first=False) <= self._patience

    def used(self) -> Used:
        """The calls made so far."""
        with self._lock:
            now = self._time()
            return Used(
                last_minute=count(self._everybody(now), 60.0, now),
                last_hour=count(self._mine, _HOUR, now),
                per_minute=self._per_minute,
                made=self._made,
                refused=self._refused,
                is_strict=self._policy(now).strict,
            )

    def available(self) -> int:
        """The number of calls allowed now, by this instance's count and the others' published calls."""
        self._refresh()
        with self._lock:
            now = self._time()
            return 0 if now < self._blocked_until else self._policy(now).spare(self._everybody(now), now)

    def acquire(self, stream: str, deadline: float) -> None:
        """Wait until a call is allowed, and count it; OverBudgetError with the seconds left if that takes too long.

        A stream's first page of a tick and a call for no stream ("") wait up to the deadline (a monotonic time). Any
        other page waits for `patience` seconds.
        """
        began = self._monotonic()
        while True:
            with self._lock:
                now = self._time()
                first = not stream or not 0.0 <= now - self._asked.get(stream, _NEVER) < self._every / 2
                self._wanted_more_at = self._wanted_more_at if first else now
                wait = self._wait(now, first=first)
                if wait <= 0:
                    unpublished = self._count(now, stream, first=first)
                    break
            left = deadline - self._monotonic() if first else self._patience - (self._monotonic() - began)
            if wait > left:
                raise OverBudgetError(self._why(now), retry_after=wait)
            # In short steps: meanwhile an answer 429 of another thread can make the wait too long.
            self._sleep(min(wait, 1.0))
        # Outside the lock: the store may be slow, and other threads must not wait for it.
        if unpublished >= self._publish_each():
            self._publish()

    def refused(self, retry_after: float | None) -> float:
        """Record an answer 429, and publish it; returns the seconds until the next call."""
        self._refresh()
        with self._lock:
            now = self._time()
            self._refused += 1
            if now >= self._blocked_until:
                # Several calls may have been in flight together: only the first refusal counts.
                self._refusals += 1
            wait = RatePolicy(self._per_minute, strict=True).wait(self._everybody(now), (), now)
            if wait <= 0:
                # Fewer calls than allowed: another program uses the credential, or Sophos's limit is lower.
                wait = BACK_OFF_SECONDS * 2 ** min(self._refusals - 1, 8) * (0.5 + self._jitter() / 2)
            wait = min(wait if retry_after is None else max(retry_after, 1.0), LONGEST_SECONDS)
            self._strict_at = now
            self._blocked_until = max(self._blocked_until, now + wait)
        self._publish()
        return wait

    def _publish_each(self) -> int:
        with self._lock:
            now = self._time()
            if count(self._others, 60.0, now):
                return max(PUBLISH_EACH_AMONG_OTHERS, self._per_minute // 20)
        return max(PUBLISH_EACH, self._per_minute // 5)

    def _policy(self, now: float) -> RatePolicy:
        strict = self._strict_at is not None and 0.0 <= now - self._strict_at < STRICT_FOR.total_seconds()
        return RatePolicy(self._per_minute, strict=strict)

    def _why(self, now: float) -> str:
        """Why no call may be made now."""
        if now < self._blocked_until:
            return "Sophos has throttled this credential (429): no call is made until it allows one"
        return f"this credential's limit of {several(self._per_minute, 'call')} a minute is used up"

    def _wait(self, now: float, *, first: bool) -> float:
        blocked = self._blocked_until - now
        policy, free = self._policy(now), 0
        if not first:
            # Keep calls free for first pages, less those that were made within this minute.
            had = count(self._firsts, 60.0, now) if policy.strict else 0
            free = max(0, policy.reserved(self._streams, self._every) - had)
        wait = policy.wait(self._mine, self._others, now, instances=self._instances, kept_free=free)
        return max(blocked, wait)

    def _count(self, now: float, stream: str, *, first: bool) -> int:
        """Count a call; returns the number of the last minute's calls that are not published."""
        if self._blocked_until <= now - 60.0:
            self._refusals = 0
        insort(self._mine, now)
        self._made += 1
        if first:
            insort(self._firsts, now)
        if stream:
            self._asked[stream] = now if first else self._asked[stream]
        for times in (self._mine, self._firsts):
            while times and not now - _HOUR < times[0] <= now:
                times.pop(0)
        return count(self._mine, now - max(self._published_at, now - 60.0), now)

    def _everybody(self, now: float) -> Sequence[float]:
        """The times of all instances' known calls that still matter, in order."""
        return merged(self._mine, self._others, now)

    def _refresh(self) -> None:
        """Read the other instances' published calls."""
        with suppress(StoreError, KeptError):
            published, _ = RateLimits(self._store()).read(self._client_id())
            with self._lock:
                self._learn(published)

    def _publish(self) -> None:
        """Publish this instance's calls, and read the others'. A failure is harmless: a 429 corrects it."""
        for _ in range(2):  # A conflict means that another instance has just published: read it, and try once more.
            with suppress(ConflictError, StoreError, KeptError):
                limits, client_id = RateLimits(self._store()), self._client_id()
                published, generation = limits.read(client_id)
                with self._lock:
                    self._learn(published)
                    merged_limit = self._to_publish()
                    self._published_at = self._time()
                limits.write(client_id, merged_limit, generation)
                return

    def _to_publish(self) -> RateLimit:
        """This instance's calls beside the others': the object replaces the stored one."""
        now = self._time()
        ahead = self._ahead()
        holders = {name: steps for name, (steps, times) in self._others_published.items() if times}
        steps: dict[float, int] = {}
        for called_at in self._mine[bisect_right(self._mine, now - KEPT_SECONDS) :]:
            # Rounded up to the end of the step, so that no other instance takes a window for empty too early.
            at = ((called_at + ahead) // _STEP + 1) * _STEP
            steps[at] = steps.get(at, 0) + 1
        holders[self._holder] = tuple(CallCount(at, calls) for at, calls in steps.items())
        strict_at = None if self._strict_at is None else self._strict_at + ahead
        blocked_until = max(0.0, self._blocked_until + ahead)
        self._limits_read = strict_at, blocked_until
        return RateLimit(holders, strict_at, blocked_until, told_at=now + ahead)

    def _learn(self, published: RateLimit) -> None:
        """Take over the others' published calls, and convert their times of day to this instance's monotonic clock.

        New steps were published between the last read and now. Their times are shifted into that interval, whatever
        the other instance's clock showed.
        """
        now, ahead = self._time(), self._ahead()
        before, self._others_read_at = self._others_read_at, now
        by_instance = {}
        for name, steps in published.holders.items():
            if name == self._holder or not steps:
                continue
            last_read = self._others_published.get(name)
            if last_read is not None and last_read[0] == steps:
                times = last_read[1]
            else:
                last = steps[-1].at - ahead
                shift = min(max(last, before), now + _STEP) - last
                times = [at - ahead + shift for at, calls in steps for _ in range(calls)]
            by_instance[name] = (steps, [at for at in times if at > now - KEPT_SECONDS])
        self._others_published = by_instance
        self._others = sorted(at for _, times in by_instance.values() for at in times)
        self._instances = sum(1 for _, times in by_instance.values() if times and now - 60.0 < times[-1])
        self._learn_limits(published, before, now, ahead)

    def _learn_limits(self, published: RateLimit, before: float, now: float, ahead: float) -> None:
        limits = published.strict_at, published.blocked_until
        if limits == self._limits_read:
            return
        self._limits_read = limits
        published_at = None if published.told_at is None else published.told_at - ahead
        shift = 0.0 if published_at is None else min(max(published_at, before), now) - published_at
        if published.strict_at is not None:
            self._strict_at = max(self._strict_at or _NEVER, published.strict_at - ahead + shift)
        blocked = published.blocked_until - ahead + shift
        # No 429 blocks for longer. A later time is damage or a wrong clock, and must not stop the connector.
        if blocked <= now + LONGEST_SECONDS:
            self._blocked_until = max(self._blocked_until, blocked)

    def _time(self) -> float:
        """The monotonic time, in seconds."""
        return self._monotonic()

    def _ahead(self) -> float:
        """The time of day (Unix seconds) minus the monotonic time. It changes when the clock is set."""
        return self._now().timestamp() - self._monotonic()
