"""fetch-page: store the next pages of each stream's Sophos events."""

import functions_framework
from flask import Request, Response
from marshmallow import Schema, fields, validate

from lib import app
from lib.http.handler import answer
from lib.model.stream import KINDS


class FetchPageRequest(Schema):
    """Which streams: all, or those of an integration, a tenant, a kind."""

    integration = fields.String()
    tenant = fields.String()
    stream = fields.String(validate=validate.OneOf(KINDS))
    max_pages = fields.Integer(strict=True, validate=validate.Range(min=1))


@functions_framework.http
def fetch_page(request: Request) -> Response:
    """Answer one call."""
    return answer(request, FetchPageRequest(), app.fetch_page, access=app.access)
