"""The life of an integration's credential: since when it works, what announced its end, and what to do in time."""

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
"""How old a credential should become at most, as UTMStack's documentation advises."""
AHEAD = timedelta(days=14)
"""How long before that somebody is told."""
ESTABLISHED = timedelta(days=1)
"""Refused after so long, it was right once, and came to its end."""
MOST_NAMED = 5
"""So many tenants a warning names."""
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
        """Tells client ids apart, and tells none of them."""
        return sha256(self.client_id.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Life:
    """What is remembered of the credential that is in use."""

    fingerprint: str = ""
    is_next: bool = False
    since: datetime | None = None
    """Its first success."""
    end_announced: datetime | None = None
    """When Sophos announced that a credential of its own tenant is about to end."""

    def used(self, in_use: InUse, now: datetime) -> Life:
        """The life after a success; another credential begins one of its own."""
        if self.fingerprint == in_use.fingerprint:
            return replace(self, is_next=in_use.is_next)
        announced = None if self.fingerprint else self.end_announced
        return Life(in_use.fingerprint, in_use.is_next, now, announced)


@dataclass(frozen=True, slots=True)
class Warned:
    """What somebody has to do, though everything may still work."""

    code: str
    text: str
    remedy: str
    date: datetime
    """When it happened, or by when it has to be done."""
    mark: str = ""
    """Tells it from others of its code, where its date does not."""

    def as_fields(self) -> dict[str, str]:
        """What people are shown."""
        return {"code": self.code, "text": self.text, "remedy": self.remedy, "date": to_text(self.date)}


def warnings(life: Life, refused_since: datetime | None, now: datetime, tenant: str) -> list[Warned]:
    """What is to be said of a credential, at `now`; it is refused since then, or not at all.

    `tenant` names its own tenant.
    """
    found = []
    if life.end_announced is not None:
        day = _day(life.end_announced)
        text = f"Sophos announced on {day} that an API credential of tenant {tenant} is about to end"
        found.append(Warned("credential_ending", text, _ROTATE, life.end_announced))
    if life.since is None:
        return found
    if refused_since is not None and refused_since - life.since >= ESTABLISHED:
        text = (
            f"the credential worked since {_day(life.since)} and is refused since {_day(refused_since)}: it ended, "
            "or was deleted"
        )
        remedy = f"Create another credential ({_WHERE}) and put it into `client_id` and `client_secret`."
        found.append(Warned("credential_ended", text, remedy, refused_since))
    elif now >= life.since + RENEWAL - AHEAD:
        text = (
            f"the credential is in use since {_day(life.since)}; it should be renewed by {_day(life.since + RENEWAL)}"
        )
        found.append(Warned("credential_old", text, _ROTATE, life.since + RENEWAL))
    if life.is_next:
        text = f"the first credential is refused; the next one is in use since {_day(life.since)}"
        remedy = "Move `next_client_id` and `next_client_secret` to `client_id` and `client_secret`."
        found.append(Warned("next_credential_used", text, remedy, life.since))
    return found


def left_out(odd: Mapping[str, str], listed_at: datetime) -> list[Warned]:
    """What is to be said of tenants, by id, whose records in Sophos's list cannot be used: they are not read."""
    if not odd:
        return []
    shown = "; ".join(f"{tenant} ({fault})" for tenant, fault in [*odd.items()][:MOST_NAMED])
    more = f"; and {len(odd) - MOST_NAMED} more" if len(odd) > MOST_NAMED else ""
    text = f"{len(odd)} of the credential's tenants are not read, since Sophos's records of them are odd: {shown}{more}"
    remedy = "Look at them in Sophos Central; if they look right there, open a case with Sophos support."
    mark = sha256(json.dumps(sorted(odd)).encode()).hexdigest()[:16]
    return [Warned("tenant_left_out", text, remedy, listed_at, mark)]


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
