"""What kept a request from being answered, told apart by what a person can do about it."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

import requests
import urllib3

from lib.errors import (
    NameUnknownError,
    NetworkDownError,
    NoAnswerError,
    NotListeningError,
    ProxyDownError,
    SophosDownError,
    TlsBrokenError,
)

_DEPTH = 20
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
_PROXY = (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)
_KINDS: tuple[tuple[tuple[type[BaseException], ...], type[SophosDownError], str], ...] = (
    (
        (requests.exceptions.SSLError, urllib3.exceptions.SSLError, ssl.SSLError),
        TlsBrokenError,
        "its certificate was not accepted",
    ),
    (
        (socket.gaierror, urllib3.exceptions.NameResolutionError),
        NameUnknownError,
        "no connection, since the name cannot be resolved",
    ),
    ((ConnectionRefusedError,), NotListeningError, "no connection, it was refused"),
    # Not urllib3's own TimeoutError: every connection that could not be made is one.
    ((requests.Timeout, urllib3.exceptions.ReadTimeoutError), NoAnswerError, "no answer in time"),
    (
        (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError),
        SophosDownError,
        "the answer was cut off",
    ),
)
"""What is found first decides: a connection that ends before an answer is a refused one inside, or a cut one."""


def failure_of(what: str, error: BaseException) -> SophosDownError:
    """The failure of the request `what`; it names no URL, which may hold a secret."""
    causes = list(_causes(error))
    words = next((cause.strerror for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror), "")
    if any(isinstance(each, _PROXY) for each in causes):
        refused = next((found for each in causes if (found := _TUNNEL.search(str(each)))), None)
        told = f"it answers {refused[1]}" if refused else words or "no connection to it"
        return ProxyDownError(f"{what}: the proxy does not let us through ({told})")
    for kinds, failure, text in _KINDS:
        if any(isinstance(each, kinds) for each in causes):
            return failure(f"{what}: {text}")
    return NetworkDownError(f"{what}: no connection ({words})" if words else f"{what}: no connection")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and all that is behind it in any of the ways in which libraries say so."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(seen) < _DEPTH:
        each = todo.pop()
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            todo += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
            yield each
