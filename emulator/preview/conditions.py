"""A `where`: a CEL expression, compiled once and evaluated by a library, with UTMStack's functions on paths.

The results of the functions, in call order, determine the result of an expression. So the library evaluates each
sequence of results once. A decision tree keeps it: a node is a call, a branch is one of its results.
An event then only needs the calls on its way through the tree. CEL would make the same ones.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import cel

from emulator.preview.draft import Draft, group_of
from emulator.preview.expressions import Field, FunctionCall, calls, fields_of, tokens_of
from emulator.preview.functions import FAILURE, FIRST_NAMES, FUNCTIONS, VALUE, kind_of, network
from emulator.preview.kinds import kind_fault
from emulator.preview.paths import Read, UnsupportedPathError, reader
from emulator.preview.patterns import PatternError, pattern
from emulator.preview.values import MISSING, Json, as_cel, to_json

logging.getLogger("cel").setLevel(logging.CRITICAL)  # A failing call is a normal result here.

_STANDARD = """
size int uint double string bytes bool type dyn duration timestamp has matches contains startsWith endsWith
getFullYear getMonth getDayOfYear getDayOfMonth getDate getDayOfWeek getHours getMinutes getSeconds
getMilliseconds exists exists_one all map filter
"""
_FIELD, _HAS, _AT = "field_", "has_", "_at_"
UNQUOTED = "a function's path needs quotes: "
_MOST_BRANCHES = 5_000
"""The most branches of a node. If nearly every event has its own result, keeping them saves nothing."""


_FIRST = re.compile(r"[^@{\[!#.|*?][^.|*?]*(?=[.|]|$)")
"""A path's first key, where it is plain."""


_CALLED = re.compile(rf"(?:{'|'.join(sorted(FUNCTIONS.keys() - FIRST_NAMES))})\(")
_MOST_ATOMS = 50_000
"""The most atoms kept. An argument that is another field's value makes one for each value."""


class Atom:
    """One call of a function on a path. Equal calls share one atom, so that a draft keeps its result once."""

    __slots__ = ("apply", "group", "is_yes_or_no", "read")

    def __init__(self, name: str, path: str, args: tuple[Any, ...]) -> None:
        plain = name.removesuffix(_AT)
        function = VALUE if name == _FIELD else FUNCTIONS["exists" if name == _HAS else plain]
        self.read: Read = reader(path)
        self.group = group_of(path)
        self.apply: Callable[[Json], Any] = function.bound(args)
        self.is_yes_or_no = plain not in {_FIELD, "safe"}
        if name != plain:
            self._read_named_field(path)

    def _read_named_field(self, path: str) -> None:
        """Read the field that the value at the path names: the meaning of a path without quotes."""
        named, apply = reader(path), self.apply
        self.group = ""
        self.read = lambda fields: _at(fields, named(fields))
        self.apply = lambda value: FAILURE if value is FAILURE else apply(value)


def _at(fields: Json, path: Json) -> Json:
    if not isinstance(path, str):
        return FAILURE
    first = _FIRST.match(path)
    if first and first.group() not in fields:
        return MISSING  # Nearly all values are no path. Not compiling them keeps them out of the reader's cache.
    try:
        return reader.__wrapped__(path)(fields)
    except UnsupportedPathError:
        return MISSING


class _Node:
    """A call in a decision tree, with a branch for each result."""

    __slots__ = ("atom", "branches")

    def __init__(self, atom: Atom) -> None:
        self.atom = atom
        self.branches: dict[Any, Any] = {}


