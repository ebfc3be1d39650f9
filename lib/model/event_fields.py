"""What the connector reads of an event; everything else is only carried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class EventFields:
    """The few fields of an item that decide how it is handled; None where a field is missing or odd."""

    id: str | None = None
    created_at: datetime | None = None
    """When Sophos Central stored it, UTC."""
    type: str | None = None
    customer_id: str | None = None
    """The tenant that it is of."""
    is_object: bool = True
    """Whether it is a JSON object that everybody can read: not one nested too deep."""
