"""How numbers, times and links are told: one style of units and words everywhere. Pure."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from markupsafe import Markup, escape

from lib.model.clock import from_text
from lib.model.stream import ALERTS, EVENTS

ALONE = {
    "alerts_without_event": (ALERTS, "alert whose event never came", "alerts whose event never came"),
    "events_without_alert": (
        EVENTS,
        "event of high severity without an alert",
        "events of high severity without an alert",
    ),
}
"""What is alone, by its key in `links`: its kind, and what one and several are called."""
THIN = "\u202f"


def number(value: float | None) -> str:
    """Thousands apart."""
    return "–" if value is None else f"{value:,}".replace(",", THIN)


def size(value: float) -> str:
    """Bytes, in powers of 1,024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def seconds(value: float | None) -> str:
    """A duration in its two largest units at most."""
    if value is None:
        return "–"
    whole = round(value)
    if whole < 120:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if minutes < 120:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h" + (f" {minutes % 60} min" if hours < 6 and minutes % 60 else "")
    return f"{days} days"


def short(text: str | None) -> str:
    """A time to the second, UTC."""
    return f"{text[:10]} {text[11:19]}" if text else "–"


def ago(text: str | None, now: datetime) -> str:
    """How long a time is past, or ahead; to the minute, so that what is shown seldom changes."""
    if not text:
        return "–"
    past = (now - from_text(text)).total_seconds()
    if abs(past) < 60:
        return "just now" if past >= 0 else "in a moment"
    return f"{seconds(past // 60 * 60)} ago" if past > 0 else f"in {seconds(-past // 60 * 60)}"


def pretty(raw: str) -> str | None:
    """JSON with indents; None for what is none."""
    try:
        return json.dumps(json.loads(raw), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def coded(text: str) -> Markup:
    """Text whose words between backticks are shown as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )


def plural(count: int, one: str, many: str | None = None) -> str:
    """The count with its noun."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def utc_now() -> datetime:
    """The time of day, UTC."""
    return datetime.now(UTC)
