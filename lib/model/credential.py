"""The age of an integration's credential: when it was first used, when it ends, and what to do before that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256

from lib.model.clock import to_text

RENEW = "Event::Task::RenewApiToken"
"""The type of the event that announces the end of an API credential."""
RENEWAL = timedelta(days=90)
"""The greatest age that UTMStack's documentation advises for a credential."""
AHEAD = timedelta(days=14)
"""How long before RENEWAL the warning begins."""
ESTABLISHED = timedelta(days=1)
"""A credential that is refused after it worked for this long has ended. One refused earlier was never right."""
MOST_NAMED = 5
"""A warning names at most this many tenants."""
_WHERE = "Sophos Central, Global Settings, API Credentials Management"
_ROTATE = (
    f"Create another credential ({_WHERE}), name it as `next_client_id` and `next_client_secret`, and only then "
    "delete the old one."
)


@dataclass(frozen=True, slots=True)
class InUse:
    """The client id that Sophos issued the latest token for."""

    client_id: str
    is_next: bool

    @property
    def fingerprint(self) -> str:
        """A digest that differs for each client id and reveals none."""
        return sha256(self.client_id.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Life:
    """The stored record of the credential in use."""

    fingerprint: str = ""
    is_next: bool = False
    since: datetime | None = None
    """The time of its first successful use."""
    end_announced: datetime | None = None
    """The time at which Sophos announced that a credential of the credential's own tenant is about to end."""

    def used(self, in_use: InUse, now: datetime) -> Life:
        """The record after a success. A new credential begins a new record."""
        if self.fingerprint == in_use.fingerprint:
            return replace(self, is_next=in_use.is_next)
        announced = None if self.fingerprint else self.end_announced
        return Life(in_use.fingerprint, in_use.is_next, now, announced)


@dataclass(frozen=True, slots=True)
class CredentialWarning:
    """A task for a person, though everything may still work."""

    code: str
    text: str
    remedy: str
    date: datetime
    """The time of the event, or the time by which the task is due."""
    mark: str = ""
    """Identifies the warning among others with its code, if the date does not."""

    def as_fields(self) -> dict[str, str]:
        """The warning as JSON fields for people."""
        return {"code": self.code, "text": self.text, "remedy": self.remedy, "date": to_text(self.date)}


def warnings(life: Life, refused_since: datetime | None, now: datetime, tenant: str) -> list[CredentialWarning]:
    """The warnings about a credential at `now`. `refused_since` is None if Sophos accepts it.

    `tenant` names the credential's own tenant.
    """
    warned = []
    if life.end_announced is not None:
        day = _day(life.end_announced)
        text = f"Sophos announced on {day} that an API credential of tenant {tenant} is about to end"
        warned.append(CredentialWarning("credential_ending", text, _ROTATE, life.end_announced))
    if life.since is None:
        return warned
    if refused_since is not None and refused_since - life.since >= ESTABLISHED:
        text = (
            f"the credential worked from {_day(life.since)} and is refused since {_day(refused_since)}: it has "
            "expired or was deleted"
        )
        remedy = f"Create another credential ({_WHERE}) and put it into `client_id` and `client_secret`."
        warned.append(CredentialWarning("credential_ended", text, remedy, refused_since))
    elif now >= life.since + RENEWAL - AHEAD:
        text = f"the credential is in use since {_day(life.since)}; renew it by {_day(life.since + RENEWAL)}"
        warned.append(CredentialWarning("credential_old", text, _ROTATE, life.since + RENEWAL))
    if life.is_next:
        text = f"the first credential is refused; the next one is in use since {_day(life.since)}"
        remedy = "Move `next_client_id` and `next_client_secret` to `client_id` and `client_secret`."
        warned.append(CredentialWarning("next_credential_used", text, remedy, life.since))
    return warned


def left_out(odd: Mapping[str, str], listed_at: datetime) -> list[CredentialWarning]:
    """The warning about tenants whose records in Sophos's list are unusable, by id: they are not read."""
    if not odd:
        return []
    shown = "; ".join(f"{tenant} ({fault})" for tenant, fault in [*odd.items()][:MOST_NAMED])
    more = f"; and {len(odd) - MOST_NAMED} more" if len(odd) > MOST_NAMED else ""
    text = f"{len(odd)} of the credential's tenants are not read, since Sophos's records of them are odd: {shown}{more}"
    remedy = "Look at them in Sophos Central; if they look right there, open a case with Sophos support."
    mark = sha256(json.dumps(sorted(odd)).encode()).hexdigest()[:16]
    return [CredentialWarning("tenant_left_out", text, remedy, listed_at, mark)]


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
