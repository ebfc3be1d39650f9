"""The connector's parts on the simulator's clock: waiting moves it on."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

from emulator.central.clock import Clock
from lib.parts import Parts


def seconds(clock: Clock) -> float:
    """The clock's time as Unix seconds."""
    return clock.now() / 1000


def moment(clock: Clock) -> datetime:
    """The clock's time."""
    return datetime.fromtimestamp(seconds(clock), UTC)


def parts_on(clock: Clock, **others: Any) -> Parts:
    """Parts whose time is the clock's, without jitter; `others` are further parts, or take the place of these."""
    timed: dict[str, Any] = {"now": partial(moment, clock), "monotonic": partial(seconds, clock)}
    return Parts(**{**timed, "sleep": clock.advance, "random": lambda: 1.0, **others})
