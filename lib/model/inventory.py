"""The device inventory: what was last sent of each device, so that only records that changed are sent again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from lib.errors import DamagedError
from lib.model.batch import LAYOUT, check_layout
from lib.model.stream import Stream

PRESENCE = frozenset({"lastSeenAt", "online"})
"""Fields that change by themselves from one look to the next, and say nothing but that a device is switched on."""
KEPT_LOOKS = 10
"""A device that so many looks in a row did not show is forgotten; it is sent again should it come back."""
FIRST_PAGE_SIZE = 100
"""Devices a page until Sophos has told its `maxSize`: the documentation's example takes no more."""
LARGEST_PAGE_SIZE = 1000
_KEY_LENGTH = 24
_DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Version:
    """A device's record, as far as it is compared."""

    key: str
    """Of the device."""
    digest: str
    """Of everything in the record but PRESENCE."""


def version_of(raw: bytes) -> Version:
    """Which device the record is of, and in which version; of a record without an id, each version is a device.

    Neither the order of keys nor that of a list's elements (addresses, products, tags) makes another version, and null
    counts as absent.
    """
    try:
        fields = json.loads(raw.decode("utf-8", "surrogateescape"), parse_int=str, parse_float=str)
        if isinstance(fields, dict):
            fields = {name: value for name, value in fields.items() if name not in PRESENCE}
        text = _text(fields).encode()
    except (ValueError, RecursionError):
        fields, text = None, raw
    digest = sha256(text).hexdigest()
    native = fields.get("id") if isinstance(fields, dict) else None
    named = isinstance(native, str) and native
    of_device = sha256(str(native).encode("utf-8", "surrogatepass")).hexdigest() if named else digest
    return Version(of_device[:_KEY_LENGTH], digest[:_DIGEST_LENGTH])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        members = (f"{json.dumps(name)}:{_text(value[name])}" for name in sorted(value) if value[name] is not None)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted(map(_text, value))) + "]"
    return json.dumps(value)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is known of a tenant's devices. Its size is that of the devices of the last looks: 55 bytes each."""

    look: int = 0
    """The number of the look that is under way, or was the last."""
    page_size: int = FIRST_PAGE_SIZE
    """Devices a page; the same throughout a look, as Sophos demands of a page key's other parameters."""
    folded: int = 0
    """The number of the last batch whose records are among those known here."""
    gaps: int = 0
    """How many of the stream's batches were known to be lost when the look began."""
    devices: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """By the device's key: the digest of the record that was sent last, and the last look that showed the device."""

    def begun(self, gaps: int) -> Inventory:
        """The next look. Where a batch was lost meanwhile, nothing is known any more: every record is sent again."""
        look = self.look + 1
        kept = {} if gaps > self.gaps else self.devices
        devices = {key: known for key, known in kept.items() if look - known[1] <= KEPT_LOOKS}
        return replace(self, look=look, gaps=gaps, devices=devices)

    def shown(self, raws: Iterable[bytes]) -> tuple[Inventory, list[bytes]]:
        """The inventory once these records are sent, and those of them that are not what was sent last."""
        devices = dict(self.devices)
        changed = []
        for raw in raws:
            version = version_of(raw)
            if devices.get(version.key, ("", 0))[0] != version.digest:
                changed.append(raw)
            devices[version.key] = (version.digest, self.look)
        return replace(self, devices=devices), changed

    def folding(self, sequence: int, raws: Iterable[bytes]) -> Inventory:
        """The inventory with the records of a stored batch, unless it had them before."""
        return self if sequence <= self.folded else replace(self.shown(raws)[0], folded=sequence)

    def forgotten(self) -> Inventory:
        """The inventory when what was sent is not known."""
        return replace(self, devices={}, folded=0)

    def asking(self, max_size: int | None) -> Inventory:
        """The inventory with pages as large as Sophos has told; None: it did not."""
        return self if max_size is None else replace(self, page_size=min(max(1, max_size), LARGEST_PAGE_SIZE))


def inventory_key(stream: Stream) -> str:
    """Where the stream's inventory is."""
    return f"devices/{stream.path}.json"


def to_body(inventory: Inventory) -> bytes:
    """The inventory as a stored object."""
    fields = {
        "layout": LAYOUT,
        "look": inventory.look,
        "page_size": inventory.page_size,
        "folded": inventory.folded,
        "gaps": inventory.gaps,
        "devices": inventory.devices,
    }
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def from_body(body: bytes) -> Inventory:
    """The inventory that an object holds; DamagedError where it holds none, LayoutError for a newer one."""
    try:
        fields = json.loads(body)
        check_layout(fields, "an inventory")
        return Inventory(
            look=int(fields["look"]),
            page_size=int(fields["page_size"]),
            folded=int(fields["folded"]),
            gaps=int(fields["gaps"]),
            devices={key: (str(digest), int(look)) for key, (digest, look) in fields["devices"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedError("an inventory cannot be read") from None
