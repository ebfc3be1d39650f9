"""Reads UTMStack's own configuration of its Sophos module, from the three sources of its versions.

The sources are:
- a file in the pipeline folder (v12 and shortly before)
- a gRPC stream of the plugin `modules-config` (v11)
- an HTTP endpoint of the backend (before)

The first one that exists is used. Values read here are never logged.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from lib.errors import ConfigError, ConnectorError, EngineRefusedError, RetryableError
from lib.model.ids import qualified
from lib.model.text import whole

# ruff: noqa: PLC0415 - gRPC, HTTP and ciphers are slow to import, and each source needs only one

MODULE = "SOPHOS"
FILE = "system_plugins_sophos.yaml"
DEFAULT_TENANT = "ce66672c-e36d-4761-a8c8-90058fee1a24"
CLIENT_ID = ("sophos_client_id", "client id")
CLIENT_SECRET = ("sophos_x_api_key", "client secret")
"""The field's key, and its name in versions before March 2025. The secret's key has the name of an older API."""
MASK = re.compile(r"[*•●·xX.]{3,}|<.*>|(?i:hidden|masked|redacted)")
"""Texts that a form shows in place of a secret."""
LARGEST_FILE = 4 << 20
BLOCK = 16
ROUNDS = 65536
HTTP_SECONDS = 10
LARGEST_SECTION = 64 << 20
KEEPALIVE_SECONDS = 360.0
"""The interval of keepalive pings on a silent stream. grpc-go refuses more than one in 300 s."""

WORKDIR = (
    "Set `utmstack.workdir` to the event processor's work folder as seen on this machine. It holds "
    "`pipeline/utmstack_plugins.yaml` and is usually /utmstack/events-engine-workdir. Run as root, or as its owner."
)
INSIDE = (
    "The name exists only in UTMStack's own network. Run the connector in a container on that network. Or turn the "
    "module off in UTMStack, and configure `integrations` instead of `utmstack` (docs/utmstack.md)."
)
SAVE_AGAIN = "Open Integrations → Sophos Central in UTMStack, correct the group, and save."


class SettingsDownError(RetryableError):
    """UTMStack's configuration cannot be read now; the last one stays in use."""

    code = "utmstack_unavailable"
    title = "UTMStack does not answer"
    remedy = "Nothing to do while UTMStack starts. If it lasts, check that its services run."


@dataclass(frozen=True, slots=True)
class Group:
    """One configuration group of UTMStack's form: a named credential."""

    name: str
    """The group's name. If groups of several tenants share it, the tenant follows, except for the default tenant."""
    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)
    tenant: str = DEFAULT_TENANT


Entries = Iterable[tuple[str, str, Callable[[], Mapping[str, str]]]]


@dataclass(frozen=True, slots=True)
class Found:
    """The usable groups of the module, and the faults of the others."""

    groups: tuple[Group, ...] = ()
    faults: Mapping[str, ConnectorError] = field(default_factory=dict)
    """Faults by the group's name."""


@dataclass(frozen=True, slots=True)
class Base:
    """UTMStack's basic settings, `plugins.com.utmstack` of its pipeline folder."""

    pipeline: Path
    internal_key: str = field(default="", repr=False)
    encryption_key: str = field(default="", repr=False)
    modules_config: str = ""
    backend: str = ""

    @property
    def file(self) -> Path:
        """The path of the module's own file, which may not exist."""
        return self.pipeline / FILE

    @property
    def keys(self) -> tuple[str, ...]:
        """The possible encryption keys of secrets. Installers give the backend the internal key."""
        return tuple(dict.fromkeys(filter(None, (self.encryption_key, self.internal_key))))


def base_of(workdir: str) -> Base:
    """The basic settings below a work folder; ConfigError if there are none, or a file cannot be read."""
    folder = Path(workdir) / "pipeline"
    values: dict[str, Any] = {}
    for path in _files(folder):
        if path.suffix in (".yaml", ".yml") and path.name != FILE:
            part = _below(_yaml(path), "plugins", "com.utmstack")
            values |= part if isinstance(part, dict) else {}
    pipeline = Path(_moved(str(values.get("pipelineDir") or ""), workdir) or folder)
    if pipeline / FILE not in _files(pipeline) and not values:
        raise ConfigError(f"{pipeline} holds no settings of UTMStack (`plugins.com.utmstack`)", remedy=WORKDIR)
    text = {key: str(values.get(key) or "") for key in ("internalKey", "encryptionKey", "modulesConfig", "backend")}
    return Base(
        pipeline=pipeline,
        internal_key=text["internalKey"],
        encryption_key=text["encryptionKey"],
        modules_config=text["modulesConfig"],
        backend=text["backend"],
    )


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"UTMStack's folder {folder} cannot be read: {error.strerror}", remedy=WORKDIR) from None


