"""Whose an integration's credentials are, and which streams they can read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Protocol

from lib.errors import (
    ConflictError,
    ConnectorError,
    CredentialsError,
    PermissionMissingError,
    ThrottledError,
    WrongTenantError,
)
from lib.model.batch import LAYOUT, check_layout
from lib.model.checkpoint import SLOWEST, Problem, oldest_request, problem_after, problem_fields, problem_of
from lib.model.clock import from_text, moment_or_none, text_or_none, to_text
from lib.model.credential import InUse, Life, Warned, life_of, warnings
from lib.model.feed import Feed
from lib.model.page import DevicePage, Page, Tenant, Whoami
from lib.model.rate_policy import Used
from lib.model.region import refusal as wrong_region
from lib.model.stream import Stream, encode_segment
from lib.store.base import ABSENT, ObjectStore

log = logging.getLogger(__name__)

FRESH = {"tenant": timedelta(days=1), "partner": timedelta(hours=1), "organization": timedelta(hours=1)}
"""How long an answer of whoami and of the list of tenants holds."""
WRITE_TRIES = 5
SOON = timedelta(seconds=10)
"""What is allowed so soon is tried: calls that come too early wait for the budget."""


class Directory(Protocol):
    """What Sophos Central tells of a credential."""

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        """Whose the credential is."""

    def tenants(self, who: Whoami, *, deadline: float | None = None) -> Iterator[Tenant]:
        """The tenants that it can read."""


class Source(Directory, Protocol):
    """Sophos Central, with one credential."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many requests had which outcome: a status, an error's code, `retried`."""

    def clock(self, *, deadline: float | None = None) -> datetime | None:
        """Sophos's time now, by which it refuses what is over 24 hours ago; None where it names none."""

    def page(
        self,
        host: str,
        tenant: str,
        kind: str,
        *,
        cursor: str | None,
        from_date: datetime | None,
        exclude_types: Sequence[str] = (),
        offset_minutes: int = 0,
        deadline: float | None = None,
    ) -> Page:
        """The page that follows the cursor, or the date."""

    def devices(
        self, host: str, tenant: str, *, page_key: str | None, page_size: int, deadline: float | None = None
    ) -> DevicePage:
        """The page of devices that begins at the key, or the first one."""


class RateLimiter(Protocol):
    """The calls that a credential may make."""

    def expect(self, streams: int, every: float) -> int:
        """Keep calls free for so many streams, each asked so often (seconds); how many of them may be asked now."""

    @property
    def has_room(self) -> bool:
        """Whether a page beyond a stream's first could be asked for right now."""

    def used(self) -> Used:
        """What was used up to now."""

    patience: float
    """Seconds that a page beyond a stream's first waits for its turn within a call."""


@dataclass(frozen=True, slots=True)
class Integration:
    """An integration's settings and its way to Sophos."""

    feed: Feed
    source: Source
    client_id: Callable[[], str]
    api_url: str
    rate_limiter: RateLimiter
    in_use: Callable[[], InUse | None] = lambda: None
    """Which of its credentials it uses; None as long as that is not known."""

    def start(self, lookback: timedelta, now: Callable[[], datetime], *, deadline: float) -> datetime:
        """From when on Sophos is asked for what happened within `lookback`: by its own clock, where it names one."""
        return oldest_request(self.source.clock(deadline=deadline) or now(), lookback)


@dataclass(frozen=True, slots=True)
class Target:
    """A stream, and where it is read."""

    stream: Stream
    tenant: Tenant
    data_source: str
    refusal: ConnectorError | None = None
    """Why it cannot be read, where that is known without asking."""
    one_of_many: bool = False
    """Whether the credential reads other tenants too."""

    @property
    def host(self) -> str:
        """The URL of the tenant's own API host."""
        return str(self.tenant.api_host)


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

    def warnings(self, now: datetime) -> list[Warned]:
        """What is to be said of the credential, though everything may still work."""
        refused = self.problem is not None and self.problem.code == CredentialsError.code
        # An older version took what Sophos announces to a partner's customer for an announcement to the partner.
        life = self.life if self.who is None or self.who.id_type == "tenant" else replace(self.life, end_announced=None)
        own = self.who.id if self.who else "unknown"
        return warnings(life, self.problem.since if self.problem and refused else None, now, own)


def account_key(name: str) -> str:
    """Where an integration's account is."""
    return f"integrations/{encode_segment(name)}.json"


