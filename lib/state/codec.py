"""The one codec of stored objects: a JSON object with a layout, read into a value whose every field is checked.

What it reads: objects of this version and of older ones (a field that an older version did not write gets its default),
and of newer ones of the same layout (unknown fields are ignored). What it refuses: a newer layout (LayoutError), and
anything else (DamagedError, which names the field).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Generic, NoReturn, TypeVar, get_args, get_type_hints

import msgspec

from lib.errors import DamagedError, LayoutError
from lib.model.clock import to_text
from lib.store.base import LAYOUT

T = TypeVar("T")

UNREADABLE = (DamagedError, LayoutError)
"""What reading an object raises where it is not one of this version's."""


class Codec(Generic[T]):
    """How values of one dataclass are stored.

    `later` names the fields that older versions did not write; each has a default, and is left out where it is None.
    `names` gives the stored name of a field where it is another one. `flat` gives, for a field that holds another
    dataclass, the stored name of each of its fields: they stand among the object's own.
    """

    def __init__(
        self,
        kind: type[T],
        what: str,
        *,
        later: Collection[str] = (),
        names: Mapping[str, str] | None = None,
        flat: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._kind = kind
        self.what = what
        self._names = {name: name for name in _fields(kind)} | dict(names or {})
        self._flat = dict(flat or {})
        self._later = frozenset(self._names[name] for name in later)
        for name in self._flat:
            del self._names[name]
        self._required = {*self._names.values(), *(each for inner in self._flat.values() for each in inner.values())}
        self._required -= self._later

    def encode(self, value: T) -> bytes:
        """The value as a stored object, one line."""
        return text_of(self.fields(value))

    def decode(self, body: bytes) -> T:
        """The value that an object holds; DamagedError where it holds none, LayoutError for a newer one."""
        return self.value(self.load(body))

    def fields(self, value: T) -> dict[str, Any]:
        """The value as JSON fields; times are still `datetime`."""
        found: dict[str, Any] = {"layout": LAYOUT}
        raw = msgspec.to_builtins(value, builtin_types=(datetime,))
        for name in self._flat:
            found |= {stored: raw[name][inner] for inner, stored in self._flat[name].items()}
        for name, stored in self._names.items():
            if raw[name] is not None or stored not in self._later:
                found[stored] = raw[name]
        return found

    def load(self, body: bytes) -> dict[str, Any]:
        """The fields of an object of a layout that this version reads; otherwise DamagedError or LayoutError."""
        try:
            found = _read(body)
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{self.what} cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise DamagedError(f"{self.what} cannot be read: it is no JSON object")
        layout = found.get("layout")
        if not isinstance(layout, int):
            raise DamagedError(f"{self.what} cannot be read: it names no layout")
        if layout > LAYOUT:
            raise LayoutError(f"{self.what} has layout {layout}; this version reads layouts up to {LAYOUT}")
        return found

    def value(self, stored: Mapping[str, Any]) -> T:
        """The value of such fields; DamagedError where one is missing, or of another type."""
        missing = self._required - stored.keys()
        if missing:
            raise DamagedError(f"{self.what} cannot be read: {', '.join(sorted(missing))} is missing")
        raw = {name: stored[each] for name, each in self._names.items() if each in stored}
        for name, names in self._flat.items():
            raw[name] = {inner: stored[each] for inner, each in names.items()}
        try:
            return _in_utc(msgspec.convert(raw, self._kind, strict=True))
        except ValueError as error:
            raise DamagedError(f"{self.what} cannot be read: {error}") from None


def text_of(stored: Mapping[str, Any]) -> bytes:
    """JSON fields as one line; lone halves of surrogate pairs survive."""
    return json.dumps(stored, ensure_ascii=False, default=to_text).encode("utf-8", "surrogatepass") + b"\n"


def _fields(kind: Any) -> list[str]:
    return [each.name for each in fields(kind)]


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except ValueError:
        # It reads no lone half of a surrogate pair.
        return json.loads(body, parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _in_utc(value: T) -> T:
    """The value with each time in UTC; ValueError for a time without zone."""
    changed: dict[str, Any] = {}
    for name in _timed(type(value)):  # type: ignore[arg-type] # to mypy a class is not hashable
        part = getattr(value, name)
        if isinstance(part, datetime):
            if part.tzinfo is None:
                raise ValueError(f"a time without zone: {name}")
            if part.tzinfo is not UTC:
                changed[name] = part.astimezone(UTC)
        elif part is not None and (inner := _in_utc(part)) is not part:
            changed[name] = inner
    return replace(value, **changed) if changed else value  # type: ignore[type-var]


@cache
def _timed(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass that hold a time, or another dataclass that does."""
    return tuple(
        name
        for name, hint in get_type_hints(kind).items()
        if any(
            part is datetime or (is_dataclass(part) and _timed(part))  # type: ignore[arg-type] # as above
            for part in (hint, *get_args(hint))
        )
    )