def _moved(path: str, workdir: str) -> str:
    """A path in the engine's container, as seen on this machine."""
    inside = "/workdir"
    return workdir.rstrip("/") + path[len(inside) :] if path == inside or path.startswith(inside + "/") else path


def of_file(base: Base) -> Found | None:
    """The groups of the module's file; None if there is no file, ConfigError if it cannot be read."""
    try:
        document = _yaml(base.file)
    except FileNotFoundError:
        return None
    tenants = _maps(_below(document, "plugins", "sophos", "tenants"), f"`tenants` of {base.file}")
    read = partial(_of_file, keys=base.keys)
    return _collected(
        entry for tenant in tenants for entry in _entries(tenant.get("groups"), "name", tenant.get("id"), read)
    )


def _of_file(group: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, str]:
    config = group.get("config")
    if not isinstance(config, Mapping):
        raise ConfigError("its `config` is not a map of keys and values", remedy=SAVE_AGAIN)
    values = {str(key).casefold(): _plain_text(value) for key, value in config.items()}
    secret = values.get(CLIENT_SECRET[0], "")
    return values | {CLIENT_SECRET[0]: decrypted(secret, keys) if secret else ""}


def of_section(section: Mapping[str, Any], keys: Iterable[str]) -> Found:
    """The groups of a module's section, as the stream and the backend send it; ConfigError for another structure.

    Both promise plain text. A secret that is still encrypted is decrypted, as in the file.
    """
    if not section.get("moduleActive"):
        return Found()
    read = partial(_of_form, keys=tuple(keys))
    return _collected(_entries(section.get("moduleGroups"), "groupName", None, read))


def _of_form(group: Mapping[str, Any], keys: Iterable[str]) -> Mapping[str, str]:
    values = _values(group)
    return {key: _opened(value, keys) if key in CLIENT_SECRET else value for key, value in values.items()}


def _values(group: Mapping[str, Any]) -> Mapping[str, str]:
    """The values by their key and by their name; old versions have only the name."""
    values: dict[str, str] = {}
    for entry in _maps(group.get("moduleGroupConfigurations"), "`moduleGroupConfigurations`"):
        for key in ("confName", "confKey"):
            values[_plain_text(entry.get(key)).strip().casefold()] = _plain_text(entry.get("confValue"))
    return values


def _maps(value: Any, name: str) -> list[Mapping[str, Any]]:
    """The value as a list of maps; empty for an empty value, ConfigError for any other value."""
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(element, Mapping) for element in value):
        raise ConfigError(f"{name} is not a list of maps", remedy=SAVE_AGAIN)
    return value


def _entries(groups: Any, key: str, tenant: Any, read: Callable[[Mapping[str, Any]], Mapping[str, str]]) -> Entries:
    """Each group's name, its tenant, and a function that reads its values. For an invalid group it raises the fault."""
    for number, group in enumerate(groups if isinstance(groups, list) else [groups] if groups else [], 1):
        name = whole(_plain_text(group.get(key))).strip() if isinstance(group, Mapping) else ""
        values = partial(read, group) if name else partial(_no_group, key)
        yield name or f"number {number}", _plain_text(tenant) or DEFAULT_TENANT, values


def _no_group(key: str) -> Mapping[str, str]:
    raise ConfigError(f"it is not a map with a `{key}`", remedy=SAVE_AGAIN)


