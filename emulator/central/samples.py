"""Moves sample records from files to the present. Only their times change."""

from __future__ import annotations

import re
from collections.abc import Iterable

from emulator.central.clock import from_iso, iso

_ISO = re.compile(rb'("(?:created_at|when)":\s*")([0-9T:.-]+Z)"')
_CREATED = re.compile(rb'"created_at":\s*"([0-9T:.-]+Z)"')
_EPOCH = re.compile(rb'("(?:created_at|inserted_at|make_actionable_at)":\s*)(\d{13})\b')


def newest(lines: Iterable[bytes]) -> int:
    """The latest `created_at` of JSON lines, Unix milliseconds."""
    return max(from_iso(match[1].decode()) for line in lines for match in _CREATED.finditer(line))


def shifted(lines: Iterable[bytes], by: int) -> list[bytes]:
    """JSON lines with their times moved by so many milliseconds; each time keeps its format."""

    def moved(match: re.Match[bytes]) -> bytes:
        text = iso(from_iso(match[2].decode()) + by)
        return match[1] + (text if b"." in match[2] else f"{text[:19]}Z").encode() + b'"'

    def moved_number(match: re.Match[bytes]) -> bytes:
        return match[1] + str(int(match[2]) + by).encode()

    return [_EPOCH.sub(moved_number, _ISO.sub(moved, line)) for line in lines if line.strip()]
