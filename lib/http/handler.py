"""HTTP in, calls to use cases, HTTP out; every failure becomes an RFC 9457 problem."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from flask import Request, Response
from marshmallow import Schema, ValidationError
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from lib import telemetry
from lib.errors import ConfigError, ConnectorError, NotFoundError, RetryableError, title_of
from lib.http.access import Access, AccessError, AccessUnknownError, is_local
from lib.http.cloud_events import event_type, object_of
from lib.http.problems import BadRequestError, problem, refusal, to_json

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
RETRY_SECONDS = 10
DESCRIPTION_PATH = "/openapi.json"


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer with status 503, so that the platform calls again: the results so far, and the failure."""

    results: list[dict[str, Any]]
    code: str
    detail: str
    rest: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the answer."""


Call = Callable[..., "dict[str, Any] | Refused"]


def answer(
    request: Request,
    schema: Schema,
    call: Call,
    *,
    service: str,
    access: Callable[[], Access],
    event: Call | None = None,
    rare: bool = False,
) -> Response:
    """The answer of `call` for the request's fields, or of `event` for the name of a finalized object.

    `service` is the function's name in logs. `access` checks callers from other machines. `rare` limits their calls to
    a few a minute. Every failure becomes a problem answer; this function raises nothing.
    """
    telemetry.start(service)
    if request.method == "GET" and request.path == DESCRIPTION_PATH:
        return description()
    try:
        authorize(request, access, rare=rare)
        return _reply(_called(request, schema, call, event))
    except BadRequestError as error:
        return problem(400, "bad_request", str(error), errors=error.faults)
    except ConnectorError as error:
        return _failed(error)
    except Exception:
        number = str(uuid4())
        log.exception("unexpected failure %s", number)
        telemetry.flush()
        return problem(500, "unexpected", f"An unexpected failure. Search the log for {number}.", id=number)


def _failed(error: ConnectorError) -> Response:
    if isinstance(error, AccessError):
        return refusal(error)
    if isinstance(error, NotFoundError):
        return problem(404, error.code, str(error), title=error.title, remedy=error.remedy)
    if isinstance(error, RetryableError):
        telemetry.refused(error, logging.WARNING)
        seconds = max(1, round(error.retry_after or RETRY_SECONDS))
        return problem(503, error.code, str(error), retry_after=seconds, title=error.title, remedy=error.remedy)
    telemetry.refused(error, logging.ERROR)
    telemetry.flush()
    status = 500 if isinstance(error, ConfigError) else 422
    return problem(status, error.code, str(error), title=error.title, remedy=error.remedy)


@cache
def _described() -> bytes:
    import yaml  # noqa: PLC0415 - a slow import that only this request needs

    return to_json(yaml.safe_load((Path(__file__).parent / "openapi.yaml").read_text("utf-8")))


def description() -> Response:
    """The OpenAPI description. It needs no key: it is public and holds nothing about this installation."""
    return Response(_described(), status=200, content_type="application/json")


def authorize(request: Request, access: Callable[[], Access], *, rare: bool = False) -> None:
    """Return if the caller may call; otherwise raise AccessError."""
    headers = dict(request.headers)
    try:
        guard = access()
    except ConnectorError as error:
        if is_local(request.remote_addr, headers):
            return  # A local caller may see the configuration's fault.
        log.error("%s", error)  # noqa: TRY400 - an expected failure needs no trace
        raise AccessUnknownError("The access rules cannot be read.") from None
    guard.authorize(request.remote_addr, headers, rare=rare)


def _called(request: Request, schema: Schema, call: Call, event: Call | None) -> dict[str, Any] | Refused | Response:
    if request.method != "POST":
        refused = problem(405, "method_not_allowed", f"{request.method} is not supported; use POST.")
        refused.headers["Allow"] = "POST"
        return refused
    try:
        # Reading one byte more than allowed detects a body that is too long though its length is not declared.
        body = b"" if (request.content_length or 0) > MAX_BODY_BYTES else request.stream.read(MAX_BODY_BYTES + 1)
    except (RequestEntityTooLarge, ClientDisconnected):
        raise BadRequestError(("", "the body is not complete")) from None
    if (request.content_length or 0) > MAX_BODY_BYTES or len(body) > MAX_BODY_BYTES:
        return problem(413, "too_large", f"The body is longer than {MAX_BODY_BYTES} bytes.")
    fields = _fields(body)
    kind = event_type(request, fields)
    if kind is None:
        return call(**_loaded(schema, fields))
    if event is None:
        raise BadRequestError(("", "this function accepts no CloudEvents"))
    name = object_of(request, fields, kind)
    if name is None:
        return {"results": []}  # An error would make the platform send the event again.
    return event(name)


def _fields(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequestError(("", "the body is not JSON")) from None
    if not isinstance(fields, dict):
        raise BadRequestError(("", "the body must be a JSON object"))
    return fields


def _loaded(schema: Schema, fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(schema.load(fields))
    except ValidationError as error:
        faults = [
            ("" if name == "_schema" else f"/{name}", f"{name}: {' '.join(map(str, messages))}")
            for name, messages in error.messages_dict.items()
        ]
        raise BadRequestError(*faults) from None


def _reply(result: dict[str, Any] | Refused | Response) -> Response:
    if isinstance(result, Response):
        return result
    if isinstance(result, Refused):
        telemetry.report(result.results)
        title = title_of(result.code)
        return problem(
            503,
            result.code,
            result.detail,
            retry_after=RETRY_SECONDS,
            title=title,
            results=result.results,
            **result.rest,
        )
    telemetry.report(result.get("results", ()))
    return Response(to_json(result), status=200, content_type="application/json")
