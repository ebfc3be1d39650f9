"""What can be used as it stands and is still likely to be a mistake: the warnings of `check`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from difflib import get_close_matches
from unicodedata import normalize

from lib.config.settings import Config
from lib.config.yaml_lines import ConfigFault, Document, KeyPath
from lib.http.access import names_loopback
from lib.model.families import FAMILIES, PREFIX
from lib.model.integration import PLACEHOLDERS
from lib.model.rate_policy import PUBLISHED

Advice = tuple[KeyPath, str]
SERVED = timedelta(hours=24)
"""How far back Sophos serves events."""
_SHELL = re.compile(r"\$([A-Za-z_]\w*)|%([A-Za-z_]\w*)%|\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_TYPOGRAPHIC = "“”„‟‘’‚‛«»‹›"
_SECRETS = ("client_secret", "next_client_secret")
_KNOWN_TYPES = sorted(name for names in FAMILIES.values() for name in names)
ALIKE = 0.9
"""How like a known type a name has to be to count as a slip; Sophos adds types, and none of its own are this alike."""


def advice(config: Config, document: Document) -> list[ConfigFault]:
    """Every warning, in the order of the lines."""
    found = (
        *_texts(document.value),
        *_secrets(config),
        *_names(config),
        *_placeholders(config),
        *_figures(config),
        *_types(config),
        *_reachable(config),
    )
    told = {document.fault(path, message) for path, message in found}
    return sorted(told, key=lambda each: (each.line or 0, each.path, each.message))


def has_plain_secret(config: Config) -> bool:
    """Whether a secret stands in the file itself."""
    return bool(list(_secrets(config)))


def _texts(value: object, path: KeyPath = ()) -> Iterator[Advice]:
    """Of every text: what looks like a reference or like quotes, and is neither."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, (*path, key))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _texts(each, (*path, at))
    elif isinstance(value, str) and value:
        match = _SHELL.fullmatch(value.strip())
        if match:
            name = next(filter(None, match.groups()))
            yield path, f"is taken as it stands; for the environment's variable write ${{env:{name}}}"
        if value[0] in _TYPOGRAPHIC or value[-1] in _TYPOGRAPHIC:
            yield path, 'typographic quotes are part of the text: write plain ones ("), or none'


def _secrets(config: Config) -> Iterator[Advice]:
    plain = "stands here in plain text: write a reference, such as ${file:/path} or ${env:NAME}"
    for at, each in enumerate(config.integrations):
        for key in _SECRETS:
            reference = getattr(each, key)
            if reference is not None and reference.is_plain and not _SHELL.fullmatch(reference.text.strip()):
                yield ("integrations", at, key), plain
    for at, shared in enumerate(config.access.keys):
        if shared.is_plain:
            yield ("access", "keys", at), plain
    for name in ("token", "key"):
        reference = getattr(config.engine_access, name)
        if reference is not None and reference.is_plain:
            yield ("engine_access", name), plain


def _names(config: Config) -> Iterator[Advice]:
    seen: dict[str, str] = {}
    for at, each in enumerate(config.integrations):
        folded = " ".join(normalize("NFKC", each.name).casefold().split())
        if folded in seen:
            yield ("integrations", at, "name"), f"{each.name!r} and {seen[folded]!r} differ in their writing alone"
        elif each.name != each.name.strip():
            yield ("integrations", at, "name"), f"{each.name!r} begins or ends with a blank"
        seen.setdefault(folded, each.name)


def _placeholders(config: Config) -> Iterator[Advice]:
    for at, each in enumerate(config.integrations):
        for found in _PLACEHOLDER.findall(each.data_source or ""):
            if found not in PLACEHOLDERS:
                near = get_close_matches(found, PLACEHOLDERS, n=1)
                meant = f"did you mean {near[0]}?" if near else f"known are: {', '.join(PLACEHOLDERS)}"
                yield ("integrations", at, "data_source"), f"{found} is sent as it stands; {meant}"


def _figures(config: Config) -> Iterator[Advice]:
    if config.every.is_ever_over(SERVED):
        yield ("every",), "some ticks are over 24h apart: Sophos serves no more, and what is older is lost"
    for at, each in enumerate(config.integrations):
        if each.lookback > SERVED:
            yield ("integrations", at, "lookback"), "Sophos serves no more than 24h: what is older is not fetched"
        if each.calls_per_minute > PUBLISHED:
            yield (
                ("integrations", at, "calls_per_minute"),
                f"Sophos allows {PUBLISHED} calls a minute; more are refused",
            )


def _types(config: Config) -> Iterator[Advice]:
    for at, each in enumerate(config.integrations):
        for index, name in enumerate(each.exclude_types):
            if name.startswith(PREFIX) or name in _KNOWN_TYPES:
                continue
            near = get_close_matches(name, _KNOWN_TYPES, n=1, cutoff=ALIKE)
            if near:
                yield ("integrations", at, "exclude_types", index), f"{name!r} is not known; did you mean {near[0]!r}?"


def _reachable(config: Config) -> Iterator[Advice]:
    host = config.listen[0]
    is_local = names_loopback(f"//[{host}]" if ":" in host else f"//{host}")
    has_access = bool(config.access.keys or config.access.audiences or config.access.platform)
    if not is_local and not has_access:
        yield (
            ("listen",),
            "everybody who reaches this address reads the status; `access` lets nobody call from elsewhere",
        )
    if is_local and has_access and config.access.local == "open":
        yield (
            ("access",),
            "a proxy on this machine that adds no forwarding header lets everybody in as local: set `local: key`",
        )
