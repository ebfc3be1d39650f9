"""The kinds of values in the configuration. Each fault's text names a value to write instead."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from cronsim import CronSim, CronSimError
from marshmallow import ValidationError, fields, validate

from lib.config.secrets import fault_of
from lib.config.settings import Every
from lib.model import families
from lib.model.duration import duration_text, parse_duration

_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]*[a-z0-9](/[^\r\n?#]*)?")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):(?P<port>[0-9]{1,5})")
_DATA_TYPE = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_TENANT = re.compile(r"[!-~]{1,200}")
"""An id is sent in a header."""
SOCKET_PATH_BYTES = 107
"""The longest path of a Unix socket on Linux (unix(7): `sun_path`)."""


LONGEST_INTERVAL = timedelta(days=1)


CONTROL = re.compile("[\x00-\x1f\x7f]")
"""What no path, address, id or data type holds. Of these, a path with NUL cannot even be looked at."""


def _control(text: str) -> str | None:
    """The fault of a text with a control character; None for any other text."""
    match = CONTROL.search(text)
    return f"holds a control character (U+{ord(match[0]):04X})" if match else None


class Name(fields.String):
    """A text that is not empty. It may hold any character."""

    default_error_messages = {  # noqa: RUF012 - marshmallow's form
        "invalid": "must be a text; put it in quotes",
        "null": "is empty",
        "required": "is missing",
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(validate=[validate.Length(min=1, error="is empty")], **options)


class Text(Name):
    """A text of one line that is not blank."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        if not text.strip():
            raise ValidationError("is empty")
        fault = _control(text)
        if fault:
            raise ValidationError(fault)
        return text


class DataType(Text):
    """A data type of UTMStack."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        if not _DATA_TYPE.fullmatch(text):
            raise ValidationError(
                "must be lower-case letters, digits, `-`, `_` and `.`, as in sophos-central-alerts: "
                "UTMStack 11 names an index after it"
            )
        return text


class DataTypeOrOff(fields.Field[str | None]):
    """A data type of UTMStack; None for `off`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        del attr, data, options
        # A bare `off` is false in YAML 1.1.
        return None if value is False or value == "off" else DataType().deserialize(value)


class ReferenceText(Name):
    """A text that may be a reference to a secret."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        text = super()._deserialize(value, attr, data, **options)
        # A secret itself may end with a line end; it is cut off. In a reference, it would belong to the name.
        fault = fault_of(text) or (_control(text) if text.startswith("${") else None)
        if fault:
            raise ValidationError(fault)
        return text


class Duration(fields.Field[timedelta]):
    """A duration within bounds."""

    def __init__(
        self,
        smallest: timedelta = timedelta(0),
        longest: timedelta = timedelta(days=366),
        unit: timedelta | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._smallest = smallest
        self._longest = longest
        self._unit = unit

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> timedelta:
        del attr, data
        if not isinstance(value, str):
            raise ValidationError(f"{value!r} has no unit: write a duration such as 90s, 5m or 24h")
        try:
            duration = parse_duration(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        if duration < self._smallest:
            raise ValidationError(f"must be at least {int(self._smallest.total_seconds())}s")
        if duration > self._longest:
            raise ValidationError(f"must be at most {duration_text(self._longest)}")
        if self._unit and duration % self._unit:
            raise ValidationError(f"must be a multiple of {int(self._unit.total_seconds())}s")
        return duration


class DurationOrOff(Duration):
    """A duration; None for `off`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        # A bare `off` is false in YAML 1.1.
        return None if value is False or value == "off" else super()._deserialize(value, attr, data, **options)


