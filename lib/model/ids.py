"""Log ids. An event gets the same id each time it is sent, by whichever program."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from lib.model.stream import EVENTS

if TYPE_CHECKING:
    from _hashlib import HASH

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


def _heads_of(group: str, kind: str) -> tuple[HASH, HASH]:
    """The hashes of what comes before a native id, and before a text. A copy of one is faster than a new hash."""
    scope = (group if kind == EVENTS else f"{group}|{kind}").encode("utf-8", "surrogatepass")
    return sha256(b"id|%b|" % scope), sha256(b"raw|%b|" % scope)


def _hashed(heads: tuple[HASH, HASH], native_id: str | None, raw: bytes) -> str:
    begun = heads[native_id is None].copy()
    begun.update(raw if native_id is None else native_id.encode("utf-8", "surrogatepass"))
    return begun.hexdigest()


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
    heads: tuple[HASH, HASH] = field(init=False, repr=False, compare=False)
    """The begun hashes, looked up once for all items of a batch."""

    def __post_init__(self) -> None:
        """Look the heads up."""
        object.__setattr__(self, "heads", _heads(self.tenant_id, self.integration, self.kind))

    def log_id(self, native_id: str | None, raw: bytes) -> str:
        """The id under which the engine gets an item."""
        return _hashed(self.heads, None if self.is_by_text else native_id, raw)


@lru_cache(maxsize=256)
def _heads(tenant_id: str, integration: str, kind: str) -> tuple[HASH, HASH]:
    """The begun hashes that all items of a batch share."""
    return _heads_of(group_key(tenant_id, integration), kind)
