"""Paths into JSON as UTMStack writes them: gjson's to read, plain dots to write.

A path is compiled once, into a function of the document. https://github.com/tidwall/gjson/blob/master/SYNTAX.md
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

from emulator.preview.values import MISSING, Json, parse_number, to_json

Read = Callable[[Json], Json]
_OPERATOR = re.compile(r"(==|!=|<=|>=|!%|=|<|>|%)")
_COMPARED = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _reversed(value: Json) -> Json:
    if isinstance(value, dict):
        return dict(reversed(value.items()))
    return value[::-1] if isinstance(value, list) else value


def _members(value: Json) -> list[tuple[Json, Json]]:
    """The keys and values of an object. Anything else has values without a key."""
    if isinstance(value, dict):
        return list(value.items())
    return [(None, item) for item in (value if isinstance(value, list) else [value])]


_MODIFIERS: dict[str, Read] = {
    "@this": lambda value: value,
    "@keys": lambda value: [key for key, _ in _members(value)],
    "@values": lambda value: [item for _, item in _members(value)],
    "@reverse": _reversed,
    "@tostr": to_json,
}


_UNSUPPORTED = re.compile(r"@(pretty|ugly|flatten|join|valid|fromstr|group|dig)(:|$)")


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
    return _piped(_segments(path))


def get(document: Json, path: str) -> Json:
    """The value at the path; MISSING where there is none."""
    return reader(path)(document)


def put(document: dict[str, Any], path: str, value: Json) -> None:
    """Write the value: a parent that is missing, or neither object nor list, becomes an object."""
    keys = keys_of(path)
    holder: Any = document
    for key, following in pairwise(keys):
        child = _child(holder, key)
        if not isinstance(child, dict) and not (isinstance(child, list) and _index(following) is not None):
            child = {}
            _assign(holder, key, child)
        holder = child
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
        items = ((str(number), item) for number, item in enumerate(value))
    else:
        yield prefix, value
        return
    for key, item in items:
        yield from leaves(item, f"{prefix}.{key}" if prefix else key)


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


def _segments(path: str) -> list[list[str]]:
    """The path's parts, by the pipes between them."""
    return [_split(segment, ".") for segment in _split(path, "|")]


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark that is neither escaped nor within a query."""
    parts, part, depth, quoted = [], "", 0, False
    at = 0
    while at < len(text):
        character = text[at]
        if character == "\\" and at + 1 < len(text):
            part += text[at : at + 2]
            at += 2
            continue
        quoted ^= character == '"' and depth > 0
        depth += 0 if quoted else (character == "(") - (character == ")")
        if character == mark and depth <= 0 and not quoted:
            parts.append(part)
            part = ""
        else:
            part += character
        at += 1
    return [*parts, part]


def _piped(segments: list[list[str]]) -> Read:
    """The reader of the segments between pipes: each reads the whole value of the one before."""
    readers = [_dotted(parts) for parts in segments]

    def read(document: Json) -> Json:
        for read_part in readers:
            document = read_part(document)
        return document

    return readers[0] if len(readers) == 1 else read


def _dotted(parts: list[str]) -> Read:
    """The reader of parts with dots between them: behind `#` the rest reads each item, behind `*` each member."""
    part, rest = parts[0], parts[1:]
    follow = _dotted(rest) if rest else None
    if part == "#" or (part.startswith("#(") and part.endswith(")#")):
        return _many(_query(part[2:-2]) if part != "#" else None, follow)
    if not part.startswith("#(") and re.search(r"(?<!\\)[*?]", part):
        return _wild(part, follow)
    step = _read_step(part)
    return step if follow is None else lambda document: follow(step(document))


def _many(chosen: Callable[[Json], bool] | None, of_item: Read | None) -> Read:
    """A list's length (a bare `#` at the end), its chosen items, or what follows of each item."""

    def read(document: Json) -> Json:
        if not isinstance(document, list):
            return MISSING
        if chosen is None and of_item is None:
            return len(document)
        items = [item for item in document if chosen is None or chosen(item)]
        return items if of_item is None else [value for item in items if (value := of_item(item)) is not MISSING]

    return read


def _read_step(part: str) -> Read:
    if part.startswith("#(") and part.endswith(")"):
        chosen = _query(part[2:-1])
        return lambda document: next(filter(chosen, document), MISSING) if isinstance(document, list) else MISSING
    if _UNSUPPORTED.match(part):
        raise UnsupportedPathError(f"the path modifier {part!r}")
    if part in _MODIFIERS:
        modify = _MODIFIERS[part]
        absent: Json = [] if part in {"@keys", "@values"} else MISSING
        return lambda document: absent if document is MISSING else modify(document)
    if part.startswith(("#", "{", "[", "!")):
        raise UnsupportedPathError(f"the path part {part!r}")
    key = re.sub(r"\\(.)", r"\1", part)
    return lambda document: _child(document, key)


def _wild(part: str, follow: Read | None) -> Read:
    """The first member whose key matches, and in which what follows is found."""
    pattern = _glob(part)

    def read(document: Json) -> Json:
        if not isinstance(document, dict):
            return MISSING
        values = (value for key, value in document.items() if pattern.fullmatch(key))
        return next((value for value in (map(follow, values) if follow else values) if value is not MISSING), MISSING)

    return read


def _glob(text: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    pieces = re.findall(r"\\.|.", text, re.DOTALL)
    return re.compile("".join(wild.get(piece) or re.escape(piece[-1]) for piece in pieces), re.DOTALL)


def _query(text: str) -> Callable[[Json], bool]:
    """What a query says of an item."""
    operator_match = _OPERATOR.search(_masked(text))
    if operator_match is None:
        if not text.strip():
            raise UnsupportedPathError("a query that asks for nothing")
        exists = reader(text.strip())
        return lambda item: exists(item) is not MISSING
    left, operator, right = (
        text[: operator_match.start()].strip(),
        operator_match.group(),
        text[operator_match.end() :].strip(),
    )
    if right.startswith("~"):
        raise UnsupportedPathError(f"the query {text!r}")
    read = reader(left) if left else (lambda item: item)
    return lambda item: _holds(read(item), operator, right)


def _masked(text: str) -> str:
    """The query without what stands in quotes, or in a query of its own: its operators are not this one's."""
    text = re.sub(r'"(\\.|[^"\\])*"', lambda match: "x" * len(match.group()), text)
    while (masked := re.sub(r"\([^()]*\)", lambda match: "x" * len(match.group()), text)) != text:
        text = masked
    return text


def _holds(value: Json, operator: str, right: str) -> bool:
    quoted = len(right) > 1 and right[0] == right[-1] == '"'
    word = re.sub(r"\\(.)", r"\1", right[1:-1]) if quoted else right
    if isinstance(value, str):
        if operator in {"%", "!%"}:
            return (_glob(word).fullmatch(value) is not None) is (operator == "%")
        return _compared(value, operator, word)
    if isinstance(value, bool):
        if operator in _COMPARED:
            return operator == (">=" if value else "<=") or (operator, word) == (
                (">", "false") if value else ("<", "true")
            )
        return _compared("true" if value else "false", operator, word)
    if isinstance(value, (int, float)):
        return _compared(value, operator, parse_number(word) or 0)
    return False


def _compared(value: Any, operator: str, wanted: Any) -> bool:
    if operator in _COMPARED:
        return bool(_COMPARED[operator](value, wanted))
    return operator in {"=", "==", "!="} and bool((value == wanted) is (operator != "!="))
