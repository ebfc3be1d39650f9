"""forward-batch: send waiting batches to UTMStack's engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import functions_framework
from flask import Request, Response
from marshmallow import Schema, fields, validate

from lib import answers
from lib.current import current
from lib.http.handler import Refused, answer
from lib.model.stream import KINDS
from lib.pipeline.delivery_result import ENGINE_UNAVAILABLE

if TYPE_CHECKING:
    from lib.pipeline.delivery_result import DeliveryResult


class ForwardBatchRequest(Schema):
    """The streams to forward: all, or those of an integration, a tenant or a kind. A storage event names one stream."""

    integration = fields.String()
    tenant = fields.String()
    stream = fields.String(validate=validate.OneOf(KINDS))


def forward(**fields: Any) -> dict[str, Any] | Refused:
    """Forward the waiting batches of the streams that the request names."""
    return answer_of(current().forward(**fields))


def forward_object(name: str) -> dict[str, Any] | Refused:
    """Forward the waiting batches of the stored batch's stream.

    While the engine is down, the platform need not repeat the event: the next sweep finds the batch. Otherwise each
    waiting batch would add calls of its own during the whole outage.
    """
    return answer_of(current().forward_object(name), passing=ENGINE_UNAVAILABLE)


def answer_of(results: Iterable[DeliveryResult], *, passing: str | None = None) -> dict[str, Any] | Refused:
    """A line for each stream. If one failed with another outcome than `passing`, the platform has to call again."""
    deliveries = list(results)
    failed = [result.error for result in deliveries if result.error and result.outcome != passing]
    lines, error = answers.delivered(deliveries), failed[0] if failed else None
    app = current()
    rest = {"engine": answers.met(app.engine.counts)} if deliveries and not app.config().observe else {}
    return {"results": lines} | rest if error is None else Refused(lines, error.code, str(error), rest)


@functions_framework.http
def forward_batch(request: Request) -> Response:
    """Answer one call, or one storage event."""
    return answer(
        request,
        ForwardBatchRequest(),
        forward,
        service="forward-batch",
        access=lambda: current().access,
        event=forward_object,
    )
