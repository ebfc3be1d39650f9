"""The schema of the configuration: the form of each key, and the rules between keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Any
from urllib.parse import quote

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate, validates, validates_schema

from lib.config.fields import (
    CountOrOff,
    DataType,
    DataTypeOrOff,
    Duration,
    DurationOrOff,
    EventType,
    EveryField,
    Listen,
    ListenOrOff,
    Location,
    Name,
    ReferenceText,
    Tenants,
    Text,
    text_list,
)
from lib.config.secrets import Reference
from lib.config.settings import (
    CLOUD_RUN,
    TASKS_URL,
    AccessRules,
    Config,
    EngineAccess,
    IntegrationConfig,
    Limits,
    LogSettings,
    RelaySettings,
    SophosHosts,
    TaskQueueSettings,
    UTMStackSettings,
)
from lib.errors import HostRefusedError
from lib.http.access import GOOGLE_CERTS, SHORTEST_KEY, names_loopback
from lib.model.host import check_url, proxy_fault
from lib.model.region import region_fault
from lib.model.stream import KINDS

LOCAL = ("open", "key")
LOG_LEVELS = ("debug", "info", "warning", "error")
MOST_BYTES = 1 << 50
UNKNOWN_KEY = "unknown key"
"""The beginning of the fault of an unknown key."""


class _Strict(Schema):
    """A schema in which an unknown key is a fault that names the nearest known key."""

    class Meta:
        unknown = RAISE

    def handle_error(self, error: ValidationError, data: Any, **_: Any) -> None:
        """Add a hint to the fault of an unknown key."""
        if not isinstance(error.messages, dict) or not isinstance(data, Mapping):
            return
        keys = [field.data_key or name for name, field in self.fields.items()]
        for key in error.messages:
            if key in data and key not in keys:
                near = get_close_matches(str(key), keys, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"the keys here are: {', '.join(keys)}"
                error.messages[key] = [f"{UNKNOWN_KEY}; {hint}"]


class _SophosSchema(_Strict):
    auth_url = Text()
    api_url = Text()
    allow_hosts = text_list()
    ca_bundle = Text()
    proxy = ReferenceText()

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> SophosHosts:
        if "proxy" in data:
            data["proxy"] = Reference(data["proxy"], "sophos.proxy")
        return SophosHosts(**data | {"allow_hosts": tuple(data.get("allow_hosts", ()))})

    @validates("ca_bundle")
    def _certificates(self, path: str, **_: Any) -> None:
        _check_certificates(path)

    @validates("proxy")
    def _proxy(self, proxy: str, **_: Any) -> None:
        if proxy.startswith("${"):
            return
        if "@" in proxy:
            raise ValidationError("holds a user and password: write a reference, such as ${env:SOPHOS_PROXY}")
        fault = proxy_fault(proxy)
        if fault:
            raise ValidationError(fault)

    @validates_schema(skip_on_field_errors=True)
    def _hosts(self, data: dict[str, Any], **_: Any) -> None:
        for key in ("auth_url", "api_url"):
            if key in data:
                _check_host(data[key], data.get("allow_hosts", ()), key)


class _LimitsSchema(_Strict):
    max_pending_bytes = fields.Integer(
        strict=True, validate=validate.Range(1, MOST_BYTES, error="must be a number of bytes")
    )
    ack_timeout = Duration(timedelta(seconds=1), timedelta(hours=1))
    deadline = Duration(timedelta(seconds=1), timedelta(hours=1))

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Limits:
        return Limits(**data)


class _AccessSchema(_Strict):
    keys = fields.List(ReferenceText(), error_messages={"invalid": "must be a list, such as [${{env:ACCESS_KEY}}]"})
    audiences = text_list()
    emails = text_list()
    platform = fields.String(validate=validate.Equal(CLOUD_RUN, error=f"must be {CLOUD_RUN}"))
    certs_url = Text()
    local = fields.String(validate=validate.OneOf(LOCAL, error=f"must be one of: {', '.join(LOCAL)}"))

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> AccessRules:
        keys = tuple(Reference(key, f"access.keys[{at}]") for at, key in enumerate(data.get("keys", ())))
        lists = {key: tuple(data.get(key, ())) for key in ("audiences", "emails")}
        return AccessRules(**data | {"keys": keys} | lists)

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        for at, key in enumerate(data.get("keys", ())):
            if not key.startswith("${") and len(key) < SHORTEST_KEY:
                raise ValidationError({"keys": {at: [f"is too short: write at least {SHORTEST_KEY} characters"]}})
        if bool(data.get("audiences")) != bool(data.get("emails")):
            raise ValidationError("`audiences` and `emails` go together: set both, or neither")
        if "platform" in data and data.get("audiences"):
            raise ValidationError("this platform checks tokens itself: remove `audiences` and `emails`", "platform")
        if data.get("local") == "key" and not data.get("keys") and not data.get("audiences"):
            raise ValidationError("no caller would be allowed: set `keys`, or `audiences` and `emails`", "local")
        url = data.get("certs_url", GOOGLE_CERTS)
        if url != GOOGLE_CERTS and not names_loopback(url):
            raise ValidationError(f"must be {GOOGLE_CERTS}, or a URL on loopback for tests", "certs_url")


class _TasksSchema(_Strict):
    queue = Text(required=True)
    url = Text(required=True)
    service_account = Text(required=True)
    api_url = Text()

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> TaskQueueSettings:
        return TaskQueueSettings(**data)

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if not re.fullmatch(r"projects/[^/\s]+/locations/[^/\s]+/queues/[A-Za-z0-9-]+", data["queue"]):
            raise ValidationError("write projects/P/locations/L/queues/Q", "queue")
        if not data["url"].startswith("https://") and not names_loopback(data["url"]):
            raise ValidationError("must begin with https://", "url")
        if "@" not in data["service_account"]:
            raise ValidationError(
                "write the account's email address, such as tasks@P.iam.gserviceaccount.com", "service_account"
            )
        if data.get("api_url", TASKS_URL) != TASKS_URL and not names_loopback(data["api_url"]):
            raise ValidationError(f"must be {TASKS_URL}, or a URL on loopback for tests", "api_url")


class _EngineAccessSchema(_Strict):
    ca = ReferenceText()
    certificate = ReferenceText()
    key = ReferenceText()
    token = ReferenceText()

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> EngineAccess:
        return EngineAccess(**{name: Reference(text, f"engine_access.{name}") for name, text in data.items()})

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if ("certificate" in data) != ("key" in data):
            raise ValidationError("`certificate` and `key` go together: set both, or neither")


class _RelaySchema(_Strict):
    listen = Listen()
    certificate = Text(required=True)
    key = Text(required=True)
    client_ca = Text()
    tokens = Text()
    metrics = ListenOrOff()
    streams = fields.Integer(strict=True, validate=validate.Range(1, 1000, error="must be between 1 and 1000"))
    bytes_in_flight = fields.Integer(
        strict=True, validate=validate.Range(1, MOST_BYTES, error="must be a number of bytes")
    )
    rate = CountOrOff()
    idle = Duration(timedelta(seconds=1), timedelta(days=1))

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> RelaySettings:
        return RelaySettings(**data)

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if "client_ca" not in data and "tokens" not in data:
            raise ValidationError("anyone could write to the engine: set `client_ca`, or `tokens`, or both")
        host = (data.get("metrics") or ("127.0.0.1", 0))[0]
        if not names_loopback(f"//[{host}]" if ":" in host else f"//{host}"):
            raise ValidationError("must be a loopback address, because metrics need no credentials", "metrics")


LONGEST_NAME = 600
"""Bytes of an integration's percent-encoded name. A whole object name may have 1,024 bytes in Cloud Storage."""
DAY = timedelta(days=1)
YEARS = timedelta(days=3660)
_CREDENTIALS = {"client_id", "client_secret", "next_client_id", "next_client_secret"}


