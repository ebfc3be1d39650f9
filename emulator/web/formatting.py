"""Numbers, times and texts for people: one style of units and words everywhere. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime

from markupsafe import Markup, escape

from lib.model.clock import from_text, to_text
from lib.model.stream import ALERTS, EVENTS
from lib.state.gaps import BATCH_DAMAGED, BATCH_MISSING, CURSOR_EXPIRED

ALONE = {
    "alerts_without_event": (ALERTS, "alert whose event never came", "alerts whose event never came"),
    "events_without_alert": (
        EVENTS,
        "event of high severity without an alert",
        "events of high severity without an alert",
    ),
}
"""Alerts and events without their counterpart, by their key in `links`: kind, singular, plural."""
GAP_WORDS = {
    CURSOR_EXPIRED: "The connector did not read for more than 24 hours. Sophos keeps events for 24 hours.",
    BATCH_DAMAGED: "A stored batch was damaged before it was delivered.",
    BATCH_MISSING: "A stored batch was removed before it was delivered.",
}
"""The explanation of a gap, by its reason."""
CHECK_WORDS = {
    "dns": "Name of Sophos (DNS)",
    "tcp": "Connection to Sophos (TCP)",
    "tls": "Encryption (TLS)",
    "sophos_reachable": "Sophos answers",
    "clock": "Clock of this machine",
    "credentials": "Client id and secret",
    "whoami": "Account of the credential",
    "region": "Region",
    "tenants": "Tenants",
    "tenant_hosts": "Data region of each tenant",
    "siem_events": "Reading events",
    "siem_alerts": "Reading alerts",
    "endpoints": "Reading devices",
    "page": "One page of events",
    "newest_event": "Age of the newest event",
    "rate": "Calls that are left",
    "store": "Store",
    "engine": "Engine of UTMStack",
}
"""Titles of the connection's checks."""
THIN = "\u202f"


def number(value: float | None) -> str:
    """A number with a thin space between thousands."""
    return "–" if value is None else f"{value:,}".replace(",", THIN)


def size(value: float) -> str:
    """Bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def seconds(value: float | None) -> str:
    """A duration in at most two units."""
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
    """The time since then, or until then. In whole minutes, so that the text seldom changes."""
    if not text:
        return "–"
    past = (now - from_text(text)).total_seconds()
    if abs(past) < 60:
        return "just now" if past >= 0 else "in a moment"
    return f"{seconds(past // 60 * 60)} ago" if past > 0 else f"in {seconds(-past // 60 * 60)}"


def lasting(text: str, now: datetime) -> str:
    """The duration since then, in whole minutes."""
    past = (now - from_text(text)).total_seconds()
    return "less than a minute" if past < 60 else seconds(past // 60 * 60)


def moment(at: float) -> str:
    """A Unix time as text."""
    return to_text(datetime.fromtimestamp(at, UTC))


def spaced(text: str) -> str:
    """A duration of the configuration (5s, 1h30m) with spaces between numbers and units; other text as it is."""
    if not re.fullmatch(r"(\d+[smhd])+", text):
        return text
    return re.sub(r"(\d+)([smhd])", lambda match: f"{match[1]} {'min' if match[2] == 'm' else match[2]} ", text).strip()


def pretty(raw: str) -> str | None:
    """The JSON with indents; None if the text is not JSON."""
    try:
        return json.dumps(json.loads(raw), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def headline(raw: str, most: int = 140) -> str:
    """An event in one line: its time, severity, type and name; otherwise its first characters."""
    with suppress(ValueError, RecursionError):
        fields = json.loads(raw)
        if isinstance(fields, dict):
            at = fields.get("when") or fields.get("created_at")
            parts = [str(at)[:19].replace("T", " "), *(fields.get(key) for key in ("severity", "type", "name"))]
            named = " · ".join(str(part) for part in parts if part)
            if at and fields.get("type"):
                return named[:most] + ("…" if len(named) > most else "")
    return raw[:most] + ("…" if len(raw) > most else "")


def coded(text: str) -> Markup:
    """HTML of a text, with the words between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )


def split_remark(text: str, streams: Collection[str]) -> tuple[str | None, str]:
    """The stream (one of `streams`, as text) that a remark of `attest` begins with, if it names one, and the rest."""
    at = text.find(": ")
    while at >= 0:
        if text[:at] in streams:
            return text[:at], text[at + 2 :]
        at = text.find(": ", at + 1)
    return None, text


def plural(count: int, noun: str, many: str | None = None) -> str:
    """The count with its noun in the right number."""
    return f"{number(count)} {noun if count == 1 else many or noun + 's'}"


def utc_now() -> datetime:
    """The current time, UTC: templates cannot import it."""
    return datetime.now(UTC)
