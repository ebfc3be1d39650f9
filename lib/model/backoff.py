"""How long to wait before the next try."""

from __future__ import annotations

from datetime import datetime

from lib.model.clock import from_http_date


def full_jitter(tries: int, jitter: float, *, base: float, cap: float) -> float:
    """Seconds to wait after so many failed tries; `jitter` is a random number of [0, 1).

    Full jitter: evenly between nothing and the exponential bound, so that clients that failed together part.
    """
    return float(min(cap, base * 2 ** min(max(tries - 1, 0), 30)) * jitter)


def retry_after(header: str | None, now: datetime) -> float | None:
    """The seconds that a Retry-After header names, as a number or a date; None where it names none."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    moment = from_http_date(text)
    return None if moment is None else max(0.0, (moment - now).total_seconds())
