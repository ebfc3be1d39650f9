"""The HTTP server of everything that listens: the page, and each function."""

from __future__ import annotations

from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import create_server

THREADS = 8
CONNECTIONS = 500
IDLE_SECONDS = 15
"""A connection that says nothing for so long is closed: those that were only opened do not shut others out."""
LOOK_SECONDS = 5
"""How often idle connections are looked for."""


def server_of(app: Any, channels: dict[int, Any], **where: Any) -> Any:
    """A server of the application that listens already; OSError where it cannot.

    `where` is waitress's: host and port, or sockets that listen. `channels` holds all that the server waits for.
    """
    from lib.http.handler import MAX_BODY_BYTES  # noqa: PLC0415 - it loads Flask

    return create_server(
        app,
        map=channels,
        threads=THREADS,
        # A proxy's headers tell that a caller on loopback is none of this machine.
        clear_untrusted_proxy_headers=False,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=LOOK_SECONDS,
        max_request_body_size=2 * MAX_BODY_BYTES,
        asyncore_use_poll=True,
        **where,
    )


def is_busy(channel: HTTPChannel) -> bool:
    """Whether a request is whole whose answer is not sent yet."""
    return bool(channel.requests or channel.total_outbufs_len)
