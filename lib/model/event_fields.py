"""The fields of an event that the connector reads. It passes on all others unchanged."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class EventFields(Protocol):
    """The fields of an item that decide how it is handled; None if a field is missing or has another type."""

    @property
    def id(self) -> str | None:
        """Sophos's id of the event; never empty."""

    @property
    def created_at(self) -> datetime | None:
        """The time at which Sophos Central stored the event, UTC."""

    @property
    def type(self) -> str | None:
        """The type of the event."""

    @property
    def customer_id(self) -> str | None:
        """The tenant that the event belongs to; never empty."""

    @property
    def is_object(self) -> bool:
        """Whether the item is a JSON object that is not nested too deep for common parsers."""
