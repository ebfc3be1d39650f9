"""Text from outside, made safe for a terminal."""

from __future__ import annotations

import re

_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, characters that change the direction of writing, and lone surrogates."""


def printable(text: str) -> str:
    r"""The text as one line without control characters. Each becomes an escape such as `\u001b`, as in JSON."""
    return _COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
