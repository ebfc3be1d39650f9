"""One function in this process: functions-framework's own application, on a socket that the emulator listens on.

`python -m emulator.runtime.function_server SOURCE TARGET LISTENER READY`, the last two of them file descriptors that
were inherited: the listening socket, and a pipe that is told when calls are answered, and that ends with the process.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from waitress.server import create_server

from lib import telemetry

if TYPE_CHECKING:
    from waitress.channel import HTTPChannel

THREADS = 8
CONNECTIONS = 500
IDLE_SECONDS = 15
"""A connection that says nothing for so long is closed: those that were only opened do not shut the emulator out."""
LOOK_SECONDS = 5.0
"""How often idle connections are looked for."""


def main() -> None:
    """Answer calls until SIGTERM."""
    source, target, listener, ready = sys.argv[1:]
    telemetry.start(target.replace("_", "-"))  # what the server says before the first call is a line like any other
    gc.disable()  # next to nothing of what is loaded is garbage
    from functions_framework import create_app  # noqa: PLC0415 - with all that it loads

    app = create_app(target, source)  # type: ignore[no-untyped-call]
    gc.freeze()
    gc.enable()
    serve(app, socket.socket(fileno=int(listener)), int(ready))


def serve(app: Any, listener: socket.socket, ready: int) -> None:
    """Answer calls until SIGTERM, and then those that have begun."""
    from lib.http.handler import MAX_BODY_BYTES  # noqa: PLC0415 - it loads Flask

    channels: dict[int, Any] = {}
    server = create_server(
        app,
        map=channels,
        sockets=[listener],
        threads=THREADS,
        # A proxy's headers tell that a caller on loopback is none of this machine.
        clear_untrusted_proxy_headers=False,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=LOOK_SECONDS,
        max_request_body_size=2 * MAX_BODY_BYTES,
        asyncore_use_poll=True,
    )

    def end(*_: object) -> None:
        server.accepting = False
        server.pull_trigger()

    signal.signal(signal.SIGTERM, end)
    os.write(ready, b"\n")
    while server.accepting or any(map(_is_busy, server.active_channels.values())):
        server.asyncore.loop(LOOK_SECONDS, use_poll=True, map=channels, count=1)
    server.task_dispatcher.shutdown()


def _is_busy(channel: HTTPChannel) -> bool:
    """Whether a call has begun there whose answer is not sent yet."""
    return bool(channel.requests or channel.total_outbufs_len)


if __name__ == "__main__":
    main()
