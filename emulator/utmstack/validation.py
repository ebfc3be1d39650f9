"""Answers UTMStack's Test Connection: the request of its backend to v11's `modules-config` when the form is saved."""

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
"""The checks that depend on the form's values. A failed check of engine, store or clock does not refuse the form."""
LATER = frozenset({"rate_limited", "over_budget"})
"""Codes that do not refuse the form once Sophos has issued a token: they only show that the credential is in use."""
SHOWN = ("credentials", "whoami", "siem_events")
"""The checks whose details are shown if the test passes."""


def serve(app: Flask, platform: Platform, watcher: SettingsWatcher) -> None:
    """Add the two routes to the application. The caller must send UTMStack's internal key."""

    @app.post("/api/v1/modules-config/validate")
    def _validate() -> Response:
        base = watcher.base
        shown = request.headers.get("internal-key", "")
        if not shown:
            return _answer(404, error="not found")
        if base is None or not base.internal_key or not hmac.compare_digest(shown.encode(), base.internal_key.encode()):
            return _answer(403, error="the internal key is wrong")
        if request.args.get("nameShort") != settings.MODULE:
            return _answer(400, error=f"this connector tests {settings.MODULE} only")
        try:
            form = request.get_json(force=True, silent=True)
            groups = form.get("moduleGroupConfigurations") if isinstance(form, dict) else None
            client_id, secret = settings.credential_of_form(groups, base.keys)
        except ConfigError as error:
            return _answer(400, error=f"{error}.")
        except (AttributeError, TypeError):
            return _answer(400, error="moduleGroupConfigurations must be a list of keys with values.")
        return _tested(platform, client_id, secret)

    @app.get("/api/v1/health")
    def _health() -> Response:
        return _answer(200, status="ok")


def _tested(platform: Platform, client_id: str, secret: str) -> Response:
    try:
        answer = platform.call(
            "test-connection", json.dumps({"client_id": client_id, "client_secret": secret}).encode()
        )
        report: dict[str, Any] = json.loads(answer.body)
    except (FunctionDownError, ValueError, RecursionError) as error:
        return _answer(400, error=_text(f"the connector could not test the credential: {error}"))
    if answer.status != 200:
        detail = report.get("detail", answer.status)
        return _answer(400, error=_text(f"the connector could not test the credential: {detail}"))
    failed = _refusal(report)
    if failed is None:
        return _answer(200, status=_text(*(check["detail"] for check in report["checks"] if check["name"] in SHOWN)))
    return _answer(400, error=_text(failed["detail"], failed["remedy"]))


def _refusal(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first failed check that refuses the form's values; None if they are accepted."""
    granted = any(check["name"] == "credentials" and check["ok"] for check in report["checks"])
    for check in report["checks"]:
        if check["outcome"] == "failed" and check["name"] in DECIDED and not (granted and check["code"] in LATER):
            return dict(check)
    return None


def _text(*parts: str) -> str:
    return " ".join(f"{part.rstrip('.')}." for part in parts)


def _answer(code: int, **fields: str) -> Response:
    # UTMStack's backend mistakes a text with {"meta" for another vendor's error.
    plain = {key: text.replace('{"meta"', '{ "meta"') for key, text in fields.items()}
    return Response(json.dumps(plain, ensure_ascii=False), status=code, content_type="application/json")
