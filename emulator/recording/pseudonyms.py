"""Pseudonyms. The same original gets the same pseudonym of the same form. Without the key it reveals nothing."""

from __future__ import annotations

import hmac
import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Address

ADDRESSES = [
    str(address)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
    for address in IPv4Network(network).hosts()
]
"""The addresses that are set aside for documentation (RFC 5737)."""
_IPV6 = int(IPv6Address("2001:db8::"))
_TRIES = 100
_CONTAINED = 6
"""A text of this length is avoided within pseudonyms too."""
_WORD = re.compile(r"[\w']+")

Digest = Callable[[int], bytes]
"""Returns so many bytes, derived from the key, the kind, the original and the number of the try."""


class Pseudonyms:
    """Makes pseudonyms, and keeps the originals that it has replaced.

    No pseudonym is a text of `avoided`, nor contains one of at least six letters or digits, if that is possible.
    Punctuation and case do not count.
    """

    def __init__(self, key: bytes, avoided: Iterable[str] = ()) -> None:
        self._key = key
        self._avoided: dict[str, list[str]] = {}
        """The texts to avoid, by their first letters and digits."""
        for bare in {_bare(text) for text in avoided}:
            self._avoided.setdefault(bare[:_CONTAINED], []).append(bare)
        self._given: dict[tuple[str, str], str] = {}
        self._taken: set[tuple[str, str]] = set()
        self._addresses = ADDRESSES
        self.originals: dict[str, set[str]] = {}
        """The replaced texts by kind."""
        self.times: Counter[str] = Counter()
        """The number of replacements by kind."""

    def avoid(self, addresses: Iterable[str]) -> None:
        """Do not use these IPv4 addresses, nor ones that begin with them, as pseudonyms while others are left."""
        met = {*addresses}
        others = [address for address in ADDRESSES if address not in met]
        apart = [other for other in others if not any(other[:end] in met for end in range(len(other) - 2, len(other)))]
        self._addresses = apart or others or ADDRESSES

    def uuid(self, text: str) -> str:
        """A UUID with the original's dashes and case."""
        made = str(uuid.UUID(bytes=self._given_bytes("id", text.lower().replace("-", ""), 16), version=4))
        made = made if "-" in text else made.replace("-", "")
        return self._counted("id", text, made.upper() if text.upper() == text and text.lower() != text else made)

    def hex(self, text: str) -> str:
        """Hexadecimal digits of the same number."""
        made = self._once("id", text.lower(), lambda digest: digest(len(text)).hex()[: len(text)])
        return self._counted("id", text, made.upper() if text.upper() == text else made)

    def id(self, text: str) -> str:
        """An identifier of the same form: digits for digits, letters for letters, other characters unchanged."""
        return self._counted("id", text, self._once("id", text, lambda digest: "".join(_shaped(text, digest))))

    def ipv4(self, text: str) -> str:
        """An address for documentation. If there are more originals than such addresses, some share one."""
        pool = self._addresses

        def chosen(digest: Digest) -> str:
            return pool[int.from_bytes(digest(8)) % len(pool)]

        return self._counted("address", text, self._once("address", text, chosen))

    def ipv6(self, text: str) -> str:
        """An address of 2001:db8::/32."""
        made = self._once("address", text.lower(), lambda d: str(IPv6Address(_IPV6 | int.from_bytes(d(12)))))
        return self._counted("address", text, made)

    def mac(self, text: str) -> str:
        """A MAC address for documentation (RFC 7042). There are only 256, so some originals share one."""
        original = re.sub(r"[^0-9a-f]", "", text.lower())
        digits = iter(self._once("mac", original, lambda digest: f"00005e0053{digest(1)[0]:02x}").upper())
        made = re.sub(r"[0-9A-Fa-f]", lambda _: next(digits), text)
        return self._counted("mac", text, made if text.upper() == text else made.lower())

    def sid(self, text: str) -> str:
        """A Windows security identifier."""

        def made(digest: Digest) -> str:
            kind, parts = text.split("-")[:4], text.split("-")[4:]
            data = digest(4 * len(parts))
            return "-".join((*kind, *(str(int.from_bytes(data[4 * n : 4 * n + 4])) for n in range(len(parts)))))

        return self._counted("id", text, self._once("id", text, made))

    def phone(self, text: str) -> str:
        """A telephone number of the same form."""
        return self._counted("phone", text, self._once("phone", text, lambda digest: "".join(_shaped(text, digest))))

    def user(self, text: str) -> str:
        """A user. Login, full name and last-name-first form of a person give the same pseudonym."""
        return self._counted("user", text, "user-" + self._name("user", _person(text)))

    def host(self, text: str) -> str:
        """A machine's name; one with a domain gets a domain for documentation."""
        first, dot, _ = text.partition(".")
        made = "HOST-" + self._name("host", first.casefold())
        return self._counted("host", text, f"{made.lower()}.example.com" if dot else made)

    def domain(self, text: str) -> str:
        """A DNS domain, or a Windows domain if the original has no dot."""
        name = self._name("domain", text.casefold())
        return self._counted("domain", text, f"d-{name}.example.com" if "." in text else f"DOM-{name}".upper())

    def email(self, text: str) -> str:
        """An e-mail address of the same person at example.com or example.org."""
        local, _, domain = text.rpartition("@")
        place = "com" if self._bytes("domain", domain.casefold(), 0, 1)[0] % 2 else "org"
        return self._counted("email", text, f"{self.user(local)}@example.{place}")

    def tenant(self, text: str) -> str:
        """A customer's name."""
        return self._counted("tenant", text, "Tenant " + self._name("tenant", text.casefold()))

    def token(self, text: str) -> str:
        """Hexadecimal digits of the same length, for opaque text."""
        return self._counted("id", text, self._once("id", text, lambda d: d(len(text)).hex()[: len(text)]))

    def _name(self, kind: str, original: str) -> str:
        return self._once(kind, original, lambda digest: digest(4).hex())

    def _given_bytes(self, kind: str, original: str, size: int) -> bytes:
        return bytes.fromhex(self._once(kind, original, lambda digest: digest(size).hex()))

    def _once(self, kind: str, original: str, make: Callable[[Digest], str]) -> str:
        """The original's pseudonym: the one made before, or a new one that, if possible, no other original has."""
        pseudonym = self._given.get((kind, original))
        if pseudonym is None:
            pseudonym, least = original, 4
            for number in range(_TRIES):
                made = make(partial(self._bytes, kind, original, number))
                # The original itself would be worst, then a text to avoid, then another original's pseudonym.
                fault = 3 if made == original else 2 if self._is_avoided(made) else int((kind, made) in self._taken)
                if fault < least:
                    pseudonym, least = made, fault
                if not fault:
                    break
            self._taken.add((kind, pseudonym))
            self._given[kind, original] = pseudonym
        return pseudonym

    def _is_avoided(self, made: str) -> bool:
        if not self._avoided:
            return False
        bare = _bare(made)
        return bare in self._avoided or any(
            bare.startswith(text, at)
            for at in range(len(bare) - _CONTAINED + 1)
            for text in self._avoided.get(bare[at : at + _CONTAINED], ())
        )

    def _counted(self, kind: str, original: str, made: str) -> str:
        self.originals.setdefault(kind, set()).add(original)
        self.times[kind] += 1
        return made

    def _bytes(self, kind: str, original: str, number: int, size: int) -> bytes:
        message = f"{kind}|{number}|{original}".encode("utf-8", "surrogatepass")
        digests = b"".join(
            hmac.digest(self._key, message + part.to_bytes(4), sha256) for part in range(-(-size // 32) or 1)
        )
        return digests[:size]


class Blanks(Pseudonyms):
    """Puts the same two digits for every original. What of an original is then left was not replaced."""

    def __init__(self) -> None:
        super().__init__(b"")

    def _counted(self, kind: str, original: str, made: str) -> str:
        super()._counted(kind, original, made)
        return "00"


def _bare(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def _person(text: str) -> str:
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return " ".join(sorted(_WORD.findall(plain.casefold().replace("_", " ")))) or text


def _shaped(text: str, digest: Digest) -> Iterator[str]:
    for place, (character, byte) in enumerate(zip(text, digest(len(text)), strict=True)):
        if place == 0 and character in "123456789":
            yield str(1 + byte % 9)  # A number that begins with 0 would be no JSON.
        elif character.isdecimal():
            yield str(byte % 10)
        elif character in "abcdefABCDEF":
            letter = "abcdef"[byte % 6]
            yield letter if character.islower() else letter.upper()
        elif character.isalpha():
            letter = "ghijklmnopqrstuvwxyz"[byte % 20]
            yield letter if character.islower() else letter.upper()
        else:
            yield character
