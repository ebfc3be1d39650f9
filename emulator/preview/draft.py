"""The draft of an event: a filter's steps change it, and conditions read it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from emulator.preview import paths
from emulator.preview.values import Json

if TYPE_CHECKING:
    from emulator.preview.conditions import Atom


class Draft:
    """One event on its way through a filter.

    Answers of conditions are kept by the two outermost keys of the path that they read, until that is written.
    """

    __slots__ = ("_answers", "errors", "fields")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.errors: list[str] = []
        self._answers: dict[str, dict[Atom, Any]] = {}

    def get(self, path: str) -> Json:
        """The value at a path; MISSING if there is none."""
        return paths.reader(path)(self.fields)

    def put(self, path: str, value: Json) -> None:
        """Write a value."""
        paths.put(self.fields, path, value)
        self._forget(path)

    def remove(self, path: str) -> None:
        """Delete a value."""
        paths.remove(self.fields, path)
        self._forget(path)

    def ask(self, atom: Atom) -> Any:
        """The result of a condition's function for this draft."""
        answers = self._answers.get(atom.group)
        if answers is None:
            answers = self._answers[atom.group] = {}
        if atom in answers:
            return answers[atom]
        answer = answers[atom] = atom.apply(atom.read(self.fields))
        return answer

    def fill(self, bag: str, fields: dict[str, Json]) -> None:
        """Write fields with plain names below the bag."""
        holder = self.fields.get(bag)
        if not isinstance(holder, dict):
            holder = self.fields[bag] = {}
        holder.update(fields)
        self._answers.clear()

    def _forget(self, path: str) -> None:
        if "\\" in path or path.count(".") == 0:
            self._answers.clear()
            return
        group = group_of(path)
        self._answers.pop(group, None)
        self._answers.pop(group.partition(".")[0], None)
        self._answers.pop("", None)


@lru_cache(maxsize=10_000)
def group_of(path: str) -> str:
    """The key under which results for a path are kept: its two outermost keys; empty if they are not plain."""
    keys = path.split(".", 2)[:2]
    if any(mark in path for mark in "\\|*?@{[!") or any("#" in key for key in keys):
        return ""
    return ".".join(keys)
