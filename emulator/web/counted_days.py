"""`charts/completeness/<day>.json`: what became of a day's events, counted from the ledger when the day is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NotRequired, TypedDict, cast

from lib.state.codec import Codec

FINAL = timedelta(hours=26)
"""Reconciliation reads 24 hours back: only a gap changes a day that ended longer ago."""
LISTED = 200
"""The most streams that are kept of a day. Incomplete ones come first."""


class EventCount(TypedDict):
    """A number of events; None: unknown."""

    events: int | None


class ChainSummary(TypedDict):
    """The day's part of a stream's ledger."""

    receipts: int
    whole: bool


class StreamLine(TypedDict):
    """The fields of a stream's line that the page shows. `attest` documents them; it stores more."""

    integration: str
    tenant: str
    stream: str
    completeness: float | None
    held_by_sophos: EventCount
    received: int
    delivered: int
    waiting: int
    dead_letters: EventCount
    late: EventCount
    gaps: int
    ledger: ChainSummary


class Totals(TypedDict):
    """The sums of all streams; None: unknown."""

    held_by_sophos: int | None
    received: int
    delivered: int
    observed: int
    waiting: int
    dead_letters: int
    late: int
    gaps: int
    unread: NotRequired[int]
    """The number of streams that were not read to the end of the day; missing in a count of an older version."""
    lost: int | None


class ProposedSetting(TypedDict):
    """A proposal of `attest` for an integration's setting."""

    integration: str
    setting: str
    now: str
    proposed: str
    why: str


@dataclass(frozen=True, slots=True)
class CountedDay:
    """The counts of a day."""

    day: str
    gaps: str
    """A digest of the gaps that touch the day."""
    made_at: datetime
    final: bool
    """Whether only another gap can change the counts."""
    removed: bool | None = None
    """Whether the day's receipts have expired. All that follows is absent then."""
    completeness: float | None = None
    totals: Totals | None = None
    proposals: Sequence[ProposedSetting] | None = None
    faults: int | None = None
    """The number of streams whose ledger is not whole."""
    remarks: Sequence[str] | None = None
    streams: Sequence[StreamLine] | None = None
    stream_count: int | None = None

    def __post_init__(self) -> None:
        if not self.removed and None in (self.totals, self.faults, self.remarks, self.streams, self.stream_count):
            raise ValueError("the counts are missing")

    def replaces(self, stored: CountedDay | None) -> bool:
        """Whether it replaces the stored counts: another connector may have counted the day later than this one."""
        return stored is None or not self.made_at < stored.made_at <= datetime.now(UTC)

    @property
    def kind(self) -> str:
        """The worst of all that happened to the day's events."""
        if self.removed or self.totals is None:
            return "removed"
        for kind, is_so in (
            ("fault", self.faults),
            ("gap", self.totals["gaps"]),
            ("letters", self.totals["dead_letters"]),
            ("waiting", self.totals["waiting"]),
            ("observed", self.totals["observed"]),
            ("unread", self.totals.get("unread")),
        ):
            if is_so:
                return kind
        return "whole" if self.totals["received"] else "nothing"


@dataclass(frozen=True, slots=True)
class FirstDay:
    """`charts/completeness/first.json`: the first day of the ledger."""

    day: str


COUNTS = ("completeness", "totals", "faults", "remarks", "streams", "stream_count")
"""The fields that a removed day does not have."""
COUNTED_DAY = Codec(CountedDay, "a counted day", later=("removed", "proposals", *COUNTS))
FIRST_DAY = Codec(FirstDay, "the ledger's first day")


def counted_day(statement: Mapping[str, Any], gaps: str, now: datetime) -> CountedDay:
    """The stored part of a day's attestation. `gaps`: the digest of the day's gaps."""
    lines = sorted(statement["streams"], key=lambda line: line["completeness"] == 1.0 and line["ledger"]["whole"])
    over = datetime.fromisoformat(statement["day"]).replace(tzinfo=UTC) + timedelta(days=1)
    return CountedDay(
        day=statement["day"],
        gaps=gaps,
        made_at=now,
        final=now - over > FINAL and not statement["totals"]["waiting"],
        completeness=statement["completeness"],
        totals=statement["totals"],
        proposals=statement["proposals"] or None,
        faults=sum(not line["ledger"]["whole"] for line in lines),
        remarks=statement["remarks"][:LISTED],
        streams=[cast("StreamLine", {**line, "gaps": len(line["gaps"])}) for line in lines if _has_content(line)][
            :LISTED
        ],
        stream_count=len(lines),
    )


def _has_content(line: Mapping[str, Any]) -> bool:
    """Whether the stream has anything to show on the day."""
    return bool(line["received"] or line["gaps"] or line["late"]["events"] or line["ledger"]["receipts"])


def removed_day(day: str, gaps: str, now: datetime) -> CountedDay:
    """The record of a day whose receipts have expired."""
    return CountedDay(day, gaps, now, final=True, removed=True)
