"""A YAML text as plain values with the place of each, so that each fault names its line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from lib.config.yaml_faults import Place, TooMuchError, explained

KeyPath = tuple[str | int, ...]
DEEPEST = 32
"""The allowed levels of nesting; the schema has five."""
MOST_VALUES = 200_000
"""The allowed number of values. Each use of an alias counts."""
LONGEST_SHOWN = 240
"""The shown characters of a line."""
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9_]{0,18})")
_SECRET_KEY = re.compile(
    r"""(?:^\s*(?:-\s+)?|.*?[{,]\s*)["']?(?P<key>(?:next_)?client_secret|token|key|keys|proxy)["']?(?:\s*:|\s|$)"""
)
_SHOWN = re.compile(r"\s*(?:\[\s*)?[\"']?\$\{[^}]*\}[\"'\s\],}]*(?:#.*)?|\s*(?:/[^\s,}]*)?\s*|\s*[|>][-+0-9]*\s*")
"""Values of a secret key that may be shown: a reference, a path, nothing."""


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One fault or warning in a configuration."""

    path: str
    line: int | None
    message: str
    text: str = ""
    """The line, without the value of a secret key."""
    column: int | None = None

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class _LineLoader(yaml.SafeLoader):
    """PyYAML's loader with a bound on depth. PyYAML recurses once for each level."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node with everything below it; TooMuchError if it is nested too deep."""
        if self.depth > DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise TooMuchError(problem=f"this is nested over {DEEPEST} levels deep", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class Document:
    """A YAML text as plain values, with the place of each."""

    def __init__(self, text: str) -> None:
        text = text.removeprefix("\ufeff")
        self.faults: list[ConfigFault] = []
        self.value: Any = {}
        self._text = text.split("\n")
        self._keys: dict[KeyPath, Place] = {}
        self._values: dict[KeyPath, Place] = {}
        self._count = 0
        try:
            self._loader = _LineLoader(text)
            node = self._loader.get_single_node()
            if node is not None:
                self.value = self._value(node, (), ())
        except yaml.YAMLError as error:
            place, message = explained(error, text)
            self.faults.append(self._at(place, "", message))
        if not self.faults and not isinstance(self.value, dict):
            self.faults.append(
                self._at((1, 1), "", "the file must begin with keys, such as `store:` and `integrations:`")
            )

    def fault(self, path: KeyPath, message: str, *, at_key: bool = False) -> ConfigFault:
        """The fault at the place of its path. A path that the text does not hold gets the place of its parent."""
        nearest = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in self._keys), ())
        place = self._keys.get(nearest, (1, 1))
        value = self._values.get(nearest)
        if nearest == path and value is not None and value[0] == place[0] and not at_key:
            place = value
        return self._at(place, path_text(path), message)

    def _at(self, place: Place | None, path: str, message: str) -> ConfigFault:
        if place is None:
            return ConfigFault(path, None, message)
        line, column = place
        return ConfigFault(path, line, message, _shown(self._text, line), column)

    def _value(self, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> Any:
        place = node.start_mark.line + 1, node.start_mark.column + 1
        self._keys.setdefault(path, place)
        self._values[path] = place
        self._count += 1
        if self._count > MOST_VALUES:
            raise TooMuchError(problem=f"the file expands to over {MOST_VALUES} values", problem_mark=node.start_mark)
        if node in above:
            raise TooMuchError(problem="this alias contains itself", problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(element, (*path, at), (*above, node)) for at, element in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        if node.tag == "tag:yaml.org,2002:int" and not _NUMBER.fullmatch(node.value):
            # The value of a secret key is never shown.
            is_secret = _SECRET_KEY.match(f"{path[-1]}:" if path else "") is not None
            self.faults.append(self.fault(path, "put it in quotes" if is_secret else _odd_number(node.value)))
            return 0
        try:
            value = self._loader.construct_object(node)
        except ValueError as error:
            self.faults.append(self.fault(path, f"cannot be read ({error}): put it in quotes if it is a text"))
            return ""
        return self._whole(value, path) if isinstance(value, str) else value

    def _whole(self, text: str, path: KeyPath) -> str:
        """The text with its surrogate pairs joined. JSON escapes them as two halves, and YAML does not join those."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.faults.append(self.fault(path, "holds half of a surrogate pair, which is not a character"))
            return ""

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._whole(str(key_node.value), path)
            self._keys[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in values:
                self.faults.append(self.fault((*path, key), "this key is used twice", at_key=True))
            values[key] = self._value(value_node, (*path, key), above)
        return values


def path_text(path: KeyPath) -> str:
    """The path as people write it: `integrations[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def flat(messages: Mapping[Any, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Marshmallow's nested messages as pairs of a key's path and a message."""
    for key, value in messages.items():
        here = path if key == "_schema" else (*path, key)
        if isinstance(value, Mapping):
            yield from flat(value, here)
        else:
            yield from ((here, str(message)) for message in value)


def _odd_number(text: str) -> str:
    digits = text.lstrip("+-")
    if len(digits) > 18:
        return "this number is too large"
    if digits.isdigit() and digits.startswith("0"):
        plain = digits.lstrip("0") or "0"
        return f"{text} would be read as an octal number: write {plain}, or '{text}' in quotes for a text"
    return f"{text} would be read as another number: write it in plain decimal digits, or in quotes for a text"


def _shown(lines: list[str], number: int) -> str:
    """The line without the value of a secret key. The value may also be on lines of its own below the key."""
    holder: int | None = None
    shown = ""
    for line in lines[:number]:
        shown = line
        indent = len(line) - len(line.lstrip())
        goes_on = holder is not None and (indent > holder or (indent == holder and line.lstrip().startswith("- ")))
        match = _SECRET_KEY.match(line)
        if goes_on and match is None:
            shown = line[:indent] + _masked(line[indent:])
            continue
        is_secret = match is not None and (match["key"] != "proxy" or "@" in line)
        holder = indent if is_secret else None
        if match and is_secret:
            shown = line[: match.end()] + _masked(line[match.end() :])
    return shown.rstrip("\r")[:LONGEST_SHOWN]


def _masked(rest: str) -> str:
    return rest if _SHOWN.fullmatch(rest) else f"{rest[: len(rest) - len(rest.lstrip())]}[hidden]"
