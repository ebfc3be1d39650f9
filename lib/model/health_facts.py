"""The facts of a connector from which `health` computes its verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lib.model.checkpoint import Problem


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning about a credential."""

    code: str
    detail: str
    remedy: str
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class DamagedObject:
    """A damaged object of the store that nobody acknowledged."""

    key: str
    what: str
    """The damage and its consequence."""
    remedy: str
    is_unreadable: bool = False
    """Whether this machine refuses to read it; it may be whole."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """The facts of one stream. Acknowledged gaps and dead letters are not counted."""

    name: str
    integration: str
    problem: Problem | None = None
    lag_seconds: float | None = None
    interval_seconds: float | None = None
    gaps: int = 0
    lost_batches: int = 0
    """Those of the gaps that are a lost batch."""
    gap_since: datetime | None = None
    dead_letters: int = 0
    """A number of events."""
    silent_since: datetime | None = None
    undelivered_seconds: float = 0.0
    """Age of the oldest waiting batch."""
    other_customers: int = 0
    """Events that name another customer than the stream's tenant."""


@dataclass(frozen=True, slots=True)
class IntegrationFacts:
    """The facts of one integration."""

    name: str
    problem: Problem | None = None
    paused_at: datetime | None = None
    warnings: Sequence[Warned] = ()


@dataclass(frozen=True, slots=True)
class SiteProblems:
    """The problems of the whole connector."""

    engine: Problem | None = None
    store: Problem | None = None
    functions: Sequence[Problem] = ()
    config_edit: Problem | None = None
    followed: Sequence[Problem] = ()
    """Faults in UTMStack's own configuration, if the connector follows it."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """The facts of the whole connector."""

    now: datetime
    tick_seconds: float
    integrations: Sequence[IntegrationFacts] = ()
    streams: Sequence[StreamFacts] = ()
    """Without retired streams."""
    problems: SiteProblems = SiteProblems()
    damaged: Sequence[DamagedObject] = ()
    """Damaged objects, without those that a gap names."""
    newer: Sequence[str] = ()
    """Keys of objects that a newer version wrote."""
    pending_bytes: int = 0
    max_pending_bytes: int | None = None
    observing: bool = False
    is_heartbeat_late: bool = False
    read_at: datetime | None = None
    """The time of the last finished tick; None if the connector does not run or has not finished a tick."""
