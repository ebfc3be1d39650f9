"""The two stored forms of a receipt in `ledger/`: an object of its own, or a line in a pack of a finished day."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256

import msgspec

from lib.errors import DamagedError
from lib.model.batch import Header
from lib.model.receipt import DELIVERED, LastReceipt, NotAcknowledged, Receipt
from lib.model.stream import Stream
from lib.state.batches import HEADER_NAMES
from lib.state.codec import Codec

LATER = ("windows", "set_aside_total", "observed_total")
RECEIPT = Codec(Receipt, "a receipt", later=LATER, names={"header": HEADER_NAMES})


def receipt_key(stream: Stream, day: str, sequence: int) -> str:
    """The key of a receipt. Day and number make the order of keys the order of the stream."""
    return f"ledger/{stream.path}/{day}/{sequence:020d}.json"


def digest(body: bytes) -> str:
    """A receipt's digest, which the next receipt holds."""
    return sha256(body).hexdigest()


def to_body(
    header: Header,
    keys: Sequence[str],
    *,
    previous: LastReceipt,
    acked_at: datetime,
    set_aside: int,
    not_acknowledged: NotAcknowledged,
    outcome: str = DELIVERED,
    windows: Mapping[str, int] | None = None,
) -> bytes:
    """The receipt of a batch as a stored object."""
    receipt = Receipt(
        header,
        outcome=outcome,
        acked_at=acked_at,
        set_aside=set_aside,
        previous=previous.digest,
        total=previous.total + header.events,
        set_aside_total=not_acknowledged.set_aside,
        observed_total=not_acknowledged.observed,
        ids=tuple(keys),
        windows=windows,
    )
    return RECEIPT.encode(receipt)


def from_body(body: bytes) -> Receipt:
    """The receipt of a stored object; DamagedError if it is damaged, LayoutError for a newer layout."""
    return RECEIPT.decode(body)


class _Numbered(msgspec.Struct):
    sequence: int


_NUMBERED = msgspec.json.Decoder(_Numbered)


def sequence_of(body: bytes) -> int:
    """The batch number of a receipt, without the cost of its other fields; errors as `from_body`."""
    try:
        return _NUMBERED.decode(body).sequence
    except ValueError:
        return from_body(body).header.sequence


def pack(bodies: Sequence[bytes]) -> bytes:
    """Receipts as one compressed object that keeps their exact bytes, one a line.

    The same receipts give the same bytes, so that packing again after a crash makes the same object.
    """
    return gzip.compress(b"".join(bodies), 6, mtime=0)


def unpack(body: bytes) -> list[bytes]:
    """The receipts of a pack; DamagedError if it cannot be decompressed."""
    try:
        return gzip.decompress(body).splitlines(keepends=True)
    except (OSError, EOFError, zlib.error):
        raise DamagedError("a pack of receipts cannot be read") from None
