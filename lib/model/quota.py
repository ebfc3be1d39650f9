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
"""The share of the calls that streams' first pages may take up before any is left for their further ones."""
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
    refused: int
    """429s that this instance has met."""
    is_strict: bool


@dataclass(frozen=True, slots=True)
class Quota:
    """What a credential has to keep to."""

    per_minute: int
    strict: bool = False
    """Whether a 429 has shown that bursts are refused."""

    def wait(self, mine: Sequence[float], everybody: Sequence[float], now: float, *, kept_free: int = 0) -> float:
        """Seconds until one more call may go, with so many kept free for others.

        Times of calls in order, Unix seconds: this instance's, which are exact, and those of all that are known of.
        """
        second = _window_wait(mine, max(1, round(self.per_minute * _PER_SECOND)), 1.0 + _MARGIN_SECONDS / 2, now)
        if self.strict:
            calls = max(1, self.per_minute - kept_free)
            return max(second, _window_wait(everybody, calls, 60.0 + _MARGIN_SECONDS, now))
        return max(second, self._bucket_wait(everybody, now, kept_free))

    def firsts(self, every: float) -> int:
        """How many streams can be asked at each tick, the ticks so many seconds apart, and go on like that."""
        return max(1, int(FIRSTS * self.per_minute * every / 60.0))

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
        excess = self._level(everybody, now) + 1.0 - max(1, self._capacity - kept_free)
        return max(0.0, excess * 60.0 / self.per_minute)


def count(times: Sequence[float], seconds: float, now: float) -> int:
    """How many of the calls, in order of time, are not older than so many seconds."""
    return len(times) - bisect_right(times, now - seconds)


def _window_wait(times: Sequence[float], calls: int, seconds: float, now: float) -> float:
    """Seconds until the window holds fewer than so many calls."""
    if count(times, seconds, now) < calls:
        return 0.0
    return max(0.0, times[len(times) - calls] + seconds - now)
