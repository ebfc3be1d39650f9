"""The HTTP server of the page and of each function."""

from __future__ import annotations

import json
import logging
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, create_server
from waitress.task import ErrorTask

THREADS = 8
"""Calls mostly wait for Sophos, the engine or the disk, so there can be more than cores."""
CONNECTIONS = 500
IDLE_SECONDS = 15
"""An idle connection is closed after this time, so that idle connections cannot exhaust the limit."""
LOOK_SECONDS = 5
"""The interval of the search for idle connections."""


class ProblemTask(ErrorTask):  # type: ignore[misc]  # it has no types
    """Answers a request that reaches no application, such as one whose body is too large, as an RFC 9457 problem."""

    def execute(self) -> None:
        """Answer, then close the connection: the rest of the request is not read."""
        error = self.request.error
        code = "too_large" if error.code == 413 else "bad_request" if error.code < 500 else "unexpected"
        fields = {"title": error.reason, "status": error.code, "code": code, "detail": str(error.body)}
        body = json.dumps(fields).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/problem+json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class ProblemChannel(HTTPChannel):  # type: ignore[misc]  # it has no types
    """A connection whose errors are problems."""

    error_task_class = ProblemTask


def server_of(app: Any, channels: dict[int, Any], **where: Any) -> Any:
    """A server of the application that listens already; OSError if it cannot listen.

    `where` are waitress's options: host and port, or listening sockets. `channels` gets everything that it waits for.
    """
    from lib.http.handler import MAX_BODY_BYTES  # noqa: PLC0415 - imports Flask

    # A call that waits a moment for a thread is no news, and tells an operator nothing.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = create_server(
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
    for listener in channels.values():  # One for each address of the host.
        if isinstance(listener, TcpWSGIServer):
            listener.channel_class = ProblemChannel
    return server


def is_busy(channel: HTTPChannel) -> bool:
    """Whether a complete request has no complete answer yet."""
    return bool(channel.requests or channel.total_outbufs_len)
