"""The calls that a credential may make, shared by every instance that uses it.

Each instance counts its own calls exactly, by a clock that never jumps, and tells the others in the store, at most once
in 20 calls: no object is hot, and an instance that makes few calls never writes. What others did since they last told
is not known; a 429 corrects it, and is known to all at once.
"""

from __future__ import annotations

import threading
import uuid
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from lib.errors import ConflictError, LayoutError, OverBudgetError, StoreError
from lib.model.rate_policy import KEPT_SECONDS, RatePolicy, Used, count, merged
from lib.state.rate_limits import RateLimit, RateLimits, Step
from lib.store.base import ObjectStore

TOLD_EACH = 20
"""Calls of the last minute that the others do not know of, before they are told; of a larger budget, a fifth."""
TOLD_EACH_AMONG_OTHERS = 5
"""The same, while others use the credential as well; of a larger budget, a twentieth."""
PATIENCE_SECONDS = 2.0
"""How long a page beyond a stream's first waits for its turn within a call; the platform asks again later."""
STRICT_FOR = timedelta(days=1)
"""How long bursts are not tried again after a 429."""
BACK_OFF_SECONDS = 5.0
ALONE_AFTER = 2
"""Ticks without a stream that wanted a further page, after which first pages may use their calls."""
LONGEST_SECONDS = 900.0
_HOUR = 3600.0
_STEP = 5.0
"""Seconds that are told as one number."""
_NEVER = float("-inf")


