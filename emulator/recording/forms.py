"""Other forms of a text in which a name can be: escaped for a URL, for HTML or for JSON, or Base64."""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}|&#?\w+;|\\u[0-9A-Fa-f]{4}|[\w:]\\\\\w|\[\.\]")
_UNICODE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_BASE64 = re.compile(r"(?<![\w+/=-])(?:[A-Za-z0-9+/]{16,}|[\w-]{16,})={0,2}(?![\w+/=-])", re.ASCII)
_FOR_URLS = str.maketrans("+/", "-_")


def plain(text: str) -> str:
    """The text without escapes and without invisible letters, in the composed form of its letters."""
    if _ESCAPED.search(text):
        text = _UNICODE.sub(lambda match: chr(int(match[1], 16)), html.unescape(unquote(text)))
        text = re.sub(r"(?<=[\w:])\\\\(?=\w)", r"\\", text).replace("[.]", ".")
    if text.isascii():
        return text
    return "".join(letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")


def unpacked(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Start, end, encoding and content of each Base64 in the text that holds readable text."""
    for match in _BASE64.finditer(text):
        try:
            standard = match[0].rstrip("=").replace("-", "+").replace("_", "/")
            packed = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
        except ValueError:
            continue
        encoding = "utf-16-le" if packed[1::2].count(0) > len(packed) // 4 else "utf-8"
        try:
            content = packed.decode(encoding)
        except UnicodeDecodeError:
            continue
        if content.replace("\r", "").replace("\n", "").replace("\t", "").isprintable():
            yield match.start(), match.end(), encoding, content


def repacked(text: str, change: Callable[[str], str]) -> Iterator[tuple[int, int, str]]:
    """Start, end and replacement of each Base64 whose content is changed."""
    for start, end, encoding, content in unpacked(text):
        changed = change(content)
        if changed != content:
            # `plain` may have made half a letter of an escape: it is an escape again.
            made = base64.b64encode(changed.encode(encoding, "backslashreplace")).decode()
            made = made if text[end - 1] == "=" or not len(text[start:end]) % 4 else made.rstrip("=")
            yield start, end, made.translate(_FOR_URLS) if re.search("[_-]", text[start:end]) else made
