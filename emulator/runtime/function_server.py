"""Runs one function in this process: functions-framework's own application, on the emulator's listening socket.

`python -m emulator.runtime.function_server SOURCE TARGET LISTENER READY`. LISTENER and READY are inherited file
descriptors: the listening socket, and a pipe. The process writes to the pipe when it is ready; the pipe closes when the
process ends.
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
    telemetry.start(target.replace("_", "-"))  # Log entries before the first call get the same form.
    gc.disable()  # Imported objects stay, so that collecting during imports only costs time.
    from functions_framework import create_app  # noqa: PLC0415 - after gc.disable, since it imports much

    app = create_app(target, source)  # type: ignore[no-untyped-call]
    gc.freeze()
    gc.enable()
    serve(app, socket.socket(fileno=int(listener)), int(ready))


def serve(app: Any, listener: socket.socket, ready: int) -> None:
    """Answer calls until SIGTERM, then finish the calls under way."""
    channels: dict[int, Any] = {}
    server = server_of(app, channels, sockets=[listener])

    def end(*_: object) -> None:
        server.accepting = False
        server.pull_trigger()

    # Ready only with the handler in place: a SIGTERM before it would end the process without its answer.
    signal.signal(signal.SIGTERM, end)
    os.write(ready, b"\n")
    while server.accepting or any(map(is_busy, server.active_channels.values())):
        server.asyncore.loop(LOOK_SECONDS, use_poll=True, map=channels, count=1)
    server.task_dispatcher.shutdown()


if __name__ == "__main__":
    main()
