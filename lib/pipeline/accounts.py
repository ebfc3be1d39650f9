"""An integration's account at Sophos: the owner of its credential, and the streams that the credential reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

from lib.errors import (
    ConflictError,
    ConnectorError,
    CredentialsError,
    KeptError,
    NotFoundError,
    PermissionMissingError,
    ThrottledError,
    WrongTenantError,
)
from lib.model.checkpoint import SLOWEST, Problem, problem_after
from lib.model.credential import InUse
from lib.model.integration import IntegrationSettings
from lib.model.page import OddTenant, SophosTenant
from lib.model.region import refusal as wrong_region
from lib.model.stream import Stream
from lib.pipeline.integration import Integration, Target
from lib.state.accounts import Account, StoredAccounts, account_key
from lib.store.base import ObjectStore

log = logging.getLogger(__name__)

FRESH = {"tenant": timedelta(days=1), "partner": timedelta(hours=1), "organization": timedelta(hours=1)}
"""How long the answers of whoami and of the tenant list are used, by the type of the account."""
WRITE_TRIES = 5
"""A pause, or an announced end, must not be lost because another run wrote the record meanwhile."""
SOON = timedelta(seconds=10)
"""A try that is allowed within this time is made now; the rate limit delays its calls if necessary."""


def wait_after(error: ConnectorError, failures: int, jitter: float) -> timedelta | None:
    """The wait after an error that occurred `failures` times in a row before; None: until the next tick."""
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
    """Each integration's account, read from Sophos once an hour or a day."""

    def __init__(self, store: ObjectStore, *, now: Callable[[], datetime], jitter: Callable[[], float]) -> None:
        self._stored = StoredAccounts(store)
        self._now = now
        self.jitter = jitter
        self._tried: set[str] = set()
        self._warned: set[tuple[str, str]] = set()

    def read(self, name: str) -> Account:
        """The integration's stored account."""
        return self._stored.read(name)[0]

    def held_back(self, integration: Integration, account: Account) -> Problem | None:
        """The problem that forbids another try now; None if a try is allowed.

        A new process tries refused credentials once: an operator may have corrected them before starting it. A process
        also tries when the credentials have changed since its last try.
        """
        problem = account.problem
        if problem is None:
            return None
        return problem if problem.holds_back(self._now() + SOON, changed=self.has_changed(integration)) else None

    def has_changed(self, integration: Integration) -> bool:
        """Whether this process has not tried these credentials yet. A stored refusal may then be out of date."""
        return integration.name not in self._tried or integration.source.is_replaced()

    def targets(
        self,
        integration: Integration,
        *,
        kinds: Sequence[str] | None = None,
        deadline: float | None = None,
        is_changed: bool = False,
    ) -> list[Target]:
        """The streams that the integration reads. Sophos is asked again when the stored account is too old (FRESH).

        `kinds` replaces the configured kinds of streams. `is_changed`: what `has_changed` said. A secret in Secret
        Manager costs a request for each look at it.
        """
        name, source, wanted = integration.name, integration.source, integration.settings.tenants
        self._tried.add(name)
        if is_changed and source.is_replaced():
            source.clock(deadline=deadline)  # This asks for a token, so that a change is noticed once.
            # Other processes may have the streams that wait because of the old credential.
            account, generation = self._stored.read(name)
            self._stored.write(name, replace(account, replaced_at=self._now()), generation)
        account, generation = self._stored.read(name)
        # Without the secret: a new secret does not change the account, and the store holds nothing of a secret.
        fingerprint = sha256(f"{integration.client_id()}|{integration.api_url}".encode()).hexdigest()[:16]
        if account.fingerprint != fingerprint or not self._fresh(account):
            who = source.whoami(deadline=deadline)
            listed = list(source.tenants(who, deadline=deadline))
            odd = {tenant.id: tenant.fault for tenant in listed if isinstance(tenant, OddTenant)}
            account = replace(
                account,
                fingerprint=fingerprint,
                who=who,
                tenants=tuple(tenant for tenant in listed if tenant.id not in odd),
                checked_at=self._now(),
                left_out={id_: fault for id_, fault in odd.items() if wanted is None or id_ in wanted} or None,
            )
            self._stored.write(name, account, generation)
        return list(_targets(integration.settings, account, kinds))

    def failed(self, name: str, error: ConnectorError) -> Problem:
        """Store a problem of the whole integration, and return it with the time of the next try."""
        account, generation = self._stored.read(name)
        before = account.problem
        failures = before.failures if before and before.code == error.code else 0
        problem = problem_after(before, error, self._now(), wait_after(error, failures, self.jitter()))
        # A repeated error without a wait is not written again. It would cost a write at each tick.
        if before is None or before.code != error.code or problem.retry_at is not None:
            # The account may be outdated: after a refused credential, ask whoami again at the next try.
            checked_at = None if isinstance(error, CredentialsError | PermissionMissingError) else account.checked_at
            account = replace(account, problem=problem, checked_at=checked_at)
            self._stored.write(name, account, generation)
            self._warn(name, account)
        return problem

    def forget(self, name: str) -> None:
        """Allow a try at once although the credential was refused, because the settings have changed."""
        self._tried.discard(name)

    def retry_now(self, name: str) -> None:
        """Allow a try at once in every process. If another run writes the account now, it has just tried."""
        account, generation = self._stored.read(name)
        if account.problem is not None and account.problem.without_wait() != account.problem:
            self._stored.write(name, replace(account, problem=account.problem.without_wait()), generation)

    def worked(self, name: str, in_use: InUse | None = None, *, began: datetime) -> None:
        """Remove the integration's problem, and store since when the credential works.

        A problem that was met after the call `began` stays until its wait is over: the streams of a call, and calls
        that overlap, may differ.
        """
        account, generation = self._stored.read(name)
        now, problem = self._now(), account.problem
        is_newer = problem is not None and problem.holds_back(now) and (problem.tried_at or now) >= began
        after = replace(
            account,
            problem=problem if is_newer else None,
            life=account.life if in_use is None else account.life.used(in_use, now),
        )
        if after != account:
            self._stored.write(name, after, generation)
        self._warn(name, after)

    def end_announced(self, name: str, at: datetime) -> None:
        """Store Sophos's announcement that a credential expires, of the time `at`."""
        for _ in range(WRITE_TRIES):
            account, generation = self._stored.read(name)
            if self._stored.write(name, replace(account, life=replace(account.life, end_announced=at)), generation):
                return

    def ask_again(self, name: str) -> None:
        """Make the next call ask whoami and the tenant list again."""
        account, generation = self._stored.read(name)
        if account.checked_at is not None:
            self._stored.write(name, replace(account, checked_at=None), generation)

    def _warn(self, name: str, account: Account) -> None:
        """Log each of the credential's warnings once in a process."""
        for warning in account.warnings(self._now()):
            if (name, warning.code) not in self._warned:
                self._warned.add((name, warning.code))
                log.warning("integration %s: %s. %s", name, warning.text, warning.remedy)

    def pause(self, name: str, *, resume: bool = False) -> None:
        """Pause fetching for the integration, or resume it; ConflictError if other runs keep writing the account."""
        for _ in range(WRITE_TRIES):
            account, generation = self._stored.read(name)
            if (account.paused_at is None) == resume:
                return
            if self._stored.write(name, replace(account, paused_at=None if resume else self._now()), generation):
                return
        raise ConflictError(account_key(name))

    def _fresh(self, account: Account) -> bool:
        if account.who is None or account.checked_at is None:
            return False
        age = self._now() - account.checked_at
        # A negative age means the clock jumped back: ask again.
        return timedelta(0) <= age < FRESH.get(account.who.id_type, timedelta(0))


