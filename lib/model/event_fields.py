"""What the connector reads of an event; everything else is only carried."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class EventFields(Protocol):
    """The few fields of an item that decide how it is handled; None where a field is missing or odd."""

    @property
    def id(self) -> str | None:
        """Sophos's id of it; never empty."""

    @property
    def created_at(self) -> datetime | None:
        """When Sophos Central stored it, UTC."""

    @property
    def type(self) -> str | None:
        """What kind of event it is."""

    @property
    def customer_id(self) -> str | None:
        """The tenant that it is of; never empty."""

    @property
    def is_object(self) -> bool:
        """Whether it is a JSON object that everybody can read: not one nested too deep."""
