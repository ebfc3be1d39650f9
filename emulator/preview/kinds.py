"""The kinds of an expression's parts, as CEL knows them before it evaluates: it refuses what does not fit together.

A field's kind is not known then, so a part that reads one fits everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from emulator.preview.expressions import Argument, LogicNode, Token, argument_of, call_of, cut, logic_of, tokens_of

DYNAMIC = "dynamic"
_ORDERED = frozenset({"text", "int", "uint", "double", "bool"})
_COMPARING = frozenset({"==", "!=", "<", "<=", ">", ">=", "in"})
_MAKES = {"size": "int", "int": "int", "uint": "uint", "double": "double", "string": "text", "bool": "bool"}
_CALLED = {
    "text": "a text",
    "int": "a whole number",
    "uint": "an unsigned number",
    "double": "a number with a point",
    "bool": "yes or no",
}


def kind_fault(text: str) -> str:
    """Why the engine refuses the expression because of its parts' kinds; empty if they fit together."""
    return _fault(logic_of(text))


def _fault(part: LogicNode) -> str:
    if part.kind == "leaf":
        return _compared(tokens_of(part.text), part.text)
    for inner in part.parts:
        fault = _fault(inner)
        if fault:
            return fault
        kind = _kind(tokens_of(inner.text), inner.text) if inner.kind == "leaf" else "bool"
        if kind not in {"bool", DYNAMIC}:
            return f"{inner.text} is {_CALLED[kind]}, where the engine wants yes or no"
    return ""


def _compared(tokens: Sequence[Token], text: str) -> str:
    """Why the two sides of a comparison cannot be compared; empty if the part is no comparison, or if they can."""
    sides = _sides(tokens)
    if sides is None:
        return ""
    left, sign, right = sides
    first, second = argument_of(left, text), argument_of(right, text)
    mine, theirs = _kind(left, text), _kind(right, text)
    if sign == "in":
        kinds = (
            {_kind(run, text) for run in cut(right[1:-1], ",") if run} if second.kind in {"list", "mixed"} else set()
        )
        theirs = kinds.pop() if len(kinds) == 1 else DYNAMIC
    if DYNAMIC in {mine, theirs} or (mine == theirs and (sign in {"==", "!=", "in"} or mine in _ORDERED)):
        return ""
    hint = _hint(first, mine, theirs) or _hint(second, theirs, mine)
    return f"the engine cannot compare {_CALLED[mine]} ({first.text}) with {_CALLED[theirs]} ({second.text}){hint}"


def _hint(part: Argument, kind: str, wanted: str) -> str:
    is_whole = kind == "int" and wanted == "double" and isinstance(part.value, int)
    return f": write {part.value}.0" if is_whole else ""


def _sides(tokens: Sequence[Token]) -> tuple[Sequence[Token], str, Sequence[Token]] | None:
    """The parts before and behind the only comparison outside brackets; None if there is none, or a condition."""
    depth, places = 0, []
    for place, token in enumerate(tokens):
        depth += (token.text in "([{") - (token.text in ")]}") if token.kind == "mark" else 0
        if depth == 0 and token.text == "?":
            return None
        if depth == 0 and token.kind in {"mark", "name"} and token.text in _COMPARING:
            places.append(place)
    if len(places) != 1 or not 0 < places[0] < len(tokens) - 1:
        return None
    return tokens[: places[0]], tokens[places[0]].text, tokens[places[0] + 1 :]


def _kind(tokens: Sequence[Token], text: str) -> str:
    """The kind of a part's value; `dynamic` if it is not known before it is evaluated."""
    if _sides(tokens) is not None:
        return "bool"
    call = call_of(tokens, text)
    if call is not None:
        return call.arguments[-1].kind if call.name == "safe" and call.arguments else "bool"
    kind = argument_of(tokens, text).kind
    if kind == DYNAMIC and len(tokens) > 2 and tokens[0].text in _MAKES and _is_whole_call(tokens):
        return _MAKES[tokens[0].text]
    return DYNAMIC if kind in {"list", "mixed"} else kind


def _is_whole_call(tokens: Sequence[Token]) -> bool:
    """Whether the part is one call and nothing behind it."""
    depth = 0
    for place, token in enumerate(tokens[1:], 1):
        depth += (token.text in "([{") - (token.text in ")]}") if token.kind == "mark" else 0
        if depth == 0:
            return place == len(tokens) - 1
    return False
