"""The codec of all stored objects: a JSON object with a layout number, read into a dataclass with all types checked.

It reads objects of this version and of older versions, where a missing field gets its default. It also reads newer
versions with the same layout, where unknown fields are ignored. It refuses a newer layout (LayoutError) and anything
else (DamagedError, which names the field).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import cache
from threading import Lock
from typing import Any, Generic, NoReturn, TypeAlias, TypeVar, get_args, get_type_hints

import msgspec

from lib.errors import DamagedError, KeptError, LayoutError
from lib.model.clock import to_text
from lib.store.base import LAYOUT

T = TypeVar("T")

Names: TypeAlias = "Mapping[str, str | Names]"
_Plan: TypeAlias = "tuple[tuple[str, str | _Plan], ...]"

_LEARNING = Lock()

UNREADABLE = (DamagedError, KeptError)
"""The errors of `decode` for an object that this version cannot read."""


class Codec(Generic[T]):
    """Encodes and decodes values of one dataclass.

    `label` names the kind of object in errors. `names` maps fields to other stored names. A field that it maps to a
    mapping is inlined: it holds another dataclass, and that one's fields are stored among the object's own, under the
    names of the mapping. `later` holds the stored names that older versions did not write. Each has a default, and is
    not stored while it is None. `layout` is the newest layout that this version reads, and the one that it writes.
    """

    def __init__(
        self,
        kind: type[T],
        label: str,
        *,
        later: Collection[str] = (),
        names: Mapping[str, str | Names] | None = None,
        layout: int = LAYOUT,
    ) -> None:
        self._kind = kind
        self.label = label
        self.layout = layout
        self._later = frozenset(later)
        self._plan = _plan(kind, names or {})
        self._places = dict(_places(self._plan))
        stored_names = {"layout", *self._places.values()}
        if len(stored_names) <= len(self._places) or not self._later <= stored_names:
            raise ValueError(f"{label}: two fields have one stored name, or a later one is not stored")
        self._required = stored_names - self._later
        self._place = re.compile(rf"\$\.({'|'.join(map(re.escape, self._places))})\b")
        # msgspec stores what it learns of a class on the class, where other threads see it before it is complete. Two
        # threads that read the first objects of a kind at once would crash the process.
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
        stored_fields: dict[str, Any] = {"layout": self.layout}
        self._put(msgspec.to_builtins(value, builtin_types=(datetime,)), self._plan, stored_fields)
        return stored_fields

    def _put(self, raw: Mapping[str, Any], plan: _Plan, stored_fields: dict[str, Any]) -> None:
        for name, stored in plan:
            if not isinstance(stored, str):
                self._put(raw[name], stored, stored_fields)
            elif raw[name] is not None or stored not in self._later:
                stored_fields[stored] = raw[name]

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
        if layout > self.layout:
            raise LayoutError(f"{self.label} has layout {layout}; this version reads layouts up to {self.layout}")
        return stored

    def value(self, stored: Mapping[str, Any]) -> T:
        """The value of JSON fields; DamagedError if a field is missing or has another type."""
        missing = self._required - stored.keys()
        if missing:
            raise DamagedError(f"{self.label} cannot be read: {', '.join(sorted(missing))} is missing")
        try:
            return _in_utc(msgspec.convert(_grouped(stored, self._plan), self._kind, strict=True, str_keys=True))
        except ValueError as error:
            raise DamagedError(f"{self.label} cannot be read: {self._in_stored_names(error)}") from None

    def _in_stored_names(self, error: ValueError) -> str:
        """The error's text. msgspec names a field by its place in the value; people look for it in the object."""
        return self._place.sub(lambda match: f"$.{self._places[match[1]]}", str(error))


def text_of(stored: Mapping[str, Any]) -> bytes:
    """JSON fields as one line; lone surrogates are kept."""
    return json.dumps(stored, ensure_ascii=False, default=to_text).encode("utf-8", "surrogatepass") + b"\n"


def _plan(kind: Any, names: Mapping[str, str | Names]) -> _Plan:
    """The fields in their order, each with its stored name, or with the plan of the dataclass that is inlined."""
    hints = get_type_hints(kind)
    places = {field.name: names.get(field.name, field.name) for field in fields(kind)}
    return tuple((name, at if isinstance(at, str) else _plan(hints[name], at)) for name, at in places.items())


def _places(plan: _Plan, above: str = "") -> Iterator[tuple[str, str]]:
    """Each field's place in the value, as in `counts.events`, and its stored name."""
    for name, stored in plan:
        if isinstance(stored, str):
            yield above + name, stored
        else:
            yield from _places(stored, f"{above}{name}.")


def _grouped(stored: Mapping[str, Any], plan: _Plan) -> dict[str, Any]:
    """The stored fields in the groups of the value."""
    raw: dict[str, Any] = {}
    for name, at in plan:
        if not isinstance(at, str):
            raw[name] = _grouped(stored, at)
        elif at in stored:
            raw[name] = stored[at]
    return raw


def _read(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except ValueError:
        # msgspec refuses lone surrogates; the standard library reads them.
        return json.loads(body, parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _in_utc(value: T, place: str = "$") -> T:
    """The value with all times in UTC; ValueError for a time without a zone, or that UTC cannot express."""
    changed: dict[str, Any] = {}
    for name in _timed(type(value)):  # type: ignore[arg-type] # to mypy a class is not hashable
        part = getattr(value, name)
        if isinstance(part, datetime):
            if part.tzinfo is None:
                raise ValueError(f"a time without a zone at `{place}.{name}`")
            if part.tzinfo is not UTC:
                try:
                    changed[name] = part.astimezone(UTC)
                except OverflowError:
                    raise ValueError(f"a time outside the years 1 to 9999 at `{place}.{name}`") from None
        elif part is not None and (inner := _in_utc(part, f"{place}.{name}")) is not part:
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
