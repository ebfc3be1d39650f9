"""A stream: the unit of order, of the checkpoint and of scheduling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from urllib.parse import quote, unquote

EVENTS = "events"
ALERTS = "alerts"
ENDPOINTS = "endpoints"
"""The device inventory: a stream of changed records, not of events."""
KINDS = (EVENTS, ALERTS, ENDPOINTS)


@lru_cache(maxsize=65_536)
def encode_segment(name: str) -> str:
    """A name as one path segment: percent-encoded, never empty, without a leading dot. Lone surrogates are kept."""
    encoded = quote(name, safe="", errors="surrogatepass")
    # quote() leaves dots as they are. To a file system, `.`, `..` and names with a leading dot have a meaning.
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded or "%"


def decode_segment(segment: str) -> str:
    """The name of a segment that `encode_segment` made."""
    return "" if segment == "%" else unquote(segment, errors="surrogatepass")


@dataclass(frozen=True, slots=True, order=True)
class Stream:
    """One kind of records (of KINDS) of one tenant, read with one integration's credentials."""

    integration: str
    tenant: str
    kind: str

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """The stream of a line in an answer or in a status."""
        return cls(line["integration"], line["tenant"], line["stream"])

    @property
    def path(self) -> str:
        """The path of the stream's objects below `batches/`, `ledger/` and the other folders."""
        return f"{encode_segment(self.integration)}/{encode_segment(self.tenant)}/{encode_segment(self.kind)}"

    def __str__(self) -> str:
        return f"{self.integration}/{self.tenant}/{self.kind}"


def stream_of(path: str) -> Stream:
    """The stream of a path that begins with `Stream.path`; ValueError if there are fewer than three segments."""
    segments = path.split("/")
    if len(segments) < 3:
        raise ValueError(f"not a stream's path: {path!r}")
    return Stream(*map(decode_segment, segments[:3]))
