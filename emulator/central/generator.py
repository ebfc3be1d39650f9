"""Generates a customer's devices and events. The same tenant and seed give the same data."""

from __future__ import annotations

import base64
import json
import uuid
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from emulator.central.clock import iso
from emulator.central.feed import Record
from emulator.central.stories import STORIES, Device, Fields, hex_digits

_PEOPLE = (
    ("amelie.martin", "Amélie Martin"),
    ("jürgen.müller", "Jürgen Müller"),
    ("john.doe", "John Doe"),
    ("olivia.example", "Olivia Example"),
    ("yamada.taro", "山田 太郎"),
    ("l.nguyen", "Linh Nguyễn"),
    ("ana.souza", "Ana Souza"),
    ("p.o'brien", "Pat O'Brien"),
    ("k.kowalska", "Katarzyna Kowalska"),
    ("s.rossi", "Sara Rossi"),
    ("m.haddad", "Maya Haddad"),
    ("d.smith", "Dana Smith"),
)
_SITES = ("FIN", "HR", "DEV", "SALES", "LAB", "OPS", "LEGAL")
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")
_CATEGORIES = {
    "MALWARE": "malware",
    "PUA": "pua",
    "RUNTIME_DETECTIONS": "runtimeDetections",
    "PROTECTION": "protection",
    "POLICY": "policy",
    "UPDATING": "updating",
    "CONNECTIVITY": "connectivity",
    "DENC": "denc",
    "SECURITY": "security",
}
"""The alert category of each group whose events raise alerts."""
RENEW_API_TOKEN = "Event::Task::RenewApiToken"  # noqa: S105 - a type of events

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Happening:
    """A generated event."""

    record: Record
    fields: Fields
    device: Device


