"""`integrations/`: each integration's account at Sophos, its tenants, and its problem.

A damaged object is rebuilt from Sophos. An operator's pause is lost with it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from lib.errors import ConflictError, ConnectorError, CredentialsError, DamagedError
from lib.model.checkpoint import Problem
from lib.model.credential import CredentialWarning, Life, left_out, warnings
from lib.model.page import SophosTenant, Whoami
from lib.model.stream import encode_segment
from lib.state.codec import Codec, text_of
from lib.state.dead_letters import copy_damaged_to_dead
from lib.store.base import ABSENT, ObjectStore

PREFIX = "integrations/"


@dataclass(frozen=True, slots=True)
class Account:
    """An integration's account."""

    fingerprint: str = ""
    """Hash of the client id and the API's URL. If it changes, Sophos is asked again."""
    who: Whoami | None = None
    tenants: tuple[SophosTenant, ...] = ()
    checked_at: datetime | None = None
    problem: Problem | None = None
    paused_at: datetime | None = None
    """The time at which an operator paused fetching."""
    life: Life = field(default_factory=Life)
    left_out: dict[str, str] | None = None
    """Tenants that are not read because their record has a fault: the fault by tenant id."""
    replaced_at: datetime | None = None
    """The time at which a process first used a changed credential. Refusals of streams before it are outdated."""

    def warnings(self, now: datetime) -> list[CredentialWarning]:
        """Warnings about the credential and its tenants. Everything may still work."""
        refused = self.problem is not None and self.problem.code == CredentialsError.code
        # An older version stored an announcement to a partner's customer as one to the partner: ignore it.
        life = self.life if self.who is None or self.who.id_type == "tenant" else replace(self.life, end_announced=None)
        own = self.who.id if self.who else "unknown"
        return [
            *warnings(life, self.problem.since if self.problem and refused else None, now, own),
            *left_out(self.left_out or {}, self.checked_at or now),
        ]


ACCOUNT = Codec(
    Account,
    "an integration's record",
    later=("paused_at", "life", "left_out", "replaced_at"),
    names={"problem": "trouble"},
)


def account_key(name: str) -> str:
    """The key of an integration's account."""
    return f"{PREFIX}{encode_segment(name)}.json"


class StoredAccounts:
    """A store's accounts."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self, name: str) -> tuple[Account, int]:
        """The account and its generation. A damaged account is copied to `dead/` and read as empty."""
        stored = self._store.read(account_key(name))
        if stored is None:
            return Account(), ABSENT
        try:
            return ACCOUNT.decode(stored.body), stored.generation
        except DamagedError as error:
            copy_damaged_to_dead(self._store, account_key(name), stored.body, error)
            return Account(), stored.generation

    def tenant_names(self, name: str) -> dict[str, str]:
        """The names of the integration's tenants by id. Empty if the store cannot be read."""
        with suppress(ConnectorError):
            return {tenant.id: tenant.name for tenant in self.read(name)[0].tenants}
        return {}

    def write(self, name: str, account: Account, generation: int) -> bool:
        """Write the account; False if another run has just written it. Its account is as current as this one."""
        body = text_of(ACCOUNT.fields(account) | {"integration": name})
        try:
            self._store.write(account_key(name), body, expected=generation)
        except ConflictError:
            return False
        return True
