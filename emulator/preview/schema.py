"""The fields of UTMStack's event. A filter can write others, but they never reach a rule.

The fields are those of the public SDK's Event and Side (github.com/threatwinds/go-sdk, plugins/plugins.proto).
"""

from __future__ import annotations

from typing import Any

from emulator.preview.values import Json, number, parse_number

BAGS = ("log", "event")
"""The field that holds a vendor's own fields: `log`, or `event` in the newest version."""


def _all(names: str, kind: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), kind)


_TEXT, _NUMBER, _ANY = "text", "number", "any"
_GEOLOCATION = {
    **dict.fromkeys(("country", "city", "aso", "countryCode"), _TEXT),
    **dict.fromkeys(("latitude", "longitude", "asn", "accuracy"), _NUMBER),
}
_SIDE: dict[str, Any] = {
    **_all(
        """ip host user group domain mac url cidr certificateFingerprint ja3Fingerprint jarmFingerprint sshBanner
        sshFingerprint cookie jabberId email dkim dkimSignature emailAddress emailBody emailDisplayName emailSubject
        emailThreadIndex emailXMailer whoisRegistrant whoisRegistrar process processState command windowsScheduledTask
        windowsServiceDisplayName windowsServiceName file path filename sizeInBytes mimeType hash authentihash cdhash
        md5 sha1 sha224 sha256 sha384 sha3224 sha3256 sha3384 sha3512 sha512 sha512224 sha512256 hex base64
        operatingSystem chromeExtension mobileAppId cpe cve malware malwareFamily malwareType pgpPrivateKey
        pgpPublicKey""",
        _TEXT,
    ),
    **_all(
        """bytesSent bytesReceived packagesSent packagesReceived port connections usedCpuPercent usedMemPercent
        totalCpuUnits totalMem""",
        _NUMBER,
    ),
    "geolocation": _GEOLOCATION,
    "disks": _ANY,
}
_EVENT: dict[str, Any] = {
    **_all(
        """id @timestamp deviceTime dataType dataSource tenantId tenantName raw protocol connectionStatus actionResult
        action severity""",
        _TEXT,
    ),
    "statusCode": _NUMBER,
    "origin": _SIDE,
    "target": _SIDE,
    **dict.fromkeys(("log", "event", "errors", "compliance", "controls"), _ANY),
}
ENVELOPE = frozenset({"id", "@timestamp", "tenantId", "raw"})
"""Fields that every event has without a filter. They are not shown."""


def finalized(fields: dict[str, Any], lost: dict[str, str]) -> dict[str, Any]:
    """The part of a draft that UTMStack keeps. `lost` gets the reason for each path that it does not keep."""
    return _of(fields, _EVENT, "", lost)


def _of(fields: dict[str, Any], schema: dict[str, Any], prefix: str, lost: dict[str, str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in fields.items():
        wanted = schema.get(key)
        path = prefix + key
        if wanted is None:
            lost.setdefault(path, "UTMStack's event has no such field; the engine drops it")
        elif wanted is _ANY:
            kept[key] = value
        elif isinstance(wanted, dict):
            if isinstance(value, dict):
                kept[key] = _of(value, wanted, f"{path}.", lost)
            else:
                lost.setdefault(path, "is a value where UTMStack's event has fields; the engine refuses the event")
        else:
            _keep(kept, key, _scalar(value, wanted, path, lost))
    return kept


def _scalar(value: Json, wanted: str, path: str, lost: dict[str, str]) -> Json:
    if wanted is _NUMBER and isinstance(value, str) and value:
        parsed = parse_number(value)
        if parsed is not None:
            return number(parsed)
    right = isinstance(value, (int, float)) and not isinstance(value, bool) if wanted is _NUMBER else False
    if value is not None and not right and not (isinstance(value, str) and (wanted is _TEXT or not value)):
        lost.setdefault(
            path, f"holds {value!r:.40} where UTMStack's event wants {wanted}: the engine refuses the event"
        )
    return value


def _keep(kept: dict[str, Any], key: str, value: Json) -> None:
    """Keep a field of the event only if it has a value."""
    if value not in (None, "", 0):
        kept[key] = value
