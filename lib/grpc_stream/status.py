"""gRPC's status codes, and its messages as headers carry them.

(https://github.com/grpc/grpc/blob/master/doc/statuscodes.md, …/PROTOCOL-HTTP2.md, …/http-grpc-status-mapping.md)
"""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import quote, unquote_to_bytes

MAX_MESSAGE_CHARACTERS = 1024
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Status(IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_OF_HTTP = {
    b"400": Status.INTERNAL,
    b"401": Status.UNAUTHENTICATED,
    b"403": Status.PERMISSION_DENIED,
    b"404": Status.UNIMPLEMENTED,
    b"429": Status.UNAVAILABLE,
    b"502": Status.UNAVAILABLE,
    b"503": Status.UNAVAILABLE,
    b"504": Status.UNAVAILABLE,
}


def status_of(value: bytes) -> Status:
    """The status that `grpc-status` names; UNKNOWN where it names none."""
    try:
        return Status(int(value)) if value.isdigit() and len(value) <= 2 else Status.UNKNOWN
    except ValueError:
        return Status.UNKNOWN


def status_of_http(status: bytes) -> Status:
    """The status that an HTTP answer stands for which is not gRPC's, such as a proxy's."""
    return _OF_HTTP.get(status, Status.UNKNOWN)


def to_header(text: str) -> bytes:
    """The value of `grpc-message`."""
    return quote(text, safe=_PRINTABLE).encode()


def from_header(value: bytes) -> str:
    """The text of `grpc-message`; what is not percent-encoded well, or not UTF-8, is shown as well as it can be."""
    return unquote_to_bytes(value[: 4 * MAX_MESSAGE_CHARACTERS]).decode("utf-8", "replace")[:MAX_MESSAGE_CHARACTERS]
