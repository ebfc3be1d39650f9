"""A session: compiles filters and rules once, applies them to events, and counts the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from emulator.preview.conditions import Condition, of_bag
from emulator.preview.draft import Draft
from emulator.preview.events import Event, Site, is_alert
from emulator.preview.expressions import LogicNode, calls, fields_of, logic_of
from emulator.preview.files import Filters, Pipeline, Rule, StepText, condition_of
from emulator.preview.paths import UnsupportedPathError, leaves, reader
from emulator.preview.patterns import NAMED
from emulator.preview.schema import BAGS, ENVELOPE, finalized
from emulator.preview.steps import Dialect, DroppedError, FilterStep, StepError, compile_step
from emulator.preview.values import MISSING, Json, to_json
from lib.model.text import several

_QUIET = frozenset({"dataType", "dataSource", *ENVELOPE})
"""Fields that every event has, whatever the filter does."""
RECEIVED = "@timestamp"
"""The time when the engine got the event."""
MOST_VALUES = 2_000
"""The number of different values that are kept for a path."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one event."""

    id: str
    type: str
    fields: dict[str, Json]
    rules: tuple[str, ...]


@dataclass(slots=True)
class TypeTally:
    """One event type: the number of its events, and their fields after the filter."""

    count: int = 0
    matched: bool = False
    fields: set[str] = field(default_factory=set)


@dataclass(slots=True)
class RuleTally:
    """One rule: its paths, and its matches."""

    rule: Rule
    condition: Condition
    logic: LogicNode
    matches: int = 0
    example: str | None = None
    asked: int = 0


@dataclass(slots=True)
class Remark:
    """A part that was not evaluated: a `limit` of the preview, or a fault of the file."""

    where: str
    what: str
    count: int
    limit: bool


class Remarks:
    """The parts that were not evaluated, with their counts."""

    def __init__(self) -> None:
        self._by_place: dict[tuple[str, str], Remark] = {}

    def add(self, where: str, what: str, count: int = 1, *, limit: bool = False) -> None:
        """Count it."""
        remark = self._by_place.setdefault((where, what), Remark(where, what, 0, limit))
        remark.count += count

    def __iter__(self) -> Iterator[Remark]:
        return iter(self._by_place.values())


class SeenValues:
    """The values of a path in the events of one data type."""

    __slots__ = ("is_whole", "values")

    def __init__(self) -> None:
        self.values: Counter[Any] = Counter()
        self.is_whole = True

    def add(self, value: Json) -> None:
        """One more event with that value."""
        key = (type(value), to_json(value) if isinstance(value, (dict, list)) else value)
        if key in self.values or len(self.values) < MOST_VALUES:
            self.values[key] += 1
        else:
            self.is_whole = False


