"""Connections to the web server: when there are many, idle ones are closed to make room for new ones."""

from __future__ import annotations

from typing import Any

from flask import Flask
from waitress.server import TcpWSGIServer

from emulator.runtime.wsgi import CONNECTIONS, ProblemChannel, is_busy, server_of

KEPT = CONNECTIONS - 100
"""The most open connections. The next one closes the one that has been idle longest."""


class Channel(ProblemChannel):
    """A connection that closes the longest idle one when there are too many."""

    def __init__(self, server: TcpWSGIServer, *args: Any, **options: Any) -> None:
        open_channels = [channel for channel in server.active_channels.values() if not channel.will_close]
        if len(open_channels) >= KEPT:
            # A connection with a complete request still gets its answer.
            silent = [channel for channel in open_channels if not is_busy(channel)]
            if silent:
                min(silent, key=lambda channel: channel.last_activity).will_close = True
        super().__init__(server, *args, **options)


def listening(app: Flask, host: str, port: int) -> Any:
    """A server that already listens, ready to `run`; OSError if it cannot listen."""
    channels: dict[int, Any] = {}
    server = server_of(app, channels, host=host, port=port)
    for dispatcher in [*channels.values()]:
        if isinstance(dispatcher, TcpWSGIServer):
            dispatcher.channel_class = Channel
    return server
