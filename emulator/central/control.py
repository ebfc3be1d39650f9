"""`/_control/…`: the simulator's own switches, for tests and demonstrations in other processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator.central.faults import faults_from
from emulator.central.listener import Answer, Request

if TYPE_CHECKING:
    from emulator.central.server import CentralServer

PREFIX = "/_control/"


class Control:
    """Answers the control requests of a server."""

    def __init__(self, central: CentralServer) -> None:
        self._central = central
        self._actions: dict[str, Callable[[dict[str, Any]], object]] = {
            "GET stats": lambda _: central.stats,
            "GET faults": lambda _: central.faults.waiting(),
            "GET ids": lambda asked: central.ids(*self._stream(asked)),
            "POST faults": lambda asked: central.faults.add(*faults_from(asked)),
            "DELETE faults": lambda _: central.faults.clear(),
            "POST append": self._append,
            "POST late": self._late,
            "POST clock": lambda asked: central.clock.advance(float(asked["advance_seconds"])),
            "POST revoke": lambda asked: central.revoke_tokens(asked.get("client_id")),
            "POST disable": lambda asked: central.disable(asked["client_id"]),
            "POST expire-cursors": lambda _: central.expire_cursors(),
            "POST limits": lambda asked: central.limiter.set(
                asked["limits"], retry_after=bool(asked.get("retry_after"))
            ),
        }

    def answer(self, request: Request) -> Answer:
        """200 with what was asked for, or 400 or 404 with the reason."""
        action = self._actions.get(f"{request.method} {request.path.removeprefix(PREFIX)}")
        if action is None:
            return _reply(404, {"error": f"there are: {', '.join(sorted(self._actions))}"})
        try:
            asked = (
                json.loads(request.body)
                if request.body
                else {name: values[0] for name, values in request.query.items()}
            )
            result = action(asked)
        except (KeyError, TypeError, ValueError) as error:
            return _reply(400, {"error": f"{type(error).__name__}: {error}"})
        return _reply(200, {"ok": True} if result is None else result)

    def _stream(self, asked: dict[str, Any]) -> tuple[str, str]:
        return asked.get("tenant", self._central.default_tenant), asked.get("kind", "events")

    def _append(self, asked: dict[str, Any]) -> dict[str, Any]:
        tenant, kind = self._stream(asked)
        if "count" in asked:
            return {"ids": self._central.emit(int(asked["count"]), tenant=tenant)}
        return {"ids": self._central.append(tenant, kind, _raws(asked))}

    def _late(self, asked: dict[str, Any]) -> dict[str, Any]:
        tenant, kind = self._stream(asked)
        seconds = float(asked.get("seconds", 60))
        raws = _raws(asked) if kind == "alerts" or "count" not in asked else int(asked["count"])
        return {"ids": self._central.insert_late(tenant, kind, raws, seconds=seconds)}


def _raws(asked: dict[str, Any]) -> list[bytes]:
    """`raws` are texts to be served byte for byte, `events` JSON values."""
    if "raws" in asked:
        return [text.encode() for text in asked["raws"]]
    return [json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() for event in asked["events"]]


def _reply(status: int, value: object) -> Answer:
    return Answer(status, json.dumps(value, ensure_ascii=False).encode())
