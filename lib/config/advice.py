"""The warnings of `check`: values that are valid and still probably a mistake."""

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
"""The age up to which Sophos serves events."""
_SHELL = re.compile(r"\$([A-Za-z_]\w*)|%([A-Za-z_]\w*)%|\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_TYPOGRAPHIC = "“”„‟‘’‚‛«»‹›"
_SECRETS = ("client_secret", "next_client_secret")
_FOLDED_TYPES = {name.casefold(): name for names in FAMILIES.values() for name in sorted(names)}
ALIKE = 0.9
"""A name this similar to a known type may be a typing error. A type that Sophos adds may be as similar: only warn."""


def advice(config: Config, document: Document) -> list[ConfigFault]:
    """All warnings, in the order of the lines."""
    warned = (
        *_texts(document.value),
        *_secrets(config),
        *_names(config),
        *_placeholders(config),
        *_figures(config),
        *_types(config),
        *_reachable(config),
    )
    faults = {document.fault(path, message) for path, message in warned}
    return sorted(faults, key=lambda fault: (fault.line or 0, fault.path, fault.message))


def has_plain_secret(config: Config) -> bool:
    """Whether the file itself holds a secret."""
    return bool(list(_secrets(config)))


def _texts(value: object, path: KeyPath = ()) -> Iterator[Advice]:
    """Texts that look like a reference or like quotes, and are neither."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _texts(member, (*path, key))
    elif isinstance(value, list):
        for at, element in enumerate(value):
            yield from _texts(element, (*path, at))
    elif isinstance(value, str) and value:
        match = _SHELL.fullmatch(value.strip())
        if match:
            name = next(filter(None, match.groups()))
            yield path, f"is used literally; for the environment variable write ${{env:{name}}}"
        if value[0] in _TYPOGRAPHIC or value[-1] in _TYPOGRAPHIC:
            yield path, 'typographic quotes are part of the text: write plain quotes ("), or none'


def _secrets(config: Config) -> Iterator[Advice]:
    plain = "is in plain text: write a reference, such as ${file:/path} or ${env:NAME}"
    for at, integration in enumerate(config.integrations):
        for key in _SECRETS:
            reference = getattr(integration, key)
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
    for at, integration in enumerate(config.integrations):
        name = integration.name
        folded = " ".join(normalize("NFKC", name).casefold().split())
        if folded in seen:
            yield ("integrations", at, "name"), f"{name!r} and {seen[folded]!r} differ only in case or spacing"
        elif name != name.strip():
            yield ("integrations", at, "name"), f"{name!r} begins or ends with a space"
        seen.setdefault(folded, name)


def _placeholders(config: Config) -> Iterator[Advice]:
    for at, integration in enumerate(config.integrations):
        for placeholder in _PLACEHOLDER.findall(integration.data_source or ""):
            if placeholder not in PLACEHOLDERS:
                near = get_close_matches(placeholder, PLACEHOLDERS, n=1)
                meant = f"did you mean {near[0]}?" if near else f"known are: {', '.join(PLACEHOLDERS)}"
                yield ("integrations", at, "data_source"), f"{placeholder} is sent as it stands; {meant}"


def _figures(config: Config) -> Iterator[Advice]:
    if config.every.is_ever_over(SERVED):
        yield ("every",), "some ticks are over 24h apart: Sophos serves events for 24h only, and older events are lost"
    for at, integration in enumerate(config.integrations):
        if integration.lookback > SERVED:
            yield ("integrations", at, "lookback"), "Sophos serves events for 24h only: older events are not fetched"
        if integration.calls_per_minute > PUBLISHED:
            yield (
                ("integrations", at, "calls_per_minute"),
                f"Sophos allows {PUBLISHED} calls a minute and refuses more",
            )


def _types(config: Config) -> Iterator[Advice]:
    for at, integration in enumerate(config.integrations):
        for index, name in enumerate(integration.exclude_types):
            if name.startswith(PREFIX) or name in _FOLDED_TYPES.values():
                continue
            near = get_close_matches(name.strip().casefold(), _FOLDED_TYPES, n=1, cutoff=ALIKE)
            if near:
                hint = f"{name!r} is not a known type; did you mean {_FOLDED_TYPES[near[0]]!r}?"
                yield ("integrations", at, "exclude_types", index), hint


def _reachable(config: Config) -> Iterator[Advice]:
    host = config.listen[0]
    is_local = names_loopback(f"//[{host}]" if ":" in host else f"//{host}")
    has_access = bool(config.access.keys or config.access.audiences or config.access.platform)
    if not is_local and not has_access:
        yield (
            ("listen",),
            "anyone who can reach this address can read the status; to allow calls from elsewhere, set `access`",
        )
    if is_local and has_access and config.access.local == "open":
        yield (
            ("access",),
            "a proxy on this machine that adds no forwarding header makes every caller local: set `local: key`",
        )
