"""UTMStack's filters and rules: YAML files, read with their line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lib.errors import ConfigError

SUFFIXES = {".yml", ".yaml"}
KNOWN = {
    "json": {"source", "where"},
    "rename": {"from", "to", "where"},
    "cast": {"fields", "to", "where"},
    "delete": {"fields", "where"},
    "grok": {"source", "patterns", "where"},
    "kv": {"source", "fieldSplit", "valueSplit", "where"},
    "csv": {"source", "separator", "headers", "where"},
    "trim": {"fields", "function", "substring", "where"},
    "add": {"function", "params", "where"},
    "reformat": {"fields", "function", "fromFormat", "toFormat", "where"},
    "expand": {"source", "to", "where"},
    "drop": {"where"},
    "dynamic": {"plugin", "params", "where"},
}
"""The keys of each kind of step. The engine ignores all others silently."""
OPERATORS = frozenset({"filter_term", "must_not_term", "filter_match", "must_not_match"})
"""What a search of earlier events can ask of a field."""
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)", re.ASCII)
"""A duration of Go's: there is no day."""


class LinedMapping(dict[str, Any]):
    """A mapping that knows the line on which it begins."""

    line = 0


@dataclass(frozen=True, slots=True)
class StepText:
    """A step as in the file."""

    kind: str
    body: Mapping[str, Any]
    where: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A stage of a filter: its steps and its data types. Without data types it runs for all."""

    data_types: frozenset[str]
    steps: tuple[StepText, ...]
    order: int = 0


@dataclass(frozen=True, slots=True)
class Filters:
    """The content of all filter files."""

    pipelines: tuple[Pipeline, ...]
    patterns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A correlation rule."""

    name: str
    file: str
    line: int
    data_types: frozenset[str]
    where: str
    variables: tuple[tuple[str, str, str], ...] = ()
    history: bool = False
    """Whether it also searches earlier events: a match is then only a candidate."""
    placeholders: tuple[str, ...] = ()
    """Fields of the event that its search needs."""
    faults: tuple[str, ...] = field(default=())


def read_filters(names: Sequence[str]) -> Filters:
    """The filters in the files, in their order; ConfigError with file and line if one holds none."""
    pipelines: list[Pipeline] = []
    patterns: dict[str, str] = {}
    for file in files_of(names):
        has_filter = False
        for document in documents_of(file):
            stages = document.get("pipeline") if isinstance(document, dict) else None
            if isinstance(document, dict) and isinstance(document.get("patterns"), dict):
                patterns |= {str(name): str(text) for name, text in document["patterns"].items()}
                has_filter = True
            if isinstance(stages, list):
                pipelines += [_pipeline(stage, file) for stage in stages]
                has_filter = True
        if not has_filter:
            raise _refused(
                file, 1, "holds no filter: the list `pipeline` is missing", "Name a filter file of UTMStack."
            )
    return Filters(tuple(sorted(pipelines, key=lambda pipeline: pipeline.order)), patterns)


def read_rules(names: Sequence[str]) -> list[Rule]:
    """The rules in the files and folders; ConfigError with file and line if one holds none."""
    rules: list[Rule] = []
    for file in files_of(names):
        for document in documents_of(file):
            entries = document.get("rules", [document]) if isinstance(document, dict) else document
            rules += [_rule(entry, file) for entry in (entries if isinstance(entries, list) else [entries])]
    if not rules:
        raise ConfigError(f"there is no rule in {', '.join(names)}", remedy="Name UTMStack's rules: YAML files.")
    return rules


