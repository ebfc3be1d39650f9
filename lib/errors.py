"""Failures we expect, by what the caller should do next.

ConnectorError
├── RetryableError          call again later; nothing was lost
│   ├── ThrottledError        Sophos asked us to slow down
│   ├── OverBudgetError       the credential's calls are used up for now
│   ├── SophosDownError       Sophos answers 5xx, or not to the end
│   │   ├── NetworkDownError      the way to Sophos is broken
│   │   │   ├── NameUnknownError      DNS does not know the host
│   │   │   ├── NotListeningError     nobody takes connections there
│   │   │   ├── NoAnswerError         nobody answers in time
│   │   │   └── ProxyDownError        the proxy does not let us through
│   │   └── TlsBrokenError        no TLS that can be trusted
│   ├── ProtocolError         Sophos answered something that is not its protocol
│   ├── EngineDownError       the engine did not acknowledge everything
│   │   └── EngineSlowError         it acknowledges, but had not yet everything at the deadline
│   ├── StoreError            the object store failed
│   └── ConflictError         another run changed the object first
└── PermanentError          a person has to change something
    ├── ConfigError           the configuration cannot be used
    ├── CredentialsError      Sophos refused the client id or secret
    │   └── TokenRefusedError       an API refused the tokens that Sophos issued for them
    ├── PermissionMissingError  the credential lacks a permission (403)
    │   ├── WrongTenantError        it does not read that tenant, or not at that host
    │   └── WrongRegionError        the stated region is not the tenant's
    ├── CursorRefusedError    Sophos refused the cursor (400 or 410)
    ├── HostRefusedError      a host that credentials must not be sent to
    ├── EngineRefusedError    the engine speaks another protocol or refuses us
    ├── LogRefusedError       the engine refuses one log
    ├── NotFoundError         nothing of that name
    │   └── NoStoreError            there is no store yet
    ├── DamagedError          a stored object is not what was written
    └── LayoutError           the store was written by a newer version

UnexpectedError is none of them: a fault of this program, told in the place of what one stream was to answer.
"""

from __future__ import annotations


