"""PyYAML's errors as sentences that name the correction, at the place to correct."""

from __future__ import annotations

import re
from collections.abc import Callable

import yaml

Place = tuple[int, int]
"""Line and column, both from 1."""
_QUOTES = ("'", '"')
_UNSTARTABLE = re.compile(r"found character '(?P<what>.+)' that cannot start any token")
_ESCAPE = re.compile(r"found unknown escape character '(?P<what>.+)'")
_ALIAS = re.compile(r"found undefined alias '(?P<what>.*)'")
_UNCLOSED = "this quote is not closed"
_INDENTED = "this line is indented wrongly: keys of one level begin in the same column"


class TooMuchError(yaml.MarkedYAMLError):
    """A text that is valid YAML but nested too deep, or too large once its aliases are expanded."""


def explained(error: yaml.YAMLError, text: str) -> tuple[Place | None, str]:
    """The place of the fault (None if unknown), and the correction."""
    if isinstance(error, yaml.reader.ReaderError):
        return _unreadable(error, text)
    if not isinstance(error, yaml.MarkedYAMLError):
        return None, "this is not YAML"
    mark = error.problem_mark or error.context_mark
    place = _place(mark) if mark else None
    problem = error.problem or ""
    if place is None:
        return None, f"this is not YAML: {problem}"
    if isinstance(error, TooMuchError):
        return place, problem
    opened = _open_quote(text, place)
    if opened is not None:
        return opened, _UNCLOSED
    return _sentence(error, problem, place, text.splitlines())


def _sentence(error: yaml.MarkedYAMLError, problem: str, place: Place, lines: list[str]) -> tuple[Place, str]:
    for pattern, sentence in _BY_PATTERN:
        match = pattern.match(problem)
        if match:
            return place, sentence(match["what"])
    begun = _place(error.context_mark) if error.context_mark else place
    for start, at, text in _BY_START:
        if problem.startswith(start):
            return (begun if at == "context" else place), text
    if problem.startswith("mapping values are not allowed"):
        return _second_value(place, lines)
    if problem.startswith("expected ',' or "):
        bracket = "[" if "]" in problem else "{"
        return begun, f"this {bracket} is not closed, or a comma is missing after it"
    if problem.startswith("expected <block end>"):
        return place, _unexpected(problem, place, lines)
    return place, f"this is not YAML: {problem}"


def _character(character: str) -> str:
    if "\\t" in character:
        return "use spaces, not tabs"
    return f"a text cannot begin with {character}: put it in quotes"


_BY_PATTERN: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (_UNSTARTABLE, _character),
    (_ESCAPE, lambda letter: f"\\{letter} has no meaning in double quotes: use single quotes, or write \\\\"),
    (_ALIAS, lambda _: "a text cannot begin with *: put it in quotes"),
)
_BY_START = (
    ("could not find expected ':'", "context", "a colon and a space are missing after this key"),
    ("expected alphabetic or numeric character", "context", "a text cannot begin with * or &: put it in quotes"),
    ("sequence entries are not allowed here", "problem", "a list begins on its own line: move this - to a new line"),
    ("but found another document", "problem", "--- begins a second document: a configuration has only one"),
    ("expected chomping or indentation", "problem", "the text must begin on the line after | or >"),
    ("could not determine a constructor", "problem", "tags (!) are not supported: put the text in quotes"),
    ("found unhashable key", "problem", "a key must be a text"),
)


def _second_value(place: Place, lines: list[str]) -> tuple[Place, str]:
    """The fault of an unexpected colon: after a text with a colon, or on a line that continues the line above."""
    line, column = place
    before = lines[line - 1][: column - 1]
    if re.search(r":\s", before.lstrip()):
        return place, "this line has a second colon: put the value in quotes"
    above = next((other for other in reversed(lines[: line - 1]) if other.strip()), "")
    if above and _indent(lines[line - 1]) > _indent(above):
        return (line, _indent(lines[line - 1]) + 1), _INDENTED
    where = (lines.index(above) + 1, _indent(above) + 1) if above else place
    if re.match(r"\s*[\w-]+:\S", above):
        return where, "a space is missing after the colon"
    return where, "a colon and a space are missing after this key"


def _unexpected(problem: str, place: Place, lines: list[str]) -> str:
    line, column = place
    if lines[line - 1][: column - 1].strip():
        return "this cannot follow the value: put the whole value in quotes"
    return (
        _INDENTED
        if "found '<block" in problem or "'?'" in problem or "'-'" in problem
        else "this does not belong to the lines above: check them"
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _open_quote(text: str, place: Place) -> Place | None:
    """The place of an opening quote that is not closed before `place`; None if there is none."""
    opened = None
    try:
        for token in yaml.scan(text):
            over_lines = token.start_mark.line < token.end_mark.line
            if isinstance(token, yaml.ScalarToken) and token.style in _QUOTES and over_lines:
                opened = token
            if token.start_mark.line > place[0]:
                break
    except yaml.MarkedYAMLError as error:
        if error.context_mark and (error.context or "").startswith("while scanning a quoted scalar"):
            return _place(error.context_mark)
    except yaml.YAMLError:
        return None
    return _place(opened.start_mark) if opened is not None and opened.end_mark.line + 1 == place[0] else None


def _unreadable(error: yaml.reader.ReaderError, text: str) -> tuple[Place | None, str]:
    before = text[: error.position]
    place = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
    number = error.character if isinstance(error.character, int) else ord(error.character)
    return place, f"the character U+{number:04X} cannot be in the file: remove it"


def _place(mark: yaml.Mark) -> Place:
    return mark.line + 1, mark.column + 1