class Session:
    """A session; not safe between threads."""

    def __init__(self, filters: Filters, rules: Sequence[Rule], site: Site) -> None:
        self.site = site
        self.events = 0
        self.dropped = 0
        self.types: dict[str, TypeTally] = {}
        self.data_types: Counter[str] = Counter()
        self._event_ids: set[int] = set()
        self._alert_ids: set[int] = set()
        """Hashes of ids: an alert has the id of the event that caused it."""
        self.remarks = Remarks()
        self.excluded = site.excluded()
        self.dialect = _dialect(filters, rules)
        self.pipelines = [(pipeline.data_types, self._steps(pipeline)) for pipeline in filters.pipelines]
        self._renamed = 0
        self.rules = [self._rule(rule) for rule in rules]
        self.made = [step.makes for _, steps in self.pipelines for step in steps if step.makes]
        """Fields of plugins that do not run here; their values are unknown."""
        self.constants = _constants(filters, self.dialect)
        self.seen: dict[str, dict[str, SeenValues]] = {}
        self._watched = self._paths()
        self._lost: Counter[tuple[str, str]] = Counter()

    def _steps(self, pipeline: Pipeline) -> list[FilterStep]:
        return [self._step(step) for step in pipeline.steps]

    def _step(self, text: StepText) -> FilterStep:
        where, variables = condition_of(text.body.get("where"))
        condition = Condition(where, self.dialect.bag, variables) if where else None
        for remark in (*text.remarks, *(condition.remarks if condition else ())):
            self.remarks.add(text.where, remark, 0)
        step = compile_step(text.kind, text.body, text.where, condition, self.dialect)
        if step.fault:
            self.remarks.add(step.where, step.fault, 0, limit=step.kind == "dynamic")
        if condition is not None and condition.fault:
            self.remarks.add(step.where, f"its `where`: {condition.fault}", 0)
        return step

    def _rule(self, rule: Rule) -> RuleTally:
        condition = Condition(rule.where, self.dialect.bag, rule.variables)
        place = place_of(rule)
        for remark in (*condition.remarks, *rule.faults):
            self.remarks.add(place, remark, 0)
        if condition.fault:
            self.remarks.add(place, f"its `where`: {condition.fault}", 0)
        if rule.history:
            self.remarks.add(place, CANDIDATE, 0, limit=True)
        if RECEIVED in {call.path for call in condition.calls}:
            self.remarks.add(place, CLOCK, 0, limit=True)
        if not condition.fault and _other_bag(condition, rule, self.dialect.bag):
            self._renamed += 1
        return RuleTally(rule, condition, logic_of(rule.where))

    def _paths(self) -> dict[str, Any]:
        readers: dict[str, Any] = {}
        for tally in self.rules:
            paths = {call.path for call in tally.condition.calls if call.path} | set(tally.rule.placeholders)
            for path in paths | set(_fields(tally.logic)):
                own = of_bag(path, self.dialect.bag)
                try:
                    readers[own] = reader(own)
                except UnsupportedPathError:
                    continue
        return readers

    def run(self, event: Event) -> Outcome:
        """Apply the filter and the rules to one event. An event that the filter drops has no fields."""
        self.events += 1
        draft, native, kind = self._draft(event)
        tally = self.types.setdefault(kind, TypeTally())
        tally.count += 1
        self.data_types[event.envelope.data_type] += 1
        if native:
            (self._alert_ids if is_alert(event.raw) else self._event_ids).add(hash(native))
        if not self._filtered(draft, event.envelope.data_type):
            self.dropped += 1
            return Outcome(native, kind, {}, ())
        lost: dict[str, str] = {}
        draft = Draft(finalized(draft.fields, lost))
        for path, why in lost.items():
            self._lost[(path, why)] += 1
        shown = {path: value for path, value in leaves(draft.fields) if path not in _QUIET and value != {}}
        tally.fields.update(shown)
        excluded = kind in self.excluded
        names = () if excluded else tuple(self._matched(draft, event.envelope.data_type, native or kind))
        tally.matched |= bool(names)
        if not excluded:
            self._watch(draft, event.envelope.data_type)
        return Outcome(native, kind, shown, names)

    def _draft(self, event: Event) -> tuple[Draft, str, str]:
        try:
            native, kind = _facts(msgspec.json.decode(event.raw))
        except (msgspec.DecodeError, RecursionError):
            native, kind = "", ""
        envelope = event.envelope
        fields = {
            "id": native,
            "dataType": envelope.data_type,
            "dataSource": envelope.data_source,
            RECEIVED: "2026-01-01T00:00:00Z",
            "tenantId": envelope.tenant_id,
            "raw": event.raw.decode("utf-8", "replace"),
        }
        return Draft(fields), native, kind

    def _filtered(self, draft: Draft, data_type: str) -> bool:
        """Apply the steps for the data type; return False if one of them drops the event."""
        for data_types, steps in self.pipelines:
            if data_types and data_type not in data_types:
                continue
            for step in steps:
                try:
                    self._carry_out(step, draft)
                except DroppedError:
                    return False
        return True

    def _carry_out(self, step: FilterStep, draft: Draft) -> None:
        if step.condition is not None:
            holds = step.condition.holds(draft)
            if holds is None:
                fault = step.condition.fault
                roots = ", ".join(root for root in step.condition.roots if root not in draft.fields)
                self.remarks.add(step.where, f"its `where`: {fault or _unread(roots)}")
            if not holds:
                return
        if step.do is None:
            self.remarks.add(step.where, step.fault, limit=step.kind == "dynamic")
            return
        try:
            step.do(draft)
        except StepError as error:
            text = str(error)
            if not text.startswith("there is no "):  # The engine only notes a missing value on the event.
                self.remarks.add(step.where, f"it fails: {text.partition(':')[0]}")

    def _matched(self, draft: Draft, data_type: str, example: str) -> Iterator[str]:
        for tally in self.rules:
            if tally.rule.data_types and data_type not in tally.rule.data_types:
                continue
            tally.asked += 1
            if tally.condition.holds(draft):
                tally.matches += 1
                tally.example = tally.example or example
                missing = [placeholder for placeholder in tally.rule.placeholders if self._absent(draft, placeholder)]
                if missing:
                    text = f"its search of earlier events needs {', '.join(missing)}, which is missing; it is skipped"
                    self.remarks.add(place_of(tally.rule), text)
                yield tally.rule.name

    def _absent(self, draft: Draft, path: str) -> bool:
        read = self._watched.get(of_bag(path, self.dialect.bag))
        return read is not None and read(draft.fields) in (MISSING, None)

    def _watch(self, draft: Draft, data_type: str) -> None:
        seen = self.seen.setdefault(data_type, {})
        for path, read in self._watched.items():
            value = read(draft.fields)
            if value is not MISSING:
                if path not in seen:
                    seen[path] = SeenValues()
                seen[path].add(value)

    def links(self) -> dict[str, int]:
        """How many alerts there are, and of how many the event is not among these events."""
        return {"alerts": len(self._alert_ids), "alerts_without_event": len(self._alert_ids - self._event_ids)}

    def not_evaluated(self) -> list[Remark]:
        """Everything that was not evaluated, with how many events it concerns."""
        for tally in self.rules:
            for remark in self.remarks:
                if remark.where == place_of(tally.rule) and not remark.count:
                    remark.count = tally.matches if remark.what == CANDIDATE else tally.asked
        remarks = [remark for remark in self.remarks if remark.count or not remark.limit]
        if self._renamed:
            other_bag = next(bag for bag in BAGS if bag != self.dialect.bag)
            what = (
                f"they read {other_bag}.*, the filter writes {self.dialect.bag}.*: "
                "the preview treats both as the same, but no engine has both"
            )
            remarks.append(Remark(several(self._renamed, "rule"), what, self.events, limit=True))
        remarks += [
            Remark(name, "no stage of the filter applies to this data type", count, limit=False)
            for name, count in self.data_types.items()
            if not any(name in types or not types for types, _ in self.pipelines)
        ]
        remarks += [Remark(path, why, count, limit=False) for (path, why), count in sorted(self._lost.items())]
        return remarks