class _IntegrationSchema(_Strict):
    name = Name(required=True)
    client_id = ReferenceText(required=True)
    client_secret = ReferenceText(required=True)
    next_client_id = ReferenceText()
    next_client_secret = ReferenceText()
    region = Text()
    tenants = Tenants(allow_none=False)
    streams = fields.List(
        fields.String(validate=validate.OneOf(KINDS, error=f"must be one of: {', '.join(KINDS)}")),
        validate=validate.Length(min=1, error="is empty"),
        error_messages={"invalid": "must be a list, such as [events]"},
    )
    exclude_types = fields.List(
        EventType(),
        error_messages={"invalid": "must be a list, such as [family:web_control]", "null": "must be a list"},
    )
    lookback = Duration(timedelta(seconds=1), YEARS)
    settle = Duration(longest=DAY, unit=timedelta(minutes=1))
    reconcile = DurationOrOff(timedelta(minutes=1), YEARS)
    utmstack_tenant_id = Text()
    alerts_data_type = DataType()
    data_source = Text()
    calls_per_minute = fields.Integer(
        strict=True, validate=validate.Range(1, 100_000, error="must be between 1 and 100000")
    )
    endpoints_data_type = DataType()
    inventory = Duration(timedelta(minutes=1), YEARS)

    @validates("name")
    def _storable(self, name: str, **_: Any) -> None:
        length = len(quote(name, safe=""))
        if length > LONGEST_NAME:
            raise ValidationError(f"is too long: it takes {length} bytes in the store; the limit is {LONGEST_NAME}")

    @validates("region")
    def _region(self, region: str, **_: Any) -> None:
        fault = region_fault(region)
        if fault:
            raise ValidationError(fault)

    @validates_schema(skip_on_field_errors=True)
    def _pair(self, data: dict[str, Any], **_: Any) -> None:
        if ("next_client_id" in data) != ("next_client_secret" in data):
            raise ValidationError("`next_client_id` and `next_client_secret` go together: set both, or neither")

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> IntegrationConfig:
        name = data["name"]
        for key in _CREDENTIALS & data.keys():
            data[key] = Reference(data[key], f"{key} of integration {name!r}")
        for key in ("streams", "exclude_types"):
            if key in data:
                data[key] = tuple(dict.fromkeys(data[key]))
        return IntegrationConfig(**data)


