"""The device inventory: a digest of each device's last sent record, so that only changed records are sent again.

A *scan* reads all pages of a tenant's devices once. The stored field `look` is its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, NamedTuple

PRESENCE = frozenset({"lastSeenAt", "online"})
"""Fields that change with each scan and say only that a device is switched on. They are not compared."""
KEPT_LOOKS = 10
"""A device that this many scans did not show is removed from the inventory."""
FIRST_PAGE_SIZE = 100
"""Devices a page until Sophos has named its `maxSize`; the documentation's example uses this size."""
LARGEST_PAGE_SIZE = 1000
GONE_LOOKS = 2
"""A device that this many scans in a row did not show is gone. One scan can miss it: devices move between pages."""
GONE = "Connector::DeviceGone"
"""The type of the connector's own record about a device that is gone."""
_DIGEST_LENGTH = 16


class KnownDevice(NamedTuple):
    """The stored facts of a device."""

    digest: str
    """Digest of the last sent record without PRESENCE; GONE if that was the connector's own record."""
    look: int
    """The last scan that showed the device; for a device that is gone, the scan that noticed it."""
    hostname: str


def known_of(raw: bytes, look: int) -> tuple[str, KnownDevice]:
    """The id of the record's device, and the facts to store. Each version of a record without an id is a device.

    The digest ignores the order of keys and of a list's elements (addresses, products, tags). Null counts as absent.
    """
    try:
        fields = json.loads(raw.decode("utf-8", "surrogateescape"), parse_int=str, parse_float=str)
        if not isinstance(fields, dict):
            fields = {"": fields}
        text = _text({name: value for name, value in fields.items() if name not in PRESENCE}).encode()
    except (ValueError, RecursionError):
        fields, text = {}, raw
    digest = GONE if fields.get("type") == GONE else sha256(text).hexdigest()[:_DIGEST_LENGTH]
    native, hostname = fields.get("id"), fields.get("hostname")
    return (
        native if isinstance(native, str) and native else f"={digest}",
        KnownDevice(digest, look, hostname if isinstance(hostname, str) else ""),
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        members = (f"{json.dumps(name)}:{_text(value[name])}" for name in sorted(value) if value[name] is not None)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted(map(_text, value))) + "]"
    return json.dumps(value)


@dataclass(frozen=True, slots=True)
class Inventory:
    """The stored facts of a tenant's devices: some 90 bytes for each device of the last scans."""

    look: int = 0
    """The number of the scan under way, or of the last one."""
    page_size: int = FIRST_PAGE_SIZE
    """Devices a page. It stays the same throughout a scan: Sophos demands the same parameters with a page key."""
    folded: int = 0
    """The number of the last batch whose records are included here."""
    gaps: int = 0
    """The number of the stream's lost batches when the scan began."""
    devices: Mapping[str, KnownDevice] = field(default_factory=dict)
    """By the device's id."""

    def begun(self, gaps: int) -> Inventory:
        """The inventory at the beginning of the next scan.

        If a batch was lost since the last scan began, the inventory is emptied: every record is sent again.
        """
        look = self.look + 1
        kept = {} if gaps > self.gaps else self.devices
        devices = {id_: device for id_, device in kept.items() if look - device.look <= KEPT_LOOKS}
        return replace(self, look=look, gaps=gaps, devices=devices)

    def shown(self, raws: Iterable[bytes]) -> tuple[Inventory, list[bytes]]:
        """The inventory once these records are sent, and the records that differ from those sent last."""
        devices = dict(self.devices)
        changed = []
        for raw in raws:
            id_, device = known_of(raw, self.look)
            if id_ not in devices or devices[id_].digest != device.digest:
                changed.append(raw)
            devices[id_] = device
        return replace(self, devices=devices), changed

    def gone(self) -> list[bytes]:
        """At the end of a scan: the connector's own record for each device that is newly gone."""
        return [
            _gone(id_, device.hostname, self.look)
            for id_, device in self.devices.items()
            if self.look - device.look >= GONE_LOOKS and device.digest != GONE and not id_.startswith("=")
        ]

    def folding(self, sequence: int, raws: Iterable[bytes]) -> Inventory:
        """The inventory with the records of a stored batch. A batch that is included already changes nothing."""
        return self if sequence <= self.folded else replace(self.shown(raws)[0], folded=sequence)

    def forgotten(self) -> Inventory:
        """The inventory without devices, for a lost record of what was sent: every record is sent again."""
        return replace(self, devices={}, folded=0)

    def asking(self, max_size: int | None) -> Inventory:
        """The inventory with the page size that Sophos named; None: Sophos named none."""
        return self if max_size is None else replace(self, page_size=min(max(1, max_size), LARGEST_PAGE_SIZE))


def _gone(id_: str, hostname: str, look: int) -> bytes:
    fields = {
        "id": id_,
        "type": GONE,
        "severity": "low",
        "name": f"Sophos Central lists the device {hostname or id_} no more",
        "hostname": hostname,
        "look": look,
    }
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")