class Generator:
    """Generates events of all five families, and alerts for some of them. Not safe between threads."""

    def __init__(self, tenant_id: str, seed: int = 0, *, devices: int = 60, earlier: int = 0) -> None:
        """`told` is the number of events that an earlier generator has made; they do not come again."""
        self._tenant = tenant_id
        self._random = Random(f"{seed}/{tenant_id}")
        self.devices = [self._device(number) for number in range(1, devices + 1)]
        if earlier:
            self._random.seed(f"{seed}/{tenant_id}/{earlier}")
        self._stories = list(STORIES)
        self._weights = list(accumulate(STORIES.values()))
        self._queued: deque[tuple[Device, Fields]] = deque()

    def event(self, created: int) -> Happening:
        """The next event, as stored at `created` (Unix milliseconds)."""
        if not self._queued:
            device = self._random.choice(self.devices)
            story = self._random.choices(self._stories, cum_weights=self._weights)[0]
            self._queued.extend((device, fields) for fields in story(self._random, device))
        device, story_fields = self._queued.popleft()
        fields = self._common(created, device, story_fields["type"]) | story_fields
        # The keys of real events have no fixed order.
        turn = self._random.randrange(len(fields))
        items = list(fields.items())
        raw = _encode(dict(items[turn:] + items[:turn])).encode()
        return Happening(Record(created, fields["id"], fields["type"], raw), fields, device)

    def alert(self, happening: Happening, created: int) -> Record | None:
        """The alert of an event, as stored at `created` (Unix milliseconds); None if the event raises none."""
        event, stored = happening.fields, happening.record.created
        category = _CATEGORIES.get(event["group"])
        if event["severity"] == "low" or category is None:
            return None
        data = {
            "created_at": stored,
            "inserted_at": stored,
            "endpoint_id": event["endpoint_id"],
            "endpoint_java_id": event["endpoint_id"],
            "endpoint_type": event["endpoint_type"],
            "endpoint_platform": happening.device.platform,
            "source_info": event["source_info"],
            "event_service_id": {"type": 3, "data": base64.b64encode(uuid.UUID(event["id"]).bytes).decode()},
        }
        data |= {name: event[name] for name in ("origin", "core_remedy_items") if name in event}
        cleanable = "core_remedy_items" in event
        alert = {
            "id": event["id"],
            "event_service_event_id": event["id"],
            "customer_id": self._tenant,
            "javaUUID": "-".join(map(_swapped, event["id"].split("-"))),
            "type": event["type"],
            "severity": event["severity"],
            "description": event["name"],
            "when": event["when"],
            "created_at": iso(created),
            "location": event["location"],
            "source": event.get("source", "n/a"),
            "actionable": cleanable,
            "category": category,
            "product": "endpoint",
            "allowedActions": ["CLEAR_THREAT"] if cleanable else ["ACKNOWLEDGE"],
            "data": data,
        }
        if "threat" in event:
            alert |= {"threat": event["threat"], "threat_cleanable": cleanable}
        return Record(created, event["id"], event["type"], _encode(alert).encode())

    def endpoints(self, now: int) -> list[Fields]:
        """The devices in the endpoint API's form at `now` (Unix milliseconds)."""
        return [self._endpoint(number, device, now) for number, device in enumerate(self.devices)]

    def new_endpoint(self, id_: str, now: int) -> Fields:
        """A new computer."""
        number = 1 + uuid.uuid5(uuid.NAMESPACE_OID, id_).int % 200
        device = Device(id_, f"WS-NEW-{number:03d}", "computer", "windows", f"192.0.2.{number}", "n/a", "", None)
        return self._endpoint(number, device, now)

    def renewal(self, created: int) -> Record:
        """The event that announces the end of an API credential."""
        fields = {
            "id": self._uuid(),
            "customer_id": self._tenant,
            "type": RENEW_API_TOKEN,
            "severity": "medium",
            "name": "The API token 'SIEM export' expires in 30 days",
            "group": "SECURITY",
            "when": iso(created),
            "created_at": iso(created),
        }
        return Record(created, fields["id"], fields["type"], _encode(fields).encode())

    def _uuid(self) -> str:
        text = hex_digits(self._random, 32)
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def _device(self, number: int) -> Device:
        login, person = _PEOPLE[number % len(_PEOPLE)]
        ip, site = f"{_NETWORKS[number % 3]}.{10 + number % 240}", _SITES[number % len(_SITES)]
        if number % 6 == 0:
            return Device(self._uuid(), f"SRV-{site}-{number:03d}", "server", "windows", ip, "n/a", "", None)
        platform, prefix = ("mac", "MACBOOK") if number % 5 == 0 else ("windows", "WS")
        user_id = hex_digits(self._random, 24)
        return Device(
            self._uuid(),
            f"{prefix}-{site}-{number:03d}",
            "computer",
            platform,
            ip,
            f"EXAMPLE\\{login}",
            person,
            user_id,
        )

    def _common(self, created: int, device: Device, type_: str) -> Fields:
        fields: Fields = {
            "id": self._uuid(),
            "customer_id": self._tenant,
            "created_at": iso(created),
            "when": iso(created - self._lateness()),
            "endpoint_id": device.id,
            "source_info": {"ip": device.ip},
        }
        if type_.startswith("Event::Firewall::"):
            return fields | {"endpoint_type": "xgfirewall", "location": "C01001EXAMPLE12 "}
        fields |= {"endpoint_type": device.type, "location": device.host, "source": device.user}
        return fields if device.user_id is None else fields | {"user_id": device.user_id}

    def _lateness(self) -> int:
        """Milliseconds from `when` to `created_at`: few, hours for an offline device, or negative for a fast clock."""
        draw = self._random.random()
        if draw < 0.985:
            return int(draw * 4000)
        return -90_000 if draw > 0.998 else self._random.randrange(600_000, 20_000_000)

    def _endpoint(self, number: int, device: Device, now: int) -> Fields:
        health = "suspicious" if number % 9 == 5 else "good"
        mac = device.platform == "mac"
        system = {
            "isServer": device.type == "server",
            "platform": "macOS" if mac else "windows",
            "name": "macOS 15" if mac else "Windows 11 Pro",
            "majorVersion": 15 if mac else 10,
            "minorVersion": 0,
        }
        item: Fields = {
            "id": device.id,
            "type": device.type,
            "tenant": {"id": self._tenant},
            "hostname": device.host,
            "health": {
                "overall": health,
                "threats": {"status": health},
                "services": {"status": "good", "serviceDetails": []},
            },
            "os": system,
            "ipv4Addresses": [device.ip],
            "macAddresses": [f"00:00:5E:00:53:{number % 256:02X}"],
            "group": {"name": "Example devices"},
            "tamperProtectionEnabled": True,
            "online": True,
            "assignedProducts": [{"code": "endpointProtection", "version": "2026.1.0", "status": "installed"}],
            "lastSeenAt": iso(now - number * 1000),
        }
        if device.user_id is not None:
            item["associatedPerson"] = {"name": device.person, "viaLogin": device.user}
        return item


def _swapped(digits: str) -> str:
    return "".join(digits[at : at + 2][::-1] for at in range(0, len(digits), 2))
