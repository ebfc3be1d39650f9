"""A stream: the unit of order, of cursor and of scheduling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from urllib.parse import quote, unquote

EVENTS = "events"
ALERTS = "alerts"
ENDPOINTS = "endpoints"
"""The device inventory: no stream of what happened, but of records that changed."""
KINDS = (EVENTS, ALERTS, ENDPOINTS)


@lru_cache(maxsize=4096)  # A path is made some ten times a stream and tick.
def encode_segment(name: str) -> str:
    """A name as one path segment: percent-encoded, never empty, never beginning with a dot; lone surrogates survive."""
    encoded = quote(name, safe="", errors="surrogatepass")
    # quote() leaves dots alone, and names that begin with one mean something else to a file system.
    return f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded or "%"


def decode_segment(segment: str) -> str:
    """The name that `encode_segment` made the segment from."""
    return "" if segment == "%" else unquote(segment, errors="surrogatepass")


@dataclass(frozen=True, slots=True, order=True)
class Stream:
    """One kind of records (of KINDS) of one tenant, read with one integration's credentials."""

    integration: str
    tenant: str
    kind: str

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Self:
        """The stream that a line of an answer, or of a status, is about."""
        return cls(line["integration"], line["tenant"], line["stream"])

    @property
    def path(self) -> str:
        """Where the stream's objects live below `batches/`, `ledger/` and so on."""
        return "/".join(map(encode_segment, (self.integration, self.tenant, self.kind)))

    def __str__(self) -> str:
        return f"{self.integration}/{self.tenant}/{self.kind}"


def stream_of(path: str) -> Stream:
    """The stream whose `path` begins the given one; ValueError where there are fewer than three segments."""
    segments = path.split("/")
    if len(segments) < 3:
        raise ValueError(f"not a stream's path: {path!r}")
    return Stream(*map(decode_segment, segments[:3]))
