"""Sophos's JSON at the door: checked once, and made our own values. Pages are cut in `pages.py`."""

from __future__ import annotations

import json
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validate

from lib.errors import ProtocolError
from lib.model.page import Tenant, Whoami
from lib.sophos.http import Answer


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

    id = fields.String(required=True)
    id_type = fields.String(
        data_key="idType", required=True, validate=validate.OneOf(["tenant", "partner", "organization"])
    )
    hosts = fields.Nested(_HostsSchema, data_key="apiHosts", required=True)

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Whoami:
        hosts = data["hosts"]
        return Whoami(data["id"], data["id_type"], hosts["global_host"] or "", hosts["data_region"])


class _TenantSchema(_Known):
    id = fields.String(required=True)
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

    items = fields.List(fields.Nested(_TenantSchema), required=True)
    pages = fields.Nested(_PagesSchema, load_default=dict)


def load(schema: Schema, answer: Answer, what: str) -> Any:
    """What the schema makes of the answer; ProtocolError names the fields that are wrong, never their values."""
    try:
        return schema.load(json.loads(answer.body))
    except ValidationError as error:
        raise ProtocolError(f"{what}: unusable fields: {', '.join(error.messages_dict)}") from None
    except (ValueError, RecursionError):
        raise ProtocolError(f"{what}: the answer is not JSON") from None
