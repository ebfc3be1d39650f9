"""The client side of one gRPC call, without I/O: bytes in, events out. `h2` implements HTTP/2."""

from lib.grpc_stream.messages import MessageReader, MessageTooLargeError, framed
from lib.grpc_stream.status import Status
from lib.grpc_stream.stream import Answered, Broken, ClientStream, Data, Ended, Event, Headers

__all__ = [
    "Answered",
    "Broken",
    "ClientStream",
    "Data",
    "Ended",
    "Event",
    "Headers",
    "MessageReader",
    "MessageTooLargeError",
    "Status",
    "framed",
]
