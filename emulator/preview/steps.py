"""The steps of a filter. Each is compiled once into a function that changes a draft.

They work as the public sources of the engine's plugins, with their oddities: `rename` turns an object into text.
`grok` writes nothing unless all its patterns match one after the other. `json` removes all characters of an outermost
key except letters and digits. `docs/preview.md` names the sources.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any

from emulator.preview.conditions import Condition, of_bag
from emulator.preview.draft import Draft
from emulator.preview.layouts import reformat
from emulator.preview.paths import UnsupportedPathError, reader
from emulator.preview.patterns import PatternError, expand, pattern
from emulator.preview.values import MISSING, Json, as_go, decode, parse_number, printed, text_of
from lib.model.text import several

Do = Callable[[Draft], None]
RESERVED = frozenset({"raw", "@timestamp"})
_TRUE, _FALSE = (
    frozenset({"1", "t", "T", "TRUE", "true", "True"}),
    frozenset({"0", "f", "F", "FALSE", "false", "False"}),
)
_INT64 = 2**63
_UNNAMED = re.compile(r"[^a-zA-Z0-9.]")
_UNNAMED_NEWER = re.compile(r"[^a-zA-Z0-9._]")


class StepError(ValueError):
    """A step that cannot be evaluated, or that the engine would refuse."""


class DroppedError(Exception):
    """The filter drops the event."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The differences between versions of the engine."""

    bag: str = "log"
    keeps_underscores: bool = False
    """Of the vendor's keys; versions before go-sdk 1.1.35 keep none."""
    patterns: Mapping[str, str] = field(default_factory=dict)

    def key(self, text: str) -> str:
        """A field's name as the engine keeps it."""
        return (_UNNAMED_NEWER if self.keeps_underscores else _UNNAMED).sub("", text)

    def written(self, path: str) -> str:
        """A path that a step writes, as the engine keeps it."""
        return of_bag(self.key(path), self.bag)


@dataclass(frozen=True, slots=True)
class FilterStep:
    """One step of a filter. `fault` is the reason why it does not run here."""

    kind: str
    where: str
    """Its file, line and number, for people."""
    condition: Condition | None
    do: Do | None
    fault: str = ""
    makes: str = ""
    """The field that it would write, if it does not run here."""


def compile_step(
    kind: str, body: Mapping[str, Any], where: str, condition: Condition | None, dialect: Dialect
) -> FilterStep:
    """The compiled step. If it cannot run here, it has a `fault` instead of a function."""
    makes = ""
    try:
        if kind == "dynamic":
            makes = of_bag(str(_params(body).get("destination", "")), dialect.bag)
        do = _KINDS.get(kind, partial(_unknown, kind))(body, dialect)
    except (StepError, PatternError, UnsupportedPathError) as error:
        return FilterStep(kind, where, condition, None, str(error), makes)
    return FilterStep(kind, where, condition, do)


