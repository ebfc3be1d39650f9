"""test-connection: test a credential, from DNS to the engine, and name the remedy of each failure."""

from collections.abc import Sequence
from typing import Any

import functions_framework
from flask import Request, Response
from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from lib import answers
from lib.current import current
from lib.http.handler import answer
from lib.model.region import region_fault
from lib.model.stream import KINDS


def sendable(text: str) -> None:
    """Raise ValidationError for text that cannot be sent, such as half of a surrogate pair."""
    if not text.isprintable():
        raise ValidationError("holds characters that a credential cannot hold")


def known_region(text: str) -> None:
    """Refuse a region that there cannot be."""
    fault = region_fault(text)
    if fault is not None:
        raise ValidationError(fault)


class TestConnectionRequest(Schema):
    """A configured integration, or a credential, which is not saved."""

    integration = fields.String()
    client_id = fields.String(validate=[validate.Length(1, 200), sendable])
    client_secret = fields.String(validate=[validate.Length(1, 1000), sendable], load_only=True)
    region = fields.String(validate=known_region)
    tenant = fields.String(validate=validate.Length(min=1))
    streams = fields.List(fields.String(validate=validate.OneOf(KINDS)), validate=validate.Length(min=1))

    @validates_schema
    def _one_of_two(self, data: dict[str, object], **_: object) -> None:
        given = {name for name in ("client_id", "client_secret") if name in data}
        if "integration" in data and len(data) > 1:
            raise ValidationError("Name either an integration or credentials, not both.", "integration")
        if "integration" not in data and len(given) != 2:
            raise ValidationError("Name an integration, or both client_id and client_secret.", "integration")


def examine(
    integration: str | None = None,
    *,
    client_id: str = "",
    client_secret: str = "",
    region: str = "auto",
    tenant: str | None = None,
    streams: Sequence[str] = ("events",),
) -> dict[str, Any]:
    """Test a configured integration, or a credential, which is not saved."""
    app = current()
    if integration is not None:
        return answers.connection(app.examine(integration, deadline=app.deadline()))
    report = app.examine_credential(client_id, client_secret, region=region, tenant=tenant, streams=streams)
    return answers.connection(report)


@functions_framework.http
def test_connection(request: Request) -> Response:
    """Answer one call."""
    return answer(
        request,
        TestConnectionRequest(),
        examine,
        service="test-connection",
        access=lambda: current().access,
        rare=True,
    )
