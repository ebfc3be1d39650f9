"""Failures we expect, by what the caller should do next.

ConnectorError
├── RetryableError          call again later; nothing was lost
│   ├── ThrottledError        Sophos asked us to slow down
│   ├── OverBudgetError       the credential's calls are used up for now
│   ├── SophosDownError       Sophos cannot be reached, or answers 5xx
│   ├── ProtocolError         Sophos answered something that is not its protocol
│   ├── EngineDownError       the engine did not acknowledge everything
│   ├── StoreError            the object store failed
│   └── ConflictError         another run changed the object first
└── PermanentError          a person has to change something
    ├── ConfigError           the configuration cannot be used
    ├── CredentialsError      Sophos refused the client id or secret
    ├── PermissionMissingError  the credential lacks a permission, or the tenant or region is another one
    ├── CursorRefusedError    Sophos refused the cursor (400 or 410)
    ├── HostRefusedError      a host that credentials must not be sent to
    ├── EngineRefusedError    the engine speaks another protocol or refuses us
    ├── LogRefusedError       the engine refuses one log
    ├── NotFoundError         nothing of that name
    ├── DamagedError          a stored object is not what was written
    └── LayoutError           the store was written by a newer version
"""

from __future__ import annotations


class ConnectorError(Exception):
    """What happened (`str(error)`), under which stable name (`code`), and what to do about it (`remedy`).

    None of the three may hold a secret: they are shown to people, logged and stored.
    """

    code = "error"
    remedy = "See the log for details."

    def __init__(self, message: str, *, remedy: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy
        self.retry_after = retry_after
        """Seconds to wait before the next try, where the other side named them."""


class RetryableError(ConnectorError):
    """Call again later; nothing was lost."""


class ThrottledError(RetryableError):
    """Sophos asked us to slow down (429)."""

    code = "rate_limited"
    remedy = "Nothing to do: fetching goes on by itself. If it lasts, give this connector a credential of its own."


class OverBudgetError(RetryableError):
    """The calls that the credential may make are used up for now; `retry_after` says until when."""

    code = "over_budget"
    remedy = "Nothing to do: reading goes on by itself, as fast as Sophos's published limits allow."


class SophosDownError(RetryableError):
    """Sophos cannot be reached, or answers 5xx."""

    code = "sophos_unavailable"
    remedy = "Check this machine's way to *.sophos.com (DNS, proxy, firewall); fetching goes on by itself."


class ProtocolError(RetryableError):
    """Sophos answered something that is not its protocol: no JSON, a cut body, a page without its keys."""

    code = "protocol_error"
    remedy = "Mostly passing. If it lasts, check for a proxy that rewrites answers."


class EngineDownError(RetryableError):
    """The engine did not acknowledge everything that it was sent."""

    code = "engine_unavailable"
    remedy = "Check that UTMStack's event processor runs; waiting batches are kept and sent by themselves."


class StoreError(RetryableError):
    """The object store failed: disk full, read-only, bucket out of reach."""

    code = "store_unavailable"
    remedy = "Check free space and permissions of the store; nothing was half-written."


class ConflictError(RetryableError):
    """Another run changed the object first."""

    code = "conflict"
    remedy = "Nothing to do: the other run's work counts."


class PermanentError(ConnectorError):
    """A person has to change something."""


class ConfigError(PermanentError):
    """The configuration cannot be used."""

    code = "config_invalid"
    remedy = "Run `python -m emulator check --config FILE`: it names every fault with its line."


class CredentialsError(PermanentError):
    """Sophos refused the client id or secret."""

    code = "credentials_refused"
    remedy = (
        "Check client id and secret, and that the credential is neither expired nor deleted: Sophos Central, "
        "Global Settings, API Credentials Management. Trying again is slowed down to every 15 minutes."
    )


class PermissionMissingError(PermanentError):
    """The credential lacks a permission, or belongs to another tenant or region (403, 404)."""

    code = "permission_missing"
    remedy = (
        "Give the credential the role 'Service Principal ReadOnly' in Sophos Central, Global Settings, "
        "API Credentials Management, and check that tenant and region are its own."
    )


class CursorRefusedError(PermanentError):
    """Sophos refused the cursor (400 or 410)."""

    code = "cursor_refused"
    remedy = "Nothing to do: reading goes on from the last known position, and what cannot be fetched is recorded."


class HostRefusedError(PermanentError):
    """A host that credentials must not be sent to."""

    code = "host_refused"
    remedy = "Credentials go to *.sophos.com or loopback only; another host must be named in sophos.allow_hosts."


class EngineRefusedError(PermanentError):
    """The engine refuses us or speaks another protocol: UNIMPLEMENTED, PERMISSION_DENIED, UNAUTHENTICATED."""

    code = "engine_refused"
    remedy = (
        "Check that `engine` names UTMStack's engine socket (version 11 or later) or a relay with valid credentials."
    )


class DamagedError(PermanentError):
    """A stored object is not what was written."""

    code = "object_damaged"
    remedy = "The object was moved to dead/; run `python -m emulator audit` to see what it held."


class LayoutError(PermanentError):
    """The store was written by a newer version of this product."""

    code = "layout_newer"
    remedy = "Install the newer version again; this one changes nothing in that store."


class LogRefusedError(PermanentError):
    """The engine refuses one log, and ends the stream over it."""

    code = "log_refused"
    remedy = "The event was set aside in dead/ with this reason; `python -m emulator replay` sends it again."

    def __init__(self, message: str, *, log_id: str) -> None:
        super().__init__(message)
        self.log_id = log_id


class NotFoundError(PermanentError):
    """Nothing of that name: an integration, a tenant, a stream."""

    code = "not_found"
    remedy = "Correct the name, or add it to the configuration."
