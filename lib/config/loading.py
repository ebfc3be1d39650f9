"""The configuration: one YAML file, checked as a whole before anything runs.

Beside `lib/config/secrets.py`, which resolves references, this module alone reads the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from cronsim import CronSim, CronSimError
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate, validates, validates_schema

from lib.config.secrets import Reference, access_secret, fault_of
from lib.errors import ConfigError, HostRefusedError
from lib.http.access import GOOGLE_CERTS, SHORTEST_KEY, names_loopback
from lib.model import families
from lib.model.duration import parse_duration
from lib.model.host import check_url, proxy_fault
from lib.model.rate_policy import PUBLISHED
from lib.model.region import region_fault
from lib.model.stream import EVENTS, KINDS

ENVIRONMENT = "SOPHOS_UTMSTACK_CONFIG"
FOLLOWED = "SOPHOS_UTMSTACK_FOLLOWED"
"""Names a file of integrations that come from elsewhere; the emulator sets it for its functions."""
UTMSTACK_TENANT = "ce66672c-e36d-4761-a8c8-90058fee1a24"
"""The only tenant that UTMStack v11 knows."""
CLOUD_RUN = "cloud-run"
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]*[a-z0-9](/[^\r\n?#]*)?")
TASKS_URL = "https://cloudtasks.googleapis.com"
SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket on Linux (unix(7): `sun_path`)."""

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Every:
    """When fetch-page is triggered: each so often, or by a cron line in UTC."""

    interval: timedelta | None = None
    cron: str | None = None

    def seconds_after(self, started: datetime) -> float:
        """Seconds from the start of one tick to that of the next."""
        if self.interval is not None:
            return self.interval.total_seconds()
        return (next(CronSim(str(self.cron), started)) - started).total_seconds()

    def seconds_around(self, now: datetime) -> float:
        """Seconds between the tick before and the one after."""
        if self.interval is not None:
            return self.interval.total_seconds()
        before, after = CronSim(str(self.cron), now, reverse=True), CronSim(str(self.cron), now)
        return (next(after) - next(before)).total_seconds()


@dataclass(frozen=True, slots=True)
class Sophos:
    """Where Sophos Central is."""

    auth_url: str = "https://id.sophos.com"
    api_url: str = "https://api.central.sophos.com"
    allow_hosts: tuple[str, ...] = ()
    """Hosts beside *.sophos.com and loopback that credentials may be sent to."""
    ca_bundle: str | None = None
    """A file of certificates (PEM) to trust, in place of those that are built in."""
    proxy: Reference | None = field(default=None, repr=False)
    """The URL of the way out, which may hold a password; loopback is always reached without it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a site may want to change."""

    max_pending_bytes: int = 2 << 30
    """Waiting batches of the whole store, before fetching pauses."""
    ack_timeout: timedelta = timedelta(seconds=30)
    """How old the oldest unacknowledged log may grow before the engine counts as dead."""
    deadline: timedelta = timedelta(seconds=50)
    """How long one call of a function may take before it hands over to the next."""


@dataclass(frozen=True, slots=True)
class Integration:
    """One named set of Sophos credentials, and what is read with it."""

    name: str
    client_id: Reference = field(repr=False)
    client_secret: Reference = field(repr=False)
    next_client_id: Reference | None = field(default=None, repr=False)
    next_client_secret: Reference | None = field(default=None, repr=False)
    """Used where the first is refused: so that it can be replaced without a gap."""
    region: str = "auto"
    tenants: tuple[str, ...] | None = None
    streams: tuple[str, ...] = (EVENTS,)
    exclude_types: tuple[str, ...] = ()
    lookback: timedelta = timedelta(hours=24)
    settle: timedelta = timedelta(0)
    reconcile: timedelta | None = timedelta(hours=6)
    utmstack_tenant_id: str = UTMSTACK_TENANT
    alerts_data_type: str = "sophos-central-alerts"
    data_source: str | None = None
    """How a tenant's data source is made; None: the name, and for one of many tenants the tenant's behind it."""
    calls_per_minute: int = PUBLISHED
    """What the credential may be used for here; less where others use it too."""
    endpoints_data_type: str = "sophos-central-endpoints"
    inventory: timedelta = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may call the functions from elsewhere than loopback; by default nobody."""

    keys: tuple[Reference, ...] = field(default=(), repr=False)
    audiences: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    platform: str | None = None
    """`cloud-run`: its IAM has checked every caller."""
    certs_url: str = GOOGLE_CERTS


@dataclass(frozen=True, slots=True)
class Tasks:
    """A Cloud Tasks queue, through which a tick becomes one call a stream."""

    queue: str
    """`projects/P/locations/L/queues/Q`."""
    url: str
    """Where fetch-page is called."""
    service_account: str
    """As whom."""
    api_url: str = TASKS_URL


@dataclass(frozen=True, slots=True)
class UTMStack:
    """Where UTMStack's own configuration is."""

    workdir: str
    """The work folder of its event processor, which holds `pipeline/`."""