def known_targets(settings: IntegrationSettings, account: Account) -> list[Target]:
    """The streams that the integration reads, from the stored account, without a request."""
    try:
        return list(_targets(settings, account))
    except PermissionMissingError:
        return []


def streams_read(
    integrations: Sequence[IntegrationSettings], accounts: StoredAccounts, streams: Iterable[Stream]
) -> set[Stream]:
    """The streams that the configuration reads. While an integration's tenants are unknown, all of its `streams`."""
    targets: set[Stream] = set()
    for settings in integrations:
        with suppress(KeptError):
            targets |= {target.stream for target in known_targets(settings, accounts.read(settings.name)[0])}
    unknown = {settings.name for settings in integrations} - {stream.integration for stream in targets}
    return targets | {stream for stream in streams if stream.integration in unknown}


def require_stream(
    integrations: Sequence[IntegrationSettings], accounts: Accounts, tenant: str | None, kind: str | None
) -> None:
    """Raise NotFoundError if none of the integrations reads such a stream. What is not known yet may be one."""
    tenants: dict[str, str] = {}
    for settings in integrations:
        account = accounts.read(settings.name)
        if account.who is None and settings.tenants is None:
            return
        for target in known_targets(settings, account):
            if tenant in (None, target.stream.tenant) and kind in (None, target.stream.kind):
                return
            tenants[target.stream.tenant] = str(target.tenant)
    names = " or ".join(repr(settings.name) for settings in integrations)
    if tenant is not None and tenant not in tenants:
        raise NotFoundError(
            f"integration {names} reads no tenant {tenant!r}; it reads {listed([*tenants.values()])}",
            remedy="Give the tenant's id as `status` shows it. A new tenant is known within an hour.",
        )
    kinds = sorted({kind for settings in integrations for kind in settings.streams})
    raise NotFoundError(
        f"integration {names} reads no {kind}; it reads {', '.join(kinds)}",
        remedy="Correct the name, or add it to `streams` of the integration.",
    )


