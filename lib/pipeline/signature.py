"""Ed25519 signatures over exactly the given bytes, compatible with `openssl pkeyutl -rawin`."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from lib.errors import ConfigError


def new_key() -> tuple[bytes, bytes]:
    """A new private key (PKCS #8) and its public key, both PEM."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), _pem(key.public_key())


def sign(private_key: bytes, statement: bytes) -> bytes:
    """The 64 bytes of the signature; ConfigError if the key is not an Ed25519 key in PEM form."""
    return _private(private_key).sign(statement)


def public_key_of(private_key: bytes) -> bytes:
    """The public key, PEM; ConfigError if the key is not an Ed25519 key in PEM form."""
    return _pem(_private(private_key).public_key())


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the public key (DER), in hexadecimal; ConfigError if it is not an Ed25519 key in PEM form."""
    return sha256(_public(public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def is_signed(public_key: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether the signature matches the bytes and the key; ConfigError if the key is not an Ed25519 key in PEM form."""
    try:
        _public(public_key).verify(signature, statement)
    except InvalidSignature:
        return False
    return True


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _private(pem: bytes) -> Ed25519PrivateKey:
    key = None
    with suppress(ValueError, TypeError):
        key = load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            "the key is not an Ed25519 private key in PEM form without a password",
            remedy="Create one: attest --new-key.",
        )
    return key


def _public(pem: bytes) -> Ed25519PublicKey:
    key = None
    with suppress(ValueError, TypeError):
        key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(
            "the key is not an Ed25519 public key in PEM form",
            remedy="Name the file that `attest --new-key` wrote: FILE.pub.",
        )
    return key
