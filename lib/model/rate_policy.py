"""How many calls a credential may make, and when the next call may go.

Sophos allows a credential, for all APIs together, 100 calls a minute "with bursts to 300" and 200,000 a day. It
recommends no more than 10 a second and 1,000 an hour (https://developer.sophos.com/intro#rate-limits). How a burst is
counted is not published. Here a quiet credential may burst: 300 calls in its first minute, then 100 in each minute.
That is less than 200,000 a day. After a 429 the credential makes no more bursts (`strict`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

PUBLISHED = 100
"""Calls a minute that Sophos allows."""
BURST = 3
"""The calls of a burst's first minute, as a multiple of an ordinary minute's calls."""
KEPT_SECONDS = 600.0
"""How long a call's time is kept. The bucket of a full burst drains long before."""
FIRSTS = 0.9
"""The share of the calls for the streams' first pages if some streams want further pages."""
FIRSTS_ALONE = 0.98
"""The same share if no stream wants further pages."""
_UNKNOWN = 5
"""Calls that one other instance may have made but not published yet, in percent of a minute's calls."""
_MARGIN_SECONDS = 0.5
"""Calls reach Sophos a little later than they are counted here, and the delay varies."""
_PER_SECOND = 0.1
"""The calls of a second, as a share of a minute's calls. They are counted over a little more than a second."""


@dataclass(frozen=True, slots=True)
class Used:
    """The calls of a credential, as far as this instance knows them."""

    last_minute: int
    last_hour: int
    """Calls of this instance in the last hour. Sophos recommends at most 1,000."""
    per_minute: int
    made: int
    """Calls of this instance since its start."""
    refused: int
    """Answers 429 to this instance since its start."""
    is_strict: bool


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """The limits of a credential."""

    per_minute: int
    strict: bool = False
    """Whether bursts are off because Sophos answered 429."""

    def wait(
        self, mine: Sequence[float], others: Sequence[float], now: float, *, instances: int = 0, kept_free: int = 0
    ) -> float:
        """Seconds until one more call may go; `kept_free` calls stay reserved for others.

        `mine` are the exact times of this instance's calls. `others` are the times that `instances` other instances
        have published. All are in order, in seconds of a monotonic clock.
        """
        second = _window_wait(mine, max(1, round(self.per_minute * _PER_SECOND)), 1.0 + _MARGIN_SECONDS / 2, now)
        if not self.strict:
            return max(second, self._bucket_wait(merged(mine, others, now), now, kept_free))
        return max(second, self._strict_wait(mine, others, now, instances, kept_free))

    def _strict_wait(
        self, mine: Sequence[float], others: Sequence[float], now: float, instances: int, kept_free: int
    ) -> float:
        def window(times: Sequence[float], calls: int) -> float:
            return _window_wait(times, max(1, calls), 60.0 + _MARGIN_SECONDS, now)

        everybody = merged(mine, others, now)
        if not instances:
            return window(everybody, self.per_minute - kept_free)
        # If every instance keeps to its share, the limit holds even with calls that are not published yet.
        # An instance takes more than its share only from calls that the others demonstrably leave unused.
        share = self.per_minute // (instances + 1)
        unknown = instances * max(1, self.per_minute * _UNKNOWN // 100)
        fair = max(window(mine, share), window(others, share * instances + 1))
        left = max(
            window(everybody, self.per_minute - kept_free - unknown), window(others, share * instances - 2 * unknown)
        )
        return left if kept_free else min(fair, left)

    def firsts(self, every: float, *, alone: bool = False) -> int:
        """How many streams each tick can poll without end, with `every` seconds between ticks.

        `alone` if no stream wants more than its first page.
        """
        return max(1, int((FIRSTS_ALONE if alone else FIRSTS) * self.per_minute * every / 60.0))

    def reserved(self, streams: int, every: float) -> int:
        """Calls a minute that the first pages of the streams need, if each stream is polled every `every` seconds."""
        return int(min(streams * 60.0 / every, FIRSTS * self.per_minute))

    def spare(self, everybody: Sequence[float], now: float) -> int:
        """How many calls may go now."""
        if self.strict:
            return max(0, self.per_minute - count(everybody, 60.0 + _MARGIN_SECONDS, now))
        return max(0, int(self._capacity - self._level(everybody, now)))

    @property
    def _capacity(self) -> int:
        # The bucket drains while it fills: a full minute takes the capacity and an ordinary minute's calls.
        return (BURST - 1) * self.per_minute

    def _level(self, everybody: Sequence[float], now: float) -> float:
        """The level of the leaky bucket: each call adds one, and it drains by `per_minute` a minute."""
        level, before = 0.0, now
        for at in everybody:
            level = max(0.0, level - max(0.0, at - before) * self.per_minute / 60.0) + 1.0
            before = at
        return max(0.0, level - max(0.0, now - before) * self.per_minute / 60.0)

    def _bucket_wait(self, everybody: Sequence[float], now: float, kept_free: int) -> float:
        room = max(1, self._capacity - kept_free)
        if len(everybody) < room:
            return 0.0
        excess = self._level(everybody, now) + 1.0 - room
        return max(0.0, excess * 60.0 / self.per_minute)


def merged(mine: Sequence[float], others: Sequence[float], now: float) -> Sequence[float]:
    """The times of all calls of the last KEPT_SECONDS, in order."""
    recent = mine[bisect_right(mine, now - KEPT_SECONDS) :]
    return sorted([*recent, *others]) if others else recent


def count(times: Sequence[float], seconds: float, now: float) -> int:
    """How many of the calls are at most so many seconds old; `times` are in order."""
    return len(times) - bisect_right(times, now - seconds)


def _window_wait(times: Sequence[float], calls: int, seconds: float, now: float) -> float:
    """Seconds until the sliding window holds fewer than `calls` calls."""
    if count(times, seconds, now) < calls:
        return 0.0
    return max(0.0, times[len(times) - calls] + seconds - now)
