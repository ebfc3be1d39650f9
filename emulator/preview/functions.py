"""The functions that UTMStack adds to CEL. Each takes a path in quotes, and tests the value there.

They work as in the public SDK (github.com/threatwinds/go-sdk, plugins/cel_overloads.go). A path without a value gives
false, not an error. Text functions search the JSON of an object or a list. A text that is a number compares as a
number.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from emulator.preview.patterns import PatternError, pattern
from emulator.preview.values import MISSING, Json, parse_number, text_of, to_json

Answer = Callable[[Json, tuple[Any, ...]], Any]
_CLOCK = re.compile(r"(\d|[01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT)(\d{1,2})(:\d\d:\d\d)(?:[.,]\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


class _Failure:
    """A call that fails because of an operand's type or a missing value."""

    def __repr__(self) -> str:
        return "FAILURE"


FAILURE = _Failure()


@dataclass(frozen=True, slots=True)
class PreviewFunction:
    """A function, with the allowed kinds of each argument after the path."""

    answer: Answer
    takes: tuple[frozenset[str], ...]
    says: str = ""
    """The test in words, with `{}` for the argument."""

    def bound(self, args: tuple[Any, ...]) -> Callable[[Json], Any]:
        """The function with its arguments bound. Comparing with text that is not a number has a fast path."""
        wanted = args[0] if args else None
        words = wanted if isinstance(wanted, (list, tuple)) else [wanted]
        if self.answer in _COMPARING and all(isinstance(word, str) and parse_number(word) is None for word in words):
            wanted_words, answer = frozenset(words), self.answer
            return lambda value: value in wanted_words if value.__class__ is str else answer(value, args)
        return partial(_apply, self.answer, args)


def _apply(answer: Answer, args: tuple[Any, ...], value: Json) -> Any:
    return answer(value, args)


class Unsigned(int):
    """An unsigned whole number, such as `7u`."""


def kind_of(value: Any) -> str:
    """An argument's kind: text, bool, int, uint, double, list (of text only) or mixed (a list of anything)."""
    if isinstance(value, (list, tuple)):
        return "list" if all(isinstance(item, str) for item in value) else "mixed"
    names = {str: "text", bool: "bool", int: "int", Unsigned: "uint", float: "double"}
    return names.get(type(value), "other")


def text_in(value: Json) -> str | None:
    """The searchable text of a value; None for a number, a bool, null or a missing value."""
    if isinstance(value, str):
        return value
    return to_json(value) if isinstance(value, (dict, list)) else None


def numeric(value: Json) -> float | None:
    """The value as a number, also from text; None for other values."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return value
    return parse_number(value) if isinstance(value, str) else None


def same(value: Json, wanted: Any) -> bool:
    """Whether a value equals a literal: as numbers if both are numbers, otherwise as text."""
    if value is MISSING:
        return False
    mine, other = numeric(value), numeric(wanted)
    if mine is not None and other is not None:
        return mine == other
    if isinstance(value, bool) and isinstance(wanted, bool):
        return value is wanted
    return isinstance(wanted, str) and not isinstance(value, (dict, list)) and text_of(value) == wanted


def _text(test: Callable[[str, str], bool], combine: Callable[[Any], bool] = any) -> Answer:
    def answer(value: Json, args: tuple[Any, ...]) -> bool:
        text = text_in(value)
        if text is None:
            return False
        wanted = args[0]
        return test(text, wanted) if isinstance(wanted, str) else combine(test(text, word.strip()) for word in wanted)

    return answer


def _compare(test: Callable[[float, float], bool]) -> Answer:
    def answer(value: Json, args: tuple[Any, ...]) -> bool:
        mine, other = numeric(value), numeric(args[0])
        return mine is not None and other is not None and test(mine, other)

    return answer


def _moment(test: Callable[[datetime, tuple[Any, ...]], bool]) -> Answer:
    def answer(value: Json, args: tuple[Any, ...]) -> bool:
        moment = None if value is MISSING else parse_time(text_of(value))
        return moment is not None and test(moment, args)

    return answer


@lru_cache(maxsize=4096)
def parse_time(text: str) -> datetime | None:
    """The time of an RFC 3339 text, in its own zone; None for any other text."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, hour, rest, zone = match.groups()
    try:
        return datetime.fromisoformat(f"{day}{hour:0>2}{rest}{zone}")
    except ValueError:
        return None


