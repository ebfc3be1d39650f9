"""Expected failures, sorted by what the caller does next.

ConnectorError
├── RetryableError          call again later; nothing was lost
│   ├── ThrottledError        Sophos limits the request rate (429)
│   ├── OverBudgetError       the credential's calls are used up for now
│   ├── SophosDownError       Sophos answers 5xx, or breaks off its answer
│   │   ├── NetworkDownError      the network to Sophos fails
│   │   │   ├── NameUnknownError      DNS does not resolve the host
│   │   │   ├── NotListeningError     the connection is refused
│   │   │   ├── NoAnswerError         no answer in time
│   │   │   └── ProxyDownError        the proxy refuses the connection
│   │   └── TlsBrokenError        no trusted TLS connection
│   ├── ProtocolError         Sophos's answer does not follow its protocol
│   ├── EngineDownError       the engine did not acknowledge everything
│   │   └── EngineSlowError         it acknowledges, but not everything before the deadline
│   ├── StoreError            the object store failed
│   └── ConflictError         another run changed the object first
└── PermanentError          a person has to change something
    ├── ConfigError           the configuration cannot be used
    ├── CredentialsError      Sophos refused the client id or secret
    │   └── TokenRefusedError       an API refused the tokens that Sophos issued for them
    ├── PermissionMissingError  the credential lacks a permission (403)
    │   ├── WrongTenantError        it does not read that tenant, or not at that host
    │   └── WrongRegionError        the configured region is not the tenant's
    ├── CursorRefusedError    Sophos refused the cursor (400 or 410)
    ├── HostRefusedError      the host must not receive credentials
    ├── EngineRefusedError    the engine speaks another protocol or refuses the connection
    ├── LogRefusedError       the engine refuses one log
    ├── NotFoundError         nothing has that name
    │   └── NoStoreError            there is no store yet
    ├── DamagedError          a stored object is damaged
    └── KeptError             a stored object cannot be used, and stays as it is
        ├── LayoutError             a newer version wrote it, or the whole store
        └── UnreadableError         this machine refuses to read it

UnexpectedError belongs to neither branch: it is a fault of this program, reported in a stream's line of an answer.
"""

from __future__ import annotations

from lib.version import COMMAND


