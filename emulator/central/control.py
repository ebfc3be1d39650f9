"""`/_control/…`: controls the simulator from tests and demonstrations in other processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from emulator.central.account_file import credential_fields, credential_from, limits_from, tenant_from
from emulator.central.accounts import Credential
from emulator.central.faults import faults_from
from emulator.central.listener import Request, SimulatedAnswer

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
                limits_from(asked["limits"]), retry_after=bool(asked.get("retry_after"))
            ),
            "POST tokens": lambda asked: central.set_token_seconds(int(asked["seconds"])),
            "POST renew": lambda asked: {"ids": [central.announce_renewal(tenant=asked.get("tenant"))]},
            "GET account": lambda _: self._shown(),
            "POST tenants": self._put_tenant,
            "DELETE tenants": lambda asked: central.remove_tenant(asked["id"]),
            "POST credentials": self._put_credential,
            "DELETE credentials": lambda asked: central.remove_credential(asked["client_id"]),
            "GET devices": lambda asked: central.devices(asked.get("tenant")),
            "POST devices": self._put_device,
            "DELETE devices": lambda asked: central.remove_device(asked["id"], tenant=asked.get("tenant")),
        }

    def answer(self, request: Request) -> SimulatedAnswer:
        """The result with status 200, or the reason with 400 or 404."""
        action = self._actions.get(f"{request.method} {request.path.removeprefix(PREFIX)}")
        if action is None:
            return _reply(404, {"error": f"unknown action; known: {', '.join(sorted(self._actions))}"})
        try:
            asked = (
                json.loads(request.body)
                if request.body
                else {name: values[0] for name, values in request.query.items()}
            )
            result = action(asked)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            return _reply(400, {"error": f"{type(error).__name__}: {error}"})
        return _reply(200, {"ok": True} if result is None else result)

    def _shown(self) -> dict[str, Any]:
        central = self._central
        return {
            "url": central.url,
            "regions": central.regions,
            "tenants": [asdict(tenant) for tenant in central.tenants.values()],
            "credentials": [credential_fields(credential) for credential in central.credentials.values()],
        }

    def _put_tenant(self, asked: dict[str, Any]) -> dict[str, Any]:
        tenant = tenant_from(asked, self._central.tenants.get(str(asked.get("id"))))
        self._central.put_tenant(tenant)
        return asdict(tenant)

    def _put_credential(self, asked: dict[str, Any]) -> dict[str, Any]:
        own = Credential(id=self._central.default_tenant)
        credential = credential_from(asked, self._central.credentials.get(str(asked["client_id"]), own))
        self._central.put_credential(credential)
        return credential_fields(credential)

    def _put_device(self, asked: dict[str, Any]) -> dict[str, Any]:
        device = asked.get("device")
        if not isinstance(device, dict):
            raise TypeError("device must be an object")
        return {"id": self._central.put_device(device, tenant=asked.get("tenant"))}

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
    """The bytes of `raws` (texts that are served unchanged) or of `events` (JSON values)."""
    if "raws" in asked:
        return [text.encode() for text in asked["raws"]]
    return [json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() for event in asked["events"]]


def _reply(status: int, value: object) -> SimulatedAnswer:
    return SimulatedAnswer(status, json.dumps(value, ensure_ascii=False).encode())
