"""Sorts the causes of failed requests by what a person can do about them."""

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
        "the name cannot be resolved",
    ),
    ((ConnectionRefusedError,), NotListeningError, "the connection was refused"),
    # urllib3's own TimeoutError is not in this list: it is the base of every failed connection.
    ((requests.Timeout, urllib3.exceptions.ReadTimeoutError), NoAnswerError, "no answer in time"),
    (
        (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError),
        SophosDownError,
        "the answer was cut off",
    ),
)
"""The first match decides. The order matters: a cut connection can have a refused one as its cause."""


def failure_of(request: str, error: BaseException) -> SophosDownError:
    """The failure of a request, which is named in words. The text holds no URL, which may hold a secret."""
    causes = list(_causes(error))
    words = next((cause.strerror for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror), "")
    if any(isinstance(cause, _PROXY) for cause in causes):
        refused = next((match for cause in causes if (match := _TUNNEL.search(str(cause)))), None)
        reason = f"it answers {refused[1]}" if refused else words or "no connection to it"
        return ProxyDownError(f"{request}: the proxy refuses the connection ({reason})")
    for kinds, failure, text in _KINDS:
        if any(isinstance(cause, kinds) for cause in causes):
            return failure(f"{request}: {text}")
    return NetworkDownError(f"{request}: no connection ({words})" if words else f"{request}: no connection")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error with all its causes, in every form that libraries use."""
    seen: list[BaseException] = []
    todo: list[object] = [error]
    while todo and len(seen) < _DEPTH:
        cause = todo.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            todo += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
            yield cause
