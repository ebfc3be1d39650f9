"""Reads a simulated account from a YAML or JSON file (see `docs/simulator.md`); `/_control/` uses the same fields."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from emulator.central.accounts import LIMITS, PERMISSIONS, Credential, Tenant
from emulator.central.feed import CursorRule
from emulator.central.stories import Fields

ROLES = ("tenant", "partner", "organization")
_ACCOUNT_KEYS = frozenset({"tenants", "credentials", "regions", "limits", "retry_after", "token_seconds"}) | {
    "cursor_rule",
    "page_cap",
}
_BOOLEANS = frozenset({"forbidden", "expired"})
_NULLABLE = frozenset({"api_host", "data_region"})


@dataclass(frozen=True, slots=True)
class Described:
    """The values of an account file, ready for `CentralServer`."""

    tenants: tuple[Tenant, ...] = (Tenant(),)
    credentials: tuple[Credential, ...] = (Credential(),)
    devices: tuple[tuple[str, Fields], ...] = ()
    """Pairs of a tenant id and a listed device."""
    regions: tuple[str, ...] = ()
    limits: tuple[tuple[float, float], ...] = ()
    retry_after: bool = False
    token_seconds: int = 3600
    cursor_rule: CursorRule = "query"
    page_cap: int | None = None


def load_account(path: Path) -> Described:
    """The account of a file; ValueError names its fault, OSError if it cannot be read."""
    import yaml  # noqa: PLC0415 - a slow import that only account files need

    try:
        return described(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def described(value: object) -> Described:
    """The account of a mapping; ValueError names its fault."""
    values = _mapping(value, "an account", _ACCOUNT_KEYS)
    tenants: list[Tenant] = []
    devices: list[tuple[str, Fields]] = []
    for entry in _list(values.get("tenants", [{}]), "tenants"):
        for tenant, listed in _expanded(entry):
            tenants.append(tenant)
            devices.extend((tenant.id, device) for device in listed)
    if not tenants:
        raise ValueError("an account needs at least one tenant")
    own = Credential(id=tenants[0].id)
    credentials = [credential_from(entry, own) for entry in _list(values.get("credentials", [{}]), "credentials")]
    _check_unique("tenant", [tenant.id for tenant in tenants])
    _check_unique("credential", [credential.client_id for credential in credentials])
    return Described(
        tenants=tuple(tenants),
        credentials=tuple(credentials),
        devices=tuple(devices),
        regions=tuple(map(str, _list(values.get("regions", []), "regions"))),
        limits=limits_from(values.get("limits", "none")),
        retry_after=_typed("retry_after", values.get("retry_after", False), bool),
        token_seconds=_typed("token_seconds", values.get("token_seconds", 3600), int),
        cursor_rule=_cursor_rule(values.get("cursor_rule", "query")),
        page_cap=_typed("page_cap", values.get("page_cap"), int, nullable=True),
    )


def _cursor_rule(value: object) -> CursorRule:
    match value:
        case "query" | "newest":
            return value
    raise ValueError(f"cursor_rule must be query or newest, not {value!r}")


def limits_from(value: object) -> tuple[tuple[float, float], ...]:
    """Windows as `(requests, seconds)`, from one of the names of `LIMITS` or from a list of pairs."""
    if isinstance(value, str):
        if value not in LIMITS:
            raise ValueError(f"unknown limits {value!r}; known: {', '.join(LIMITS)}")
        return LIMITS[value]
    pairs = [tuple(_list(pair, "a limit")) for pair in _list(value, "limits")]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(part, int | float) and part > 0 for part in pair):
            raise ValueError(f"a limit must be [requests, seconds], both above 0, not {list(pair)!r}")
    return tuple((pair[0], pair[1]) for pair in pairs)


def tenant_from(value: object, old: Tenant | None = None) -> Tenant:
    """A tenant, or the old one with the named fields changed. Without an id, its name gives one."""
    values = _mapping(value, "a tenant", {field.name for field in fields(Tenant)})
    for name, field_value in values.items():
        _typed(name, field_value, _type_of(name), nullable=name in _NULLABLE)
    if old is None and "id" not in values and "name" in values:
        values["id"] = str(uuid.uuid5(uuid.NAMESPACE_DNS, values["name"]))
    return replace(old or Tenant(), **values)


def credential_from(value: object, old: Credential | None = None) -> Credential:
    """A credential, or the old one with the named fields changed."""
    values = _mapping(value, "a credential", {field.name for field in fields(Credential)})
    for name in ("permissions", "tenants"):
        if values.get(name) == "all":
            values[name] = PERMISSIONS if name == "permissions" else None
        elif name in values:
            values[name] = tuple(map(str, _list(values[name], name)))
    if "permissions" in values:
        values["permissions"] = frozenset(values["permissions"])
        if not values["permissions"] <= PERMISSIONS:
            raise ValueError(f"permissions must be of {sorted(PERMISSIONS)}, not {sorted(values['permissions'])}")
    if values.get("id_type", "tenant") not in ROLES:
        raise ValueError(f"id_type must be one of {', '.join(ROLES)}, not {values['id_type']!r}")
    for name, field_value in values.items():
        if name not in ("permissions", "tenants"):
            _typed(name, field_value, _type_of(name), nullable=name in _NULLABLE)
    return replace(old or Credential(), **values)


def credential_fields(credential: Credential) -> dict[str, Any]:
    """The credential as JSON, with the fields of an account file."""
    tenants = "all" if credential.tenants is None else list(credential.tenants)
    return asdict(credential) | {"tenants": tenants, "permissions": sorted(credential.permissions)}


def _expanded(entry: object) -> Iterable[tuple[Tenant, Sequence[Fields]]]:
    """The tenants of an entry (one, or `count` of them with numbered names), each with its listed devices."""
    values = _mapping(entry, "a tenant")
    count, listed = values.pop("count", None), values.get("devices", 0)
    if isinstance(listed, list):
        values["devices"] = 0
    devices = [_mapping(device, "a device") for device in listed] if isinstance(listed, list) else []
    if count is None:
        return [(tenant_from(values), devices)]
    if "id" in values:
        raise ValueError("an entry with a count cannot have an id: the ids come from the names")
    name = str(values.get("name", "Example"))
    count = _typed("count", count, int)
    return [(tenant_from(values | {"name": f"{name} {number:04d}"}), devices) for number in range(1, count + 1)]


def _type_of(name: str) -> type:
    return bool if name in _BOOLEANS else int if name == "devices" else str


def _typed(name: str, value: Any, kind: type, *, nullable: bool = False) -> Any:
    if not (nullable and value is None) and type(value) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}, not {value!r}")
    return value


def _mapping(value: object, name: str, keys: Iterable[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping, not {value!r}")  # noqa: TRY004 - as the docstrings say
    unknown = set(value) - set(keys) if keys is not None else set()
    if unknown:
        raise ValueError(f"{name} has no {sorted(map(str, unknown))}; its keys are: {', '.join(sorted(keys or ()))}")
    return dict(value)


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, not {value!r}")  # noqa: TRY004 - as the docstrings say
    return list(value)


def _check_unique(name: str, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise ValueError(f"{name} {twice!r} is there twice")