def wait_after(error: ConnectorError, failures: int, jitter: float) -> timedelta | None:
    """How long to hold back after an error that was met so many times in a row; None: until the next tick."""
    if isinstance(error, ThrottledError):
        longest = SLOWEST.total_seconds()
        seconds = (
            error.retry_after if error.retry_after is not None else 30 * 2 ** min(failures, 9) * (0.5 + jitter / 2)
        )
        return timedelta(seconds=min(seconds, longest))
    if isinstance(error, CredentialsError | PermissionMissingError):
        return min(timedelta(minutes=2 ** min(failures, 5)) * (0.5 + jitter / 2), SLOWEST)
    return None


class Accounts:
    """`integrations/`: who each integration is, asked of Sophos rarely."""

    def __init__(self, store: ObjectStore, *, now: Callable[[], datetime], jitter: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self.jitter = jitter
        self._tried: set[str] = set()
        self._warned: set[tuple[str, str]] = set()

    def read(self, name: str) -> Account:
        """What is known of the integration."""
        return self._load(name)[0]

    def held_back(self, feed: Feed, account: Account) -> Problem | None:
        """The trouble that forbids another try just now.

        A process that has not tried refused credentials yet may: somebody started it, perhaps having set them right.
        """
        problem = account.problem
        if problem is None or not problem.holds_back(self._now() + SOON):
            return None
        return problem if feed.name in self._tried or problem.code == ThrottledError.code else None

    def targets(
        self, feed: Feed, source: Directory, client_id: str, api_url: str, *, deadline: float | None = None
    ) -> list[Target]:
        """The streams that the integration reads; what Sophos must be asked for it is asked once a day (or hour)."""
        self._tried.add(feed.name)
        account, generation = self._load(feed.name)
        fingerprint = sha256(f"{client_id}|{api_url}".encode()).hexdigest()[:16]
        if account.fingerprint != fingerprint or not self._fresh(account):
            who = source.whoami(deadline=deadline)
            account = replace(
                account,
                fingerprint=fingerprint,
                who=who,
                tenants=tuple(source.tenants(who, deadline=deadline)),
                checked_at=self._now(),
            )
            self._save(feed.name, account, generation)
        return list(_targets(feed, account))

    def failed(self, feed: Feed, error: ConnectorError) -> Problem:
        """Remember that the integration as a whole failed; the trouble, with its next try."""
        account, generation = self._load(feed.name)
        before = account.problem
        failures = before.failures if before and before.code == error.code else 0
        problem = problem_after(before, error, self._now(), wait_after(error, failures, self.jitter()))
        if before is None or before.code != error.code or problem.retry_at is not None:
            # Where another address is right, or the credential was replaced, only asking again tells.
            checked_at = None if isinstance(error, CredentialsError | PermissionMissingError) else account.checked_at
            account = replace(account, problem=problem, checked_at=checked_at)
            self._save(feed.name, account, generation)
            self._warn(feed.name, account)
        return problem

    def forget(self, name: str) -> None:
        """Let the integration be tried at once, though it was refused: its settings have changed."""
        self._tried.discard(name)

    def lift(self, name: str) -> None:
        """Let the integration be tried at once, by every process; one that was tried just now needs it no more."""
        account, generation = self._load(name)
        if account.problem is not None and account.problem.lifted() != account.problem:
            self._save(name, replace(account, problem=account.problem.lifted()), generation)

    def worked(self, name: str, in_use: InUse | None = None) -> None:
        """Forget the integration's trouble, once it is over, and remember since when the credential works."""
        account, generation = self._load(name)
        now, problem = self._now(), account.problem
        after = replace(
            account,
            problem=problem if problem is not None and problem.holds_back(now) else None,
            life=account.life if in_use is None else account.life.used(in_use, now),
        )
        if after != account:
            self._save(name, after, generation)
        self._warn(name, after)

    def end_announced(self, name: str, at: datetime) -> None:
        """Remember that Sophos announced the end of a credential."""
        for _ in range(WRITE_TRIES):
            account, generation = self._load(name)
            if self._save(name, replace(account, life=replace(account.life, end_announced=at)), generation):
                return

    def ask_again(self, name: str) -> None:
        """Have Sophos asked anew whose the credential is, and where its tenants are."""
        account, generation = self._load(name)
        if account.checked_at is not None:
            self._save(name, replace(account, checked_at=None), generation)

    def _warn(self, name: str, account: Account) -> None:
        """Log what is to be said of the credential, once in a process."""
        for each in account.warnings(self._now()):
            if (name, each.code) not in self._warned:
                self._warned.add((name, each.code))
                log.warning("integration %s: %s. %s", name, each.text, each.remedy)

    def pause(self, name: str, *, resume: bool = False) -> None:
        """Have nothing fetched for the integration until it is resumed; ConflictError where others keep writing."""
        for _ in range(WRITE_TRIES):
            account, generation = self._load(name)
            if (account.paused_at is None) == resume:
                return
            if self._save(name, replace(account, paused_at=None if resume else self._now()), generation):
                return
        raise ConflictError(account_key(name))

    def _fresh(self, account: Account) -> bool:
        if account.who is None or account.checked_at is None:
            return False
        age = self._now() - account.checked_at
        # A negative age is a clock that jumped back: ask again.
        return timedelta(0) <= age < FRESH.get(account.who.id_type, timedelta(0))

    def _load(self, name: str) -> tuple[Account, int]:
        stored = self._store.read(account_key(name))
        if stored is None:
            return Account(), ABSENT
        try:
            fields = json.loads(stored.body)
            check_layout(fields, "an integration's record")
            return Account(
                fingerprint=fields["fingerprint"],
                who=Whoami(**fields["who"]) if fields["who"] else None,
                tenants=tuple(Tenant(**tenant) for tenant in fields["tenants"]),
                checked_at=from_text(fields["checked_at"]) if fields["checked_at"] else None,
                problem=problem_of(fields["trouble"]),
                paused_at=moment_or_none(fields.get("paused_at")),
                life=life_of(fields.get("life")),
            ), stored.generation
        except (ValueError, KeyError, TypeError):
            # Nothing is lost with it: Sophos tells all of it again.
            return Account(), stored.generation

    def _save(self, name: str, account: Account, generation: int) -> bool:
        fields = {
            "layout": LAYOUT,
            "integration": name,
            "fingerprint": account.fingerprint,
            "who": asdict(account.who) if account.who else None,
            "tenants": [asdict(tenant) for tenant in account.tenants],
            "checked_at": to_text(account.checked_at) if account.checked_at else None,
            "trouble": problem_fields(account.problem),
            "paused_at": text_or_none(account.paused_at),
            "life": account.life.fields(),
        }
        try:
            self._store.write(
                account_key(name), json.dumps(fields, ensure_ascii=False).encode() + b"\n", expected=generation
            )
        except ConflictError:
            return False  # Another run has just written what it found out: as good as ours.
        return True


def known_targets(feed: Feed, account: Account) -> list[Target]:
    """The streams that the integration reads, as far as that is known; Sophos is not asked."""
    try:
        return list(_targets(feed, account))
    except PermissionMissingError:
        return []


def _targets(feed: Feed, account: Account) -> Iterator[Target]:
    who = account.who
    if who is None:
        return
    known = {tenant.id: tenant for tenant in account.tenants}
    wanted = [tenant.id for tenant in account.tenants if tenant.api_host] if feed.tenants is None else feed.tenants
    for tenant_id in wanted:
        tenant = known.get(tenant_id, Tenant(tenant_id, "", None))
        refusal = None if tenant.api_host else _unreadable(feed, tenant, known)
        if tenant.api_host and who.id_type == "tenant" and (wrong := wrong_region(feed.region, tenant.api_host)):
            raise wrong
        source = feed.source_of(tenant, one_of_many=who.id_type != "tenant")
        for kind in feed.kinds:
            yield Target(Stream(feed.name, tenant.id, kind), tenant, source, refusal, who.id_type != "tenant")


def listed(tenants: Sequence[str]) -> str:
    """Some of the tenants, for people."""
    more = f" and {len(tenants) - 5} more" if len(tenants) > 5 else ""
    return ", ".join(tenants[:5]) + more or "none"


def _unreadable(feed: Feed, tenant: Tenant, known: Mapping[str, Tenant]) -> WrongTenantError:
    if tenant.id in known:
        return WrongTenantError(
            f"integration {feed.name!r}: Sophos names no API host for tenant {tenant}",
            remedy="It is not provisioned yet, or dormant: wait, or take it out of `tenants` of the integration.",
        )
    return WrongTenantError(
        f"integration {feed.name!r}: this credential does not read tenant {tenant}; "
        f"it reads {listed([str(each) for each in known.values()])}",
    )
