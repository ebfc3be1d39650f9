"""The device inventory: what was last sent of each device, so that only records that changed are sent again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, NamedTuple

PRESENCE = frozenset({"lastSeenAt", "online"})
"""Fields that change by themselves from one look to the next, and say nothing but that a device is switched on."""
KEPT_LOOKS = 10
"""What is gone for so many looks is forgotten."""
FIRST_PAGE_SIZE = 100
"""Devices a page until Sophos has told its `maxSize`: the documentation's example takes no more."""
LARGEST_PAGE_SIZE = 1000
GONE_LOOKS = 2
"""A device that so many looks in a row did not show is gone. One could miss it: devices move between pages."""
GONE = "Connector::DeviceGone"
"""The type of our own record that says so."""
_DIGEST_LENGTH = 16


class Known(NamedTuple):
    """What is kept of a device."""

    digest: str
    """Of everything in the record that was sent last but PRESENCE; GONE where that was our own word."""
    look: int
    """The last look that showed it; for one that is gone, the look that noted it."""
    hostname: str


def known_of(raw: bytes, look: int) -> tuple[str, Known]:
    """Which device the record is of, and what is kept of it; of a record without an id, each version is a device.

    Neither the order of keys nor that of a list's elements (addresses, products, tags) makes another version, and null
    counts as absent.
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
        Known(digest, look, hostname if isinstance(hostname, str) else ""),
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
    """What is known of a tenant's devices. Its size is that of the devices of the last looks: some 90 bytes each."""

    look: int = 0
    """The number of the look that is under way, or was the last."""
    page_size: int = FIRST_PAGE_SIZE
    """Devices a page; the same throughout a look, as Sophos demands of a page key's other parameters."""
    folded: int = 0
    """The number of the last batch whose records are among those known here."""
    gaps: int = 0
    """How many of the stream's batches were known to be lost when the look began."""
    devices: Mapping[str, Known] = field(default_factory=dict)
    """By the device's id."""

    def begun(self, gaps: int) -> Inventory:
        """The next look. Where a batch was lost meanwhile, nothing is known any more: every record is sent again."""
        look = self.look + 1
        kept = {} if gaps > self.gaps else self.devices
        devices = {id_: known for id_, known in kept.items() if look - known.look <= KEPT_LOOKS}
        return replace(self, look=look, gaps=gaps, devices=devices)

    def shown(self, raws: Iterable[bytes]) -> tuple[Inventory, list[bytes]]:
        """The inventory once these records are sent, and those of them that are not what was sent last."""
        devices = dict(self.devices)
        changed = []
        for raw in raws:
            id_, known = known_of(raw, self.look)
            if id_ not in devices or devices[id_].digest != known.digest:
                changed.append(raw)
            devices[id_] = known
        return replace(self, devices=devices), changed

    def gone(self) -> list[bytes]:
        """At the end of a look: a record of our own for each device that is gone, and was not said to be."""
        return [
            _gone(id_, known.hostname, self.look)
            for id_, known in self.devices.items()
            if self.look - known.look >= GONE_LOOKS and known.digest != GONE and not id_.startswith("=")
        ]

    def folding(self, sequence: int, raws: Iterable[bytes]) -> Inventory:
        """The inventory with the records of a stored batch, unless it had them before."""
        return self if sequence <= self.folded else replace(self.shown(raws)[0], folded=sequence)

    def forgotten(self) -> Inventory:
        """The inventory when what was sent is not known."""
        return replace(self, devices={}, folded=0)

    def asking(self, max_size: int | None) -> Inventory:
        """The inventory with pages as large as Sophos has told; None: it did not."""
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
