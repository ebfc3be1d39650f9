"""Events on the page: those just stored, and those that the store still has."""

from __future__ import annotations

import json
import queue
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask, Response, request

from emulator.web.context import HEADERS, Context
from lib.errors import ConnectorError, KeptError
from lib.http.problems import problem, to_json
from lib.model.clock import day_of
from lib.model.stream import Stream
from lib.state.batches import batch_of
from lib.state.codec import UNREADABLE
from lib.state.ledger import last_of
from lib.state.receipts import RECEIPT, digest
from lib.state.state import State
from lib.store.base import ObjectStore

RECEIPTS = 20
EVENTS = 20
"""The events of each stream that are kept in memory and shown."""
EVENT_BYTES = 16_384
"""Larger events are not kept."""
TAILS = 3
"""The most readers of `/tail`: each one occupies one of the server's threads."""
TAIL_EVENTS = 10_000
"""The most events that wait for a slow reader of `/tail`. It misses further ones."""
TAIL_SECONDS = 2.0


class EventRoutes:
    """The routes `/events`, `/tail` and `/links`, and the newest events of each stream."""

    def __init__(self, app: Flask, context: Context) -> None:
        self._context = context
        self._newest: dict[Stream, deque[bytes]] = {}
        """The newest events in memory: a delivered batch is no longer in the store."""
        self._tails: list[queue.Queue[bytes]] = []
        context.platform.batch_listeners.append(self._passes)
        app.add_url_rule("/events", "events", self._events)
        app.add_url_rule("/tail", "tail", self._tail)
        app.add_url_rule("/links", "links", self._links)

    def newest(self, state: State, stream: Stream) -> list[str]:
        """The stream's newest events, newest first: from memory, otherwise from the store."""
        raws = [*self._newest.get(stream, ())] or stored_events(state, stream)
        return [one_line(raw).decode("utf-8", "replace") for raw in reversed(raws)]

    def _events(self) -> Response:
        self._context.authorize_reading()
        parts = request.args.get("stream", "").rsplit("/", 2)
        if len(parts) != 3:
            return problem(400, "invalid_request", "name a stream: /events?stream=INTEGRATION/TENANT/KIND")
        raws = self.newest(self._context.app.state, Stream(*parts))
        return Response("".join(f"{raw}\n" for raw in raws), content_type="application/x-ndjson", headers=HEADERS)

    def _links(self) -> Response:
        """Alerts without their event, and events without their alert, by tenant."""
        self._context.authorize_reading()
        alone = self._context.snapshot.status().get("links", [])
        return Response(to_json(alone), content_type="application/json", headers=HEADERS)

    def _tail(self) -> Response:
        self._context.authorize_reading()
        if len(self._tails) >= TAILS:
            return problem(429, "busy", f"{TAILS} tails are being read already", remedy="End one of them.")
        return Response(self._passing(), content_type="application/x-ndjson", headers=HEADERS)

    def _passing(self) -> Iterator[bytes]:
        """Raw events as they are fetched. An empty line now and then fails if the reader has gone."""
        passing = queue.Queue[bytes](TAIL_EVENTS)
        self._tails.append(passing)
        try:
            yield b"\n"
            while True:
                try:
                    yield one_line(passing.get(timeout=TAIL_SECONDS)) + b"\n"
                except queue.Empty:
                    yield b"\n"
        finally:
            self._tails.remove(passing)

    def _passes(self, name: str) -> None:
        """Keep the events of a batch that was just stored. After delivery it is gone."""
        batch = batch_of(name)
        if batch is None:
            return
        with suppress(ConnectorError):
            # A bucket charges for each read: it is read only if somebody reads `/tail`.
            if not self._tails and self._context.app.config().store.startswith("gs://"):
                return
            stored = self._context.app.state.batches.read(*batch)
            items = stored.items if stored else []
            kept = self._newest.setdefault(batch[0], deque(maxlen=EVENTS))
            kept.extend(raw for raw in items[-EVENTS:] if len(raw) <= EVENT_BYTES)
            for tail in [*self._tails]:
                with suppress(queue.Full):
                    for raw in items:
                        tail.put_nowait(raw)


def one_line(raw: bytes) -> bytes:
    """The same JSON on one line. In JSON a line break can only stand between two tokens, never within a string."""
    return raw.replace(b"\r", b" ").replace(b"\n", b" ")


def last_receipts(state: State, stream: Stream) -> list[dict[str, Any]]:
    """The stream's newest receipts of today and yesterday, newest first."""
    since = day_of(datetime.now(UTC) - timedelta(days=1))
    receipts = []
    for place, body in reversed(state.ledger.newest(stream, since, most=RECEIPTS)):
        with suppress(KeptError):
            if state.ledger.receipt(stream, place, body) is not None:
                receipts.append({**RECEIPT.load(body), "digest": digest(body)[:16]})
    return receipts


def stored_events(state: State, stream: Stream) -> list[bytes]:
    """The newest events in the store: of the newest waiting batch, otherwise of the newest archived one."""
    items: list[bytes] = []
    for waiting in [*state.batches.waiting(stream)][-1:]:
        with suppress(*UNREADABLE):
            batch = state.batches.read(stream, waiting.sequence)
            items = batch.items if batch else []
    if not items:
        newest = last_of(state.store.list(f"archive/{stream.path}/"))
        with suppress(*UNREADABLE):
            kept = state.batches.kept(newest.key) if newest else None
            items = kept.items if kept else []
    return items[-EVENTS:]


def dead_events(store: ObjectStore, key: str, most: int = EVENTS) -> list[dict[str, Any]]:
    """The first events of a dead letter, each with its reason; empty if the object is damaged."""
    stored = store.read(key)
    events = []
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        for line in (stored.body.splitlines() if stored else [])[:most]:
            fields = json.loads(line)
            events.append({"reason": str(fields["reason"]), "raw": str(fields.get("raw", ""))[:EVENT_BYTES]})
    return events