class _Evaluator:
    """The library with UTMStack's functions. It keeps the state of one evaluation, so it is for one thread."""

    def __init__(self) -> None:
        self.draft = Draft({})
        self.bag = "log"
        self.trail: list[tuple[Atom, Any]] = []
        self.context = cel.Context()
        self.variables: dict[str, Json] = {}
        for name in (*FUNCTIONS, _FIELD, _HAS, *(f"{function}{_AT}" for function in FUNCTIONS)):
            self.context.add_function(name, self._function(name))
        self.context.set_variable_resolver(self._variable)

    def _variable(self, name: str) -> Json:
        return self.variables.get(name)

    def _function(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            path, args = (arguments[0], arguments[1:]) if arguments else ("", ())
            fault = _fault(name, [kind_of(argument) for argument in arguments])
            if fault:
                raise TypeError(fault)
            atom = _atom(name, path, args)
            answer = self.draft.ask(atom)
            self.trail.append((atom, answer))
            if answer is FAILURE:
                raise KeyError(path)
            return as_cel(answer)

        return call


class Condition:
    """One expression. `fault` says why it cannot be evaluated; such a condition never holds."""

    def __init__(self, text: str, bag: str, variables: tuple[tuple[str, str, str], ...] = ()) -> None:
        self.text = text
        self.bag = bag
        self.fault = ""
        self.roots: tuple[str, ...] = ()
        """Top-level fields without quotes. If an event lacks one of them, the engine cannot compile the condition."""
        self.calls: tuple[FunctionCall, ...] = ()
        self.remarks: list[str] = []
        """Parts that can never be true, although they are evaluated."""
        self._old = variables
        self._tree: Any = None
        try:
            self._compile()
        except (ValueError, UnsupportedPathError) as error:
            self.fault = str(error)

    def _compile(self) -> None:
        if not self.text.strip():
            raise ValueError("the condition is empty")
        _program(self.text)
        if not self._old and not any(call.name in FIRST_NAMES for call in calls(self.text)):
            _check_spelling(self.text)
            self._insert()
        program = _program(self.text)
        self.calls = tuple(calls(self.text))
        for call in self.calls:
            _check(call)
        fault = kind_fault(self.text)
        if fault:
            raise ValueError(fault)
        self.remarks += _remarks(self.text)
        defined = {*FUNCTIONS, *_STANDARD.split()}
        unknown = [name for name in program.functions() if name[0].isalpha() and name not in defined]
        if unknown:
            near = get_close_matches(unknown[0], FUNCTIONS, 1)
            raise ValueError(f"there is no function {unknown[0]}(){f'; did you mean {near[0]}()?' if near else ''}")
        fields = [] if self._old else fields_of(self.text)
        self._walks = bool(fields) or not program.variables()
        own = {} if self._walks else dict.fromkeys(_loop_variables(self.text))
        self.roots = tuple(
            self._of_bag(variable) for variable in program.variables() if variable not in own and not self._old
        )
        self._program = _program(self._rewritten(fields)) if self._walks else program

    def _insert(self) -> None:
        """Put the engine's own argument into quoted texts, where the engine puts it too."""
        for token in reversed(tokens_of(self.text)):
            if token.kind == "text" and _CALLED.search(token.text):
                end = token.start + len(token.text)
                self.text = self.text[: token.start] + _CALLED.sub(r"\g<0>_data_,", token.text) + self.text[end:]
                self.remarks.append(f"the engine inserts `_data_,` behind each bracket in {token.text}: avoid it")

    def _rewritten(self, fields: list[Field]) -> str:
        """The text with each field as a function call: the tree knows only calls."""
        text = self.text
        for field in reversed(fields):
            quoted = to_json(self._of_bag(field.path))
            if field.role == "path":  # `outer` is the bracket after the function's name.
                text = f"{text[: field.outer]}{_AT}{text[field.outer : field.start]}{quoted}{text[field.end :]}"
            elif field.role == "has":
                text = f"{text[: field.outer]}{_HAS}({quoted}){text[text.index(')', field.end) + 1 :]}"
            else:
                text = f"{text[: field.start]}{_FIELD}({quoted}){text[field.end :]}"
        return text

    def _of_bag(self, path: str) -> str:
        return of_bag(path, self.bag)

    def holds(self, draft: Draft) -> bool | None:
        """Whether the condition holds for the draft; None if the engine would get an error."""
        if self.fault:
            return None
        for root in self.roots:
            if root not in draft.fields:
                return None
        node = self._tree
        while node.__class__ is _Node:
            answer = draft.ask(node.atom)
            node = node.branches.get(answer if node.atom.is_yes_or_no else _key(answer), _UNKNOWN)
        if node is _UNKNOWN or (node is None and self._tree is None):
            return self._evaluate(draft)
        return _ANSWERS[node]

    def _evaluate(self, draft: Draft) -> bool | None:
        """Evaluate with the library, and keep the branches that it took."""
        _EVALUATOR.draft, _EVALUATOR.trail = draft, []
        _EVALUATOR.variables = self._variables(draft)
        _EVALUATOR.bag = self.bag
        try:
            result = self._program.execute(_EVALUATOR.context)
        except Exception:  # noqa: BLE001 - whatever the library raises is the engine's error: the condition fails
            result = None
        outcome = "error" if result is None else "yes" if result is True else "no"
        if self._walks:
            self._keep(_EVALUATOR.trail, outcome)
        return _ANSWERS[outcome]

    def _keep(self, trail: list[tuple[Atom, Any]], outcome: str) -> None:
        if not trail:
            self._tree = outcome
            return
        if self._tree is None:
            self._tree = _Node(trail[0][0])
        node = self._tree
        for place, (atom, answer) in enumerate(trail):
            key = answer if atom.is_yes_or_no else _key(answer)
            if place + 1 == len(trail):
                following: Any = outcome
            else:
                following = node.branches.get(key) or _Node(trail[place + 1][0])
            if key not in node.branches and len(node.branches) >= _MOST_BRANCHES:
                return
            node.branches.setdefault(key, following)
            node = following

    def _variables(self, draft: Draft) -> dict[str, Json]:
        if self._walks:
            return {}
        if not self._old:
            fields: dict[str, Json] = as_cel(draft.fields)
            return {_other(name) if name == self.bag else name: value for name, value in fields.items()} | fields
        values: dict[str, Json] = {}
        for name, path, kind in self._old:
            value = draft.get(self._of_bag(path))
            values[f"{name}_ok"] = value is not MISSING
            values[name] = _ZERO.get(kind, "") if value is MISSING else as_cel(value)
        return values


_ZERO: dict[str, Json] = {"int": 0, "double": 0.0, "bool": False}
_UNKNOWN = object()
_ANSWERS: dict[Any, bool | None] = {"yes": True, "no": False, "error": None}
_ATOMS: dict[tuple[str, str, str], Atom] = {}


def of_bag(path: str, bag: str) -> str:
    """The path with this engine's name for a vendor's own fields: `log`, or `event` in the newest version."""
    root, dot, rest = path.partition(".")
    return f"{bag}{dot}{rest}" if root in {"log", "event"} else path


def _other(bag: str) -> str:
    return "event" if bag == "log" else "log"


def _key(answer: Any) -> Any:
    return (type(answer), to_json(answer) if isinstance(answer, (dict, list)) else answer)


def _atom(name: str, path: str, args: tuple[Any, ...]) -> Atom:
    path = of_bag(path, _EVALUATOR.bag)
    key = (name, path, repr(args))  # As text, because 1, 1.0 and true are equal in Python but not in CEL.
    atom = _ATOMS.get(key) or Atom(name, path, args)
    if len(_ATOMS) < _MOST_ATOMS:
        _ATOMS[key] = atom
    return atom


def _fault(name: str, kinds: list[str]) -> str:
    """Why CEL has no such call; empty if it has. A `dynamic` argument may have any type."""
    plain = name.removesuffix(_AT)
    takes = (frozenset({"text"}), *(FUNCTIONS[plain].takes if plain in FUNCTIONS else ()))
    fits = len(kinds) == len(takes) and all(
        kind == "dynamic" or kind in wanted for kind, wanted in zip(kinds, takes, strict=True)
    )
    if fits:
        return ""
    if name == "safe" and kinds[1:] == ["int"]:
        return "safe() takes no whole number as its default: the engine wants 0.0 for 0"
    return f"there is no {name}({', '.join(kinds)})"


def _check(call: FunctionCall) -> None:
    fault = _fault(call.name, [argument.kind for argument in call.arguments])
    if fault:
        raise ValueError(fault)
    if call.path is not None:
        reader(call.path)


def _check_spelling(text: str) -> None:
    """Refuse what the engine's rewriting breaks: it puts an argument of its own behind each `NAME(`, wherever it is."""
    tokens = tokens_of(text)
    for before, name, bracket in zip([None, *tokens], tokens, tokens[1:], strict=False):
        if name.kind != "name" or name.text not in FUNCTIONS or bracket.text != "(":
            continue
        if before is not None and before.text == ".":
            raise ValueError(
                f"{name.text}() is no method here: write {name.text}() with the field's path in quotes first"
            )
        if bracket.start > name.start + len(name.text):
            raise ValueError(f"there is a blank between {name.text} and its bracket: the engine does not know it then")


def _remarks(text: str) -> Iterator[str]:
    """Parts of an expression that are valid but cannot be intended."""
    unquoted: dict[str, None] = {}
    for call in calls(text):
        fault = literal_fault(call)
        if fault:
            yield fault
        if call.arguments[0].kind == "dynamic":
            unquoted[call.arguments[0].text] = None
    if unquoted:
        yield unquoted_text(unquoted)


def literal_fault(call: FunctionCall) -> str:
    """Why the call is false for every value; empty if it can be true."""
    if len(call.arguments) < 2 or call.arguments[1].kind != "text":
        return ""
    wanted = call.arguments[1].value
    if call.name == "regexMatch":
        try:
            pattern(wanted)
        except PatternError as error:
            return f"it matches nothing: {error}"
    if call.name == "inCIDR" and network(wanted) is None:
        return f"no address matches: {wanted!r} is not a network"
    return ""


def unquoted_text(fields: Iterable[str]) -> str:
    """The fault of fields that a function gets without quotes."""
    return f"{UNQUOTED}{', '.join(fields)}. Without quotes the engine reads the field that the value names"


def _loop_variables(text: str) -> list[str]:
    return re.findall(r"\.\s*(?:exists|exists_one|all|map|filter)\s*\(\s*(\w+)\s*,", text)


@lru_cache(maxsize=10_000)
def _program(text: str) -> cel.Program:
    try:
        return cel.compile(text)
    except ValueError as error:
        raise ValueError(f"not valid CEL: {_first_fault(str(error))}") from None


def _first_fault(text: str) -> str:
    """The parser's first fault, without the quoted text, with a hint for common mistakes."""
    fault = re.search(r"<input>:(\d+):(\d+): (?:Syntax error: )?([^\n|]+)", text)
    if fault is None:
        return text[:160]
    problem = fault.group(3).partition(" expecting")[0].strip()
    hint = next((advice for mark, advice in _HINTS.items() if f"'{mark}'" in problem), "")
    return f"line {fault.group(1)}, column {int(fault.group(2)) + 1}: {problem}{hint}"


_HINTS = {
    "=~": ': write regexMatch("field", "pattern")',
    "contains": ': write contains("field", "text")',
    "startsWith": ': write startsWith("field", "text")',
    "endsWith": ': write endsWith("field", "text")',
    "and": ": write &&",
    "or": ": write ||",
    "not": ": write !",
}
_EVALUATOR = _Evaluator()
