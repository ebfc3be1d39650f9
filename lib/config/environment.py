"""The environment of the process. No other file in lib reads it."""

from __future__ import annotations

import os
from datetime import timedelta

CONFIG = "SOPHOS_UTMSTACK_CONFIG"
"""The variable with the configuration's location."""
FOLLOWED = "SOPHOS_UTMSTACK_FOLLOWED"
"""The variable with the path of a file of further integrations. The emulator sets it for its functions."""
STORE = "SOPHOS_UTMSTACK_STORE"
"""The variable with the store that the site began with. The emulator sets it for its processes."""

BEHIND_EMULATOR = "SOPHOS_UTMSTACK_BEHIND_EMULATOR"
"""The variable that the emulator sets for its functions, because only the emulator calls them."""


def variable(name: str) -> str | None:
    """The variable's value; None if it is not set."""
    return os.environ.get(name)


def platform_timeout() -> timedelta | None:
    """The platform's time limit of a request; None if it names none. functions-framework reads the same variable."""
    text = os.environ.get("CLOUD_RUN_TIMEOUT_SECONDS", "")
    return timedelta(seconds=int(text)) if text.isascii() and text.isdigit() else None


def is_hosted() -> bool:
    """Whether this process is a service of Cloud Run or Knative; both set K_SERVICE."""
    return bool(os.environ.get("K_SERVICE"))


def on_cloud_run() -> bool:
    """Whether the platform is Cloud Run, whose IAM checks callers. Knative sets K_SERVICE too, within Kubernetes."""
    return is_hosted() and not os.environ.get("KUBERNETES_SERVICE_HOST")


def is_behind_emulator() -> bool:
    """Whether only the emulator calls this process. The emulator has checked the caller."""
    return bool(os.environ.get(BEHIND_EMULATOR))


def sentry_dsn() -> str | None:
    """The Sentry address for unexpected failures; None: they are not reported."""
    return os.environ.get("SENTRY_DSN") or None


def journal_stream() -> str | None:
    """Device and inode of the journal's socket; None if systemd has not connected this process to the journal."""
    return os.environ.get("JOURNAL_STREAM") or None


def secret_manager_emulator() -> str | None:
    """Host and port (plain gRPC) of a stand-in for Google's Secret Manager in tests."""
    return os.environ.get("SECRET_MANAGER_EMULATOR_HOST")


def followed() -> str | None:
    """The path of the file with the integrations that the emulator follows; None if there is no such file."""
    return os.environ.get(FOLLOWED) or None


def store() -> str | None:
    """The store that the emulator began with, in a process of it; None: that of the configuration."""
    return os.environ.get(STORE) or None
