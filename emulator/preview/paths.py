"""Paths into JSON as UTMStack writes them: gjson's to read, plain dots to write.

A path is compiled once, into a function of the document. https://github.com/tidwall/gjson/blob/master/SYNTAX.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

from emulator.preview.values import MISSING, Json, parse_number, text_of, to_json

Read = Callable[[Json], Json]
_OPERATOR = re.compile(r"(==|!=|<=|>=|!%|=|<|>|%)")
_COMPARED = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_MODIFIERS: dict[str, Read] = {
    "@this": lambda value: value,
    "@keys": lambda value: list(value) if isinstance(value, dict) else [],
    "@values": lambda value: list(value.values()) if isinstance(value, dict) else [],
    "@reverse": lambda value: value[::-1] if isinstance(value, list) else value,
    "@tostr": to_json,
}


class UnsupportedPathError(ValueError):
    """A path of a form that is not evaluated here."""


@lru_cache(maxsize=10_000)
def reader(path: str) -> Read:
    """What reads the path from a document: the value, or MISSING. UnsupportedPathError for an unknown form."""
    if path and _is_plain(path):
        return _plain(path.split("."))
    if not path:
        return lambda _: MISSING
    if path[0] in "{[!":
        raise UnsupportedPathError(f"the path {path!r} builds a new value")
    return _chain(_parts(path))


def get(document: Json, path: str) -> Json:
    """The value at the path; MISSING where there is none."""
    return reader(path)(document)


def put(document: dict[str, Any], path: str, value: Json) -> None:
    """Write the value: a parent that is missing, or neither object nor list, becomes an object."""
    keys = keys_of(path)
    holder: Any = document
    for key, following in pairwise(keys):
        found = _child(holder, key)
        if not isinstance(found, dict) and not (isinstance(found, list) and _index(following) is not None):
            found = {}
            _assign(holder, key, found)
        holder = found
    _assign(holder, keys[-1], value)


def remove(document: dict[str, Any], path: str) -> None:
    """Delete what is at the path, if anything is."""
    keys = keys_of(path)
    holder: Any = document
    for key in keys[:-1]:
        holder = _child(holder, key)
    if isinstance(holder, dict):
        holder.pop(keys[-1], None)
    elif isinstance(holder, list) and _child(holder, keys[-1]) is not MISSING:
        del holder[int(keys[-1])]


def keys_of(path: str) -> list[str]:
    """The keys of a path that is written to; a backslash keeps a dot in its key."""
    return path.split(".") if "\\" not in path else [re.sub(r"\\(.)", r"\1", key) for key in _split(path, ".")]


def leaves(value: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Every path to a value that holds no other; a list's items by their numbers, an empty one as itself."""
    if isinstance(value, dict) and value:
        items: Iterator[tuple[str, Json]] = iter(value.items())
    elif isinstance(value, list) and value:
        items = ((str(number), each) for number, each in enumerate(value))
    else:
        yield prefix, value
        return
    for key, each in items:
        yield from leaves(each, f"{prefix}.{key}" if prefix else key)


def _is_plain(path: str) -> bool:
    return not any(mark in path for mark in "\\#*?|@{[!")


def _plain(keys: list[str]) -> Read:
    def read(document: Json) -> Json:
        for key in keys:
            if document.__class__ is dict:
                document = document.get(key, MISSING)
            elif document.__class__ is list:
                document = _child(document, key)
            else:
                return MISSING
        return document

    return read


def _child(holder: Json, key: str) -> Json:
    if isinstance(holder, dict):
        return holder.get(key, MISSING)
    if isinstance(holder, list):
        index = _index(key)
        return holder[index] if index is not None and index < len(holder) else MISSING
    return MISSING


def _index(key: str) -> int | None:
    return int(key) if key.isascii() and key.isdigit() else None


def _assign(holder: Any, key: str, value: Json) -> None:
    if isinstance(holder, dict):
        holder[key] = value
        return
    index = _index(key)
    if index is not None:
        holder.extend([None] * (index + 1 - len(holder)))
        holder[index] = value


def _parts(path: str) -> list[tuple[str, str]]:
    """The path's parts, each with what stands before it: a dot, or a pipe."""
    found: list[tuple[str, str]] = []
    mark = "."
    for piece in re.split(r"(\|)", path) if "(" not in path else _pieces(path):
        if piece == "|":
            mark = "|"
            continue
        for part in _split(piece, "."):
            found.append((mark, part))
            mark = "."
    return found