CLOCK = "it asks for @timestamp, the time when the engine gets the event: the preview takes a fixed one"
CANDIDATE = "its search of earlier events does not run here: a match is a candidate, not an alert yet"


def place_of(rule: Rule) -> str:
    """A rule's place in its file, for people."""
    return f"{rule.file}, line {rule.line}: {rule.name}"


def _unread(roots: str) -> str:
    return f"{roots} is missing, so the engine cannot compile it" if roots else "it fails on a value"


def _facts(value: Any) -> tuple[str, str]:
    if not isinstance(value, dict):
        return "", ""
    native, kind = value.get("id"), value.get("type")
    return native if isinstance(native, str) else "", kind if isinstance(kind, str) else ""


def _fields(part: LogicNode) -> Iterator[str]:
    """The fields without quotes in the leaves."""
    if part.kind == "leaf":
        yield from (unquoted.path for unquoted in fields_of(part.text))
    for inner in part.parts:
        yield from _fields(inner)


def _other_bag(condition: Condition, rule: Rule, bag: str) -> bool:
    paths = [*(call.path or "" for call in condition.calls), *rule.placeholders, *_fields(logic_of(rule.where))]
    roots = {path.partition(".")[0] for path in paths} & set(BAGS)
    return bool(roots - {bag})


def _written(text: StepText) -> Iterator[str]:
    """The paths that a step reads or writes."""
    body = text.body
    for name in ("source", "to", "from", "fields", "headers"):
        value = body.get(name)
        yield from (str(path) for path in (value if isinstance(value, list) else [value]) if path)
    for entry in body.get("patterns") or [] if text.kind == "grok" else []:
        yield str(entry.get("fieldName") or "") if isinstance(entry, dict) else ""
    params = body.get("params")
    yield from (str(param) for param in params.values()) if isinstance(params, dict) else ()
    yield from _read(text)


def _read(text: StepText) -> Iterator[str]:
    """The paths that a step reads, and does not write."""
    where, variables = condition_of(text.body.get("where"))
    yield from (call.path or "" for call in calls(where))
    yield from (path for _, path, _ in variables)
    yield from _fields(logic_of(where))
    for name in ("source", "from", "fields"):
        value = text.body.get(name)
        yield from (str(path) for path in (value if isinstance(value, list) else [value]) if path)


def _dialect(filters: Filters, rules: Sequence[Rule]) -> Dialect:
    """The version of the engine that the filter is for, derived from the filter's paths."""
    texts = [step for pipeline in filters.pipelines for step in pipeline.steps]
    paths = [path for text in texts for path in _written(text)]
    asked = [call.path for rule in rules for call in calls(rule.where) if call.path]
    roots = Counter(path.partition(".")[0] for path in paths)
    if not roots["log"] and not roots["event"]:
        roots = Counter(path.partition(".")[0] for path in asked)
    bag = "event" if roots["event"] > roots["log"] else "log"
    own = [path.partition(".")[2] for path in paths if path.partition(".")[0] in BAGS]
    keys = {path.partition(".")[0] for path in own}
    named = {path.split(".")[1] for path in asked if path.partition(".")[0] in BAGS and "." in path}
    keeps = not keys & _SQUEEZED and (any("_" in path for path in own) or bool(named & _UNDERSCORED))
    return Dialect(bag, keeps, {**NAMED, **filters.patterns})


_UNDERSCORED = frozenset(
    {
        "amsi_threat_data",
        "core_remedy_items",
        "created_at",
        "customer_id",
        "endpoint_id",
        "endpoint_type",
        "event_service_event_id",
        "event_service_id",
        "ips_threat_data",
        "source_info",
        "threat_cleanable",
        "user_id",
        "whitelist_properties",
    }
)
"""Keys of Sophos's events with an underscore."""
_SQUEEZED = frozenset(key.replace("_", "") for key in _UNDERSCORED)
"""The same keys in engines that drop underscores: a filter that reads them is for such an engine."""


def _constants(filters: Filters, dialect: Dialect) -> Mapping[str, set[str]]:
    """The constants that the filter writes, by field."""
    constants: dict[str, set[str]] = {}
    for pipeline in filters.pipelines:
        for step in pipeline.steps:
            params = step.body.get("params")
            if step.kind == "add" and isinstance(params, dict):
                key = of_bag(str(params.get("key")), dialect.bag)
                constants.setdefault(key, set()).add(str(params.get("value")))
    return constants
