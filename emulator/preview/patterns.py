"""The engine's regular expressions: RE2, with names such as `{{.ipv4}}` for common patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import re2

_NAME = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_ONE_BYTE = re.compile(r"(?<!\\)(?:\\\\)*\\C")
"""RE2 has it, the engine's version of RE2 has not."""
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_LABEL = r"[0-9A-Za-z](?:[0-9A-Za-z_-]{0,62})"
NAMED = {
    "data": r".*?",
    "greedy": r".*",
    "space": r"\s+",
    "notSpace": r"\S+",
    "word": r"\b\w+\b",
    "integer": r"[+-]?\d+",
    "number": r"[+-]?\d+(?:\.\d+)?",
    "ipv4": rf"(?:{_OCTET}\.){{3}}{_OCTET}",
    "ipv6": r"(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){1,7}|::[0-9A-Fa-f:]*)",
    "hostname": rf"\b{_LABEL}(?:\.{_LABEL})*(?:\.?|\b)",
    "domain": rf"\b(?:{_LABEL}\.)+[A-Za-z]{{2,63}}\b",
    "email": rf"[0-9A-Za-z._%+-]+@(?:{_LABEL}\.)+[A-Za-z]{{2,63}}",
    "uuid": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "mac": r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}",
    "year": r"[1-9]\d{1,3}",
    "monthNumber": r"(?:0[1-9]|1[0-2]|[1-9])",
    "monthName": r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\b",
    "monthDay": r"(?:0[1-9]|[12]\d|3[01]|[1-9])",
    "day": r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*",
    "hour": r"(?:2[0-3]|[01]?\d)",
    "minute": r"[0-5]\d",
    "seconds": r"(?:[0-5]?\d|60)(?:[:.,]\d+)?",
    "time": r"(?:2[0-4]|[01]\d):[0-5]\d:(?:[0-5]?\d|60)(?:[:.,]\d+)?",
}
"""The names in UTMStack's documentation. The `patterns` of a filter file replace them."""


class PatternError(ValueError):
    """A regular expression, or a name in it, that the engine does not know."""


_WHOLE: dict[str, Callable[[str], str]] = {
    "(?s)^.+$": lambda text: text,
    "(?s:.*)": lambda text: text,
    "[^[:space:]]": lambda text: text.strip(" \t\n\f\r\v")[:1],
}
"""The most frequent expressions in filters, without RE2: a function with the same first match."""


class Pattern:
    """A compiled regular expression."""

    __slots__ = ("_compiled", "first", "found_in")

    def __init__(self, text: str) -> None:
        options = re2.Options()
        options.log_errors = False
        if _ONE_BYTE.search(text):
            raise PatternError(f"the regular expression {text!r}: invalid escape sequence: \\C")
        try:
            self._compiled = re2.compile(_bytes(text), options)
        except re2.error as error:
            reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
            raise PatternError(f"the regular expression {text!r}: {reason}") from None
        self.first: Callable[[str], str] = _WHOLE.get(text) or lru_cache(maxsize=1024)(self._first)
        """The leftmost match in a text; empty if there is none."""
        self.found_in: Callable[[str], bool] = lru_cache(maxsize=1024)(self._found_in)
        """Whether it matches anywhere in a text."""
        if text in _WHOLE and text != "(?s:.*)":
            self.found_in = lambda searched: bool(self.first(searched))

    def _found_in(self, text: str) -> bool:
        return self._compiled.search(_bytes(text)) is not None

    def _first(self, text: str) -> str:
        match = self._compiled.search(_bytes(text))
        return "" if match is None else _text(match.group())

    def all(self, text: str) -> list[str]:
        """Every match, from left to right."""
        return [_text(match.group()) for match in self._compiled.finditer(_bytes(text))]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(matched: bytes) -> str:
    return matched.decode("utf-8", "surrogatepass")


@lru_cache(maxsize=10_000)
def pattern(text: str) -> Pattern:
    """The regular expression, compiled once; PatternError if RE2 refuses it."""
    return Pattern(text)


def expand(text: str, named: Mapping[str, Any]) -> str:
    """The text with its names replaced, also names within their patterns; PatternError for an unknown name."""
    for _ in range(10):
        if "{{" not in text:
            break
        text, before = _NAME.sub(lambda match: _named(match.group(1), named), text), text
        if text == before:
            break
    return text


def _named(name: str, named: Mapping[str, Any]) -> str:
    if name not in named:
        raise PatternError(f"no pattern is named {{{{.{name}}}}}")
    return str(named[name])
