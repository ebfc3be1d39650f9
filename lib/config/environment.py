"""The environment of the process: within lib, read in this file alone."""

from __future__ import annotations

import os
from datetime import timedelta

CONFIG = "SOPHOS_UTMSTACK_CONFIG"
"""Names the configuration."""
FOLLOWED = "SOPHOS_UTMSTACK_FOLLOWED"
"""Names a file of integrations that come from elsewhere; the emulator sets it for its functions."""

BEHIND_EMULATOR = "SOPHOS_UTMSTACK_BEHIND_EMULATOR"
"""Set by the emulator for its functions, which it alone calls."""


def variable(name: str) -> str | None:
    """The variable's value; None where it is not set."""
    return os.environ.get(name)


def platform_timeout() -> timedelta | None:
    """How long the platform lets a request take, where it says so (functions-framework reads the same variable)."""
    text = os.environ.get("CLOUD_RUN_TIMEOUT_SECONDS", "")
    return timedelta(seconds=int(text)) if text.isascii() and text.isdigit() else None


def is_hosted() -> bool:
    """Whether this process is a service of Cloud Run or Knative, which name it so."""
    return bool(os.environ.get("K_SERVICE"))


def on_cloud_run() -> bool:
    """Whether it is Cloud Run, whose IAM checks callers: Knative sets the same names, and runs in Kubernetes."""
    return is_hosted() and not os.environ.get("KUBERNETES_SERVICE_HOST")


def is_behind_emulator() -> bool:
    """Whether the emulator alone calls this process: it has checked who calls."""
    return bool(os.environ.get(BEHIND_EMULATOR))


def sentry_dsn() -> str | None:
    """Where unexpected failures are reported; None: nowhere."""
    return os.environ.get("SENTRY_DSN") or None


def journal_stream() -> str | None:
    """The device and inode of the journal's socket, where systemd has given this process one to write to."""
    return os.environ.get("JOURNAL_STREAM") or None


def secret_manager_emulator() -> str | None:
    """The host and port (plain gRPC) that stand for Google's Secret Manager in tests."""
    return os.environ.get("SECRET_MANAGER_EMULATOR_HOST")


def followed() -> str | None:
    """Where the integrations are that the emulator follows; None where there is no such file."""
    return os.environ.get(FOLLOWED) or None