class _LogSchema(_Strict):
    level = fields.String(validate=validate.OneOf(LOG_LEVELS, error=f"must be one of: {', '.join(LOG_LEVELS)}"))

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> LogSettings:
        return LogSettings(**data)


class _UTMStackSchema(_Strict):
    workdir = Text(required=True)

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> UTMStackSettings:
        return UTMStackSettings(**data)


class ConfigSchema(_Strict):
    """The whole file."""

    store = Location({"file:": "file:PATH", "gs://": "gs://BUCKET/PREFIX"})
    engine = Location({"unix:": "unix:/path/of/engine_server.sock", "grpcs://": "grpcs://relay.example.com:7443"})
    every = EveryField()
    listen = Listen()
    gap_data_type = DataTypeOrOff()
    heartbeat = DurationOrOff(timedelta(minutes=1))
    observe = fields.Boolean(truthy={True}, falsy={False}, error_messages={"invalid": "must be on or off"})
    archive = DurationOrOff(DAY, YEARS)
    sophos = fields.Nested(_SophosSchema, error_messages={"type": "must hold keys"})
    limits = fields.Nested(_LimitsSchema, error_messages={"type": "must hold keys"})
    log = fields.Nested(_LogSchema, error_messages={"type": "must hold keys"})
    access = fields.Nested(_AccessSchema, error_messages={"type": "must hold keys"})
    tasks = fields.Nested(_TasksSchema, error_messages={"type": "must hold keys"})
    utmstack = fields.Nested(_UTMStackSchema, error_messages={"type": "must hold keys"})
    engine_access = fields.Nested(_EngineAccessSchema, error_messages={"type": "must hold keys"})
    relay = fields.Nested(_RelaySchema, error_messages={"type": "must hold keys"})
    integrations = fields.List(
        fields.Nested(_IntegrationSchema),
        error_messages={"invalid": "must be a list", "null": "must be a list"},
    )

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _some(self, _: dict[str, Any], original: Any, **__: Any) -> None:
        if not original.get("integrations", []) and "utmstack" not in original and "relay" not in original:
            missing = "is missing" if "integrations" not in original else "is empty"
            raise ValidationError(f"{missing}: add an integration, or set `utmstack`", "integrations")

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Config:
        return Config(**data | {"integrations": tuple(data.get("integrations", ()))})

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if "engine_access" in data and not data.get("engine", "").startswith("grpcs:"):
            raise ValidationError("needs an engine behind a relay: set `engine: grpcs://HOST:PORT`", "engine_access")
        seen: set[str] = set()
        allowed = data["sophos"].allow_hosts if "sophos" in data else ()
        for at, integration in enumerate(data.get("integrations", ())):
            if integration.name in seen:
                raise ValidationError({"integrations": {at: {"name": [f"{integration.name!r} is used twice"]}}})
            seen.add(integration.name)
            if "://" in integration.region:
                try:
                    check_url(integration.region, allow_hosts=allowed)
                except HostRefusedError as error:
                    raise ValidationError({"integrations": {at: {"region": [f"{error}. {error.remedy}"]}}}) from None


def _check_certificates(path: str) -> None:
    import ssl  # noqa: PLC0415 - a slow import that only this key needs

    try:
        certificates = ssl.create_default_context(cafile=path).cert_store_stats()["x509"]
    except ssl.SSLError:
        certificates = 0
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from None
    if not certificates:
        raise ValidationError(f"{path} holds no certificate in PEM format")


def _check_host(url: str, allowed: Sequence[str], key: str) -> None:
    try:
        check_url(url, allow_hosts=allowed)
    except HostRefusedError as error:
        raise ValidationError(f"{error}. {error.remedy}", key) from None
