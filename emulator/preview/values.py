"""JSON values as the engine holds and prints them. The engine is written in Go."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

Json = Any
"""A decoded JSON value. A number without a fraction is an int: Go prints it without one."""


class _Missing:
    """No value at a path; unlike null, which is one."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WORDS = frozenset({"inf", "infinity", "nan"})
_EXACT = 2**53
"""Go's JSON decodes every number to float64. Whole numbers up to here keep all their digits."""
_UNSAFE = re.compile("[<>&\u2028\u2029]")
_encode = msgspec.json.Encoder().encode


def decode(text: str | bytes, key: Callable[[str], str] | None = None) -> Json:
    """The value of JSON text, with `key` applied to every key; ValueError if it is not JSON."""
    try:
        return as_go(msgspec.json.decode(text), key)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def as_go(value: Json, key: Callable[[str], str] | None = None) -> Json:
    """The value with its numbers as float64; those without a fraction as int."""
    kind = value.__class__
    if kind is str or kind is bool or value is None:
        return value
    if kind is dict:
        return {key(name) if key else name: as_go(item, key) for name, item in value.items()}
    return [as_go(item, key) for item in value] if kind is list else number(value)


def number(value: float) -> int | float:
    """A number as float64; an int if it has no fraction and every digit is exact."""
    if -_EXACT <= value <= _EXACT:
        return int(value) if float(value).is_integer() else value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def parse_number(text: str) -> float | None:
    """The number in a text, as Go's ParseFloat reads it; None if the text is not a number, or is beyond all floats."""
    is_word = text.lstrip("+-").lower() in _WORDS
    if not is_word and not _NUMBER.fullmatch(text):
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if is_word or math.isfinite(number) else None


def text_of(value: Json) -> str:
    """The value as text, as a JSON path library prints it: null is empty, an object or a list is its JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return to_json(value)


def to_json(value: Json) -> str:
    """Compact JSON, as Go writes it: sorted keys; `<`, `>` and `&` escaped."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{to_json(key)}:{to_json(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, list):
        return f"[{','.join(map(to_json, value))}]"
    if isinstance(value, float):
        return _float(value, smallest=-6, largest=21).replace("e-0", "e-")
    text = _encode(value).decode()
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text) if isinstance(value, str) else text


def printed(value: Json) -> str:
    """The value as Go's `%v` prints it: floats from a million on with an exponent."""
    return _float(value, smallest=-4, largest=6) if isinstance(value, float) else text_of(value)


def _float(value: float, *, smallest: int, largest: int) -> str:
    """A float with the fewest digits that identify it, and with an exponent outside the bounds."""
    if not math.isfinite(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    sign, digits, _ = Decimal(repr(value)).normalize().as_tuple()
    exponent = Decimal(repr(value)).adjusted()
    if smallest <= exponent < largest:
        return format(Decimal(repr(value)), "f").removesuffix(".0")
    first, rest = str(digits[0]), "".join(map(str, digits[1:]))
    return f"{'-' * sign}{first}{'.' * bool(rest)}{rest}e{exponent:+03d}"
