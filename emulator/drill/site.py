"""A copy of a site's configuration for the drill: its integrations, a simulated Sophos, a new store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lib.config.settings import Config, IntegrationConfig
from lib.model.families import expanded
from lib.model.ids import group_key, log_id
from lib.model.integration import UTMSTACK_TENANT
from lib.model.stream import ALERTS, EVENTS

SECRET_NAME = "DRILL_SECRET"  # noqa: S105 - the name of a variable
SECRET = "drill-secret"  # noqa: S105 - the secret of a simulated account
KINDS = (EVENTS, ALERTS)
MOST_TENANTS = 5
"""Tenants of one integration in the drill, which tests outages and not size."""
UNLIMITED = 100_000
"""Calls a minute: the drill does not test the rate limit."""


@dataclass(frozen=True, slots=True)
class Copied:
    """One integration of the copy."""

    name: str
    client_id: str
    tenants: tuple[str, ...]
    kinds: tuple[str, ...]
    excluded: frozenset[str]
    utmstack_tenant_id: str
    settings: Mapping[str, Any]

    def log_id(self, kind: str, native_id: str | None, raw: bytes) -> str:
        """The log id with which the record must arrive."""
        return log_id(group_key(self.utmstack_tenant_id, self.name), kind, native_id, raw)

    def wants(self, kind: str, type_: str) -> bool:
        """Whether a record is fetched at all."""
        return kind in self.kinds and not (kind == EVENTS and type_ in self.excluded)


def copied(config: Config) -> list[Copied]:
    """The integrations of a configuration; one default integration if there are none."""
    copies = [_copy(number, integration) for number, integration in enumerate(config.integrations)]
    plain = {"streams": [EVENTS]}
    return copies or [
        Copied("drill", "drill-0", (_tenant("drill", 0),), (EVENTS,), frozenset(), UTMSTACK_TENANT, plain)
    ]


def _copy(number: int, own: IntegrationConfig) -> Copied:
    kinds = tuple(kind for kind in own.streams if kind in KINDS) or (EVENTS,)
    tenants = (own.tenants or ())[:MOST_TENANTS] or (_tenant(own.name, number),)
    settings: dict[str, Any] = {
        "streams": list(kinds),
        "exclude_types": list(own.exclude_types),
        "utmstack_tenant_id": own.utmstack_tenant_id,
        "alerts_data_type": own.alerts_data_type,
    }
    if own.data_source is not None:
        settings["data_source"] = own.data_source
    excluded = frozenset(expanded(own.exclude_types))
    return Copied(own.name, f"drill-{number}", tenants, kinds, excluded, own.utmstack_tenant_id, settings)


def _tenant(name: str, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{number}.{name}.drill.example.com"))


def account(integrations: Sequence[Copied]) -> dict[str, Any]:
    """The simulated account, as `central --account` reads it: a credential for each integration."""
    return {
        "tenants": [
            {"id": tenant, "name": f"Drill {tenant[:8]}"}
            for tenant in dict.fromkeys(tenant for integration in integrations for tenant in integration.tenants)
        ],
        "credentials": [
            {"client_id": copy.client_id, "secret": SECRET, "id": copy.tenants[0]}
            | (
                {}
                if len(copy.tenants) == 1
                else {"id_type": "partner", "id": f"partner-{copy.client_id}", "tenants": list(copy.tenants)}
            )
            for copy in integrations
        ],
    }


def settings(integrations: Sequence[Copied], folder: Path, sophos: str, port: int) -> dict[str, Any]:
    """The configuration of the drill's connector."""
    return {
        "store": f"file:{folder}/store",
        "engine": f"unix:{folder}/engine.sock",
        "every": "1s",
        "listen": f"127.0.0.1:{port}",
        "sophos": {"auth_url": sophos, "api_url": sophos},
        "integrations": [
            {
                "name": integration.name,
                "client_id": integration.client_id,
                "client_secret": f"${{env:{SECRET_NAME}}}",
                "calls_per_minute": UNLIMITED,
                **integration.settings,
            }
            for integration in integrations
        ],
    }


def write(integrations: Sequence[Copied], folder: Path, sophos: str, port: int) -> Path:
    """Write the configuration; return its path."""
    file = folder / "connector.yaml"
    file.write_text(yaml.safe_dump(settings(integrations, folder, sophos, port), allow_unicode=True))
    return file


def write_account(integrations: Sequence[Copied], folder: Path) -> Path:
    """Write the simulated account; return its path."""
    file = folder / "account.json"
    file.write_text(json.dumps(account(integrations)))
    return file
