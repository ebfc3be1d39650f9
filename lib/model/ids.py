"""Log ids. An event gets the same id each time it is sent, by whichever program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from lib.model.stream import EVENTS

KEY_LENGTH = 24
"""Hex digits of a log id that the ledger keeps: 96 bits. Two of a day's million events share one with p < 1e-17."""


def qualified(group_name: str, utmstack_tenant_id: str) -> str:
    """An integration's name if groups of several UTMStack tenants have the same name."""
    return f"{group_name}{_behind(utmstack_tenant_id)}"


def group_of(integration: str, utmstack_tenant_id: str) -> str:
    """UTMStack's name of the integration's configuration group; undoes `qualified`."""
    return integration.removesuffix(_behind(utmstack_tenant_id)) or integration


def _behind(utmstack_tenant_id: str) -> str:
    return f" ({utmstack_tenant_id})"


def group_key(utmstack_tenant_id: str, integration: str) -> str:
    """The part of UTMStack's id formula that names the configuration group."""
    return f"{utmstack_tenant_id}/{group_of(integration, utmstack_tenant_id)}"


def log_id(group: str, kind: str, native_id: str | None, raw: bytes) -> str:
    """UTMStack v12's formula: SHA-256 of `id|group key|native id`, or of `raw|group key|text` without a native id.

    An alert carries the native id of its event, so for kinds other than `events` the kind is hashed too.
    """
    return _hashed(_heads_of(group, kind), native_id, raw)


def _heads_of(group: str, kind: str) -> tuple[bytes, bytes]:
    """What is hashed before a native id, and before a text."""
    scope = (group if kind == EVENTS else f"{group}|{kind}").encode("utf-8", "surrogatepass")
    return b"id|%b|" % scope, b"raw|%b|" % scope


def _hashed(heads: tuple[bytes, bytes], native_id: str | None, raw: bytes) -> str:
    if native_id is None:
        return sha256(heads[1] + raw).hexdigest()
    return sha256(heads[0] + native_id.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class IdScope:
    """The part of the id formula that all items of a batch share."""

    tenant_id: str
    """The id of UTMStack's tenant, not of Sophos's."""
    integration: str
    kind: str
    is_by_text: bool = False
    """Whether the text is hashed and not the native id.

    True for devices: the native id names the device, but each version of its record needs an id of its own.
    """

    def log_id(self, native_id: str | None, raw: bytes) -> str:
        """The id under which the engine gets an item."""
        heads = _heads(self.tenant_id, self.integration, self.kind)
        return _hashed(heads, None if self.is_by_text else native_id, raw)


@lru_cache(maxsize=256)
def _heads(tenant_id: str, integration: str, kind: str) -> tuple[bytes, bytes]:
    """The hashed prefixes that all items of a batch share."""
    return _heads_of(group_key(tenant_id, integration), kind)
