"""One gRPC call as a client, without I/O: bytes in, events out. HTTP/2 is `h2`'s; nothing here knows what is sent."""

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
