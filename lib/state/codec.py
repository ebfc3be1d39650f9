"""The codec of all stored objects: a JSON object with a layout number, read into a dataclass with all types checked.

It reads objects of this version, of older versions (a missing field gets its default) and of newer versions with the
same layout (unknown fields are ignored). It refuses a newer layout (LayoutError) and anything else (DamagedError, which
names the field).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import Any, Generic, NoReturn, TypeVar, get_args, get_type_hints

import msgspec

from lib.errors import DamagedError, LayoutError
from lib.model.clock import to_text
from lib.store.base import LAYOUT

T = TypeVar("T")

_LEARNING = Lock()

UNREADABLE = (DamagedError, LayoutError)
"""The errors of `decode` for an object that this version cannot read."""


class Codec(Generic[T]):
    """Encodes and decodes values of one dataclass.

    `label` names the kind of object in errors. `later` names the fields that older versions did not write: each has a
    default, and is not stored while it is None. `names` maps fields to other stored names. `flat` maps a field that
    holds another dataclass to the stored names of that dataclass's fields, which are stored among the object's own.
    """

    def __init__(
        self,
        kind: type[T],
        label: str,
        *,
        later: Collection[str] = (),
        names: Mapping[str, str] | None = None,
        flat: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._kind = kind
        self.label = label
        self._names = {name: name for name in _fields(kind)} | dict(names or {})
        self._flat = dict(flat or {})
        self._later = frozenset(self._names[name] for name in later)
        for name in self._flat:
            del self._names[name]
        self._required = {*self._names.values(), *(name for inner in self._flat.values() for name in inner.values())}
        self._required -= self._later
        # msgspec keeps what it learns of a class on the class, and shows it to other threads before it is complete:
        # two threads that read the first objects of a kind at the same time would crash the process.
        with _LEARNING:
            msgspec.json.Decoder(kind)

    def encode(self, value: T) -> bytes:
        """The value as a stored object: one line of JSON."""
        return text_of(self.fields(value))

    def decode(self, body: bytes) -> T:
        """The value of a stored object; DamagedError if it is damaged, LayoutError for a newer layout."""
        return self.value(self.load(body))

    def fields(self, value: T) -> dict[str, Any]:
        """The value as JSON fields; times are still `datetime`."""
        stored_fields: dict[str, Any] = {"layout": LAYOUT}
        raw = msgspec.to_builtins(value, builtin_types=(datetime,))
        for name in self._flat:
            stored_fields |= {stored: raw[name][inner] for inner, stored in self._flat[name].items()}
        for name, stored in self._names.items():
            if raw[name] is not None or stored not in self._later:
                stored_fields[stored] = raw[name]
        return stored_fields

    def load(self, body: bytes) -> dict[str, Any]:
        """The JSON fields of a stored object. Only the layout is checked; DamagedError, LayoutError as `decode`."""
        try:
            stored = _read(body)
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{self.label} cannot be read: {error}") from None
        if not isinstance(stored, dict):
            raise DamagedError(f"{self.label} cannot be read: it is not a JSON object")
        layout = stored.get("layout")
        if not isinstance(layout, int):
            raise DamagedError(f"{self.label} cannot be read: it has no layout number")
        if layout > LAYOUT:
            raise LayoutError(f"{self.label} has layout {layout}; this version reads layouts up to {LAYOUT}")
        return stored

    def value(self, stored: Mapping[str, Any]) -> T:
        """The value of JSON fields; DamagedError if a field is missing or has another type."""
        missing = self._required - stored.keys()
        if missing:
            raise DamagedError(f"{self.label} cannot be read: {', '.join(sorted(missing))} is missing")
        raw = {name: stored[stored_name] for name, stored_name in self._names.items() if stored_name in stored}
        for name, names in self._flat.items():
            raw[name] = {inner: stored[stored_name] for inner, stored_name in names.items()}
        try:
            return _in_utc(msgspec.convert(raw, self._kind, strict=True))
        except ValueError as error:
            raise DamagedError(f"{self.label} cannot be read: {error}") from None


def text_of(stored: Mapping[str, Any]) -> bytes:
    """JSON fields as one line; lone surrogates are kept."""
    return json.dumps(stored, ensure_ascii=False, default=to_text).encode("utf-8", "surrogatepass") + b"\n"


def _fields(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except ValueError:
        # msgspec refuses lone surrogates; the standard library reads them.
        return json.loads(body, parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _in_utc(value: T) -> T:
    """The value with all times in UTC; ValueError for a time without a zone."""
    changed: dict[str, Any] = {}
    for name in _timed(type(value)):  # type: ignore[arg-type] # to mypy a class is not hashable
        part = getattr(value, name)
        if isinstance(part, datetime):
            if part.tzinfo is None:
                raise ValueError(f"a time without a zone: {name}")
            if part.tzinfo is not UTC:
                changed[name] = part.astimezone(UTC)
        elif part is not None and (inner := _in_utc(part)) is not part:
            changed[name] = inner
    return replace(value, **changed) if changed else value  # type: ignore[type-var]


@cache
def _timed(kind: type) -> tuple[str, ...]:
    """The names of a dataclass's fields that hold a time, or a dataclass with one."""
    return tuple(
        name
        for name, hint in get_type_hints(kind).items()
        if any(
            part is datetime or (is_dataclass(part) and _timed(part))  # type: ignore[arg-type] # as above
            for part in (hint, *get_args(hint))
        )
    )
