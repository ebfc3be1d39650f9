"""Text for people: what comes from outside made safe for a terminal, counts with their noun, durations."""

from __future__ import annotations

import re

_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, characters that change the direction of writing, and lone surrogates."""


def printable(text: str) -> str:
    r"""The text as one line without control characters. Each becomes an escape such as `\u001b`, as in JSON."""
    return _COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def whole(text: str) -> str:
    """The text with `?` for each half of a surrogate pair: half a character has no UTF-8, and no one could send it."""
    return text.encode("utf-8", "replace").decode()


def several(count: int, noun: str, many: str | None = None) -> str:
    """The count with its noun; `many` is its plural, if that is not the noun with an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {many or f'{noun}s'}"


def span(seconds: float) -> str:
    """A duration in its largest unit that is not too coarse: seconds up to two minutes, minutes up to two hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min" if seconds < 7200 else f"{seconds // 3600:.0f} h"
