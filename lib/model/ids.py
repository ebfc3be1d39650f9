"""Ids that are the same whenever and by whomever an event is sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from lib.model.stream import EVENTS

KEY_LENGTH = 24
"""Hex digits of a log id that the ledger keeps: 96 bits, shared by two of a day's million events with p < 1e-17."""


def qualified(group_name: str, utmstack_tenant_id: str) -> str:
    """An integration's name where groups of several of UTMStack's tenants have the same."""
    return f"{group_name}{_behind(utmstack_tenant_id)}"


def group_of(integration: str, utmstack_tenant_id: str) -> str:
    """UTMStack's name of the group that the integration is."""
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
    """What the ids of a batch's items have in common."""

    tenant_id: str
    """UTMStack's."""
    integration: str
    kind: str
    is_by_text: bool = False
    """A device's id names the device. Its record has none: the text is hashed, so that each version has its own."""

    def log_id(self, native_id: str | None, raw: bytes) -> str:
        """The id under which an item reaches the engine."""
        heads = _heads(self.tenant_id, self.integration, self.kind)
        return _hashed(heads, None if self.is_by_text else native_id, raw)


@lru_cache(maxsize=256)
def _heads(tenant_id: str, integration: str, kind: str) -> tuple[bytes, bytes]:
    """What stands before the part of an item that is hashed; the same for all of a batch."""
    return _heads_of(group_key(tenant_id, integration), kind)
