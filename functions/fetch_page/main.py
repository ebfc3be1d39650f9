"""fetch-page: read the next pages of each stream from Sophos and store them as batches."""

from typing import Any

import functions_framework
from flask import Request, Response
from marshmallow import Schema, fields, validate

from lib import answers
from lib.current import current
from lib.http.handler import answer
from lib.model.stream import KINDS


class FetchPageRequest(Schema):
    """The streams to fetch: all, or those of an integration, a tenant or a kind."""

    integration = fields.String()
    tenant = fields.String()
    stream = fields.String(validate=validate.OneOf(KINDS))
    max_pages = fields.Integer(strict=True, validate=validate.Range(min=1))


def fetch(**fields: Any) -> dict[str, Any]:
    """Fetch the streams that the request names."""
    return answers.fetched(current().fetch(**fields))


@functions_framework.http
def fetch_page(request: Request) -> Response:
    """Answer one call."""
    return answer(request, FetchPageRequest(), fetch, service="fetch-page", access=lambda: current().access)