def _targets(settings: IntegrationSettings, account: Account, kinds: Sequence[str] | None = None) -> Iterator[Target]:
    who = account.who
    if who is None:
        return
    by_id = {tenant.id: tenant for tenant in account.tenants}
    wanted = (
        [tenant.id for tenant in account.tenants if tenant.api_host] if settings.tenants is None else settings.tenants
    )
    for tenant_id in wanted:
        tenant = by_id.get(tenant_id, SophosTenant(tenant_id, "", None))
        refusal = None if tenant.api_host else _unreadable(settings.name, tenant, account)
        if tenant.api_host and who.id_type == "tenant" and (wrong := wrong_region(settings.region, tenant.api_host)):
            raise wrong
        data_source = settings.source_of(tenant, one_of_many=who.id_type != "tenant")
        for kind in kinds or settings.streams:
            yield Target(
                Stream(settings.name, tenant.id, kind),
                tenant,
                data_source,
                refusal,
                who.id_type != "tenant",
                replaced_at=account.replaced_at,
            )


def listed(tenants: Sequence[str]) -> str:
    """The first five tenants and the number of the others, for a message."""
    more = f" and {len(tenants) - 5} more" if len(tenants) > 5 else ""
    return ", ".join(tenants[:5]) + more or "none"


def _unreadable(name: str, tenant: SophosTenant, account: Account) -> WrongTenantError:
    if fault := (account.left_out or {}).get(tenant.id):
        return WrongTenantError(
            f"integration {name!r}: tenant {tenant} cannot be read: {fault}",
            remedy="Check the tenant in Sophos Central. If it is correct there, open a case with Sophos support.",
        )
    if tenant in account.tenants:
        return WrongTenantError(
            f"integration {name!r}: Sophos names no API host for tenant {tenant}",
            remedy="It is not provisioned yet, or is dormant. Wait, or remove it from the integration's `tenants`.",
        )
    return WrongTenantError(
        f"integration {name!r}: this credential does not read tenant {tenant}; "
        f"it reads {listed([str(readable) for readable in account.tenants])}",
    )
