"""Text from outside as a terminal may be given it."""

from __future__ import annotations

import re

_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, what ends a line or turns the direction of writing, and halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""One line without anything that a terminal obeys: `\u001b` in its place, so that JSON says what it said."""
    return _COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
