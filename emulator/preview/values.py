"""JSON values as the engine holds and prints them. The engine is written in Go."""

from __future__ import annotations

import math
import re
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
_NUMBER = re.compile(r"[+-]?(\d(_?\d)*(\.(\d(_?\d)*)?)?|\.\d(_?\d)*)([eE][+-]?\d(_?\d)*)?", re.ASCII)
_HEX = re.compile(r"[+-]?0[xX]_?[\da-fA-F](_?[\da-fA-F])*(\.[\da-fA-F]*)?[pP][+-]?\d+", re.ASCII)
_WORD = re.compile(r"[+-]?inf(inity)?|nan", re.IGNORECASE | re.ASCII)
_EXACT = 2**53
"""Go's JSON decodes every number to float64. Whole numbers up to here keep all their digits."""
_UNSAFE = re.compile("[<>&\u2028\u2029]")
_encode = msgspec.json.Encoder().encode


def decode(text: str | bytes) -> Json:
    """The value of JSON text; ValueError if it is not JSON."""
    try:
        return as_go(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def as_go(value: Json) -> Json:
    """The value with its numbers as float64; those without a fraction as int."""
    kind = value.__class__
    if kind is str or kind is bool or value is None:
        return value
    if kind is dict:
        return {name: as_go(item) for name, item in value.items()}
    return [as_go(item) for item in value] if kind is list else number(value)


def as_cel(value: Json) -> Json:
    """The value as an expression gets it: every number is a float."""
    kind = value.__class__
    if kind is dict:
        return {name: as_cel(item) for name, item in value.items()}
    if kind is list:
        return [as_cel(item) for item in value]
    return float(value) if kind is int else value


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
    if _WORD.fullmatch(text):
        return float(text)
    plain = text.replace("_", "")
    try:
        parsed = float(plain) if _NUMBER.fullmatch(text) else float.fromhex(plain) if _HEX.fullmatch(text) else math.inf
    except OverflowError:
        return None
    return parsed if math.isfinite(parsed) else None


def text_of(value: Json) -> str:
    """The value as text, as a JSON path library prints it: null is empty, an object or a list is its JSON.

    A float has no exponent.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        return format(Decimal(repr(value)), "f").removesuffix(".0")
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
