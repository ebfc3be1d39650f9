"""Alerts and their events: an alert carries the id of the event that caused it, so each should have its counterpart.

Only batches that are stored while this process runs are compared, and only if an integration reads both streams. The
counterpart is looked up in the recent ids of its stream and, after `GRACE`, in its receipts.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from lib.config.settings import Config, IntegrationConfig
from lib.errors import ConnectorError
from lib.model.clock import day_before
from lib.model.families import expanded
from lib.model.ids import KEY_LENGTH, group_key, log_id
from lib.model.stream import ALERTS, EVENTS, Stream
from lib.sophos.pages import event_fields
from lib.state.advance import stored_since
from lib.state.batches import StoredBatch, batch_of
from lib.state.state import State

log = logging.getLogger(__name__)

GRACE = timedelta(minutes=15)
"""How long a counterpart is awaited: the two streams are read one after the other."""
MOST = 1000
"""The most ids of each stream that await their counterpart, and the most that are kept as alone."""
SHOWN = 5
_OTHER = {EVENTS: ALERTS, ALERTS: EVENTS}


@dataclass(slots=True)
class _Waits:
    """The ids of one stream without a counterpart."""

    since: OrderedDict[str, tuple[datetime, str]] = field(default_factory=OrderedDict)
    """By native id: the time at which its batch was stored, and its key in the other stream."""
    alone: OrderedDict[str, None] = field(default_factory=OrderedDict)
    """The native ids that have no counterpart after `GRACE`."""


class Links:
    """The alerts and events of this process, and those without a counterpart."""

    def __init__(self, config: Callable[[], Config], state: Callable[[], State], now: Callable[[], datetime]) -> None:
        self._config = config
        self._state = state
        self._now = now
        self._waits: dict[Stream, _Waits] = {}
        self._lock = threading.Lock()

    def passes(self, name: str) -> None:
        """Read a batch that was just stored. In a bucket no batch is read: each read costs money."""
        place = batch_of(name)
        if place is None or not self._has_both(place[0]) or self._config().store.startswith("gs://"):
            return
        try:
            batch = self._state().batches.read(*place)
        except ConnectorError:
            return  # The delivery reports the damage.
        if batch is not None:
            self._take(batch)

    def shown(self) -> list[dict[str, Any]]:
        """The number of ids without a counterpart and some of them, for each tenant that has any."""
        with self._lock:
            try:
                for stream in self._waits:
                    self._match(stream)
            except ConnectorError as error:
                log.warning("alerts cannot be compared with their events: %s", error)
            lines: dict[tuple[str, str], dict[str, Any]] = {}
            for stream, waits in self._waits.items():
                name = "alerts_without_event" if stream.kind == ALERTS else "events_without_alert"
                if waits.alone:
                    ids = {"integration": stream.integration, "tenant": stream.tenant}
                    line = lines.setdefault((stream.integration, stream.tenant), ids)
                    line |= {name: {"count": len(waits.alone), "ids": list(waits.alone)[-SHOWN:]}}
            return list(lines.values())

    def _has_both(self, stream: Stream) -> bool:
        integration = self._integration(stream)
        return stream.kind in _OTHER and integration is not None and {*_OTHER} <= {*integration.streams}

    def _integration(self, stream: Stream) -> IntegrationConfig | None:
        return next(
            (integration for integration in self._config().integrations if integration.name == stream.integration), None
        )

    def _is_paired(self, stream: Stream, raw: bytes, type_: str | None) -> bool:
        """Whether a counterpart is expected: for an alert its event, unless `exclude_types` has its type."""
        if stream.kind == EVENTS:
            # Only an event of high severity is expected to raise an alert.
            return _severity(raw) == "high"
        integration = self._integration(stream)
        return integration is None or type_ not in expanded(integration.exclude_types)

    def _take(self, batch: StoredBatch) -> None:
        stream, now = batch.header.stream, self._now()
        group = group_key(batch.header.envelope.tenant_id, stream.integration)
        with self._lock:
            waits = self._waits.setdefault(stream, _Waits())
            counterparts = self._waits.get(_counterpart(stream), _Waits())
            for raw in batch.items:
                read = event_fields(raw)
                if read.id is not None:
                    counterparts.alone.pop(read.id, None)  # It came after all.
                if read.id is not None and self._is_paired(stream, raw, read.type):
                    key = log_id(group, _OTHER[stream.kind], read.id, raw)[:KEY_LENGTH]
                    waits.since[read.id] = (now, key)
            while len(waits.since) > MOST:
                waits.since.popitem(last=False)

    def _match(self, stream: Stream) -> None:
        """Drop the ids whose counterpart is there. An id that waited `GRACE` is looked up in the ledger once."""
        waits, state, now = self._waits[stream], self._state(), self._now()
        counterpart = _counterpart(stream)
        recent = {*state.checkpoints.read(counterpart).checkpoint.recent.keys} if waits.since else set()
        waits.since = OrderedDict((id_, wait) for id_, wait in waits.since.items() if wait[1] not in recent)
        late = {id_: key for id_, (since, key) in waits.since.items() if now - since > GRACE}
        stored = stored_since(state, counterpart, day_before(now), event_fields).keys if late else set()
        for id_, key in late.items():
            del waits.since[id_]
            if key not in stored:
                waits.alone[id_] = None
        while len(waits.alone) > MOST:
            waits.alone.popitem(last=False)


def _counterpart(stream: Stream) -> Stream:
    return Stream(stream.integration, stream.tenant, _OTHER[stream.kind])


def _severity(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["severity"]).lower()
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
