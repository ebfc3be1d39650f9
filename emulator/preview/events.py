"""The sources of events: a file, a recording, the store, or the simulator."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from lib.config.settings import Config, IntegrationConfig
from lib.errors import ConfigError, DamagedError
from lib.model import inventory
from lib.model.batch import Envelope, Header
from lib.model.clock import day_of
from lib.model.integration import EVENTS_DATA_TYPE, UTMSTACK_TENANT
from lib.model.log import from_fields
from lib.model.stream import ALERTS, ENDPOINTS, EVENTS
from lib.pipeline import heartbeat
from lib.state import gaps
from lib.state.batches import HEADER, from_line

WEEK_EVENTS = 7 * 24 * 60
"""Events of the simulator: one a minute for a week."""
_WEEK = datetime(2026, 3, 9, tzinfo=UTC)
_TENANT = "894af375-a52f-4d5a-a92d-9d9c279b1489"


Damaged = Callable[[str], None]


def is_alert(raw: bytes) -> bool:
    """Whether an item of Sophos is an alert, and no event."""
    return b'"event_service_event_id"' in raw


def _own_type(raw: bytes) -> object:
    """The type of an event that the connector made itself; None for any other."""
    if b'"Connector::' not in raw:
        return None
    with suppress(ValueError, RecursionError):
        value = json.loads(raw)
        return value.get("type") if isinstance(value, dict) else None
    return None


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the engine would get it."""

    raw: bytes
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Site:
    """The settings that shape sent events; defaults without a configuration."""

    integrations: tuple[IntegrationConfig, ...] = ()
    gap_data_type: str | None = "sophos-central-gaps"

    def envelope(self, raw: bytes, kind: object = None) -> Envelope:
        """The envelope of an event. Its page, its keys or, for the connector's own, its type show the data type."""
        first = self.integrations[0] if self.integrations else None
        source, tenant = (first.name, first.utmstack_tenant_id) if first else ("sophos", UTMSTACK_TENANT)
        match _own_type(raw):
            case heartbeat.TYPE:
                return Envelope(heartbeat.DATA_TYPE, heartbeat.DATA_SOURCE, UTMSTACK_TENANT)
            case gaps.EVENT_TYPE:
                data_type = self.gap_data_type or EVENTS_DATA_TYPE
            case inventory.GONE:
                data_type = first.endpoints_data_type if first else "sophos-central-endpoints"
            case _ if kind == ALERTS if kind in {EVENTS, ALERTS} else is_alert(raw):
                data_type = first.alerts_data_type if first else "sophos-central-alerts"
            case _:
                data_type = EVENTS_DATA_TYPE
        return Envelope(data_type, source, tenant)

    def data_types(self) -> set[str]:
        """The data types that the connector sends."""
        types = {self.gap_data_type} if self.gap_data_type else set()
        for integration in self.integrations:
            by_kind = {
                EVENTS: EVENTS_DATA_TYPE,
                ALERTS: integration.alerts_data_type,
                ENDPOINTS: integration.endpoints_data_type,
            }
            types |= {by_kind[kind] for kind in integration.streams}
        return types if self.integrations else types | {EVENTS_DATA_TYPE}

    def excluded(self) -> dict[str, tuple[str, ...]]:
        """The types that all integrations exclude, with the names of the integrations."""
        from lib.model.families import expanded  # noqa: PLC0415 - a table, where it is asked for

        left = [(integration.name, set(expanded(integration.exclude_types))) for integration in self.integrations]
        everywhere = set.intersection(*(types for _, types in left)) if left else set()
        return {name: tuple(integration for integration, _ in left) for name in everywhere}


def site_of(config: Config | None) -> Site:
    """The settings that shape sent events."""
    return Site() if config is None else Site(tuple(config.integrations), config.gap_data_type)


