"""The fields of an event that the connector reads. It passes on all others unchanged."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class EventFields(NamedTuple):
    """The fields of an item that decide how it is handled; None if a field is missing or has another type.

    A named tuple: one is made for every event at each step, and a frozen dataclass takes three times as long.
    """

    id: str | None = None
    created_at: datetime | None = None
    """The time at which Sophos Central stored the event, UTC."""
    type: str | None = None
    customer_id: str | None = None
    """The tenant that the event belongs to."""
    is_object: bool = True
    """Whether the item is a JSON object that is not nested too deep for common parsers."""