class ConnectorError(Exception):
    """What happened (`str(error)`), its kind (`code`, and `title` for people), and what to do (`remedy`).

    Status, logs, test-connection and problem answers take their words from here. None of these texts may hold a secret:
    they are shown, logged and stored.
    """

    code = "error"
    title = "Something failed"
    remedy = "See the log for details."

    def __init__(self, message: str, *, remedy: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy
        self.retry_after = retry_after
        """Seconds to wait before the next try; None if the other side named none."""

    def as_problem(self) -> dict[str, str]:
        """The error as JSON fields for people."""
        return {"code": self.code, "title": self.title, "detail": str(self), "remedy": self.remedy}


class RetryableError(ConnectorError):
    """Call again later; nothing was lost."""


class ThrottledError(RetryableError):
    """Sophos limits the request rate (429)."""

    code = "rate_limited"
    title = "Sophos limits the request rate"
    remedy = (
        "Nothing to do: the connector waits and continues. If it lasts, create a credential that only this connector "
        "uses."
    )


class OverBudgetError(RetryableError):
    """The credential's calls are used up for now; `retry_after` is the time until the next one may go."""

    code = "over_budget"
    title = "The credential's request limit is reached"
    remedy = "Nothing to do: reading continues as fast as Sophos's limits allow."


class SophosDownError(RetryableError):
    """Sophos answers 5xx, or breaks off its answer."""

    code = "sophos_unavailable"
    title = "Sophos is not available"
    remedy = "Nothing to do: the connector tries again. If it lasts, see https://centralstatus.sophos.com."


class NetworkDownError(SophosDownError):
    """The network to Sophos fails, in a way that no subclass names."""

    code = "network_down"
    title = "Sophos cannot be reached"
    remedy = "Check this machine's network: DNS, routes, firewall and proxy to *.sophos.com. The connector tries again."


class NameUnknownError(NetworkDownError):
    """DNS does not resolve the host."""

    code = "dns_failed"
    title = "DNS cannot resolve a host of Sophos"
    remedy = "Make DNS on this machine resolve *.sophos.com (/etc/resolv.conf). The connector tries again."


class NotListeningError(NetworkDownError):
    """The connection is refused."""

    code = "connection_refused"
    title = "The connection to Sophos is refused"
    remedy = "Allow outbound TCP port 443 to *.sophos.com (firewall, routes). The connector tries again."


class NoAnswerError(NetworkDownError):
    """No answer comes in time."""

    code = "timed_out"
    title = "Sophos does not answer in time"
    remedy = "If it lasts, allow outbound TCP port 443 to *.sophos.com. Often a firewall drops the packets."


class ProxyDownError(NetworkDownError):
    """The proxy refuses the connection."""

    code = "proxy_failed"
    title = "The proxy refuses the connection"
    remedy = "Check `sophos.proxy` (or HTTPS_PROXY), its user and password, and that the proxy allows *.sophos.com."


class TlsBrokenError(SophosDownError):
    """TLS fails, or its certificate is not trusted."""

    code = "tls_broken"
    title = "Sophos's certificate is not accepted"
    remedy = (
        "A proxy probably inspects TLS. Exempt *.sophos.com from inspection, or set `sophos.ca_bundle` to a file "
        "with the certificate of the proxy's CA."
    )


class ProtocolError(RetryableError):
    """Sophos's answer does not follow its protocol: not JSON, cut short, or a page without its keys."""

    code = "protocol_error"
    title = "Sophos sent an unexpected answer"
    remedy = "This is usually temporary. If it lasts, check for a proxy that changes answers."


class EngineDownError(RetryableError):
    """The engine did not acknowledge everything that it was sent."""

    code = "engine_unavailable"
    title = "The engine does not acknowledge events"
    remedy = "Check that UTMStack's event processor runs. Events wait in the store and are sent when it answers."


class EngineSlowError(EngineDownError):
    """The engine acknowledges events, but not all of them before the call's deadline."""

    code = "engine_slow"
    title = "The engine is slow"
    remedy = "Nothing to do: the next call sends the rest. If batches accumulate, check the event processor's load."


class StoreError(RetryableError):
    """The object store failed: disk full, read-only, bucket unreachable."""

    code = "store_unavailable"
    title = "The store cannot be used"
    remedy = "Check free space and permissions of the store. No object is half-written."


class ConflictError(RetryableError):
    """Another run changed the object first."""

    code = "conflict"
    title = "Another process changed the object first"
    remedy = "Nothing to do: the other process did the work."


class PermanentError(ConnectorError):
    """A person has to change something."""


class ConfigError(PermanentError):
    """The configuration cannot be used."""

    code = "config_invalid"
    title = "The configuration cannot be used"
    remedy = f"Run `{COMMAND} check --config FILE`. It lists every fault with its line."


class CredentialsError(PermanentError):
    """Sophos refused the client id or secret."""

    code = "credentials_refused"
    title = "Sophos refuses the client id or secret"
    remedy = (
        "Check the client id and secret. In Sophos Central (Global Settings, API Credentials Management), check that "
        "the credential exists and has not expired."
    )


class TokenRefusedError(CredentialsError):
    """An API refuses a token that Sophos has just issued, so the client id and secret themselves are valid."""


class PermissionMissingError(PermanentError):
    """The credential lacks a permission (403)."""

    code = "permission_missing"
    title = "The credential lacks a permission"
    remedy = (
        "Give the credential the role 'Service Principal ReadOnly' in Sophos Central, Global Settings, "
        "API Credentials Management. For a customer of a partner, turn on partner assistance."
    )


class WrongTenantError(PermissionMissingError):
    """The credential does not read that tenant, or not at that host."""

    code = "wrong_tenant"
    title = "The credential does not read that tenant"
    remedy = "Correct `tenants` of the integration, or give the credential access to that tenant."


class WrongRegionError(PermissionMissingError):
    """The configured region is not the tenant's."""

    code = "wrong_region"
    title = "The configured region is wrong"
    remedy = "Set `region: auto` for the integration."


class CursorRefusedError(PermanentError):
    """Sophos refused the cursor (400 or 410)."""

    code = "cursor_refused"
    title = "Sophos refused the cursor"
    remedy = "Nothing to do: reading continues from the last known time. Missing intervals are recorded as gaps."


class HostRefusedError(PermanentError):
    """The host must not receive credentials."""

    code = "host_refused"
    title = "A host that may not receive credentials"
    remedy = "Credentials are sent to *.sophos.com and loopback only. Add any other host to `sophos.allow_hosts`."


class EngineRefusedError(PermanentError):
    """The engine refuses the connection or speaks another protocol.

    Its status is UNIMPLEMENTED, PERMISSION_DENIED or UNAUTHENTICATED.
    """

    code = "engine_refused"
    title = "The engine refuses the connection"
    remedy = (
        "Check that `engine` names UTMStack's engine socket (version 11 or later) or a relay with valid credentials."
    )


class DamagedError(PermanentError):
    """A stored object differs from what this program wrote."""

    code = "object_damaged"
    title = "A stored object is damaged"
    remedy = f"Run `{COMMAND} audit` to see what is affected. A copy of the damaged object is in dead/."


class KeptError(PermanentError):
    """A stored object cannot be used now, though it may be whole: nothing replaces it. Who needs it fails alone."""


class LayoutError(KeptError):
    """A newer version of this product wrote the store."""

    code = "layout_newer"
    title = "The store was written by a newer version"
    remedy = "Install the newer version again. This version does not change the store."


class UnreadableError(KeptError):
    """This machine refuses to read one object: its permissions, or a bad place on the disk."""

    code = "object_unreadable"
    title = "An object of the store cannot be read"
    remedy = "Make the connector's user the owner of that file. If its disk fails, restore it from a backup."


class LogRefusedError(PermanentError):
    """The engine refuses one log and ends the stream because of it."""

    code = "log_refused"
    title = "The engine refuses one event"
    remedy = f"The event is in dead/ with this reason. `{COMMAND} replay` sends it again."

    def __init__(self, message: str, *, log_id: str) -> None:
        super().__init__(message)
        self.log_id = log_id


class NotFoundError(PermanentError):
    """No integration, tenant or stream has that name."""

    code = "not_found"
    title = "There is nothing with that name"
    remedy = "Correct the name, or add it to the configuration."


class NoStoreError(NotFoundError):
    """There is no store at that location. Commands that only read do not create one."""

    code = "no_store"
    title = "There is no store yet"
    remedy = "Correct `store` (relative to the configuration file's folder), or start the connector first."


class UnexpectedError(ConnectorError):
    """A fault of this program. The log has its trace with `id`."""

    code = "unexpected"
    title = "An unexpected failure"
    remedy = "Report it with the log lines that hold this id. All other streams continue."

    def __init__(self, id_: str) -> None:
        super().__init__(f"an unexpected failure; search the log for {id_}")
        self.id = id_

    def as_problem(self) -> dict[str, str]:
        """The error as JSON fields for people."""
        return super().as_problem() | {"id": self.id}


def catalogue() -> dict[str, type[ConnectorError]]:
    """All kinds of failures by their code."""
    kinds: dict[str, type[ConnectorError]] = {}
    todo = [ConnectorError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if "code" in vars(kind):
            kinds[kind.code] = kind
    return kinds


def title_of(code: str) -> str:
    """The title of a code; the general title for an unknown code."""
    return catalogue().get(code, ConnectorError).title