def _pieces(path: str) -> list[str]:
    pieces = _split(path, "|")
    return [each for piece in pieces for each in (piece, "|")][:-1]


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark that is neither escaped nor within a query."""
    parts, part, depth, quoted = [], "", 0, False
    at = 0
    while at < len(text):
        each = text[at]
        if each == "\\" and at + 1 < len(text):
            part += text[at : at + 2]
            at += 2
            continue
        quoted ^= each == '"' and depth > 0
        depth += 0 if quoted else (each == "(") - (each == ")")
        if each == mark and depth <= 0 and not quoted:
            parts.append(part)
            part = ""
        else:
            part += each
        at += 1
    return [*parts, part]


def _chain(parts: list[tuple[str, str]]) -> Read:
    """The reader of the parts: one for the first, and what follows applied to its value, or to each of its items."""
    (_, part), rest = parts[0], parts[1:]
    follow = _chain(rest) if rest else None
    if part == "#" or (part.startswith("#(") and part.endswith(")#")):
        chosen = _query(part[2:-2]) if part != "#" else None
        each = follow if rest and rest[0][0] == "." else None
        return _many(chosen, each, follow if each is None else None)
    step = _one(part)
    if follow is None:
        return step

    def read(document: Json) -> Json:
        value = step(document)
        return MISSING if value is MISSING else follow(value)

    return read


def _many(chosen: Callable[[Json], bool] | None, each: Read | None, follow: Read | None) -> Read:
    """A list's length (a bare `#` at the end), its chosen items, or what follows of each item."""

    def read(document: Json) -> Json:
        if not isinstance(document, list):
            return MISSING
        if chosen is None and each is None and follow is None:
            return len(document)
        items = [item for item in document if chosen is None or chosen(item)]
        if each is not None:
            return [value for item in items if (value := each(item)) is not MISSING]
        return items if follow is None else follow(items if chosen else len(items))

    return read


def _one(part: str) -> Read:
    if part.startswith("#(") and part.endswith(")"):
        chosen = _query(part[2:-1])
        return lambda document: next(filter(chosen, document), MISSING) if isinstance(document, list) else MISSING
    if part.startswith("@"):
        if part not in _MODIFIERS:
            raise UnsupportedPathError(f"the path modifier {part!r}")
        return _MODIFIERS[part]
    if part.startswith("#"):
        raise UnsupportedPathError(f"the path part {part!r}")
    if re.search(r"(?<!\\)[*?]", part):
        return _wild(part)
    key = re.sub(r"\\(.)", r"\1", part)
    return lambda document: _child(document, key)


def _wild(part: str) -> Read:
    """The first member whose key matches."""
    pattern = _glob(part)

    def read(document: Json) -> Json:
        if not isinstance(document, dict):
            return MISSING
        return next((value for key, value in document.items() if pattern.fullmatch(key)), MISSING)

    return read


def _glob(text: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    pieces = re.findall(r"\\.|.", text, re.DOTALL)
    return re.compile("".join(wild.get(piece) or re.escape(piece[-1]) for piece in pieces), re.DOTALL)


def _query(text: str) -> Callable[[Json], bool]:
    """What a query says of an item."""
    found = _OPERATOR.search(_outside_quotes(text))
    if found is None:
        exists = reader(text.strip()) if text.strip() else (lambda _: MISSING)
        return lambda item: exists(item) is not MISSING
    left, operator, right = text[: found.start()].strip(), found.group(), text[found.end() :].strip()
    read = reader(left) if left else (lambda item: item)
    return lambda item: _holds(read(item), operator, right)


def _outside_quotes(text: str) -> str:
    return re.sub(r'"(\\.|[^"\\])*"', lambda found: "x" * len(found.group()), text)


def _holds(value: Json, operator: str, right: str) -> bool:
    if value is MISSING:
        return False
    quoted = len(right) > 1 and right[0] == right[-1] == '"'
    word = re.sub(r"\\(.)", r"\1", right[1:-1]) if quoted else right
    if operator in {"%", "!%"}:
        return isinstance(value, str) and (_glob(word).fullmatch(value) is not None) is (operator == "%")
    if isinstance(value, bool) or value is None:
        same = not quoted and word == text_of(value) if isinstance(value, bool) else word == "null"
        return same is not operator.startswith("!") and operator in {"=", "==", "!="}
    if isinstance(value, (int, float)):
        wanted = parse_number(word)
        return wanted is not None and _compared(value, operator, wanted)
    return isinstance(value, str) and _compared(value, operator, word)


def _compared(value: Any, operator: str, wanted: Any) -> bool:
    if operator in _COMPARED:
        return bool(_COMPARED[operator](value, wanted))
    return bool((value == wanted) is (operator != "!="))