class RateLimiter:
    """One credential's calls, in one instance; safe between threads."""

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
        """`client_id` tells credentials apart; a page beyond a stream's first waits `patience` seconds for its turn."""
        self._store = store
        self._client_id = client_id
        self._per_minute = per_minute
        # Two integrations of one process may use one credential: each is another one to the other.
        self._holder = uuid.uuid4().hex[:12]
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self._lock = threading.Lock()
        self._mine: list[float] = []
        self._others: list[float] = []
        self._told_at = _NEVER
        self._firsts: list[float] = []
        self._asked: dict[str, float] = {}
        self._instances = 0
        self._wanted_more_at = _NEVER
        self._streams = 0
        self._every = 60.0
        self._strict_at: float | None = None
        self._blocked_until = _NEVER
        self._heard: dict[str, tuple[tuple[Step, ...], list[float]]] = {}
        """What each other instance told last, and when its calls were by this instance's clock."""
        self._heard_at = _NEVER
        self._heard_limits: tuple[float | None, float] | None = None
        self._refusals = 0
        self._refused = 0
        self._made = 0
        self._patience = patience

    def reserve(self, streams: int, every: float) -> int:
        """Keep calls free for so many streams, each asked so often (seconds); how many of them may be asked now."""
        self._refresh()
        with self._lock:
            now = self._time()
            self._streams, self._every = streams, max(1.0, every)
            quota = self._quota(now)
            alone = not 0.0 <= now - self._wanted_more_at < ALONE_AFTER * self._every
            return max(quota.firsts(self._every, alone=alone), quota.spare(self._everybody(now), now))

    @property
    def has_room(self) -> bool:
        """Whether a page beyond a stream's first could be asked for right now."""
        with self._lock:
            return self._wait(self._time(), first=False) <= self._patience

    def used(self) -> Used:
        """What was used up to now."""
        with self._lock:
            now = self._time()
            return Used(
                last_minute=count(self._everybody(now), 60.0, now),
                last_hour=count(self._mine, _HOUR, now),
                per_minute=self._per_minute,
                made=self._made,
                refused=self._refused,
                is_strict=self._quota(now).strict,
            )

    def available(self) -> int:
        """How many calls may go at once, by what this instance knows and others have told."""
        self._refresh()
        with self._lock:
            now = self._time()
            return 0 if now < self._blocked_until else self._quota(now).spare(self._everybody(now), now)

    def acquire(self, stream: str, deadline: float) -> None:
        """Wait for a call's turn, and count it; OverBudgetError, with the seconds, where the turn comes too late.

        A stream's first page in a while waits up to the deadline (a monotonic time), as do calls that are of no
        stream (""); any other waits for a moment only.
        """
        began = self._monotonic()
        while True:
            with self._lock:
                now = self._time()
                first = not stream or not 0.0 <= now - self._asked.get(stream, _NEVER) < self._every / 2
                self._wanted_more_at = self._wanted_more_at if first else now
                wait = self._wait(now, first=first)
                if wait <= 0:
                    untold = self._count(now, stream, first=first)
                    break
            left = deadline - self._monotonic() if first else self._patience - (self._monotonic() - began)
            if wait > left:
                raise OverBudgetError(self._why(now), retry_after=wait)
            self._sleep(min(wait, 1.0))
        if untold >= self._told_each():
            self._publish()

    def refused(self, retry_after: float | None) -> float:
        """Sophos answered 429; what is learned from it, and the seconds until the next call."""
        self._refresh()
        with self._lock:
            now = self._time()
            self._refused += 1
            if now >= self._blocked_until:
                # Of the calls that were under way together, the first one tells.
                self._refusals += 1
            wait = RatePolicy(self._per_minute, strict=True).wait(self._everybody(now), (), now)
            if wait <= 0:
                # Fewer calls than allowed: somebody unknown uses the credential, or the limit is a lower one.
                wait = BACK_OFF_SECONDS * 2 ** min(self._refusals - 1, 8) * (0.5 + self._jitter() / 2)
            wait = min(wait if retry_after is None else max(retry_after, 1.0), LONGEST_SECONDS)
            self._strict_at = now
            self._blocked_until = max(self._blocked_until, now + wait)
        self._publish()
        return wait

    def _told_each(self) -> int:
        with self._lock:
            now = self._time()
            if count(self._others, 60.0, now):
                return max(TOLD_EACH_AMONG_OTHERS, self._per_minute // 20)
        return max(TOLD_EACH, self._per_minute // 5)

    def _quota(self, now: float) -> RatePolicy:
        strict = self._strict_at is not None and 0.0 <= now - self._strict_at < STRICT_FOR.total_seconds()
        return RatePolicy(self._per_minute, strict=strict)

    def _why(self, now: float) -> str:
        """Why no call may be made now."""
        if now < self._blocked_until:
            return "Sophos has throttled this credential (429): no call is made until it allows one"
        return f"the {self._per_minute} calls a minute of this credential are used up"

    def _wait(self, now: float, *, first: bool) -> float:
        blocked = self._blocked_until - now
        quota, free = self._quota(now), 0
        if not first:
            # Of a window, those that have been asked in it have had theirs.
            had = count(self._firsts, 60.0, now) if quota.strict else 0
            free = max(0, quota.reserved(self._streams, self._every) - had)
        wait = quota.wait(self._mine, self._others, now, instances=self._instances, kept_free=free)
        return max(blocked, wait)

    def _count(self, now: float, stream: str, *, first: bool) -> int:
        """Count a call; how many of the last minute the others do not know of."""
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
        return count(self._mine, now - max(self._told_at, now - 60.0), now)

    def _everybody(self, now: float) -> Sequence[float]:
        """Times of all calls that are known of and still matter, in order."""
        return merged(self._mine, self._others, now)

    def _refresh(self) -> None:
        """Learn what other instances have told."""
        with suppress(StoreError, LayoutError):
            told, _ = RateLimits(self._store()).read(self._client_id())
            with self._lock:
                self._learn(told)

    def _publish(self) -> None:
        """Publish this instance's calls, and learn the others'. Failing is no matter: a 429 corrects it."""
        for _ in range(2):
            with suppress(ConflictError, StoreError, LayoutError):
                limits, client_id = RateLimits(self._store()), self._client_id()
                told, generation = limits.read(client_id)
                with self._lock:
                    self._learn(told)
                    mine = self._told()
                    self._told_at = self._time()
                limits.write(client_id, mine, generation)
                return

    def _told(self) -> RateLimit:
        now = self._time()
        ahead = self._ahead()
        holders = {name: steps for name, (steps, times) in self._heard.items() if times}
        steps: dict[float, int] = {}
        for each in self._mine[bisect_right(self._mine, now - KEPT_SECONDS) :]:
            # As late as it can have been: told so, no window is taken for empty too early.
            at = ((each + ahead) // _STEP + 1) * _STEP
            steps[at] = steps.get(at, 0) + 1
        holders[self._holder] = tuple(Step(at, calls) for at, calls in steps.items())
        strict_at = None if self._strict_at is None else self._strict_at + ahead
        blocked_until = max(0.0, self._blocked_until + ahead)
        self._heard_limits = strict_at, blocked_until
        return RateLimit(holders, strict_at, blocked_until, told_at=now + ahead)

    def _learn(self, told: RateLimit) -> None:
        """Take over what others have told, by the time of day; it is turned into times of this instance's clock once.

        What is new was told between the last look and now, whatever the other's clock showed then.
        """
        now, ahead = self._time(), self._ahead()
        before, self._heard_at = self._heard_at, now
        heard = {}
        for name, steps in told.holders.items():
            if name == self._holder or not steps:
                continue
            known = self._heard.get(name)
            if known is not None and known[0] == steps:
                times = known[1]
            else:
                last = steps[-1].at - ahead
                shift = min(max(last, before), now + _STEP) - last
                times = [at - ahead + shift for at, calls in steps for _ in range(calls)]
            heard[name] = (steps, [at for at in times if at > now - KEPT_SECONDS])
        self._heard = heard
        self._others = sorted(at for _, times in heard.values() for at in times)
        self._instances = sum(1 for _, times in heard.values() if times and now - 60.0 < times[-1])
        self._learn_limits(told, before, now, ahead)

    def _learn_limits(self, told: RateLimit, before: float, now: float, ahead: float) -> None:
        limits = told.strict_at, told.blocked_until
        if limits == self._heard_limits:
            return
        self._heard_limits = limits
        told_at = None if told.told_at is None else told.told_at - ahead
        shift = 0.0 if told_at is None else min(max(told_at, before), now) - told_at
        if told.strict_at is not None:
            self._strict_at = max(self._strict_at or _NEVER, told.strict_at - ahead + shift)
        blocked = told.blocked_until - ahead + shift
        if blocked <= now + LONGEST_SECONDS:
            self._blocked_until = max(self._blocked_until, blocked)

    def _time(self) -> float:
        """Seconds of a clock that never jumps."""
        return self._monotonic()

    def _ahead(self) -> float:
        """How far the time of day, in Unix seconds, is ahead of that clock just now."""
        return self._now().timestamp() - self._monotonic()