class EveryField(fields.Field[Every]):
    """A duration or a cron expression."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Every:
        del attr, data
        text = str(value).strip()
        if len(text.split()) > 1 and isinstance(value, str):
            try:
                CronSim(text, datetime(2026, 1, 1))  # noqa: DTZ001 - only the expression's syntax is checked
            except CronSimError as error:
                raise ValidationError(f"{text!r} is not a cron expression: {error}") from None
            return Every(cron=text)
        try:
            interval = parse_duration(text)
        except ValueError:
            raise ValidationError(f"{text!r} is neither a duration, such as 60s, nor a cron expression") from None
        if interval < timedelta(seconds=1):
            raise ValidationError("must be at least 1s")
        if interval > LONGEST_INTERVAL:
            raise ValidationError(f"must be at most {duration_text(LONGEST_INTERVAL)}: Sophos serves no older events")
        return Every(interval)


class Listen(fields.Field[tuple[str, int]]):
    """HOST:PORT."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[str, int]:
        del attr, data
        host, colon, port = str(value).rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValidationError(f"{value!r} is not an address: write HOST:PORT, such as 127.0.0.1:8080")
        return host.strip("[]") or "127.0.0.1", int(port)


class ListenOrOff(Listen):
    """HOST:PORT; None for `off`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> Any:
        # A bare `off` is false in YAML 1.1.
        return None if value is False or value == "off" else super()._deserialize(value, attr, data, **options)


class CountOrOff(fields.Field[int | None]):
    """A whole number of at least 1; None for `off`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> int | None:
        del attr, data, options
        if value is False or value == "off":
            return None
        if type(value) is not int or value < 1:
            raise ValidationError("must be 1 or more, or off")
        return value


class Location(Text):
    """A location with one of the given schemes."""

    def __init__(self, schemes: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._schemes = schemes

    def _deserialize(self, value: Any, attr: str | None, data: Any, **options: Any) -> str:
        text: str = super()._deserialize(value, attr, data, **options)
        scheme = next((prefix for prefix in self._schemes if text.startswith(prefix)), None)
        if scheme is None or len(text) == len(scheme):
            raise ValidationError(f"{text!r}: write {' or '.join(self._schemes.values())}")
        if text.startswith("gs://") and not _BUCKET.fullmatch(text):
            raise ValidationError(f"{text!r} does not name a bucket: write {self._schemes[scheme]}")
        if text.startswith("grpcs:"):
            address = _ADDRESS.fullmatch(text[len(scheme) :])
            if address is None or not 0 < int(address["port"]) < 1 << 16:
                raise ValidationError(f"{text!r}: write {self._schemes[scheme]}")
        path = text.removeprefix("unix:").removeprefix("//") if text.startswith("unix:") else None
        if path is not None and not path.startswith("/"):
            raise ValidationError("the socket's path must be absolute")
        if path is not None and len(os.fsencode(path)) > SOCKET_PATH_BYTES:
            raise ValidationError(f"the socket's path is longer than {SOCKET_PATH_BYTES} bytes, the limit on Linux")
        return text


class Tenants(fields.Field[tuple[str, ...] | None]):
    """A list of tenant ids; None for `all`."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> tuple[str, ...] | None:
        del attr, data
        if value == "all":
            return None
        if not isinstance(value, list) or not value or not all(isinstance(tenant, str) for tenant in value):
            raise ValidationError("write `all`, or a list of tenant ids")
        for tenant in value:
            if tenant == "all":
                raise ValidationError("write `tenants: all`, without brackets")
            if not _TENANT.fullmatch(tenant):
                raise ValidationError(f"{tenant!r} is not a tenant id: it holds a space or another odd character")
        return tuple(dict.fromkeys(value))


def text_list(**options: Any) -> fields.List[str]:
    """A list of texts."""
    return fields.List(Text(), error_messages={"invalid": "must be a list, such as [one, two]"}, **options)


class EventType(fields.String):
    """A type of events, or a family of types."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        name: str = super()._deserialize(value, attr, data, **kwargs)
        if name in families.FAMILIES:
            raise ValidationError(f"did you mean '{families.PREFIX}{name}'?")
        fault = families.fault_of(name)
        if fault is not None:
            raise ValidationError(fault)
        return name
