"""UTMStack's Test Connection: what its backend asks of v11's `modules-config` when the Sophos form is saved."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request

from emulator.runtime.functions import FunctionDownError
from emulator.runtime.platform import Platform
from emulator.utmstack import settings
from emulator.utmstack.watcher import SettingsWatcher
from lib.errors import ConfigError

DECIDED = frozenset(
    {
        *("dns", "tcp", "tls", "sophos_reachable", "credentials"),
        *("whoami", "region", "tenants", "tenant_hosts", "siem_events"),
    }
)
"""The checks that a form's values decide. Engine, store, clock and calls left are no reason to refuse them."""
LATER = frozenset({"rate_limited", "over_budget"})
"""Once Sophos has issued a token, these say that the credential is in use, and nothing against it."""
TOLD = ("credentials", "whoami", "siem_events")
"""The checks whose results are shown where nothing is wrong."""


def serve(app: Flask, platform: Platform, watcher: SettingsWatcher) -> None:
    """Add the two addresses to the application; the caller shows UTMStack's internal key."""

    @app.post("/api/v1/modules-config/validate")
    def _validate() -> Response:
        base = watcher.base
        shown = request.headers.get("internal-key", "")
        if not shown:
            return _answer(404, error="not found")
        if base is None or not base.internal_key or not hmac.compare_digest(shown.encode(), base.internal_key.encode()):
            return _answer(403, error="the internal key is another one")
        if request.args.get("nameShort") != settings.MODULE:
            return _answer(400, error=f"this connector tests {settings.MODULE} only")
        try:
            form = request.get_json(force=True, silent=True)
            groups = form.get("moduleGroupConfigurations") if isinstance(form, dict) else None
            client_id, secret = settings.credential_of_form(groups, base.keys)
        except ConfigError as error:
            return _answer(400, error=f"{error}.")
        except (AttributeError, TypeError):
            return _answer(400, error="moduleGroupConfigurations has to be a list of keys with values.")
        return _tested(platform, client_id, secret)

    @app.get("/api/v1/health")
    def _health() -> Response:
        return _answer(200, status="ok")


def _tested(platform: Platform, client_id: str, secret: str) -> Response:
    try:
        answer = platform.call(
            "test-connection", json.dumps({"client_id": client_id, "client_secret": secret}).encode()
        )
        found: dict[str, Any] = json.loads(answer.body)
    except (FunctionDownError, ValueError) as error:
        return _answer(400, error=_text(f"the connector could not test it: {error}"))
    if answer.status != 200:
        return _answer(400, error=_text(f"the connector could not test it: {found.get('detail', answer.status)}"))
    failed = _refusal(found)
    if failed is None:
        return _answer(200, status=_text(*(each["detail"] for each in found["checks"] if each["name"] in TOLD)))
    return _answer(400, error=_text(failed["detail"], failed["remedy"]))


def _refusal(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The check that speaks against the form's values."""
    granted = any(each["name"] == "credentials" and each["ok"] for each in found["checks"])
    for check in found["checks"]:
        if check["outcome"] == "failed" and check["name"] in DECIDED and not (granted and check["code"] in LATER):
            return dict(check)
    return None


def _text(*parts: str) -> str:
    return " ".join(f"{part.rstrip('.')}." for part in parts)


def _answer(code: int, **fields: str) -> Response:
    # UTMStack's backend takes a text with this for an error of another vendor.
    plain = {key: text.replace('{"meta"', '{ "meta"') for key, text in fields.items()}
    return Response(json.dumps(plain, ensure_ascii=False), status=code, content_type="application/json")