def _plain_text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def credential_of(values: Mapping[str, str]) -> tuple[str, str]:
    """Client id and secret; ConfigError if one is missing or masked."""
    pair = [
        next((values[name].strip() for name in names if values.get(name)), "") for names in (CLIENT_ID, CLIENT_SECRET)
    ]
    missing = [name for name, value in zip(("client id", "client secret"), pair, strict=True) if not value]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not filled in", remedy=SAVE_AGAIN)
    if MASK.fullmatch(pair[1]):
        raise ConfigError(
            "its secret is masked; the last good secret stays in use",
            remedy="Open Integrations → Sophos Central in UTMStack, enter the client secret again, and save.",
        )
    return pair[0], pair[1]


def credential_of_form(groups: Any, keys: Iterable[str]) -> tuple[str, str]:
    """Client id and secret of UTMStack's form for a test. The secret is plain text; later versions encrypt it."""
    return credential_of(_of_form({"moduleGroupConfigurations": groups}, keys))


def _opened(secret: str, keys: Iterable[str]) -> str:
    """The decrypted secret. A secret that no key decrypts counts as plain text."""
    try:
        return decrypted(secret, keys)
    except ConfigError:
        return secret


def _collected(entries: Entries) -> Found:
    groups: dict[str, Group] = {}
    faults: dict[str, ConnectorError] = {}
    entries = list(entries)
    tenants: dict[str, set[str]] = {}
    for group, tenant, _ in entries:
        tenants.setdefault(group, set()).add(tenant)
    for group, tenant, read in entries:
        # The name comes from tenant and group, not from the order, so that each keeps its checkpoint after a rewrite.
        name = group if tenant == DEFAULT_TENANT or len(tenants[group]) == 1 else qualified(group, tenant)
        try:
            credential = credential_of(read())
        except ConfigError as error:
            faults[name] = ConfigError(f"UTMStack's group {name!r}: {error}", remedy=error.remedy)
            continue
        if name in groups:
            faults[name] = ConfigError(
                f"UTMStack has two groups named {name!r}", remedy="Rename one of them in UTMStack."
            )
        else:
            groups[name] = Group(name, *credential, tenant)
    return Found(tuple(groups.values()), faults)


def decrypted(value: str, keys: Iterable[str]) -> str:
    """The decrypted value. A value that is not encrypted is returned as it is. ConfigError if no key decrypts it."""
    try:
        blocks = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value
    if not blocks or len(blocks) % BLOCK:
        return value
    for key in keys:
        text = _deciphered(blocks, key)
        if text is not None:
            return text
    raise ConfigError(
        "its secret cannot be decrypted: it was encrypted with another key than UTMStack's settings hold",
        remedy="Set `encryptionKey` in the pipeline folder's utmstack_plugins.yaml to the backend's ENCRYPTION_KEY, "
        "or save the group in UTMStack again.",
    )


