"""A log as UTMStack's engine takes it, and whether it can take it at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAX_LOG_BYTES = 4 * 1024 * 1024
"""grpc-go's default limit for a received message; beyond it the engine ends the whole stream."""


@dataclass(frozen=True, slots=True)
class Log:
    """The fields of `plugins.Log`."""

    id: str
    data_type: str
    data_source: str
    timestamp: str
    """Time of collection, RFC 3339."""
    tenant_id: str
    raw: bytes
    """UTF-8."""

    def wire_size(self) -> int:
        """The size of the serialised message: a tag, a length and the bytes of each field, none of which is empty."""
        texts = (self.id, self.data_type, self.data_source, self.timestamp, self.tenant_id)
        lengths = [len(self.raw), *(len(text.encode()) for text in texts)]
        return sum(1 + (length.bit_length() + 6) // 7 + length for length in lengths)


def unacceptable(raw: bytes, *, is_object: bool) -> str | None:
    """Why an item cannot be sent as a log whatever its size; None when it can."""
    if not is_object:
        return "not a JSON object, or nested too deep"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 at byte {error.start}"
    return None


def to_fields(log: Log) -> dict[str, Any]:
    """The log as JSON fields; bytes that are not UTF-8 survive."""
    return {**asdict(log), "raw": log.raw.decode("utf-8", "surrogateescape")}


def from_fields(fields: Mapping[str, Any]) -> Log:
    """The log that `to_fields` wrote; KeyError, TypeError or AttributeError where there is none."""
    texts = {name: fields[name] for name in ("id", "data_type", "data_source", "timestamp", "tenant_id")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("no log: a field is no text")
    return Log(**texts, raw=fields["raw"].encode("utf-8", "surrogateescape"))
