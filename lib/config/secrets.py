"""References to secrets. A reference is resolved at each use, so that a rotated secret counts. It is never printed."""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from lib.config import environment
from lib.errors import ConfigError, StoreError

_REFERENCE = re.compile(r"\$\{(env|file|secret):([^}]+)\}")
_AROUND = string.whitespace + "\x00\x85\xa0\xad\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202f\u2060\u3000\ufeff"
_QUOTES = tuple("\"'`“”„‘’«»")
_SECRET_NAME = re.compile(r"projects/[^/]+/secrets/[^/]+/versions/[^/]+")


@dataclass(frozen=True, slots=True)
class Reference:
    """A text in the configuration: a value, or a reference to one."""

    text: str
    where: str
    """The key that it belongs to, in words: `client_secret of integration 'acme'`."""
    literal: bool = False
    """Whether the text is the value even if it looks like a reference."""

    def __repr__(self) -> str:
        return f"Reference({self.where})"

    @property
    def is_plain(self) -> bool:
        """Whether the configuration itself holds the value."""
        return not self.literal and _REFERENCE.fullmatch(self.text) is None

    def resolve(self) -> str:
        """The value; ConfigError if it cannot be read, StoreError if Secret Manager cannot be reached."""
        match = None if self.literal else _REFERENCE.fullmatch(self.text)
        read = {"env": self._env, "file": self._file, "secret": self._secret}
        value = trimmed(self.text if match is None else read[match[1]](match[2]))
        if not value:
            what = "the value" if match is None else match[0]
            raise ConfigError(f"{self.where}: {what} is empty", remedy="Set its value. Nothing was sent.")
        return value

    def _env(self, name: str) -> str:
        value = environment.variable(name)
        if value is None:
            raise ConfigError(
                f"{self.where}: the environment variable {name} is not set", remedy=f"Set {name}, and restart."
            )
        return value

    def _file(self, path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ConfigError(
                f"{self.where}: {path} cannot be read: {reason}", remedy="Correct the path or its permissions."
            ) from None

    def _secret(self, name: str) -> str:
        return access_secret(name, self.where)


def trimmed(text: str) -> str:
    """The text without surrounding white space and invisible characters. No secret begins or ends with them."""
    return text.strip(_AROUND)


def credential(reference: Reference) -> str:
    """A client id or secret; ConfigError if the value cannot be one. The error names the wrong character."""
    value = reference.resolve()
    fault = credential_fault(value)
    if fault is None:
        return value
    raise ConfigError(f"{reference.where}: the value {fault}", remedy="Paste the value again, alone and on one line.")


def credential_fault(value: str) -> str | None:
    """The fault of a value that cannot be a client id or secret; None if there is none. It does not show the value."""
    if value[:1] in _QUOTES or value[-1:] in _QUOTES:
        return "has quotes around it: remove them"
    for at, character in enumerate(value, 1):
        if character.isspace() or not character.isprintable():
            return (
                f"holds {unicodedata.name(character, 'a control character')} (U+{ord(character):04X}) at position {at}"
            )
    return None


def fault_of(text: str) -> str | None:
    """The fault of a text that looks like a reference; None for a valid reference and for a plain text."""
    if not text.startswith("${"):
        return None
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return "is not a reference: write ${env:NAME}, ${file:/path} or ${secret:projects/P/secrets/S/versions/V}"
    if match[1] == "secret" and not _SECRET_NAME.fullmatch(match[2]):
        return "is not the name of a secret: write ${secret:projects/P/secrets/S/versions/latest}"
    return None


def access_secret(name: str, where: str) -> str:
    """The payload of a secret's version in Google Cloud's Secret Manager; raises as `Reference.resolve` does.

    `where` names the key in errors.
    """
    import grpc  # noqa: PLC0415 - a heavy import that few sites need
    from google.api_core.exceptions import GoogleAPIError, NotFound, PermissionDenied  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
    from google.cloud.secretmanager_v1 import SecretManagerServiceClient  # noqa: PLC0415
    from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (  # noqa: PLC0415
        SecretManagerServiceGrpcTransport,
    )

    emulator = environment.secret_manager_emulator()
    try:
        if emulator:
            with grpc.insecure_channel(emulator) as channel:
                client = SecretManagerServiceClient(transport=SecretManagerServiceGrpcTransport(channel=channel))
                return _payload(client, name)
        return _payload(SecretManagerServiceClient(), name)
    except (NotFound, PermissionDenied) as error:
        raise ConfigError(
            f"{where}: the secret {name} cannot be read: {error.__class__.__name__}",
            remedy="Correct the secret's name, or give this service account the role Secret Manager Secret Accessor.",
        ) from None
    except (GoogleAPIError, GoogleAuthError) as error:
        raise StoreError(
            f"{where}: Secret Manager cannot be reached: {error.__class__.__name__}",
            remedy="Check that this machine reaches secretmanager.googleapis.com and has Google credentials.",
        ) from None


def _payload(client: object, name: str) -> str:
    answer = client.access_secret_version(name=name, timeout=10, retry=None)  # type: ignore[attr-defined]
    return str(answer.payload.data.decode("utf-8"))