def _deciphered(blocks: bytes, key: str) -> str | None:
    """Decrypt AES-128-CBC with PKCS#7 padding; None if padding or text show that the key is wrong."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    salt = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
    derived = hashlib.pbkdf2_hmac("sha1", key.encode(), salt, ROUNDS, BLOCK)
    decryptor = Cipher(algorithms.AES(derived), modes.CBC(salt[:BLOCK])).decryptor()
    plain = decryptor.update(blocks) + decryptor.finalize()
    padding = plain[-1]
    if not 1 <= padding <= BLOCK or plain[-padding:] != bytes([padding]) * padding:
        return None
    try:
        return plain[:-padding].decode("utf-8")
    except UnicodeDecodeError:
        return None


def polled(base: Base) -> Found:
    """The groups from the backend; SettingsDownError if it does not answer, ConfigError if it refuses the key."""
    import requests

    url = base.backend.rstrip("/") + "/api/utm-modules/module-details-decrypted"
    try:
        with requests.Session() as session:
            session.trust_env = False  # The key must not go to a proxy.
            answer = session.get(
                url,
                params={"nameShort": MODULE, "serverId": "1"},
                headers={"Utm-Internal-Key": base.internal_key},
                timeout=HTTP_SECONDS,
                allow_redirects=False,
            )
        if answer.status_code in (400, 401, 403):
            raise ConfigError(f"UTMStack's backend at {base.backend} refuses the internal key", remedy=_KEY)
        section = answer.json()
    except (requests.RequestException, ValueError) as error:
        # While the backend starts, its proxy answers with an HTML page.
        raise _down(
            f"UTMStack's backend at {base.backend} is not ready: {type(error).__name__}", base.backend
        ) from None
    if answer.status_code != 200 or not isinstance(section, dict):
        raise SettingsDownError(f"UTMStack's backend at {base.backend} answers {answer.status_code}")
    return of_section(section, base.keys)


_KEY = "Set `internalKey` in the pipeline folder's utmstack_plugins.yaml to the backend's INTERNAL_KEY."


def streamed(
    base: Base, over: Callable[[], bool], pause: float, keepalive: float = KEEPALIVE_SECONDS
) -> Iterator[Found]:
    """The groups of each section that the plugin `modules-config` sends, until `over` returns True.

    Raises SettingsDownError if the stream ends or its server is gone, ConfigError if it refuses the key. `pause` is the
    seconds between two calls of `over`; `keepalive` those between two pings.
    """
    import grpc

    from lib.utmstack.pb import modules_config_pb2 as pb
    from lib.utmstack.pb import modules_config_pb2_grpc as pb_grpc

    ended = threading.Event()
    inbox: queue.Queue[Any] = queue.Queue()

    def hello() -> Iterator[Any]:
        yield pb.BiDirectionalMessage(plugin_init=pb.PluginInit(type=pb.SOPHOS))
        ended.wait()  # The server would end the stream if the client ended its direction.

    def listen(call: Any) -> None:
        try:
            for message in call:
                if message.HasField("config"):
                    inbox.put(message.config)
            inbox.put(SettingsDownError(f"{base.modules_config} ended the stream of the configuration"))
        except grpc.RpcError as error:
            inbox.put(_refusal(error, base.modules_config))

    options = [
        ("grpc.max_receive_message_length", LARGEST_SECTION),
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", int(keepalive * 1000)),
        ("grpc.http2.ping_timeout_ms", int(keepalive * 250)),
        # Without this, gRPC sends two pings and then none until the client sends data, which it never does.
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(base.modules_config, options=options) as channel:
        call = pb_grpc.ConfigServiceStub(channel).StreamConfig(  # type: ignore[no-untyped-call] # generated
            hello(), metadata=(("internal-key", base.internal_key),)
        )
        threading.Thread(target=listen, args=(call,), name="modules-config", daemon=True).start()
        try:
            while not over():
                try:
                    received = inbox.get(timeout=pause)
                except queue.Empty:
                    continue
                if isinstance(received, ConnectorError):
                    raise received
                yield of_section(_plain(received), base.keys)
        finally:
            ended.set()
            call.cancel()


def _refusal(error: Any, address: str) -> ConnectorError:
    import grpc

    code = error.code()
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return ConfigError(f"UTMStack's modules-config at {address} refuses the internal key", remedy=_KEY)
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return EngineRefusedError(f"{address} is not UTMStack's modules-config")
    return _down(f"UTMStack's modules-config at {address} cannot be followed: {code.name}", f"//{address}")


def _down(text: str, url: str) -> SettingsDownError:
    """The error with a hint for a host name that does not resolve: it belongs to UTMStack's own network."""
    host = urlsplit(url).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return SettingsDownError(f"{text}; this machine cannot resolve the name {host}", remedy=INSIDE)
    return SettingsDownError(text)


def _plain(section: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    fields: dict[str, Any] = MessageToDict(section)
    return fields


def _yaml(path: Path) -> Any:
    """The YAML document; FileNotFoundError, or ConfigError with a text that holds nothing of the content."""
    try:
        body = path.read_bytes()
        if len(body) > LARGEST_FILE:
            raise ConfigError(f"{path} has {len(body)} bytes; the limit is {LARGEST_FILE}", remedy=SAVE_AGAIN)
        return yaml.load(body, _SettingsLoader)  # noqa: S506 - a safe loader, without aliases
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", remedy="Run as root, or as the file's owner (mode 0600)."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise ConfigError(f"{path} is not YAML{place}", remedy=SAVE_AGAIN) from None
    except (ValueError, RecursionError):
        raise ConfigError(
            f"{path} cannot be read: a number is too large, or the nesting too deep", remedy=SAVE_AGAIN
        ) from None


class _SettingsLoader(yaml.SafeLoader):
    """A safe loader without aliases: a few aliases can expand to gigabytes, and UTMStack writes none."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an alias", event.start_mark)
        return super().compose_node(parent, index)


def _below(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document
