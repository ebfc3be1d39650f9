"""An engine that ends its stream at certain events, with a status of the test's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from emulator.engine import StandInEngine
from lib.utmstack.pb import plugins_pb2


class PickyEngine(StandInEngine):
    """The stand-in, with its faults; `status` names the status for an event's own id, or None for one it takes."""

    def __init__(self, socket: Path, status: Callable[[str], str | None] = lambda _: None) -> None:
        super().__init__(socket)
        self.status = status
        self.silent: set[str] = set()
        """Own ids of events that it takes and never acknowledges."""
        self._unacknowledged: set[str] = set()

    def Input(self, request_iterator: Iterator[plugins_pb2.Log], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        return super().Input(self._picked(request_iterator, context), context)

    def _picked(self, logs: Iterator[plugins_pb2.Log], context: grpc.ServicerContext) -> Iterator[plugins_pb2.Log]:
        for log in logs:
            status = self.status(str(json.loads(log.raw).get("id")))
            if status is not None:
                context.abort(grpc.StatusCode[status], "a scripted fault")
            if str(json.loads(log.raw).get("id")) in self.silent:
                self._unacknowledged.add(log.id)
            yield log

    def _acks(self, log_id: str, number: int) -> Iterator[str]:
        return iter(()) if log_id in self._unacknowledged else super()._acks(log_id, number)
