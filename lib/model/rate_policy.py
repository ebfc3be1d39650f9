"""How many calls a credential may make, and when the next one may go.

Sophos allows a credential, all APIs together, 100 calls a minute "with bursts to 300" and 200,000 a day, and recommends
no more than 10 a second and 1,000 an hour (https://developer.sophos.com/intro#rate-limits). How a burst is counted is
not published. Here a quiet credential may burst: 300 calls in its first minute, 100 in each one after it, which is less
than 200,000 a day. Once a 429 has told otherwise there are no bursts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

PUBLISHED = 100
"""Calls a minute."""
BURST = 3
"""A burst's calls in its first minute, in calls of an ordinary one."""
KEPT_SECONDS = 600.0
"""How long a call matters: a full burst is forgotten long before."""
FIRSTS = 0.9
"""The share of the calls that streams' first pages may take up where further pages are wanted as well."""
FIRSTS_ALONE = 0.98
"""The same, where none are."""
_UNKNOWN = 5
"""What one other instance may have called without having told yet, in hundredths of a minute's calls."""
_MARGIN_SECONDS = 0.5
"""Calls reach Sophos a little later than they are counted here, and not all equally late."""
_PER_SECOND = 0.1
"""A second's calls, in calls of a minute; counted over a little more than a second."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a credential has used of its budget, as far as this instance knows."""

    last_minute: int
    last_hour: int
    """This instance's own; Sophos recommends at most 1,000."""
    per_minute: int
    made: int
    """Calls of this instance."""
    refused: int
    """429s that this instance has met."""
    is_strict: bool


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """What a credential has to keep to."""

    per_minute: int
    strict: bool = False
    """Whether a 429 has shown that bursts are refused."""

    def wait(
        self, mine: Sequence[float], others: Sequence[float], now: float, *, instances: int = 0, kept_free: int = 0
    ) -> float:
        """Seconds until one more call may go, with so many kept free for others.

        Times of calls in order, seconds of a clock that never jumps: this instance's, which are exact, and those that
        so many other instances have told of.
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
        # Where each keeps to its share nothing is exceeded, whatever is not known yet; more is taken where others
        # leave it.
        share = self.per_minute // (instances + 1)
        unknown = instances * max(1, self.per_minute * _UNKNOWN // 100)
        fair = max(window(mine, share), window(others, share * instances + 1))
        left = max(
            window(everybody, self.per_minute - kept_free - unknown), window(others, share * instances - 2 * unknown)
        )
        return left if kept_free else min(fair, left)

    def firsts(self, every: float, *, alone: bool = False) -> int:
        """How many streams can be asked at each tick, the ticks so many seconds apart, and go on like that.

        `alone` where no stream has wanted more than its first page.
        """
        return max(1, int((FIRSTS_ALONE if alone else FIRSTS) * self.per_minute * every / 60.0))

    def reserved(self, streams: int, every: float) -> int:
        """The calls of a minute that first pages of so many streams need, each asked so often (seconds)."""
        return int(min(streams * 60.0 / every, FIRSTS * self.per_minute))

    def spare(self, everybody: Sequence[float], now: float) -> int:
        """How many calls may go at once."""
        if self.strict:
            return max(0, self.per_minute - count(everybody, 60.0 + _MARGIN_SECONDS, now))
        return max(0, int(self._capacity - self._level(everybody, now)))

    @property
    def _capacity(self) -> int:
        # Refilled while it is emptied: a full minute takes this and an ordinary minute's calls.
        return (BURST - 1) * self.per_minute

    def _level(self, everybody: Sequence[float], now: float) -> float:
        """How full the bucket is that every call fills by one, and that drains by `per_minute`."""
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
    """Times of all calls that still matter, in order."""
    recent = mine[bisect_right(mine, now - KEPT_SECONDS) :]
    return sorted([*recent, *others]) if others else recent


def count(times: Sequence[float], seconds: float, now: float) -> int:
    """How many of the calls, in order of time, are not older than so many seconds."""
    return len(times) - bisect_right(times, now - seconds)


def _window_wait(times: Sequence[float], calls: int, seconds: float, now: float) -> float:
    """Seconds until the window holds fewer than so many calls."""
    if count(times, seconds, now) < calls:
        return 0.0
    return max(0.0, times[len(times) - calls] + seconds - now)
