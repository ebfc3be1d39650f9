"""Times in Go's layouts. A layout is an example: the time 2006-01-02 15:04:05 in that format (pkg.go.dev/time)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ELEMENT = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|__2|002|01|02|03|04|05|06|15|_2|PM|pm"
    r"|Z07:00|Z0700|Z07|-07:00|-0700|-07|[.,](?:0+|9+)(?!\d)|1|2|3|4|5"
)
_DIGITS = {
    "2006": r"(?P<year>\d{4})", "06": r"(?P<short>\d{2})", "01": r"(?P<month>\d{2})", "1": r"(?P<month>\d{1,2})",
    "02": r"(?P<day>\d{2})", "_2": r" ?(?P<day>\d{1,2})", "2": r"(?P<day>\d{1,2})", "002": r"(?P<of_year>\d{3})",
    "__2": r" {0,2}(?P<of_year>\d{1,3})", "15": r"(?P<hour>\d{1,2})", "03": r"(?P<half>\d{2})",
    "3": r"(?P<half>\d{1,2})", "04": r"(?P<minute>\d{2})", "4": r"(?P<minute>\d{1,2})",
    "05": r"(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?", "5": r"(?P<second>\d{1,2})(?:[.,](?P<fraction>\d+))?",
    "PM": r"(?P<pm>AM|PM)", "pm": r"(?P<pm>am|pm)", "MST": r"(?P<zone>[A-Z]{3,5})",
}  # fmt: skip


def parse(layout: str, text: str) -> datetime:
    """The time of a text in the layout, UTC without a zone; ValueError if the text does not fit."""
    match = _expression(layout).fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time like {layout!r}")
    parts = {name: value for name, value in match.groupdict().items() if value}
    year = int(parts.get("year") or 0) or _century(parts.get("short", "")) or 1
    month = int(parts.get("month") or 0) or _named(parts.get("name", "")) or 1
    hour = int(parts.get("hour") or 0)
    if "half" in parts:
        hour = int(parts["half"]) % 12 + (12 if parts.get("pm", "").upper() == "PM" else 0)
    micro = int(parts.get("fraction", "").ljust(6, "0")[:6] or 0)
    minute, second = int(parts.get("minute") or 0), int(parts.get("second") or 0)
    moment = datetime(year, month, int(parts.get("day") or 1), hour, minute, second, micro, _zone(parts))
    return moment + timedelta(days=int(parts["of_year"]) - 1) if "of_year" in parts else moment


def reformat(text: str, before: str, after: str) -> str:
    """The text in another layout; ValueError if it does not fit the first one."""
    shown = show(after, parse(before, text))
    if re.search("2006|(?<!20)06", before):
        return shown
    # In Go a time without a year has the year 0. Python's first year is 1.
    return shown if "2006" not in after else show(after.replace("2006", "0000"), parse(before, text))


def show(layout: str, moment: datetime) -> str:
    """The time as text in the layout."""
    return _ELEMENT.sub(lambda element: _shown(element.group(), moment), layout)


@lru_cache(maxsize=256)
def _expression(layout: str) -> re.Pattern[str]:
    pieces, at, seen = [], 0, set[str]()
    elements = list(_ELEMENT.finditer(layout))
    has_fraction = any(element.group()[0] in ".," for element in elements)
    for element in elements:
        piece = _piece(element.group())
        if has_fraction and element.group() in {"05", "5"}:
            piece = piece.partition("(?:[.,]")[0]
        # A regular expression may name a group only once: a repeated element is matched, but not read.
        piece = re.sub(r"\?P<(\w+)>", lambda name: "?:" if name.group(1) in seen else name.group(), piece)
        seen.update(re.findall(r"\?P<(\w+)>", piece))
        pieces += [re.escape(layout[at : element.start()]), piece]
        at = element.end()
    return re.compile("".join((*pieces, re.escape(layout[at:]))))


def _piece(element: str) -> str:
    if element in _DIGITS:
        return _DIGITS[element]
    if element[0] in ".,":
        return rf"(?:[.,](?P<fraction>\d{{{len(element) - 1}}}))" if "0" in element else r"(?:[.,](?P<fraction>\d+))?"
    if element in {"January", "Jan"}:
        return f"(?P<name>{'|'.join(name[: len(element) if element == 'Jan' else None] for name in _MONTHS)})"
    if element in {"Monday", "Mon"}:
        return f"(?:{'|'.join(name[: 3 if element == 'Mon' else None] for name in _DAYS)})"
    number = {"07:00": r"[+-]\d\d:\d\d", "0700": r"[+-]\d{4}", "07": r"[+-]\d\d"}[element[1:]]
    return rf"(?P<offset>{'Z|' if element[0] == 'Z' else ''}{number})"


def _shown(element: str, at: datetime) -> str:
    texts = {
        "2006": f"{at.year:04d}", "06": f"{at.year % 100:02d}", "01": f"{at.month:02d}", "1": str(at.month),
        "02": f"{at.day:02d}", "_2": f"{at.day:2d}", "2": str(at.day), "002": f"{at.timetuple().tm_yday:03d}",
        "__2": f"{at.timetuple().tm_yday:3d}", "15": f"{at.hour:02d}", "03": f"{at.hour % 12 or 12:02d}",
        "3": str(at.hour % 12 or 12), "04": f"{at.minute:02d}", "4": str(at.minute), "05": f"{at.second:02d}",
        "5": str(at.second), "PM": "PM" if at.hour >= 12 else "AM", "pm": "pm" if at.hour >= 12 else "am",
        "January": _MONTHS[at.month - 1], "Jan": _MONTHS[at.month - 1][:3], "Monday": _DAYS[at.weekday()],
        "Mon": _DAYS[at.weekday()][:3], "MST": at.tzname() or "UTC",
    }  # fmt: skip
    if element in texts:
        return texts[element]
    if element[0] in ".,":
        digits = f"{at.microsecond:06d}".ljust(len(element) - 1, "0")[: len(element) - 1]
        return element[0] + digits if "0" in element else (element[0] + digits).rstrip("0").rstrip(".,")
    offset = at.utcoffset() or timedelta(0)
    if element[0] == "Z" and not offset:
        return "Z"
    minutes = abs(int(offset.total_seconds())) // 60
    sign = "-" if offset < timedelta(0) else "+"
    colon = ":" if ":" in element else ""
    return f"{sign}{minutes // 60:02d}{colon}{minutes % 60:02d}"[: 3 if len(element) == 3 else None]


def _century(short: str) -> int:
    return 0 if not short else int(short) + (1900 if int(short) >= 69 else 2000)


def _named(name: str) -> int:
    return next((at for at, month in enumerate(_MONTHS, 1) if name and month.startswith(name)), 0)


def _zone(parts: dict[str, str]) -> timezone:
    offset = parts.get("offset", "Z")
    if offset == "Z":
        return UTC
    digits = offset[1:].replace(":", "").ljust(4, "0")
    apart = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-apart if offset[0] == "-" else apart)
