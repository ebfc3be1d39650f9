"""forward-batch: send waiting batches to UTMStack's engine."""

import functions_framework
from flask import Request, Response
from marshmallow import Schema, fields, validate

from lib import app
from lib.http.handler import answer
from lib.model.stream import KINDS


class ForwardBatchRequest(Schema):
    """Which streams: all, or those of an integration, a tenant, a kind; a finalized object names one."""

    integration = fields.String()
    tenant = fields.String()
    stream = fields.String(validate=validate.OneOf(KINDS))


@functions_framework.http
def forward_batch(request: Request) -> Response:
    """Answer one call, or one storage event."""
    return answer(request, ForwardBatchRequest(), app.forward_batch, access=app.access, event=app.forward_object)
