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
from typing import Any

from emulator.runtime.wsgi import LOOK_SECONDS, is_busy, server_of
from lib import telemetry


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
    channels: dict[int, Any] = {}
    server = server_of(app, channels, sockets=[listener])

    def end(*_: object) -> None:
        server.accepting = False
        server.pull_trigger()

    signal.signal(signal.SIGTERM, end)
    os.write(ready, b"\n")
    while server.accepting or any(map(is_busy, server.active_channels.values())):
        server.asyncore.loop(LOOK_SECONDS, use_poll=True, map=channels, count=1)
    server.task_dispatcher.shutdown()


if __name__ == "__main__":
    main()
