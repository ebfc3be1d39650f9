"""`integrations/`: whose each integration's credentials are, which tenants they read, and what troubles them.

A damaged one is made again: Sophos tells all of it but one thing. An operator's pause is lost with it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from lib.errors import ConflictError, ConnectorError, CredentialsError, DamagedError
from lib.model.checkpoint import Problem
from lib.model.credential import Life, Warned, left_out, warnings
from lib.model.page import Tenant, Whoami
from lib.model.stream import encode_segment
from lib.state.codec import Codec, text_of
from lib.state.dead_letters import set_damaged_aside
from lib.store.base import ABSENT, ObjectStore

PREFIX = "integrations/"


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of an integration."""

    fingerprint: str = ""
    """Of the client id and the API's URL: another credential asks anew."""
    who: Whoami | None = None
    tenants: tuple[Tenant, ...] = ()
    checked_at: datetime | None = None
    problem: Problem | None = None
    paused_at: datetime | None = None
    """Since when an operator wants nothing to be fetched."""
    life: Life = field(default_factory=Life)
    left_out: dict[str, str] | None = None
    """What is wrong with the records of tenants that are not read for that, by id."""

    def warnings(self, now: datetime) -> list[Warned]:
        """What is to be said of the credential and its tenants, though everything may still work."""
        refused = self.problem is not None and self.problem.code == CredentialsError.code
        # An older version took what Sophos announces to a partner's customer for an announcement to the partner.
        life = self.life if self.who is None or self.who.id_type == "tenant" else replace(self.life, end_announced=None)
        own = self.who.id if self.who else "unknown"
        return [
            *warnings(life, self.problem.since if self.problem and refused else None, now, own),
            *left_out(self.left_out or {}, self.checked_at or now),
        ]


ACCOUNT = Codec(
    Account, "an integration's record", later=("paused_at", "life", "left_out"), names={"problem": "trouble"}
)


def account_key(name: str) -> str:
    """Where an integration's account is."""
    return f"{PREFIX}{encode_segment(name)}.json"


class StoredAccounts:
    """A store's accounts."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, name: str) -> tuple[Account, int]:
        """What is known of the integration, and the generation of its object; of a damaged one nothing is known."""
        stored = self._store.read(account_key(name))
        if stored is None:
            return Account(), ABSENT
        try:
            return ACCOUNT.decode(stored.body), stored.generation
        except DamagedError as error:
            set_damaged_aside(self._store, account_key(name), stored.body, error)
            return Account(), stored.generation

    def tenant_names(self, name: str) -> dict[str, str]:
        """The names of the integration's tenants by id. Empty if the store cannot be read."""
        with suppress(ConnectorError):
            return {tenant.id: tenant.name for tenant in self.read(name)[0].tenants}
        return {}

    def write(self, name: str, account: Account, generation: int) -> bool:
        """Keep the account; False where another run has just written what it found out, which is as good."""
        body = text_of(ACCOUNT.fields(account) | {"integration": name})
        try:
            self._store.write(account_key(name), body, expected=generation)
        except ConflictError:
            return False
        return True