def _between(moment: datetime, args: tuple[Any, ...]) -> bool:
    bounds = [_CLOCK.fullmatch(arg) for arg in args]
    minutes = [int(bound.group(1)) * 60 + int(bound.group(2)) for bound in bounds if bound is not None]
    if len(minutes) < 2:
        return False
    now = moment.hour * 60 + moment.minute
    start, end = minutes
    return start <= now <= end if start <= end else now >= start or now <= end


def _regex(value: Json, args: tuple[Any, ...]) -> bool:
    text = text_in(value)
    try:
        return text is not None and pattern(args[0]).found_in(text)
    except PatternError:
        return False


def _fold(value: Json, args: tuple[Any, ...]) -> bool:
    wanted = args[0]
    if not isinstance(value, str) or len(value) != len(wanted):
        return False
    return value == wanted or all(
        a == b or a.lower() == b.lower() or a.upper() == b.upper() for a, b in zip(value, wanted, strict=True)
    )


@lru_cache(maxsize=4096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


@lru_cache(maxsize=4096)
def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network in a text; None if it is not a network. IPv4 addresses as IPv6 are an IPv4 network."""
    try:
        subnet = ipaddress.ip_network(text, strict=False) if re.search(r"/\d+$", text) else None
    except ValueError:
        return None
    if isinstance(subnet, ipaddress.IPv6Network) and subnet.network_address.ipv4_mapped and subnet.prefixlen >= 96:
        return ipaddress.IPv4Network((subnet.network_address.ipv4_mapped, subnet.prefixlen - 96))
    return subnet


def _in_network(value: Json, args: tuple[Any, ...]) -> bool:
    if not isinstance(value, str):
        return False
    address, inside = _address(value), network(args[0])
    return address is not None and inside is not None and address.version == inside.version and address in inside


def _safe(value: Json, args: tuple[Any, ...]) -> Any:
    default = args[0]
    if isinstance(default, bool):
        return value if isinstance(value, bool) else default
    if isinstance(default, float):
        parsed = numeric(value)
        return default if parsed is None else float(parsed)
    return value if isinstance(value, str) else default


def _listed(value: Json, args: tuple[Any, ...]) -> bool:
    return isinstance(value, str) and value in [word.strip() for word in args[0].split(",")]


def _plain_text(test: Callable[[str, str], bool]) -> Answer:
    def answer(value: Json, args: tuple[Any, ...]) -> bool:
        return isinstance(value, str) and any(test(value, word.strip()) for word in args[0])

    return answer


def _one_number(value: Json, args: tuple[Any, ...]) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and any(value == number for number in args[0])


def _value(value: Json, _: tuple[Any, ...]) -> Any:
    return FAILURE if value is MISSING else value


def _equal(value: Json, args: tuple[Any, ...]) -> bool:
    return same(value, args[0])


def _one_of(value: Json, args: tuple[Any, ...]) -> bool:
    return any(same(value, arg) for arg in args[0])


_COMPARING = {_equal, _one_of}
TEXT = frozenset({"text"})
_TEXTS = frozenset({"text", "list"})
_LISTS = frozenset({"list"})
_NUMBERS = frozenset({"text", "int", "double"})
_EQUAL = PreviewFunction(_equal, (frozenset({"text", "int", "double", "bool"}),), "is {}")
_STARTS = _text(str.startswith)
_ENDS = _text(str.endswith)
_HOLDS = _text(lambda text, part: part in text)
FUNCTIONS = {
    "exists": PreviewFunction(lambda value, _: value is not MISSING, (), "is there"),
    "safe": PreviewFunction(_safe, (frozenset({"text", "double", "bool"}),)),
    "equals": _EQUAL,
    "equalsIgnoreCase": PreviewFunction(_fold, (TEXT,), "is {} in any case"),
    "oneOf": PreviewFunction(_one_of, (frozenset({"list", "mixed"}),), "is one of {}"),
    "contains": PreviewFunction(_HOLDS, (_TEXTS,), "contains {}"),
    "containsAll": PreviewFunction(_text(lambda text, part: part in text, all), (_LISTS,), "contains all of {}"),
    "startsWith": PreviewFunction(_STARTS, (_TEXTS,), "starts with {}"),
    "endsWith": PreviewFunction(_ENDS, (_TEXTS,), "ends with {}"),
    "regexMatch": PreviewFunction(_regex, (TEXT,), "matches {}"),
    "inCIDR": PreviewFunction(_in_network, (TEXT,), "is an address in {}"),
    "lessThan": PreviewFunction(_compare(lambda a, b: a < b), (_NUMBERS,), "is less than {}"),
    "lessOrEqual": PreviewFunction(_compare(lambda a, b: a <= b), (_NUMBERS,), "is at most {}"),
    "greaterThan": PreviewFunction(_compare(lambda a, b: a > b), (_NUMBERS,), "is more than {}"),
    "greaterOrEqual": PreviewFunction(_compare(lambda a, b: a >= b), (_NUMBERS,), "is at least {}"),
    "isHour": PreviewFunction(_moment(lambda at, args: at.hour == args[0]), (frozenset({"int"}),), "is in hour {}"),
    "isMinute": PreviewFunction(
        _moment(lambda at, args: at.minute == args[0]), (frozenset({"int"}),), "is in minute {}"
    ),
    "isDayOfWeek": PreviewFunction(
        _moment(lambda at, args: at.isoweekday() % 7 == args[0]), (frozenset({"int"}),), "is on weekday {}"
    ),
    "isWeekend": PreviewFunction(_moment(lambda at, _: at.isoweekday() > 5), (), "is on a weekend"),
    "isWorkDay": PreviewFunction(_moment(lambda at, _: at.isoweekday() <= 5), (), "is on a work day"),
    "isBetweenTime": PreviewFunction(_moment(_between), (TEXT, TEXT), "is between {}"),
    # Names of versions in between: these look at text or numbers alone.
    "containsAny": PreviewFunction(_plain_text(lambda text, part: part in text), (_LISTS,), "contains {}"),
    "startsWithList": PreviewFunction(_plain_text(str.startswith), (_LISTS,), "starts with {}"),
    "endsWithList": PreviewFunction(_plain_text(str.endswith), (_LISTS,), "ends with {}"),
    "oneOfInt": PreviewFunction(_one_number, (frozenset({"mixed"}),), "is one of {}"),
    "oneOfDouble": PreviewFunction(_one_number, (frozenset({"mixed"}),), "is one of {}"),
    # Names of the first versions.
    "equal": PreviewFunction(lambda value, args: isinstance(value, str) and value == args[0], (TEXT,), "is {}"),
    "lowerEqual": PreviewFunction(_fold, (TEXT,), "is {} in any case"),
    "contain": PreviewFunction(lambda value, args: isinstance(value, str) and args[0] in value, (TEXT,), "contains {}"),
    "inList": PreviewFunction(_listed, (TEXT,), "is one of {}"),
    "startWith": PreviewFunction(lambda value, args: isinstance(value, str) and value.startswith(args[0]), (TEXT,)),
    "endWith": PreviewFunction(lambda value, args: isinstance(value, str) and value.endswith(args[0]), (TEXT,)),
}
"""Every documented function by name."""
FIRST_NAMES = frozenset({"equal", "lowerEqual", "contain", "inList", "startWith", "endWith"})
"""Names of the first versions, which did not rewrite an expression before they compiled it."""
VALUE = PreviewFunction(_value, ())
"""The function for a field without quotes."""