def files_of(names: Sequence[str]) -> Iterator[Path]:
    """The named files, and the YAML files in the named folders."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        elif path.is_file():
            yield path
        else:
            raise ConfigError(f"{name} is neither a file nor a folder", remedy="Correct the path.")


def documents_of(path: Path) -> list[Any]:
    """The YAML documents in the file; ConfigError with the line if it is not YAML."""
    try:
        text = path.read_text("utf-8")
        return [document for document in yaml.load_all(text, Loader=_RuleLoader) if document is not None]
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", remedy="Correct the path, or the permissions."
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})", remedy="Save it as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _refused(
            path, line, f"is not valid YAML: {error.problem or error.context}", "Correct that line."
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise _refused(path, 1, f"is not valid YAML: {error}", "Correct the file.") from None


class _RuleLoader(yaml.SafeLoader):
    """Mappings know their line. Keys and times stay text."""


def _mapping(loader: _RuleLoader, node: yaml.MappingNode) -> LinedMapping:
    loader.flatten_mapping(node)
    mapping = LinedMapping()
    mapping.line = node.start_mark.line + 1
    for key, value in node.value:
        mapping[str(loader.construct_object(key, deep=True))] = loader.construct_object(value, deep=True)
    return mapping


def _scalar(loader: _RuleLoader, node: yaml.ScalarNode) -> Any:
    return loader.construct_scalar(node)


_RuleLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
_RuleLoader.add_constructor("tag:yaml.org,2002:timestamp", _scalar)


def _refused(path: Path, line: int, fault: str, remedy: str) -> ConfigError:
    return ConfigError(f"{path}, line {line}: {fault}", remedy=remedy)


def _line(value: object) -> int:
    return value.line if isinstance(value, LinedMapping) else 1


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [str(item) for item in value if item is not None] if isinstance(value, list) else []


def _pipeline(stage: Any, path: Path) -> Pipeline:
    if not isinstance(stage, dict) or not isinstance(stage.get("steps") or [], list):
        raise _refused(path, _line(stage), "a stage of `pipeline` needs a list `steps`", "Write `steps:` and a list.")
    steps: list[StepText] = []
    for number, entry in enumerate(stage.get("steps") or [], 1):
        if not isinstance(entry, dict) or not entry:
            line = _line(entry) if isinstance(entry, dict) else _line(stage)
            raise _refused(path, line, f"step {number} is not a step", "Write the step's name with its keys.")
        for kind, body in entry.items():
            where = f"{path.name}, line {_line(entry)}: step {number}, {kind}"
            fields = body if isinstance(body, dict) else {}
            steps.append(StepText(kind, fields, where, tuple(_unknown(kind, fields))))
    order = stage.get("order")
    return Pipeline(frozenset(_texts(stage.get("dataTypes"))), tuple(steps), order if isinstance(order, int) else 0)


def _unknown(kind: str, body: Mapping[str, Any]) -> Iterator[str]:
    parts = [body, *(entry for entry in body.get("patterns") or [] if kind == "grok" and isinstance(entry, dict))]
    allowed_keys = [KNOWN.get(kind, set(body)), *[{"fieldName", "pattern"}] * (len(parts) - 1)]
    for part, allowed in zip(parts, allowed_keys, strict=True):
        for key in part:
            if key not in allowed:
                yield f"the engine does not know `{key}` in {kind}, and ignores it"


def condition_of(where: Any) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """A `where` as text, and its variables. The first versions of UTMStack list them beside the expression."""
    if not isinstance(where, dict):
        return "" if where is None else str(where).lower() if isinstance(where, bool) else str(where), ()
    variables = tuple(
        (
            str(variable.get("as")),
            str(variable.get("get")),
            str(variable.get("ofType") or variable.get("oftype") or "string"),
        )
        for variable in where.get("variables") or []
        if isinstance(variable, dict)
    )
    return str(where.get("expression") or ""), variables


def _rule(entry: Any, path: Path) -> Rule:
    if not isinstance(entry, dict) or not ({"name", "where"} & set(entry)):
        raise _refused(path, _line(entry), "is not a rule: it has neither `name` nor `where`", "Name only rule files.")
    where, variables = condition_of(entry.get("where"))
    searches = [*_searches(entry.get("afterEvents")), *_searches(entry.get("correlation"))]
    faults = [fault for search in searches for fault in _search_faults(search)]
    if entry.get("groupBy") and entry.get("deduplicateBy"):
        faults.append("the rule has both `groupBy` and `deduplicateBy`: the engine uses only one of them")
    return Rule(
        name=str(entry.get("name") or path.stem),
        file=str(path),
        line=_line(entry),
        data_types=frozenset(_texts(entry.get("dataTypes"))),
        where=where,
        variables=variables,
        history=bool(searches),
        placeholders=tuple(dict.fromkeys(name for search in searches for name in _placeholders(search))),
        faults=tuple(faults),
    )


def _searches(value: object) -> list[Mapping[str, Any]]:
    searches: list[Mapping[str, Any]] = []
    for search in value if isinstance(value, list) else []:
        if isinstance(search, dict):
            searches += [search, *_searches(search.get("or"))]
    return searches


def _values(search: Mapping[str, Any]) -> Iterator[Any]:
    return (term.get("value") for term in search.get("with") or [] if isinstance(term, dict))


def _placeholders(search: Mapping[str, Any]) -> Iterator[str]:
    """The fields whose values the search asks for: `{{.FIELD}}`, exactly."""
    for value in _values(search):
        if isinstance(value, str) and value.startswith("{{.") and value.endswith("}}"):
            yield value.replace("{{.", "").replace("}}", "")


def _search_faults(search: Mapping[str, Any]) -> Iterator[str]:
    """What in a search of earlier events does not do what it says. The engine mentions none of it."""
    for value in _values(search):
        if isinstance(value, str) and value.startswith("{{") and not value.startswith("{{."):
            field = value.strip("{} ").lstrip(".")
            yield f"its search of earlier events asks for the text {value!r}: write '{{{{.{field}}}}}' for the field"
    for term in search.get("with") or []:
        operator = term.get("operator") if isinstance(term, dict) else None
        if operator not in OPERATORS:
            yield f"the engine does not know the operator {operator!r} in a search, and leaves its term out"
    within = search.get("within")
    if within and not _DURATION.fullmatch(str(within)):
        yield f"`within: {within}` is no duration: the engine searches all of the past; write for example 30m or 24h"