def from_file(name: str, site: Site, *, pages: bool = False) -> Iterator[Event]:
    """The events of a file: JSON lines, a batch, dead letters, or pages with `items`. `pages`: only pages count.

    ConfigError if the file cannot be read, or if a line is not a JSON object.
    """
    lines = _lines(name)
    envelope: Envelope | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number == 1 and b'"layout"' in line:
            with suppress(DamagedError):
                envelope = HEADER.decode(line).envelope
                continue
        try:
            item = from_line(line)
            value = json.loads(item)
        except (ValueError, RecursionError, DamagedError):
            value = None
        if not isinstance(value, dict):
            raise ConfigError(
                f"{name}, line {number}: it is not a JSON object", remedy="Write one event a line, as JSON."
            )
        if not pages or _is_page(value):
            yield from _events_of(value, item, envelope, site)


def _events_of(value: dict[str, Any], item: bytes, envelope: Envelope | None, site: Site) -> Iterator[Event]:
    if _is_page(value):
        for page_item in value["items"]:
            raw = (
                page_item.encode() if isinstance(page_item, str) else json.dumps(page_item, ensure_ascii=False).encode()
            )
            yield Event(raw, envelope or site.envelope(raw, value.get("kind")))
        return
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        log = from_fields(value)
        yield Event(log.raw, Envelope(log.data_type, log.data_source, log.tenant_id))
        return
    yield Event(item, envelope or site.envelope(item))


def _is_page(value: dict[str, Any]) -> bool:
    """Whether it is a page. An event can have `items` too, but has an id or a type of its own."""
    return isinstance(value.get("items"), list) and not {"id", "type"} & set(value)


def _lines(name: str) -> list[bytes]:
    try:
        body = Path(name).read_bytes()
        return (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).split(b"\n")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{name} cannot be read: {reason}", remedy="Name a readable file of JSON lines.") from None


def from_store(config: Config, since: timedelta, damaged: Damaged) -> Iterator[Event]:
    """The store's events since then: archived and waiting batches and dead letters, each event once.

    `damaged` gets the key of each object that cannot be read. ConfigError if there is no store.
    """
    from lib.app import App  # noqa: PLC0415 - only where the store is read

    if not config.store.startswith("gs://") and not Path(config.store.removeprefix("file:")).is_dir():
        raise ConfigError(
            f"there is no store at {config.store}", remedy="Start the connector first, or name another source."
        )
    state = App(lambda: config).state
    after = datetime.now(UTC) - since
    seen: set[bytes] = set()
    for header, items in _batches(state, after, damaged):
        if header.fetched_at >= after:
            yield from _once(((Event(item, header.envelope)) for item in items), seen)
    yield from _once(_set_aside(state.store, damaged), seen)


def _once(events: Iterable[Event], seen: set[bytes]) -> Iterator[Event]:
    for event in events:
        digest = hash(event.raw).to_bytes(8, "big", signed=True)
        if digest not in seen:
            seen.add(digest)
            yield event


def _batches(state: Any, after: datetime, damaged: Damaged) -> Iterator[tuple[Header, Sequence[bytes]]]:
    read: list[tuple[str, Callable[[], Any]]] = [
        (key, partial(state.batches.kept, key)) for key in state.batches.archived(day_of(after))
    ]
    read += [
        (batch.entry.key, partial(state.batches.read, batch.stream, batch.sequence))
        for batch in state.batches.waiting()
    ]
    for key, open_batch in read:
        try:
            batch = open_batch()
        except DamagedError:
            damaged(key)
            continue
        if batch is not None:  # The batch may have been sent since the listing.
            yield batch.header, batch.items


def _set_aside(store: Any, damaged: Damaged) -> Iterator[Event]:
    for entry in store.list("dead/"):
        if not entry.key.rstrip("~").endswith(".ndjson"):  # A damaged object of another kind, not a file of logs.
            continue
        stored = store.read(entry.key)
        for line in filter(None, stored.body.split(b"\n") if stored else ()):
            try:
                log = from_fields(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                damaged(entry.key)
                continue
            yield Event(log.raw, Envelope(log.data_type, log.data_source, log.tenant_id))


def from_simulator(site: Site, count: int = WEEK_EVENTS) -> Iterator[Event]:
    """A week of the simulator's events; always the same."""
    from emulator.central.generator import Generator  # noqa: PLC0415 - only where nothing else is named

    generator = Generator(_TENANT)
    start = int(_WEEK.timestamp() * 1000)
    for minute in range(count):
        raw = generator.event(start + minute * 60_000).record.raw
        yield Event(raw, site.envelope(raw))