class ConnectorError(Exception):
    """What happened (`str(error)`), of which kind (`code`, and `title` for people), and what to do (`remedy`).

    A kind is stated once, here: status, logs, test-connection and problem answers take their words from it. None of
    them may hold a secret: they are shown to people, logged and stored.
    """

    code = "error"
    title = "Something failed"
    remedy = "See the log for details."

    def __init__(self, message: str, *, remedy: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        if remedy is not None:
            self.remedy = remedy
        self.retry_after = retry_after
        """Seconds to wait before the next try, where the other side named them."""

    def as_problem(self) -> dict[str, str]:
        """What people are shown."""
        return {"code": self.code, "title": self.title, "detail": str(self), "remedy": self.remedy}


class RetryableError(ConnectorError):
    """Call again later; nothing was lost."""


class ThrottledError(RetryableError):
    """Sophos asked us to slow down (429)."""

    code = "rate_limited"
    title = "Sophos asked us to slow down"
    remedy = "Nothing to do: fetching goes on by itself. If it lasts, give this connector a credential of its own."


class OverBudgetError(RetryableError):
    """The calls that the credential may make are used up for now; `retry_after` says until when."""

    code = "over_budget"
    title = "The credential's calls are used up for now"
    remedy = "Nothing to do: reading goes on by itself, as fast as Sophos's published limits allow."


class SophosDownError(RetryableError):
    """Sophos answers 5xx, or not to the end."""

    code = "sophos_unavailable"
    title = "Sophos is down"
    remedy = "Nothing to do: fetching goes on by itself. If it lasts, see https://centralstatus.sophos.com."


class NetworkDownError(SophosDownError):
    """The way to Sophos is broken, in another manner than those below."""

    code = "network_down"
    title = "The way to Sophos is broken"
    remedy = "Check this machine's way to *.sophos.com: DNS, routes, firewall, proxy; fetching goes on by itself."


class NameUnknownError(NetworkDownError):
    """DNS does not know the host."""

    code = "dns_failed"
    title = "A name of Sophos cannot be resolved"
    remedy = "Let this machine's DNS resolve *.sophos.com (/etc/resolv.conf); fetching goes on by itself."


class NotListeningError(NetworkDownError):
    """Nobody takes connections there."""

    code = "connection_refused"
    title = "The connection to Sophos is refused"
    remedy = "Let this machine out to *.sophos.com, TCP port 443 (firewall, routes); fetching goes on by itself."


class NoAnswerError(NetworkDownError):
    """Nobody answers in time."""

    code = "timed_out"
    title = "Sophos does not answer in time"
    remedy = "If it lasts, let this machine out to *.sophos.com, TCP port 443; a firewall that drops looks like this."


class ProxyDownError(NetworkDownError):
    """The proxy does not let us through."""

    code = "proxy_failed"
    title = "The proxy does not let us through"
    remedy = "Check `sophos.proxy` (or HTTPS_PROXY), its user and password, and that it lets *.sophos.com through."


class TlsBrokenError(SophosDownError):
    """There is no TLS connection, or none that can be trusted."""

    code = "tls_broken"
    title = "Sophos's certificate is not accepted"
    remedy = (
        "A proxy seems to inspect TLS on the way. Exempt *.sophos.com from that, or trust the proxy's CA: "
        "name a file with its certificate as `sophos.ca_bundle`."
    )


class ProtocolError(RetryableError):
    """Sophos answered something that is not its protocol: no JSON, a cut body, a page without its keys."""

    code = "protocol_error"
    title = "An answer is not of Sophos's protocol"
    remedy = "Mostly passing. If it lasts, check for a proxy that rewrites answers."


class EngineDownError(RetryableError):
    """The engine did not acknowledge everything that it was sent."""

    code = "engine_unavailable"
    title = "The engine does not acknowledge"
    remedy = "Check that UTMStack's event processor runs; waiting batches are kept and sent by themselves."


class EngineSlowError(EngineDownError):
    """The engine acknowledges what it is sent, but had not yet everything at the call's deadline."""

    code = "engine_slow"
    title = "The engine takes its time"
    remedy = "Nothing to do: the next call sends the rest. If batches pile up, look at the event processor's load."


class StoreError(RetryableError):
    """The object store failed: disk full, read-only, bucket out of reach."""

    code = "store_unavailable"
    title = "The object store fails"
    remedy = "Check free space and permissions of the store; nothing was half-written."


class ConflictError(RetryableError):
    """Another run changed the object first."""

    code = "conflict"
    title = "Another run was first"
    remedy = "Nothing to do: the other run's work counts."


class PermanentError(ConnectorError):
    """A person has to change something."""


class ConfigError(PermanentError):
    """The configuration cannot be used."""

    code = "config_invalid"
    title = "The configuration cannot be used"
    remedy = "Run `python -m emulator check --config FILE`: it names every fault with its line."


class CredentialsError(PermanentError):
    """Sophos refused the client id or secret."""

    code = "credentials_refused"
    title = "Sophos refuses the client id or secret"
    remedy = (
        "Check client id and secret, and that the credential is neither expired nor deleted: Sophos Central, "
        "Global Settings, API Credentials Management."
    )


class TokenRefusedError(CredentialsError):
    """An API refuses tokens that Sophos has just issued: the credential as such is good, or was a moment ago."""


class PermissionMissingError(PermanentError):
    """The credential lacks a permission (403)."""

    code = "permission_missing"
    title = "The credential lacks a permission"
    remedy = (
        "Give the credential the role 'Service Principal ReadOnly' in Sophos Central, Global Settings, "
        "API Credentials Management; of a partner's customer, let partner assistance be turned on."
    )


class WrongTenantError(PermissionMissingError):
    """The credential does not read that tenant, or not at that host."""

    code = "wrong_tenant"
    title = "The credential does not read that tenant"
    remedy = "Correct `tenants` of the integration, or give the credential access to that tenant."


class WrongRegionError(PermissionMissingError):
    """The stated region is not the tenant's."""

    code = "wrong_region"
    title = "The region is another one"
    remedy = "Set `region: auto` for the integration."


class CursorRefusedError(PermanentError):
    """Sophos refused the cursor (400 or 410)."""

    code = "cursor_refused"
    title = "Sophos refused the cursor"
    remedy = "Nothing to do: reading goes on from the last known position, and what cannot be fetched is recorded."


class HostRefusedError(PermanentError):
    """A host that credentials must not be sent to."""

    code = "host_refused"
    title = "A host that gets no credentials"
    remedy = "Credentials go to *.sophos.com or loopback only; another host must be named in sophos.allow_hosts."


class EngineRefusedError(PermanentError):
    """The engine refuses us or speaks another protocol: UNIMPLEMENTED, PERMISSION_DENIED, UNAUTHENTICATED."""

    code = "engine_refused"
    title = "The engine refuses us"
    remedy = (
        "Check that `engine` names UTMStack's engine socket (version 11 or later) or a relay with valid credentials."
    )


class DamagedError(PermanentError):
    """A stored object is not what was written."""

    code = "object_damaged"
    title = "A stored object is damaged"
    remedy = "Run `python -m emulator audit` to see what it held; what stood in the way of others is kept in dead/."


class LayoutError(PermanentError):
    """The store was written by a newer version of this product."""

    code = "layout_newer"
    title = "The store is of a newer version"
    remedy = "Install the newer version again; this one changes nothing in that store."


class LogRefusedError(PermanentError):
    """The engine refuses one log, and ends the stream over it."""

    code = "log_refused"
    title = "The engine refuses one event"
    remedy = "The event was set aside in dead/ with this reason; `python -m emulator replay` sends it again."

    def __init__(self, message: str, *, log_id: str) -> None:
        super().__init__(message)
        self.log_id = log_id


class NotFoundError(PermanentError):
    """Nothing of that name: an integration, a tenant, a stream."""

    code = "not_found"
    title = "Nothing of that name"
    remedy = "Correct the name, or add it to the configuration."


class NoStoreError(NotFoundError):
    """There is no store at that place, and who only looks makes none."""

    code = "no_store"
    title = "There is no store yet"
    remedy = "Correct `store` (a relative path begins at the configuration's folder), or start the connector first."


class UnexpectedError(ConnectorError):
    """A fault of this program, whose trace is in the log under `id`."""

    code = "unexpected"
    title = "An unexpected failure"
    remedy = "Report it with the log's lines under that id; everything else goes on."

    def __init__(self, id_: str) -> None:
        super().__init__(f"an unexpected failure; the log has its trace under {id_}")
        self.id = id_

    def as_problem(self) -> dict[str, str]:
        """What people are shown."""
        return super().as_problem() | {"id": self.id}


def catalogue() -> dict[str, type[ConnectorError]]:
    """Every kind of failure, by its code."""
    found: dict[str, type[ConnectorError]] = {}
    todo = [ConnectorError]
    while todo:
        each = todo.pop()
        todo += each.__subclasses__()
        if "code" in vars(each):
            found[each.code] = each
    return found


def title_of(code: str) -> str:
    """What kind of failure a code names, in words."""
    return catalogue().get(code, ConnectorError).title
