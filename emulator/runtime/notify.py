"""Notifies systemd that the connector is ready, alive or stopping: sd_notify(3), a datagram on a Unix socket."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send the state, such as `READY=1`, if systemd waits for it. A failure is ignored."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        link.settimeout(1)
        try:
            # A leading @ stands for the null byte of an abstract address.
            link.sendto(state.encode(), f"\0{address[1:]}" if address[0] == "@" else address)
        except OSError:
            return


def watchdog_seconds() -> float | None:
    """The interval for watchdog messages, half of systemd's limit; None without a watchdog."""
    text = os.environ.get("WATCHDOG_USEC", "")
    is_for_us = os.environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
    return int(text) / 2_000_000 if is_for_us and text.isascii() and text.isdigit() and int(text) else None
