"""Headers of batches that were fetched at one moment, whose events are of that moment too."""

from datetime import datetime
from typing import Any

from lib.model.batch import Envelope, Header
from lib.model.clock import day_of
from lib.model.stream import Stream


def header_at(moment: datetime, stream: Stream, sequence: int, **fields: Any) -> Header:
    """A header of the stream; `fields` are its cursors and counts."""
    return Header(
        stream=stream,
        envelope=Envelope("sophos-central", "acme", "t"),
        sequence=sequence,
        fetched_at=moment,
        as_of=moment,
        day=day_of(moment),
        newest=moment,
        repeats=0,
        **fields,
    )
