"""The HTTP server of the page and of each function."""

from __future__ import annotations

from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import create_server

THREADS = 8
CONNECTIONS = 500
IDLE_SECONDS = 15
"""An idle connection is closed after this time, so that idle connections cannot exhaust the limit."""
LOOK_SECONDS = 5
"""The interval of the search for idle connections."""


def server_of(app: Any, channels: dict[int, Any], **where: Any) -> Any:
    """A server of the application that listens already; OSError if it cannot listen.

    `where` are waitress's options: host and port, or listening sockets. `channels` gets everything that it waits for.
    """
    from lib.http.handler import MAX_BODY_BYTES  # noqa: PLC0415 - imports Flask

    return create_server(
        app,
        map=channels,
        threads=THREADS,
        # Proxy headers must stay: they show that a request from loopback is not local.
        clear_untrusted_proxy_headers=False,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=LOOK_SECONDS,
        max_request_body_size=2 * MAX_BODY_BYTES,
        asyncore_use_poll=True,
        **where,
    )


def is_busy(channel: HTTPChannel) -> bool:
    """Whether a complete request has no complete answer yet."""
    return bool(channel.requests or channel.total_outbufs_len)
