"""What the connector reads of an event; everything else is only carried."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class EventFields(NamedTuple):
    """The few fields of an item that decide how it is handled; None where a field is missing or odd.

    A tuple, since one is made of every event at each step: a frozen dataclass takes three times as long.
    """

    id: str | None = None
    created_at: datetime | None = None
    """When Sophos Central stored it, UTC."""
    type: str | None = None
    customer_id: str | None = None
    """The tenant that it is of."""
    is_object: bool = True
    """Whether it is a JSON object that everybody can read: not one nested too deep."""
