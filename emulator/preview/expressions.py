"""The text of a CEL expression: tokens, calls on paths, and the logic between them. It is not a full parser.

The library evaluates expressions. This module finds what an expression reads: to keep its results, and to explain why
it never matches.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.preview.functions import FUNCTIONS, Unsigned, kind_of

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<text>[rRbB]{0,2}(?:\"\"\"(?:\\.|.)*?\"\"\"|'''(?:\\.|.)*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
    |(?P<double>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+)|(?P<int>0x[0-9a-fA-F]+|\d+)[uU]?
    |(?P<name>[A-Za-z_]\w*)
    |(?P<mark>&&|\|\||==|!=|<=|>=|.)""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = frozenset({"true", "false", "null", "in"})
MACROS = frozenset({"exists", "exists_one", "all", "map", "filter"})


@dataclass(frozen=True, slots=True)
class Token:
    """A token; white space and comments are not tokens."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call."""

    text: str
    kind: str
    """`text`, `int`, `double`, `bool`, `list`, `mixed`; or `dynamic`: not known before it is evaluated."""
    value: Any = None


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A call of one of UTMStack's functions."""

    name: str
    arguments: tuple[Argument, ...]

    @property
    def path(self) -> str | None:
        """The path that it reads; None if it is not a literal."""
        first = self.arguments[0] if self.arguments else None
        return first.value if first is not None and first.kind == "text" else None


@dataclass(frozen=True, slots=True)
class Field:
    """A field without quotes, and its position in the text."""

    start: int
    end: int
    path: str
    role: str
    """`value`; `has`: within `has()`; `path`: a function uses its value as a path."""
    outer: int
    """The position of `has`, or of the bracket after the function's name."""


@dataclass(frozen=True, slots=True)
class LogicNode:
    """A node of an expression's logic: `all` and `any` of its parts, `not` its one part, or a `leaf`."""

    kind: str
    text: str
    parts: tuple[LogicNode, ...] = ()
    call: FunctionCall | None = None
    """Of a leaf that is one call and nothing else."""


def tokens_of(text: str) -> list[Token]:
    """The tokens of an expression."""
    return [
        Token(str(match.lastgroup), match.group(), match.start())
        for match in _TOKEN.finditer(text)
        if match.lastgroup != "space"
    ]


def calls(text: str) -> Iterator[FunctionCall]:
    """Every call of one of UTMStack's functions. A method with the same name is not one."""
    tokens = tokens_of(text)
    for at in range(len(tokens) - 1):
        if _is_call(tokens, at):
            yield _call(tokens, at, text)


def logic_of(text: str) -> LogicNode:
    """The structure of an expression: its `&&`, `||` and `!`."""
    return _part(tokens_of(text), text)


def fields_of(text: str) -> list[Field]:
    """The fields without quotes; empty if the expression has a macro with a variable, such as `exists`."""
    tokens = tokens_of(text)
    fields: list[Field] = []
    at = 0
    while at < len(tokens):
        if not _begins_field(tokens, at):
            if _is_macro(tokens, at):
                return []
            at += 1
            continue
        end, path = _field(tokens, at)
        last = tokens[end - 1]
        role, outer = _role(tokens, at, end)
        fields.append(Field(tokens[at].start, last.start + len(last.text), path, role, outer))
        at = end
    return fields


def _role(tokens: Sequence[Token], at: int, end: int) -> tuple[str, int]:
    """The role of a field in the call around it, and the position of that call."""
    if at < 2 or tokens[at - 1].text != "(" or end == len(tokens):
        return "value", 0
    if tokens[at - 2].text == "has" and tokens[end].text == ")":
        return "has", tokens[at - 2].start
    if _is_call(tokens, at - 2) and tokens[end].text in {",", ")"}:
        return "path", tokens[at - 1].start
    return "value", 0


def _is_call(tokens: Sequence[Token], at: int) -> bool:
    is_method = at > 0 and tokens[at - 1].text == "."
    return tokens[at].kind == "name" and tokens[at].text in FUNCTIONS and not is_method and tokens[at + 1].text == "("


def _is_macro(tokens: Sequence[Token], at: int) -> bool:
    following = [token.text for token in tokens[at + 1 : at + 4]]
    return tokens[at].text in MACROS and at > 0 and tokens[at - 1].text == "." and following[::2] == ["(", ","]


