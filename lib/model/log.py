"""A log as UTMStack's engine takes it, and which items cannot be sent as a log."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

MAX_LOG_BYTES = 4 * 1024 * 1024
"""grpc-go's default limit for a received message. The engine ends the whole stream over a longer one."""


class Log(NamedTuple):
    """The fields of `plugins.Log`. A named tuple for speed: one is made for every event."""

    id: str
    data_type: str
    data_source: str
    timestamp: str
    """Time of collection, RFC 3339."""
    tenant_id: str
    raw: bytes
    """UTF-8."""

    def wire_size(self) -> int:
        """The length of `to_wire` in bytes, without building it."""
        texts = (self.id, self.data_type, self.data_source, self.timestamp, self.tenant_id)
        lengths = [len(self.raw), *(len(text.encode("utf-8", "replace")) for text in texts)]
        return sum(1 + (length.bit_length() + 6) // 7 + length for length in lengths if length)

    def to_wire(self) -> bytes:
        """The serialised message, byte for byte as protobuf writes it. `unacceptable` tells whether `raw` is UTF-8."""
        log_id, data_type, data_source, timestamp, tenant_id, raw = self
        key = log_id.encode()
        between = _between(data_type, data_source, timestamp, tenant_id)
        return b"".join((_head(1, len(key)), key, between, _head(6, len(raw)), raw))


@lru_cache(maxsize=256)
def _between(data_type: str, data_source: str, timestamp: str, tenant_id: str) -> bytes:
    """Fields 2 to 5, which all logs of a batch share."""
    texts = (data_type, data_source, timestamp, tenant_id)
    # Older versions stored the name of a tenant that was cut within a character.
    encoded = [text.encode("utf-8", "replace") for text in texts]
    return b"".join(_head(number, len(field)) + field for number, field in enumerate(encoded, 2))


@lru_cache(maxsize=4096)
def _head(number: int, length: int) -> bytes:
    """A field's tag, and the length of its bytes as protobuf's varint; nothing for an empty field."""
    if not length:
        return b""
    head = bytearray((number << 3 | 2,))
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head)


def unacceptable(raw: bytes, *, is_object: bool) -> str | None:
    """The reason why an item cannot be sent as a log, apart from its size; None if it can be sent."""
    if not is_object:
        return "not a JSON object, or nested too deep"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 at byte {error.start}"
    return None


def to_fields(log: Log) -> dict[str, Any]:
    """The log as JSON fields. Bytes that are not UTF-8 are kept as surrogate escapes."""
    return {**log._asdict(), "raw": log.raw.decode("utf-8", "surrogateescape")}


def from_fields(fields: Mapping[str, Any]) -> Log:
    """The log that `to_fields` wrote; KeyError, TypeError or AttributeError if the fields hold no log."""
    texts = {name: fields[name] for name in ("id", "data_type", "data_source", "timestamp", "tenant_id")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("not a log: a field is not a text")
    return Log(**texts, raw=fields["raw"].encode("utf-8", "surrogateescape"))
