"""Connections that keep each answer with its request, and whose answers begin in time."""

from __future__ import annotations

import http.client
import io
import socket
import time
from contextlib import suppress
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

MAX_INTERIM = 20
"""How many answers of status 1xx may come before the one that counts."""


class _Timed(io.RawIOBase):
    """A socket's bytes; until `end`, all reads together have the time of one."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._seconds = sock.gettimeout()
        self._end = None if self._seconds is None else time.monotonic() + self._seconds

    def begun(self) -> None:
        """The answer's head is read: from now on each read has the whole time."""
        self._end = None
        self._sock.settimeout(self._seconds)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._end is not None:
            # Not 0: that would be a socket that never waits.
            self._sock.settimeout(max(0.001, self._end - time.monotonic()))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer that is read over 1xx, and that leaves no byte for the next one."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._sock = sock
        self._timed = _Timed(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        super().begin()
        self._timed.begun()

    def _read_status(self) -> tuple[str, int, str]:
        """The first status that is no 1xx; http.client itself reads over 100 only, and takes 103 for the answer."""
        for _ in range(MAX_INTERIM + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == http.client.SWITCHING_PROTOCOLS:
                break  # Nobody asked for another protocol.
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("no answer after answers of status 1xx")

    def _close_conn(self) -> None:
        """The answer is over. A byte behind it is of no request of ours: the connection must not be used again."""
        with suppress(OSError, ValueError):
            self._sock.settimeout(0)
            if self.fp.peek(1):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._timed.begun()
        super()._close_conn()  # type: ignore[misc]


class _Plain(HTTPConnection):
    response_class = _Response


class _Secure(HTTPSConnection):
    response_class = _Response


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Secure


_POOLS = {"http": _PlainPool, "https": _SecurePool}


class Adapter(HTTPAdapter):
    """The adapter of `requests`, with these connections."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """The pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        if "http" in str(manager.proxy.scheme if manager.proxy else ""):  # A SOCKS proxy has connections of its own.
            manager.pool_classes_by_scheme = _POOLS
        return manager
