"""Checks Sophos's JSON and converts it to our own values. `pages.py` splits pages."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, validate

from lib.errors import ProtocolError
from lib.model.page import OddTenant, SophosTenant, Whoami
from lib.model.text import printable
from lib.sophos.http import HttpAnswer

log = logging.getLogger(__name__)

_ID = validate.Regexp(re.compile(r"[!-~]{1,200}\Z"))
"""Ids are sent in headers, so they must be printable ASCII."""


class _LenientSchema(Schema):
    """A schema that ignores unknown fields: Sophos adds fields without notice."""

    class Meta:
        unknown = EXCLUDE


class TokenSchema(_LenientSchema):
    """`POST /api/v2/oauth2/token`. The token is sent in a header: it must be printable ASCII."""

    access_token = fields.String(required=True, validate=validate.Regexp(re.compile(r"[!-~]+\Z")))
    expires_in = fields.Float(required=True, validate=validate.Range(min=0))


class _HostsSchema(_LenientSchema):
    global_host = fields.String(data_key="global", load_default=None, allow_none=True)
    data_region = fields.String(data_key="dataRegion", load_default=None, allow_none=True)


class WhoamiSchema(_LenientSchema):
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


class _TenantSchema(_LenientSchema):
    id = fields.String(required=True, validate=_ID)
    name = fields.String(load_default="", allow_none=True)
    api_host = fields.String(data_key="apiHost", load_default=None, allow_none=True)

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> SophosTenant:
        return SophosTenant(data["id"], data["name"] or "", data["api_host"] or None)


class _PagesSchema(_LenientSchema):
    size = fields.Integer(load_default=None, allow_none=True)
    total = fields.Integer(load_default=None, allow_none=True)


class TenantsSchema(_LenientSchema):
    """`GET /partner/v1/tenants`, `GET /organization/v1/tenants`."""

    items = fields.List(fields.Raw(allow_none=True), required=True)
    pages = fields.Nested(_PagesSchema, load_default=dict)


def tenants_of(items: list[Any], first: int = 1) -> list[SophosTenant]:
    """The tenants of a page. An unusable record becomes an OddTenant, so that the other tenants are still read.

    `first` is the number of the page's first record in the whole list.
    """
    tenants: list[SophosTenant] = []
    for number, item in enumerate(items, first):
        try:
            tenants.append(_tenant.load(item))
        except ValidationError as error:
            wrong = ", ".join(map(str, error.messages_dict))
            name = item.get("id") if isinstance(item, dict) else None
            tenant = printable(name[:200]) if name and isinstance(name, str) else f"number {number} of the list"
            log.warning("tenant %s is skipped: unusable fields in Sophos's list: %s", tenant, wrong)
            tenants.append(OddTenant(tenant, "", None, f"unusable fields in Sophos's list: {wrong}"))
    return tenants


_tenant = _TenantSchema()


def check_envelope(answer: HttpAnswer, request: str) -> None:
    """Raise ProtocolError if an error answer is not in Sophos's JSON form. Then a proxy or filter has answered."""
    try:
        is_sophos = isinstance(json.loads(answer.body), dict)
    except (ValueError, RecursionError):
        is_sophos = False
    if not is_sophos:
        kind = re.match(r"[a-z]+/[a-z.+-]+", answer.headers.get("Content-Type") or "")
        raise ProtocolError(
            f"{answer.status} to {request}, not in Sophos's form but as {kind[0] if kind else 'something else'}: "
            "a proxy or filter answered, not Sophos",
            remedy="Check the proxy or web filter for *.sophos.com. Reading continues by itself.",
        )


def load(schema: Schema, answer: HttpAnswer, request: str) -> Any:
    """The answer's value by the schema; ProtocolError names the wrong fields, never their values."""
    try:
        return schema.load(json.loads(answer.body))
    except ValidationError as error:
        raise ProtocolError(f"{request}: unusable fields: {', '.join(error.messages_dict)}") from None
    except (ValueError, RecursionError):
        raise ProtocolError(f"{request}: the answer is not JSON") from None