def _json(body: Mapping[str, Any], dialect: Dialect) -> Do:
    source = _source(body, dialect, "raw")
    key = lru_cache(maxsize=10_000)(dialect.key)

    def do(draft: Draft) -> None:
        try:
            document = decode(_text_at(draft, source))
        except ValueError as error:
            raise StepError(f"{source} is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise StepError(f"{source} is not a JSON object")
        named = {key(name): value for name, value in document.items()}
        draft.fill(dialect.bag, {name: value for name, value in named.items() if name and "." not in name})
        for name, value in named.items():
            if name.strip(".") and "." in name:  # A dot within a key is one more level.
                draft.put(f"{dialect.bag}.{name}", value)

    return do


def _rename(body: Mapping[str, Any], dialect: Dialect) -> Do:
    to = _target(body, "to", dialect)
    sources = _changed(body, "from", dialect)

    def do(draft: Draft) -> None:
        for source in sources:
            value = draft.get(source)
            if value is not MISSING:
                draft.put(to, _plain(value))
                draft.remove(source)

    return do


def _plain(value: Json) -> Json:
    """A value as the engine copies it: an object or a list becomes its JSON, null becomes empty text."""
    return text_of(value) if value is None or isinstance(value, (dict, list)) else value


def _cast(body: Mapping[str, Any], dialect: Dialect) -> Do:
    to = body.get("to")
    if to not in _CASTS:
        raise StepError(f"cast to {to!r}: the engine casts only to {', '.join(_CASTS)}")
    fields, cast = _changed(body, "fields", dialect), _CASTS[to]

    def do(draft: Draft) -> None:
        for path in fields:
            value = draft.get(path)
            if value is not MISSING:
                draft.put(path, cast(value))

    return do


def _as_int(value: Json) -> int:
    if isinstance(value, (int, float)):
        return int(value) if not isinstance(value, bool) and abs(value) < _INT64 else 0
    parsed = int(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value, re.ASCII) else 0
    return parsed if -_INT64 <= parsed < _INT64 else 0


def _as_float(value: Json) -> Json:
    if isinstance(value, bool):
        return 0
    parsed = value if isinstance(value, (int, float)) else parse_number(value) if isinstance(value, str) else None
    return 0 if parsed is None else int(parsed) if float(parsed).is_integer() else parsed


def _as_bool(value: Json) -> bool:
    return value in _TRUE if isinstance(value, str) else bool(value) and not isinstance(value, (dict, list))


def _as_text(value: Json) -> str:
    return printed(value) if isinstance(value, float) else text_of(value)


def _as_texts(value: Json) -> list[str]:
    return [_as_text(item) for item in value] if isinstance(value, list) else [_as_text(value)]


_CASTS: dict[Any, Callable[[Json], Json]] = {
    "int": _as_int,
    "float": _as_float,
    "string": _as_text,
    "bool": _as_bool,
    "[]string": _as_texts,
}


def _delete(body: Mapping[str, Any], dialect: Dialect) -> Do:
    fields = _changed(body, "fields", dialect)

    def do(draft: Draft) -> None:
        for path in fields:
            draft.remove(path)

    return do


def _grok(body: Mapping[str, Any], dialect: Dialect) -> Do:
    source = _source(body, dialect, "raw")
    entries = body.get("patterns")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and entry.get("pattern") for entry in entries):
        raise StepError("grok needs `patterns`, each with a `pattern`")
    named = [(dialect.written(str(entry.get("fieldName") or "")), entry["pattern"]) for entry in entries]
    patterns = [(name, pattern(expand(str(text), dialect.patterns))) for name, text in named]
    for name, _ in patterns:
        _check_written(name)

    def do(draft: Draft) -> None:
        value = draft.get(source)
        rest = "" if value is MISSING else text_of(value)
        captured: list[tuple[str, str]] = []
        for name, compiled in patterns:
            rest = rest.strip()
            match = compiled.first(rest) if rest else ""
            if not match or not rest.startswith(match):
                return
            captured.append((name, match.strip()))
            rest = rest.removeprefix(match)
        for name, text in captured:
            if name:
                draft.put(name, text)

    return do


def _kv(body: Mapping[str, Any], dialect: Dialect) -> Do:
    source = _source(body, dialect, "raw")
    fields, values = str(body.get("fieldSplit") or " "), str(body.get("valueSplit") or "=")

    def do(draft: Draft) -> None:
        for item in _text_at(draft, source).strip().split(fields):
            key, separator, value = item.partition(values)
            name = dialect.key(key)
            if separator and name.strip("."):
                draft.put(f"{dialect.bag}.{name}", value.strip())

    return do


def _csv(body: Mapping[str, Any], dialect: Dialect) -> Do:
    source, separator = _source(body, dialect, "raw"), str(body.get("separator") or ",")
    headers = [dialect.written(str(header or "")) for header in _list(body, "headers")]

    def do(draft: Draft) -> None:
        text = _text_at(draft, source)
        rows = csv.reader([text], delimiter=separator) if len(separator) == 1 else iter([text.split(separator)])
        columns = next(rows, [])
        if len(columns) > len(headers):
            raise StepError(f"{source} has {several(len(columns), 'column')} for {several(len(headers), 'header')}")
        for name, value in zip(headers, columns, strict=False):
            if name:
                draft.put(name, value.strip())

    return do


def _trim(body: Mapping[str, Any], dialect: Dialect) -> Do:
    fields = _changed(body, "fields", dialect)
    function, cut = body.get("function"), str(body.get("substring") or "")
    if function not in {"prefix", "suffix", "substring", "regex"}:
        raise StepError(f"trim has no function {function!r}; its functions are prefix, suffix, substring and regex")
    matched = pattern(expand(cut, dialect.patterns)) if function == "regex" else None

    def trimmed(text: str) -> str | None:
        """The text without its part; None if a regular expression matches nothing: the engine writes nothing then."""
        if function == "prefix":
            return text.removeprefix(cut)
        if function == "suffix":
            return text.removesuffix(cut)
        parts = [cut] if matched is None else matched.all(text)
        for part in parts:
            text = text.replace(part, "") if part else text
        return text if parts else None

    def do(draft: Draft) -> None:
        for path in fields:
            value = draft.get(path)
            text = trimmed(text_of(value).strip()) if value is not MISSING and text_of(value) else None
            if text is not None:
                draft.put(path, text.strip())

    return do


