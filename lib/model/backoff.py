"""How long to wait before the next try."""

from __future__ import annotations

from datetime import datetime

from lib.model.clock import from_http_date

LONGEST = 1e9
"""Seconds. A number of more digits than a date can reach."""


def full_jitter(tries: int, jitter: float, *, base: float, cap: float) -> float:
    """Seconds to wait after so many failed tries; `jitter` is a random number of [0, 1).

    Full jitter is uniform between 0 and the exponential bound, so that clients that failed together spread out.
    """
    return float(min(cap, base * 2 ** min(max(tries - 1, 0), 30)) * jitter)


def retry_after(header: str | None, now: datetime) -> float | None:
    """Seconds from `now` until the time in a Retry-After header (a number or a date); None if it holds neither."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST)
    moment = from_http_date(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())
