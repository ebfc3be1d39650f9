"""The frames that this package and the relay read and write in place of `h2`, which takes several times as long.

`h2` keeps the windows of what is sent. These functions change them as h2 itself does.
"""

from __future__ import annotations

import struct

from h2.connection import H2Connection

FRAME = struct.Struct(">HBBBL")
"""The nine bytes before each frame: length (24 bits, for which `struct` has no format), type, flags, stream."""
WINDOW_UPDATE = 8
_WINDOW_UPDATE = struct.Struct(">HBBBLL")
_WINDOW_UPDATE_BYTES, _INCREMENT_BYTES = 13, 4
_MAX_WINDOW = (1 << 31) - 1


def data_header(connection: H2Connection, stream: int, size: int) -> bytes:
    """The nine bytes before `size` bytes of DATA, which must fit in a frame and in the windows; both shrink."""
    connection.outbound_flow_control_window -= size
    connection.streams[stream].outbound_flow_control_window -= size
    return FRAME.pack(size >> 8, size & 0xFF, 0, 0, stream)


def window_update(stream: int, size: int) -> bytes:
    """The frame that lets the peer send `size` bytes more; stream 0: on the connection."""
    return _WINDOW_UPDATE.pack(0, 4, WINDOW_UPDATE, 0, stream, size)


def open_window(connection: H2Connection, stream: int, frame: bytes) -> bool:
    """Take a WINDOW_UPDATE. False if the stream is not known or the frame is not valid: then h2 has to take it."""
    window = connection.streams.get(stream) if stream else connection
    if window is None or len(frame) != _WINDOW_UPDATE_BYTES:
        return False
    size = int.from_bytes(frame[-_INCREMENT_BYTES:], "big") & _MAX_WINDOW
    if not 0 < size <= _MAX_WINDOW - window.outbound_flow_control_window:
        return False
    window.outbound_flow_control_window += size
    return True
