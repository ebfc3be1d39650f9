"""Connections to the web server that shut nobody out: where there are many, those that ask for nothing give way."""

from __future__ import annotations

from typing import Any

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from emulator.runtime.wsgi import CONNECTIONS, is_busy, server_of

KEPT = CONNECTIONS - 100
"""So many may stand open; the next one takes the place of the one that has been silent longest."""


class Channel(HTTPChannel):  # type: ignore[misc]  # it has no types
    """A connection, before which an older one gives way."""

    def __init__(self, server: TcpWSGIServer, *args: Any, **options: Any) -> None:
        open_channels = [channel for channel in server.active_channels.values() if not channel.will_close]
        if len(open_channels) >= KEPT:
            # One whose request is whole has an answer to come, or is being given it.
            silent = [channel for channel in open_channels if not is_busy(channel)]
            if silent:
                min(silent, key=lambda channel: channel.last_activity).will_close = True
        super().__init__(server, *args, **options)


def listening(app: Flask, host: str, port: int) -> Any:
    """A server of the application that listens already, and has yet to `run`; OSError where it cannot."""
    channels: dict[int, Any] = {}
    server = server_of(app, channels, host=host, port=port)
    for dispatcher in [*channels.values()]:
        if isinstance(dispatcher, TcpWSGIServer):
            dispatcher.channel_class = Channel
    return server
