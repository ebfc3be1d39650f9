"""Error answers as RFC 9457 problems."""

from __future__ import annotations

import json
from http import HTTPStatus

from flask import Response

from lib.http.access import AccessError


class BadRequestError(Exception):
    """An invalid request, with each fault and its JSON pointer."""

    def __init__(self, *faults: tuple[str, str]) -> None:
        super().__init__("; ".join(detail for _, detail in faults))
        self.faults = [{"pointer": pointer, "detail": detail} for pointer, detail in faults]


def problem(status: int, code: str, detail: str, *, retry_after: int | None = None, **more: object) -> Response:
    """An RFC 9457 problem. Its title is the status's phrase unless `more` holds a title."""
    body = {"title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail, **more}
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Response(to_json(body), status=status, headers=headers, content_type="application/problem+json")


def refusal(error: AccessError) -> Response:
    """The answer to a caller that may not call."""
    wait = None if error.retry_after is None else max(1, round(error.retry_after))
    response = problem(error.status, error.code, str(error), retry_after=wait, title=error.title, remedy=error.remedy)
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def to_json(value: object) -> bytes:
    """The value as JSON in UTF-8."""
    # Half of a surrogate pair has no UTF-8. Python's backslash escape for it is also JSON's escape.
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
