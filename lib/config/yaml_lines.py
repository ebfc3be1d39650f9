"""A YAML text as plain values that know their lines, so that each fault names the line it is in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One thing that is wrong in a configuration."""

    path: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class Document:
    """A YAML text as plain values, with the line of each."""

    def __init__(self, text: str) -> None:
        self.faults: list[ConfigFault] = []
        self.value: Any = {}
        self._lines: dict[KeyPath, int] = {}
        try:
            self._loader = yaml.SafeLoader(text)
            node = self._loader.get_single_node()
            if node is not None:
                self.value = self._value(node, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.faults.append(ConfigFault("", mark.line + 1 if mark else None, f"not YAML: {error.problem}"))
        except yaml.YAMLError as error:
            self.faults.append(ConfigFault("", None, f"not YAML: {str(error).splitlines()[0]}"))
        if not self.faults and not isinstance(self.value, dict):
            self.faults.append(
                ConfigFault("", 1, "the file has to begin with keys, such as `store:` and `integrations:`")
            )

    def fault(self, path: KeyPath, message: str) -> ConfigFault:
        """The fault, at the line of its path or of what is around it."""
        known = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in self._lines), ())
        text = ""
        for part in path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return ConfigFault(text, self._lines.get(known, 1), message)

    def _value(self, node: yaml.Node, path: KeyPath, above: tuple[yaml.Node, ...]) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if node in above:
            raise yaml.constructor.ConstructorError(None, None, "an alias that holds itself", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, (*path, at), (*above, node)) for at, each in enumerate(node.value)]
        value = self._loader.construct_object(node)
        return self._whole(value, path) if isinstance(value, str) else value

    def _whole(self, text: str, path: KeyPath) -> str:
        """The text with its surrogate pairs joined: YAML leaves what JSON escapes as two halves as two."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.faults.append(self.fault(path, "holds half of a surrogate pair, which is no character"))
            return ""

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._whole(str(key_node.value), path)
            self._lines[(*path, key)] = key_node.start_mark.line + 1
            if key in found:
                self.faults.append(self.fault((*path, key), "this key is given twice"))
            found[key] = self._value(value_node, (*path, key), above)
        return found


def flat(messages: Mapping[Any, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Each of marshmallow's messages, with the path of its key."""
    for key, value in messages.items():
        here = path if key == "_schema" else (*path, key)
        if isinstance(value, Mapping):
            yield from flat(value, here)
        else:
            yield from ((here, str(message)) for message in value)
