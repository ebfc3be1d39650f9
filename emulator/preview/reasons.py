"""The reason why a rule can never match here, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from emulator.preview.conditions import UNQUOTED, literal_fault, of_bag, unquoted_text
from emulator.preview.expressions import FunctionCall, LogicNode, calls, fields_of
from emulator.preview.functions import FUNCTIONS
from emulator.preview.session import RECEIVED, RuleTally, SeenValues, Session
from emulator.preview.values import decode
from lib.model.families import FAMILIES

TYPES = frozenset(name for names in FAMILIES.values() for name in names)
"""The event types in Sophos's list, and newer known ones."""
SEVERITIES = ("none", "low", "medium", "high", "critical")
_MOST = 3
"""The number of reasons or values that are named."""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The values in the events to which a rule applies."""

    session: Session
    seen: dict[str, list[SeenValues]]

    @property
    def bag(self) -> str:
        return self.session.dialect.bag


def never(session: Session, tally: RuleTally) -> str | None:
    """The reason why the rule can never match here; None if it matched or still could."""
    if tally.matches:
        return None
    rule = tally.rule
    sent = session.site.data_types() | set(session.data_types)
    if rule.data_types and not rule.data_types & sent:
        wanted = ", ".join(sorted(rule.data_types))
        return f"no event of the data type {wanted} is sent; the sent data types are {', '.join(sorted(sent))}"
    if tally.condition.fault:
        return f"the engine cannot evaluate it: {tally.condition.fault}"
    evidence = [seen for name, seen in session.seen.items() if not rule.data_types or name in rule.data_types]
    if not evidence and not (session.excluded and session.events):
        return None
    merged: dict[str, list[SeenValues]] = {}
    for by_path in evidence:
        for path, values in by_path.items():
            merged.setdefault(path, []).append(values)
    faults = _why_not(tally.logic, _Evidence(session, merged))
    unquoted = [remark for remark in tally.condition.remarks if remark.startswith(UNQUOTED)]
    if unquoted and any(fault.startswith(UNQUOTED) for fault in faults):
        faults = [*unquoted, *(fault for fault in faults if not fault.startswith(UNQUOTED))]
    return _listed(faults, "; ") if faults else None


def _why_not(part: LogicNode, evidence: _Evidence) -> list[str]:
    """The reasons why the part can never be true; none if it can."""
    if part.kind == "leaf":
        return _leaf(part, evidence)
    if part.kind == "all":
        return next(filter(None, (_why_not(inner, evidence) for inner in part.parts)), [])
    if part.kind == "any":
        by_part = [_why_not(inner, evidence) for inner in part.parts]
        return (
            list(dict.fromkeys(reason for part_reasons in by_part for reason in part_reasons)) if all(by_part) else []
        )
    return []


def _leaf(part: LogicNode, evidence: _Evidence) -> list[str]:
    if part.text == "false":
        return ["it says false"]
    if part.call is not None:
        return _call(part.call, evidence)
    unquoted = [call.arguments[0].text for call in calls(part.text) if call.path is None and call.arguments]
    if unquoted:
        return [unquoted_text(unquoted)]
    absent = [
        unquoted_field.path
        for unquoted_field in fields_of(part.text)
        if not _values(unquoted_field.path, evidence)
        and not _is_open(of_bag(unquoted_field.path, evidence.bag), evidence)
    ]
    return [_absent(absent[0])] if absent else []


def _call(call: FunctionCall, evidence: _Evidence) -> list[str]:
    path, fault = call.path, literal_fault(call)
    if path is None or fault:
        return [
            f"{call.name} of {path}: {fault}"
            if fault
            else unquoted_text([argument.text for argument in call.arguments[:1]])
        ]
    own = of_bag(path, evidence.bag)
    if _is_open(own, evidence) or any(argument.kind == "dynamic" for argument in call.arguments[1:]):
        return []
    values = _values(own, evidence)
    args = tuple(argument.value for argument in call.arguments[1:])
    if _is_type(own, values, evidence):
        return _type(call, values, args, evidence)
    is_whole = all(field_values.is_whole for field_values in evidence.seen.get(own, ()))
    if not is_whole or any(_holds(call, value, args) for value in (*values, *_possible(own, evidence))):
        return []
    if not values:
        return [_absent(path)]
    return [f"no event has a {path} that {_wanted(call)}: {_shown(values)}"]


def _type(call: FunctionCall, values: list[Any], args: tuple[Any, ...], evidence: _Evidence) -> list[str]:
    """The reasons for a call on the event's type. Sophos's own list counts as seen, excluded types do not."""
    excluded = evidence.session.excluded
    types = [type_ for type_ in {*TYPES, *evidence.session.types, *(v for v in values if isinstance(v, str))} if type_]
    fitting = [type_ for type_ in types if _holds(call, type_, args)]
    if any(type_ not in excluded for type_ in fitting):
        return []
    if fitting:
        integrations = ", ".join(sorted({name for type_ in fitting for name in excluded[type_]}))
        return [f"`exclude_types` of {integrations} leaves out {_listed(sorted(fitting))}"]
    return [f"Sophos sends no type that {_wanted(call)}: neither these events nor Sophos's list contain one"]


def _is_type(own: str, values: list[Any], evidence: _Evidence) -> bool:
    texts = [value for value in values if isinstance(value, str)]
    types = TYPES | set(evidence.session.types)
    return own == f"{evidence.bag}.type" or (bool(texts) and len(texts) == len(values) and set(texts) <= types)


def _is_open(own: str, evidence: _Evidence) -> bool:
    """Whether the field's values are unknown: a plugin that does not run here writes it, or the engine's clock."""
    return own in {RECEIVED, "deviceTime"} or any(
        own == made or own.startswith(f"{made}.") for made in evidence.session.made
    )


def _possible(own: str, evidence: _Evidence) -> Iterable[Any]:
    """Possible values beside those in the events."""
    constants = evidence.session.constants.get(own, set())
    return [*constants, *(SEVERITIES if own == f"{evidence.bag}.severity" else ())]


def _values(path: str, evidence: _Evidence) -> list[Any]:
    own = of_bag(path, evidence.bag)
    keys = dict.fromkeys(key for field_values in evidence.seen.get(own, ()) for key in field_values.values)
    return [decode(value) if kind in {dict, list} else value for kind, value in keys]


def _holds(call: FunctionCall, value: Any, args: tuple[Any, ...]) -> bool:
    return bool(FUNCTIONS[call.name].answer(value, args))


def _absent(path: str) -> str:
    return f"no event has the field {path}"


def _wanted(call: FunctionCall) -> str:
    says = FUNCTIONS[call.name].says or f"fits {call.name}({{}})"
    texts = []
    for argument in call.arguments[1:]:
        value = argument.value
        texts.append(_listed([_word(item) for item in value]) if isinstance(value, list) else _word(value))
    return says.format(" and ".join(texts))


def _word(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(values: list[Any]) -> str:
    texts = [_word(value) for value in values]
    return f"seen: {_listed([text if len(text) <= 60 else f'{text[:57]}…' for text in texts])}"


def _listed(texts: list[str], between: str = ", ") -> str:
    rest = len(texts) - _MOST
    shown = between.join(texts[:_MOST])
    return f"{shown}{between}and {rest} more" if rest > 0 else shown