@dataclass(frozen=True, slots=True)
class EngineAccess:
    """What a relay asks of who calls it, each as PEM or text behind a reference; with a socket, nothing."""

    ca: Reference | None = None
    """Whom to trust for the relay's certificate; None: the authorities that everybody trusts."""
    certificate: Reference | None = None
    key: Reference | None = field(default=None, repr=False)
    token: Reference | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Relay:
    """The relay in front of the engine's socket: files are paths, since it reads them anew when they change."""

    certificate: str
    key: str
    client_ca: str | None = None
    """Whose certificates callers have to show; None: they need none."""
    tokens: str | None = None
    """A file with one accepted token a line; None: callers need none."""
    listen: tuple[str, int] = ("0.0.0.0", 7443)  # noqa: S104 - being reached from elsewhere is what it is for
    metrics: tuple[str, int] | None = ("127.0.0.1", 7444)
    streams: int = 64
    bytes_in_flight: int = 128 << 20
    """Of all streams together; each has an equal share, and always room for one message."""
    rate: int | None = 5000
    """Messages a second, of all streams together; None: as fast as the engine takes them."""
    idle: timedelta = timedelta(minutes=5)
    """How long a stream may stand still."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    integrations: tuple[Integration, ...]
    store: str = "file:var/store"
    engine: str = "unix:/workdir/sockets/engine_server.sock"
    every: Every = Every(timedelta(seconds=60))
    listen: tuple[str, int] = ("127.0.0.1", 8080)
    sophos: Sophos = Sophos()
    limits: Limits = Limits()
    access: AccessRules = AccessRules()
    tasks: Tasks | None = None
    """None: one call does the work of a tick."""
    observe: bool = False
    """Whether everything is fetched and counted, and nothing forwarded: beside UTMStack's own plugin."""
    archive: timedelta | None = None
    """How long delivered batches are kept for `replay`; None: not at all."""
    gap_data_type: str | None = "sophos-central-gaps"
    """Under which data type the engine is told of a gap; None: it is not told."""
    heartbeat: timedelta | None = None
    """How often an event of ours goes the way of all events; None: never."""
    utmstack: UTMStack | None = None
    """Where integrations are read from beside those of the file; None: nowhere."""
    engine_access: EngineAccess = EngineAccess()
    relay: Relay | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a configuration."""

    path: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self.path}: {self.message}" if self.path else f"{place}{self.message}"


class InvalidConfigError(ConfigError):
    """A configuration with every fault that was found in it."""

    def __init__(self, location: str, faults: Sequence[Fault]) -> None:
        lines = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(f"{location} cannot be used:{lines}")
        self.faults = tuple(faults)


def platform_timeout() -> timedelta | None:
    """How long the platform lets a request take, where it says so (functions-framework reads the same variable)."""
    text = os.environ.get("CLOUD_RUN_TIMEOUT_SECONDS", "")
    return timedelta(seconds=int(text)) if text.isascii() and text.isdigit() else None


def on_cloud_run() -> bool:
    """Whether this process is a service of Cloud Run, which names it so."""
    return bool(os.environ.get("K_SERVICE"))


def located(location: str | None = None) -> str:
    """Where the configuration is: as named, else by the environment; ConfigError where neither names it."""
    found = location or os.environ.get(ENVIRONMENT, "")
    if not found:
        raise ConfigError(
            f"no configuration is named: there is no --config, and {ENVIRONMENT} is not set",
            remedy="Copy connector.example.yaml, fill it in, and name it with --config.",
        )
    return found


def followed() -> str | None:
    """Where the integrations are that the emulator follows; None where there is no such file."""
    return os.environ.get(FOLLOWED) or None


def load(location: str | None = None) -> Config:
    """The configuration at a path, `gs://bucket/object` or `secret:projects/P/secrets/S/versions/V`, or where the
    environment says; ConfigError with every fault and its line.
    """
    location = located(location)
    try:
        text = _bytes_of(location).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{location} cannot be read: {error.strerror}", remedy="Name a readable file.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{location} is not UTF-8 text (byte {error.start})", remedy="Save it as UTF-8.") from None
    return parse(text, location)


def absolute(location: str) -> str:
    """The same place, named so that a process with another folder finds it."""
    return location if location.startswith(("gs://", "secret:")) else str(Path(location).absolute())


def _bytes_of(location: str) -> bytes:
    if location.startswith("gs://"):
        from lib.store.gcs import read_object  # noqa: PLC0415 - heavy, and only for who keeps it there

        return read_object(location)
    if location.startswith("secret:"):
        return access_secret(location.removeprefix("secret:"), "the configuration").encode()
    return Path(location).read_bytes()


def parse(text: str, location: str = "the configuration") -> Config:
    """The configuration that a text holds; InvalidConfigError with every fault and its line."""
    document = _Document(text)
    faults = list(document.faults)
    if not faults:
        try:
            config: Config = ConfigSchema().load(document.value)
        except ValidationError as error:
            faults += [document.fault(path, message) for path, message in _flat(error.messages_dict)]
        else:
            return config
    raise InvalidConfigError(location, sorted(set(faults), key=lambda fault: (fault.line or 0, fault.path)))


class _Document:
    """A YAML text as plain values, with the line of each."""

    def __init__(self, text: str) -> None:
        self.faults: list[Fault] = []
        self.value: Any = {}
        self._lines: dict[Path_, int] = {}
        try:
            self._loader = yaml.SafeLoader(text)
            node = self._loader.get_single_node()
            if node is not None:
                self.value = self._value(node, (), ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.faults.append(Fault("", mark.line + 1 if mark else None, f"not YAML: {error.problem}"))
        except yaml.YAMLError as error:
            self.faults.append(Fault("", None, f"not YAML: {str(error).splitlines()[0]}"))
        if not self.faults and not isinstance(self.value, dict):
            self.faults.append(Fault("", 1, "the file has to begin with keys, such as `store:` and `integrations:`"))

    def fault(self, path: Path_, message: str) -> Fault:
        """The fault, at the line of its path or of what is around it."""
        known = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in self._lines), ())
        text = ""
        for part in path:
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
        return Fault(text, self._lines.get(known, 1), message)

    def _value(self, node: yaml.Node, path: Path_, above: tuple[yaml.Node, ...]) -> Any:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if node in above:
            raise yaml.constructor.ConstructorError(None, None, "an alias that holds itself", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, (*path, at), (*above, node)) for at, each in enumerate(node.value)]
        value = self._loader.construct_object(node)
        return self._whole(value, path) if isinstance(value, str) else value

    def _whole(self, text: str, path: Path_) -> str:
        """The text with its surrogate pairs joined: YAML leaves what JSON escapes as two halves as two."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.faults.append(self.fault(path, "holds half of a surrogate pair, which is no character"))
            return ""

    def _mapping(self, node: yaml.MappingNode, path: Path_, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._whole(str(key_node.value), path)
            self._lines[(*path, key)] = key_node.start_mark.line + 1
            if key in found:
                self.faults.append(self.fault((*path, key), "this key is given twice"))
            found[key] = self._value(value_node, (*path, key), above)
        return found


def _flat(messages: Mapping[Any, Any], path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    for key, value in messages.items():
        here = path if key == "_schema" else (*path, key)
        if isinstance(value, Mapping):
            yield from _flat(value, here)
        else:
            yield from ((here, str(message)) for message in value)


class _Strict(Schema):
    """Unknown keys are faults that name the nearest known one."""

    class Meta:
        unknown = RAISE

    def handle_error(self, error: ValidationError, data: Any, **_: Any) -> None:
        """Say more of an unknown key than that it is unknown."""
        if not isinstance(error.messages, dict) or not isinstance(data, Mapping):
            return
        known = [each.data_key or name for name, each in self.fields.items()]
        for key in error.messages:
            if key in data and key not in known:
                near = get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
                error.messages[key] = [f"unknown key; {hint}"]


class _Text(fields.String):
    default_error_messages = {  # noqa: RUF012 - marshmallow's form
        "invalid": "has to be a text; put it in quotes",
        "null": "is empty",
        "required": "is missing",
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(validate=[validate.Length(min=1, error="is empty")], **options)


class _TextOrOff(fields.Field[str | None]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str | None:
        del attr, data, options
        # A bare `off` is false in YAML 1.1.
        if value is False or value == "off":
            return None
        if not isinstance(value, str) or not value:
            raise ValidationError("has to be a text, or off")
        return value


class _Reference(_Text):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        fault = fault_of(text)
        if fault:
            raise ValidationError(fault)
        return text


class _Duration(fields.Field[timedelta]):
    """A duration within bounds."""

    def __init__(self, smallest: timedelta = timedelta(0), unit: timedelta | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._smallest = smallest
        self._unit = unit

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> timedelta:
        del attr, data
        if not isinstance(value, str):
            raise ValidationError(f"{value!r} has no unit: write such as 90s, 5m or 24h")
        try:
            duration = parse_duration(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        if duration < self._smallest:
            raise ValidationError(f"has to be at least {int(self._smallest.total_seconds())}s")
        if self._unit and duration % self._unit:
            raise ValidationError(f"has to be a multiple of {int(self._unit.total_seconds())}s")
        return duration


class _DurationOrOff(_Duration):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        # A bare `off` is false in YAML 1.1.
        return None if value is False or value == "off" else super()._deserialize(value, attr, data, **options)


class _EveryField(fields.Field[Every]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Every:
        del attr, data
        text = str(value).strip()
        if len(text.split()) > 1 and isinstance(value, str):
            try:
                CronSim(text, datetime(2026, 1, 1))  # noqa: DTZ001 - only the line's form is tried
            except CronSimError as error:
                raise ValidationError(f"{text!r} is no cron line: {error}") from None
            return Every(cron=text)
        try:
            interval = parse_duration(text)
        except ValueError:
            raise ValidationError(f"{text!r} is neither a duration, such as 60s, nor a cron line") from None
        if interval < timedelta(seconds=1):
            raise ValidationError("1s is the smallest")
        return Every(interval)


class _Listen(fields.Field[tuple[str, int]]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[str, int]:
        del attr, data
        host, colon, port = str(value).rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValidationError(f"{value!r} is no address: write HOST:PORT, such as 127.0.0.1:8080")
        return host.strip("[]") or "127.0.0.1", int(port)


class _ListenOrOff(_Listen):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        # A bare `off` is false in YAML 1.1.
        return None if value is False or value == "off" else super()._deserialize(value, attr, data, **options)


class _CountOrOff(fields.Field[int | None]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int | None:
        del attr, data, options
        if value is False or value == "off":
            return None
        if type(value) is not int or value < 1:
            raise ValidationError("has to be 1 or more, or off")
        return value


class _Location(_Text):
    """A place with a scheme."""

    def __init__(self, schemes: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._schemes = schemes

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **options)
        scheme = next((each for each in self._schemes if text.startswith(each)), None)
        if scheme is None or len(text) == len(scheme):
            raise ValidationError(f"{text!r}: write {' or '.join(self._schemes.values())}")
        if text.startswith("gs://") and not _BUCKET.fullmatch(text):
            raise ValidationError(f"{text!r} names no bucket: write {self._schemes[scheme]}")
        if text.startswith("grpcs:") and not re.fullmatch(
            r"(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):\d{1,5}", text[len(scheme) :]
        ):
            raise ValidationError(f"{text!r}: write {self._schemes[scheme]}")
        path = text.removeprefix("unix:").removeprefix("//") if text.startswith("unix:") else None
        if path is not None and not path.startswith("/"):
            raise ValidationError("the socket's path has to be absolute")
        if path is not None and len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            raise ValidationError(f"the socket's path has over {SOCKET_PATH_BYTES} bytes, more than the system takes")
        return text


class _Tenants(fields.Field[tuple[str, ...] | None]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[str, ...] | None:
        del attr, data
        if value == "all":
            return None
        if isinstance(value, list) and value and all(isinstance(each, str) and each for each in value):
            return tuple(dict.fromkeys(value))
        raise ValidationError("write `all`, or a list of tenant ids")


def _names(**options: Any) -> fields.List[str]:
    return fields.List(_Text(), error_messages={"invalid": "has to be a list, such as [one, two]"}, **options)


class _SophosSchema(_Strict):
    auth_url = _Text()
    api_url = _Text()
    allow_hosts = _names()
    ca_bundle = _Text()
    proxy = _Reference()

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Sophos:
        if "proxy" in data:
            data["proxy"] = Reference(data["proxy"], "sophos.proxy")
        return Sophos(**data | {"allow_hosts": tuple(data.get("allow_hosts", ()))})

    @validates("ca_bundle")
    def _certificates(self, path: str, **_: Any) -> None:
        _check_certificates(path)

    @validates("proxy")
    def _proxy(self, proxy: str, **_: Any) -> None:
        if proxy.startswith("${"):
            return
        if "@" in proxy:
            raise ValidationError("a user and password are a secret: write a reference, such as ${env:SOPHOS_PROXY}")
        fault = proxy_fault(proxy)
        if fault:
            raise ValidationError(fault)

    @validates_schema(skip_on_field_errors=True)
    def _hosts(self, data: dict[str, Any], **_: Any) -> None:
        for key in ("auth_url", "api_url"):
            if key in data:
                _check_host(data[key], data.get("allow_hosts", ()), key)


class _LimitsSchema(_Strict):
    max_pending_bytes = fields.Integer(strict=True, validate=validate.Range(min=1, error="has to be a number of bytes"))
    ack_timeout = _Duration(timedelta(seconds=1))
    deadline = _Duration(timedelta(seconds=1))

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Limits:
        return Limits(**data)


class _AccessSchema(_Strict):
    keys = fields.List(_Reference(), error_messages={"invalid": "has to be a list, such as [${{env:ACCESS_KEY}}]"})
    audiences = _names()
    emails = _names()
    platform = fields.String(validate=validate.Equal(CLOUD_RUN, error=f"{CLOUD_RUN} is the only one known"))
    certs_url = _Text()

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> AccessRules:
        keys = tuple(Reference(key, f"access.keys[{at}]") for at, key in enumerate(data.get("keys", ())))
        lists = {key: tuple(data.get(key, ())) for key in ("audiences", "emails")}
        return AccessRules(**data | {"keys": keys} | lists)

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        for at, key in enumerate(data.get("keys", ())):
            if not key.startswith("${") and len(key) < SHORTEST_KEY:
                raise ValidationError({"keys": {at: [f"has under {SHORTEST_KEY} characters, and could be guessed"]}})
        if bool(data.get("audiences")) != bool(data.get("emails")):
            raise ValidationError("`audiences` and `emails` go together: whom a token is meant for, and whose it is")
        if "platform" in data and data.get("audiences"):
            raise ValidationError("that platform checks tokens itself: leave `audiences` and `emails` out", "platform")
        url = data.get("certs_url", GOOGLE_CERTS)
        if url != GOOGLE_CERTS and not names_loopback(url):
            raise ValidationError(f"has to be {GOOGLE_CERTS}; another one is for tests, on loopback", "certs_url")


class _TasksSchema(_Strict):
    queue = _Text(required=True)
    url = _Text(required=True)
    service_account = _Text(required=True)
    api_url = _Text()

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Tasks:
        return Tasks(**data)

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if not re.fullmatch(r"projects/[^/\s]+/locations/[^/\s]+/queues/[A-Za-z0-9-]+", data["queue"]):
            raise ValidationError("write projects/P/locations/L/queues/Q", "queue")
        if not data["url"].startswith("https://") and not names_loopback(data["url"]):
            raise ValidationError("has to begin with https://", "url")
        if "@" not in data["service_account"]:
            raise ValidationError(
                "write the account's address, such as tasks@P.iam.gserviceaccount.com", "service_account"
            )
        if data.get("api_url", TASKS_URL) != TASKS_URL and not names_loopback(data["api_url"]):
            raise ValidationError(f"has to be {TASKS_URL}; another one is for tests, on loopback", "api_url")


class _Type(fields.String):
    """A type of events, or a family of them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        name: str = super()._deserialize(value, attr, data, **kwargs)
        fault = families.fault_of(name)
        if fault is not None:
            raise ValidationError(fault)
        return name


class _EngineAccessSchema(_Strict):
    ca = _Reference()
    certificate = _Reference()
    key = _Reference()
    token = _Reference()

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> EngineAccess:
        return EngineAccess(**{name: Reference(text, f"engine_access.{name}") for name, text in data.items()})

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if ("certificate" in data) != ("key" in data):
            raise ValidationError("`certificate` and `key` go together")


class _RelaySchema(_Strict):
    listen = _Listen()
    certificate = _Text(required=True)
    key = _Text(required=True)
    client_ca = _Text()
    tokens = _Text()
    metrics = _ListenOrOff()
    streams = fields.Integer(strict=True, validate=validate.Range(1, 1000, error="has to be between 1 and 1000"))
    bytes_in_flight = fields.Integer(strict=True, validate=validate.Range(min=1, error="has to be a number of bytes"))
    rate = _CountOrOff()
    idle = _Duration(timedelta(seconds=1))

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Relay:
        return Relay(**data)

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if "client_ca" not in data and "tokens" not in data:
            raise ValidationError("everybody could write to the engine: name `client_ca`, or `tokens`, or both")
        host = (data.get("metrics") or ("127.0.0.1", 0))[0]
        if not names_loopback(f"//[{host}]" if ":" in host else f"//{host}"):
            raise ValidationError("has to be an address of loopback, since everybody may read there", "metrics")


_CREDENTIALS = {"client_id", "client_secret", "next_client_id", "next_client_secret"}


class _IntegrationSchema(_Strict):
    name = _Text(required=True)
    client_id = _Reference(required=True)
    client_secret = _Reference(required=True)
    next_client_id = _Reference()
    next_client_secret = _Reference()
    region = _Text()
    tenants = _Tenants(allow_none=False)
    streams = fields.List(
        fields.String(validate=validate.OneOf(KINDS, error=f"has to be one of: {', '.join(KINDS)}")),
        validate=validate.Length(min=1, error="is empty"),
        error_messages={"invalid": "has to be a list, such as [events]"},
    )
    exclude_types = fields.List(
        _Type(),
        error_messages={"invalid": "has to be a list, such as [family:web_control]", "null": "has to be a list"},
    )
    lookback = _Duration(timedelta(seconds=1))
    settle = _Duration(unit=timedelta(minutes=1))
    reconcile = _DurationOrOff(timedelta(minutes=1))
    utmstack_tenant_id = _Text()
    alerts_data_type = _Text()
    data_source = _Text()
    calls_per_minute = fields.Integer(strict=True, validate=validate.Range(min=1, error="has to be 1 or more"))
    endpoints_data_type = _Text()
    inventory = _Duration(timedelta(minutes=1))

    @validates_schema(skip_on_field_errors=True)
    def _pair(self, data: dict[str, Any], **_: Any) -> None:
        if ("next_client_id" in data) != ("next_client_secret" in data):
            raise ValidationError("`next_client_id` and `next_client_secret` go together")

    @validates_schema(skip_on_field_errors=True)
    def _fits(self, data: dict[str, Any], **_: Any) -> None:
        if families.length(families.expanded(data.get("exclude_types", ()))) > families.LONGEST:
            raise ValidationError(
                "names more types than an address has room for; leave out fewer families", "exclude_types"
            )

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Integration:
        name = data["name"]
        for key in _CREDENTIALS & data.keys():
            data[key] = Reference(data[key], f"{key} of integration {name!r}")
        for key in ("streams", "exclude_types"):
            if key in data:
                data[key] = tuple(dict.fromkeys(data[key]))
        return Integration(**data)


class _UTMStackSchema(_Strict):
    workdir = _Text(required=True)

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> UTMStack:
        return UTMStack(**data)


class ConfigSchema(_Strict):
    """The whole file."""

    store = _Location({"file:": "file:PATH", "gs://": "gs://BUCKET/PREFIX"})
    engine = _Location({"unix:": "unix:/path/of/engine_server.sock", "grpcs://": "grpcs://relay.example.com:7443"})
    every = _EveryField()
    listen = _Listen()
    gap_data_type = _TextOrOff()
    observe = fields.Boolean(truthy={True}, falsy={False}, error_messages={"invalid": "has to be on or off"})
    archive = _DurationOrOff(timedelta(days=1))
    heartbeat = _DurationOrOff(timedelta(minutes=1))
    sophos = fields.Nested(_SophosSchema, error_messages={"type": "has to hold keys"})
    limits = fields.Nested(_LimitsSchema, error_messages={"type": "has to hold keys"})
    access = fields.Nested(_AccessSchema, error_messages={"type": "has to hold keys"})
    tasks = fields.Nested(_TasksSchema, error_messages={"type": "has to hold keys"})
    utmstack = fields.Nested(_UTMStackSchema, error_messages={"type": "has to hold keys"})
    engine_access = fields.Nested(_EngineAccessSchema, error_messages={"type": "has to hold keys"})
    relay = fields.Nested(_RelaySchema, error_messages={"type": "has to hold keys"})
    integrations = fields.List(
        fields.Nested(_IntegrationSchema),
        error_messages={"invalid": "has to be a list", "null": "has to be a list"},
    )

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _some(self, _: dict[str, Any], original: Any, **__: Any) -> None:
        if not original.get("integrations", []) and "utmstack" not in original and "relay" not in original:
            missing = "is missing" if "integrations" not in original else "has to hold at least one integration"
            raise ValidationError(f"{missing}, or `utmstack` beside it", "integrations")

    @post_load
    def _made(self, data: dict[str, Any], **_: Any) -> Config:
        return Config(**data | {"integrations": tuple(data.get("integrations", ()))})

    @validates_schema(skip_on_field_errors=True)
    def _as_a_whole(self, data: dict[str, Any], **_: Any) -> None:
        if "engine_access" in data and not data.get("engine", "").startswith("grpcs:"):
            raise ValidationError("is for an engine behind a relay: `engine: grpcs://HOST:PORT`", "engine_access")
        seen: set[str] = set()
        allowed = data["sophos"].allow_hosts if "sophos" in data else ()
        for at, integration in enumerate(data.get("integrations", ())):
            if integration.name in seen:
                raise ValidationError({"integrations": {at: {"name": [f"{integration.name!r} is named twice"]}}})
            seen.add(integration.name)
            fault = region_fault(integration.region)
            if fault:
                raise ValidationError({"integrations": {at: {"region": [fault]}}})
            if "://" in integration.region:
                try:
                    check_url(integration.region, allow_hosts=allowed)
                except HostRefusedError as error:
                    raise ValidationError({"integrations": {at: {"region": [f"{error}. {error.remedy}"]}}}) from None


def _check_certificates(path: str) -> None:
    import ssl  # noqa: PLC0415 - only who names such a file waits for it

    try:
        found = ssl.create_default_context(cafile=path).cert_store_stats()["x509"]
    except ssl.SSLError:
        found = 0
    except OSError as error:
        raise ValidationError(f"{path} cannot be read: {error.strerror}") from None
    if not found:
        raise ValidationError(f"{path} holds no certificates in PEM form")


def _check_host(url: str, allowed: Sequence[str], key: str) -> None:
    try:
        check_url(url, allow_hosts=allowed)
    except HostRefusedError as error:
        raise ValidationError(f"{error}. {error.remedy}", key) from None
