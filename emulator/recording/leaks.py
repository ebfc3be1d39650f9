"""Searches a finished recording for originals that should have been replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from emulator.recording.forms import plain
from emulator.recording.pseudonyms import ADDRESSES
from emulator.recording.texts import LONGEST_WORD, SHORTEST, is_address

_OWN = """
example com org user host dom tenant example.com example.org
recording began seconds id type partner tenants name streams kind pages cursor next has more count bytes items
"""
OWN_WORDS = frozenset(_OWN.split())
"""The words that pseudonyms and the recording's own fields consist of."""
PLAIN = 6
"""An original of at least this length that is more than a word is searched everywhere, also within words."""
_WORD = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"\d+")
_ESCAPE = re.compile(r"(?:\\u[0-9a-f]{4})+", re.IGNORECASE)
_EMAIL = re.compile(r"[\w%+-]+@[\w-]+(?:\.[\w-]+)+")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")


@dataclass(frozen=True, slots=True)
class Leak:
    """An original that is still in the recording."""

    kind: str
    original: str
    line: int


@dataclass(slots=True)
class Search:
    """The originals to search for."""

    plain: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Originals that are searched everywhere, with their kind, by their first letters."""
    words: dict[str, str] = field(default_factory=dict)
    """Originals that are searched as whole words, with their kind. Digits are a word within other letters too."""
    not_searched: int = 0
    """The number of originals that are too short, or that Sophos's vocabulary or the recording's own contain too."""
    _given: frozenset[str] = frozenset(ADDRESSES)

    @classmethod
    def of(cls, originals: Mapping[str, Set[str]], vocabulary: Set[str]) -> Search:
        """A search for originals, by kind. `vocabulary` holds words that stay, in lower case."""
        search = cls()
        for kind, texts in originals.items():
            for text in {original.strip().lower() for original in texts}:
                search.add(kind, text, vocabulary)
        return search

    def add(self, kind: str, text: str, vocabulary: Set[str]) -> None:
        """Add an original."""
        is_word = _WORD.fullmatch(text) is not None
        shortest = LONGEST_WORD if kind == "id" else SHORTEST
        if len(text) < shortest or text in vocabulary or text in OWN_WORDS:
            self.not_searched += 1
        elif is_word and (text.isalpha() or text.isdecimal() or len(text) < PLAIN):
            self.words[text] = kind
        elif len(text) >= PLAIN:
            self.plain.setdefault(text[:PLAIN], []).append((text, kind))
        else:
            self.not_searched += 1

    def leaks(self, lines: Iterable[bytes]) -> Iterator[Leak]:
        """All originals in the lines."""
        for number, line in enumerate(lines, 1):
            text = line.decode("utf-8", "surrogateescape")
            unescaped = _ESCAPE.sub(_unescaped, text)
            forms = {text, unescaped, plain(unescaped)}
            left = {original for form in forms for original in self._originals_in(form.lower())}
            yield from (Leak(kind, original, number) for kind, original in sorted(left))

    def _originals_in(self, text: str) -> Iterator[tuple[str, str]]:
        for word in self.words.keys() & {*_WORD.findall(text), *_DIGITS.findall(text)}:
            yield self.words[word], word
        prefixes = self.plain
        for at in range(len(text) - PLAIN + 1):
            candidates = prefixes.get(text[at : at + PLAIN])
            if candidates is not None:
                yield from (
                    (kind, original)
                    for original, kind in candidates
                    if text.startswith(original, at) and not _is_longer_address(original, text, at)
                )
        for email in _EMAIL.findall(text):
            if not email.endswith(("@example.com", "@example.org")):
                yield "email", email
        for address in _IPV4.findall(text):
            if address not in self._given and is_address(address):
                yield "address", address


def _is_longer_address(original: str, text: str, at: int) -> bool:
    """Whether the match is part of a longer address, such as 192.0.2.1 in 192.0.2.14."""
    end = at + len(original)
    return is_address(original) and (text[at - 1 : at].isdigit() or text[end : end + 1].isdigit())


def _unescaped(match: re.Match[str]) -> str:
    return str(json.loads(f'"{match[0]}"'))