def _begins_field(tokens: Sequence[Token], at: int) -> bool:
    token = tokens[at]
    if token.kind != "name" or token.text in _WORDS or (at > 0 and tokens[at - 1].text == "."):
        return False
    return at + 1 == len(tokens) or tokens[at + 1].text != "("


def _field(tokens: Sequence[Token], at: int) -> tuple[int, str]:
    """The end of the field's name, and its path. A method's name at the end is not part of it."""
    keys = [tokens[at].text]
    at += 1
    while at + 1 < len(tokens) and tokens[at].text == "." and tokens[at + 1].kind == "name":
        if at + 2 < len(tokens) and tokens[at + 2].text == "(":
            break
        keys.append(tokens[at + 1].text)
        at += 2
    return at, ".".join(keys)


def _closing(tokens: Sequence[Token], at: int) -> int:
    """The index of the bracket that closes the one at `at`."""
    depth = 0
    for place in range(at, len(tokens)):
        depth += (tokens[place].text in "([{") - (tokens[place].text in ")]}") if tokens[place].kind == "mark" else 0
        if depth == 0:
            return place
    return len(tokens) - 1


def _call(tokens: Sequence[Token], at: int, text: str) -> FunctionCall:
    inside = tokens[at + 2 : _closing(tokens, at + 1)]
    return FunctionCall(tokens[at].text, tuple(argument_of(run, text) for run in cut(inside, ",") if run))


def cut(tokens: Sequence[Token], mark: str) -> list[Sequence[Token]]:
    """The tokens split at each mark outside brackets."""
    runs, start, depth = [], 0, 0
    for place, token in enumerate(tokens):
        if token.kind == "mark":
            depth += (token.text in "([{") - (token.text in ")]}")
            if depth == 0 and token.text == mark:
                runs.append(tokens[start:place])
                start = place + 1
    return [*runs, tokens[start:]]


def argument_of(tokens: Sequence[Token], text: str) -> Argument:
    """The tokens as an argument."""
    words = _source(tokens, text)
    try:
        value = _literal(tokens)
    except (ValueError, SyntaxError):
        return Argument(words, "dynamic")
    return Argument(words, kind_of(value), value)


def _literal(tokens: Sequence[Token]) -> Any:
    """The value of a literal; ValueError for any other text."""
    first = tokens[0]
    if first.text == "[" and tokens[-1].text == "]":
        return [_literal(run) for run in cut(tokens[1:-1], ",") if run]
    if first.text == "-" and len(tokens) == 2:
        return -_literal(tokens[1:])
    if len(tokens) != 1:
        raise ValueError("no literal")
    if first.text in {"true", "false"}:
        return first.text == "true"
    if first.kind in {"int", "double", "text"}:
        value = ast.literal_eval(first.text.rstrip("uU") if first.kind == "int" else first.text)
        if first.text[-1] in "uU" and first.kind == "int":
            return Unsigned(value)
        if isinstance(value, (str, int, float)):
            return value
    raise ValueError("no literal")


def _source(tokens: Sequence[Token], text: str) -> str:
    return text[tokens[0].start : tokens[-1].start + len(tokens[-1].text)] if tokens else ""


def _part(tokens: Sequence[Token], text: str) -> LogicNode:
    words = _source(tokens, text)
    for kind, mark in (("any", "||"), ("all", "&&")):
        runs = [run for run in cut(tokens, mark) if run]
        if len(runs) > 1:
            return LogicNode(kind, words, tuple(_part(run, text) for run in runs))
    if tokens and tokens[0].text == "!":
        return LogicNode("not", words, (_part(tokens[1:], text),))
    if tokens and tokens[0].text == "(" and _closing(tokens, 0) == len(tokens) - 1:
        return _part(tokens[1:-1], text)
    return LogicNode("leaf", words, call=call_of(tokens, text))


def call_of(tokens: Sequence[Token], text: str) -> FunctionCall | None:
    """The call of one of UTMStack's functions that the tokens are; None if they are anything else."""
    whole = len(tokens) > 2 and _is_call(tokens, 0) and _closing(tokens, 1) == len(tokens) - 1
    return _call(tokens, 0, text) if whole else None
