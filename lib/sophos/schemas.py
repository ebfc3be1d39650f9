"""Sophos's JSON at the door: checked once, and made our own values. Pages are cut in `pages.py`."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validate

from lib.errors import ProtocolError
from lib.model.page import OddTenant, Tenant, Whoami
from lib.model.text import printable
from lib.sophos.http import Answer

log = logging.getLogger(__name__)

_ID = validate.Regexp(re.compile(r"[!-~]{1,200}\Z"))
"""What a header can carry."""


class _Known(Schema):
    """Sophos adds fields without notice; those named here are kept."""

    class Meta:
        unknown = EXCLUDE


class TokenSchema(_Known):
    """`POST /api/v2/oauth2/token`."""

    access_token = fields.String(required=True, validate=validate.Length(min=1))
    expires_in = fields.Float(required=True, validate=validate.Range(min=0))


class _HostsSchema(_Known):
    global_host = fields.String(data_key="global", load_default=None, allow_none=True)
    data_region = fields.String(data_key="dataRegion", load_default=None, allow_none=True)


class WhoamiSchema(_Known):
    """`GET /whoami/v1`."""

    id = fields.String(required=True, validate=_ID)
    id_type = fields.String(
        data_key="idType", required=True, validate=validate.OneOf(["tenant", "partner", "organization"])
    )
    hosts = fields.Nested(_HostsSchema, data_key="apiHosts", required=True)

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Whoami:
        hosts = data["hosts"]
        return Whoami(data["id"], data["id_type"], hosts["global_host"] or "", hosts["data_region"])


class _TenantSchema(_Known):
    id = fields.String(required=True, validate=_ID)
    name = fields.String(load_default="", allow_none=True)
    api_host = fields.String(data_key="apiHost", load_default=None, allow_none=True)

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Tenant:
        return Tenant(data["id"], data["name"] or "", data["api_host"] or None)


class _PagesSchema(_Known):
    size = fields.Integer(load_default=None, allow_none=True)
    total = fields.Integer(load_default=None, allow_none=True)


class TenantsSchema(_Known):
    """`GET /partner/v1/tenants`, `GET /organization/v1/tenants`."""

    items = fields.List(fields.Raw(), required=True)
    pages = fields.Nested(_PagesSchema, load_default=dict)


def tenants_of(items: list[Any], first: int = 1) -> list[Tenant]:
    """The tenants of a page; one whose record cannot be used is an OddTenant, so that it costs no other.

    `first` is the place of the page's first one in the whole list.
    """
    found: list[Tenant] = []
    for number, item in enumerate(items, first):
        try:
            found.append(_tenant.load(item))
        except ValidationError as error:
            wrong = ", ".join(map(str, error.messages_dict))
            name = item.get("id") if isinstance(item, dict) else None
            who = printable(name[:200]) if name and isinstance(name, str) else f"number {number} of the list"
            log.warning("tenant %s is left out: unusable fields in Sophos's list: %s", who, wrong)
            found.append(OddTenant(who, "", None, f"unusable fields in Sophos's list: {wrong}"))
    return found


_tenant = _TenantSchema()


def check_envelope(answer: Answer, what: str) -> None:
    """ProtocolError where an error does not come in Sophos's JSON: then something on the way has answered."""
    try:
        is_sophos = isinstance(json.loads(answer.body), dict)
    except (ValueError, RecursionError):
        is_sophos = False
    if not is_sophos:
        kind = re.match(r"[a-z]+/[a-z.+-]+", answer.headers.get("Content-Type") or "")
        raise ProtocolError(
            f"{answer.status} to {what}, not in Sophos's form but as {kind[0] if kind else 'something else'}: "
            "something on the way answered, not Sophos",
            remedy="Check for a proxy or web filter on the way to *.sophos.com; reading goes on by itself.",
        )


def load(schema: Schema, answer: Answer, what: str) -> Any:
    """What the schema makes of the answer; ProtocolError names the fields that are wrong, never their values."""
    try:
        return schema.load(json.loads(answer.body))
    except ValidationError as error:
        raise ProtocolError(f"{what}: unusable fields: {', '.join(error.messages_dict)}") from None
    except (ValueError, RecursionError):
        raise ProtocolError(f"{what}: the answer is not JSON") from None
