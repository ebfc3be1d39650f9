"""Connections to the web server that shut nobody out: where there are many, those that ask for nothing give way."""

from __future__ import annotations

from typing import Any

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, create_server

from lib.http.handler import MAX_BODY_BYTES

CONNECTIONS = 500
KEPT = CONNECTIONS - 100
"""So many may stand open; the next one takes the place of the one that has been silent longest."""
IDLE_SECONDS = 15
"""A connection that says nothing for so long is closed in any case."""


class Channel(HTTPChannel):  # type: ignore[misc]  # it has no types
    """A connection, before which an older one gives way."""

    def __init__(self, server: TcpWSGIServer, *args: Any, **options: Any) -> None:
        others = [each for each in server.active_channels.values() if not each.will_close]
        if len(others) >= KEPT:
            # One whose request is whole has an answer to come, or is being given it.
            silent = [each for each in others if not each.requests and not each.total_outbufs_len]
            if silent:
                min(silent, key=lambda each: each.last_activity).will_close = True
        super().__init__(server, *args, **options)


def listening(app: Flask, host: str, port: int) -> Any:
    """A server of the application that listens already, and has yet to `run`; OSError where it cannot."""
    sockets: dict[int, Any] = {}
    server = create_server(
        app,
        map=sockets,
        host=host,
        port=port,
        threads=8,
        # A proxy's headers tell that a caller on loopback is none of this machine.
        clear_untrusted_proxy_headers=False,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=IDLE_SECONDS // 3,
        max_request_body_size=2 * MAX_BODY_BYTES,
        asyncore_use_poll=True,
    )
    for each in [*sockets.values()]:
        if isinstance(each, TcpWSGIServer):
            each.channel_class = Channel
    return server
