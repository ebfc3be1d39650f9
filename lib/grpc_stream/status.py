"""gRPC's status codes, and the encoding of status messages in headers.

(https://github.com/grpc/grpc/blob/master/doc/statuscodes.md, …/PROTOCOL-HTTP2.md, …/http-grpc-status-mapping.md)
"""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import quote, unquote_to_bytes

MAX_MESSAGE_CHARACTERS = 1024
# `%` begins an escape, so it is escaped itself (PROTOCOL-HTTP2.md, Percent-Encoded).
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Status(IntEnum):
    """The status of a finished call."""

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
    """The status in a `grpc-status` header; UNKNOWN if it is not a status."""
    # The server chooses the value. The length is limited before `int`, which is slow for very long numbers.
    try:
        return Status(int(value)) if value.isdigit() and len(value) <= 2 else Status.UNKNOWN
    except ValueError:
        return Status.UNKNOWN


def status_of_http(status: bytes) -> Status:
    """The status for an HTTP answer that is not gRPC, such as a proxy's."""
    return _OF_HTTP.get(status, Status.UNKNOWN)


def to_header(text: str) -> bytes:
    """The value of `grpc-message`."""
    return quote(text, safe=_PRINTABLE).encode()


def from_header(value: bytes) -> str:
    """The text of `grpc-message`, at most MAX_MESSAGE_CHARACTERS. Invalid encoding is replaced, never an error."""
    return unquote_to_bytes(value[: 4 * MAX_MESSAGE_CHARACTERS]).decode("utf-8", "replace")[:MAX_MESSAGE_CHARACTERS]