def _add(body: Mapping[str, Any], dialect: Dialect) -> Do:
    params = _params(body)
    if body.get("function") != "string":
        raise StepError(f"add has no known function {body.get('function')!r}; its function is string")
    key = _target(params, "key", dialect)
    if "value" not in params:
        raise StepError("add needs a value")
    value = _as_text(params["value"])
    return lambda draft: draft.put(key, value)


def _reformat(body: Mapping[str, Any], dialect: Dialect) -> Do:
    if body.get("function") != "time":
        raise StepError(f"reformat has no known function {body.get('function')!r}; its function is time")
    fields = _changed(body, "fields", dialect)
    before, after = str(body.get("fromFormat") or ""), str(body.get("toFormat") or "")

    def do(draft: Draft) -> None:
        for path in fields:
            value = draft.get(path)
            if value is MISSING:
                continue
            try:
                draft.put(path, reformat(text_of(value), before, after))
            except (ValueError, OverflowError) as error:
                raise StepError(f"{path}: {error}") from None

    return do


def _expand(body: Mapping[str, Any], dialect: Dialect) -> Do:
    source, to = _source(body, dialect, ""), _target(body, "to", dialect)

    def do(draft: Draft) -> None:
        value = draft.get(source)
        if value is MISSING:
            return
        try:
            parsed = decode(value) if isinstance(value, str) else as_go(value)
            named = {dialect.key(name): item for name, item in parsed.items()} if isinstance(parsed, dict) else parsed
            draft.put(to, named)
        except ValueError as error:
            raise StepError(f"{source} is not JSON: {error}") from None

    return do


def _drop(body: Mapping[str, Any], _dialect: Dialect) -> Do:
    if not body.get("where"):
        raise StepError("the engine drops no event without a `where`")

    def do(_draft: Draft) -> None:
        raise DroppedError

    return do


_KINDS: dict[str, Callable[[Mapping[str, Any], Dialect], Do]] = {
    "json": _json,
    "rename": _rename,
    "cast": _cast,
    "delete": _delete,
    "grok": _grok,
    "kv": _kv,
    "csv": _csv,
    "trim": _trim,
    "add": _add,
    "reformat": _reformat,
    "expand": _expand,
    "drop": _drop,
}


def _unknown(kind: str, body: Mapping[str, Any], _dialect: Dialect) -> Do:
    if kind == "dynamic":
        raise StepError(f"the plugin {body.get('plugin') or 'without a name'} does not run here")
    if kind == "where":
        raise StepError(
            "the engine ignores a `where` beside a step and always runs the step: write the `where` within the step"
        )
    near = get_close_matches(kind, _KINDS, 1)
    raise StepError(f"unknown step {kind!r}{f'; did you mean {near[0]!r}?' if near else ''}")


def _text_at(draft: Draft, path: str) -> str:
    value = draft.get(path)
    if value is MISSING:
        raise StepError(f"there is no {path}")
    return text_of(value)


def _source(body: Mapping[str, Any], dialect: Dialect, default: str) -> str:
    path = of_bag(str(body.get("source") or default), dialect.bag)
    if not path:
        raise StepError("the step names no source")
    reader(path)
    return path


def _target(body: Mapping[str, Any], name: str, dialect: Dialect) -> str:
    path = dialect.written(str(body.get(name) or ""))
    if not path:
        raise StepError(f"the step has no {name!r}")
    _check_written(path)
    return path


def _check_written(path: str) -> None:
    if path in RESERVED:
        raise StepError(f"no step can change {path!r}, so the engine does nothing of this one")


def _paths(body: Mapping[str, Any], name: str, dialect: Dialect) -> list[str]:
    paths = [of_bag(str(path), dialect.bag) for path in _list(body, name)]
    if not paths:
        raise StepError(f"the step's list {name!r} is empty")
    for path in paths:
        reader(path)
    return paths


def _changed(body: Mapping[str, Any], name: str, dialect: Dialect) -> list[str]:
    """The paths of values that the step changes. The engine undoes the whole step if one of them is reserved."""
    paths = _paths(body, name, dialect)
    for path in paths:
        _check_written(path)
    return paths


def _list(body: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = body.get(name)
    if isinstance(value, str):
        return [value]
    return value if isinstance(value, list) else []


def _params(body: Mapping[str, Any]) -> Mapping[str, Any]:
    params = body.get("params")
    return params if isinstance(params, dict) else {}
