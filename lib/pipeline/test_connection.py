"""test-connection: ask every station one question, and say what to do about each failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

from lib.errors import ConnectorError, PermanentError, StoreError
from lib.model.page import Page, Tenant, Whoami
from lib.model.region import AUTO, mismatch, region_of
from lib.store.base import ABSENT, ObjectStore

LARGEST_SKEW = timedelta(seconds=60)
SAMPLE = timedelta(minutes=15)
"""How far back the SIEM API is read to see that it can be."""
TENANTS_TRIED = 5
"""Of a partner's or organization's tenants: one call each, of the 100 a minute that there are."""


class CheckFailedError(PermanentError):
    """Everything answers, and something in the answer is wrong."""

    code = "check_failed"


class Sophos(Protocol):
    """Sophos Central, with the credential in question."""

    def reach(self) -> dict[str, datetime | None]:
        """What the hosts' clocks show, by host; SophosDownError names the one that cannot be reached."""

    def authenticate(self) -> None:
        """Get a token."""

    def whoami(self) -> Whoami:
        """Whose the credential is."""

    def tenants(self, who: Whoami) -> Iterator[Tenant]:
        """The tenants that it can read."""

    def page(self, host: str, tenant: str, kind: str, *, cursor: str | None, from_date: datetime | None) -> Page:
        """A page of the SIEM API."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be tested."""

    sophos: Sophos
    region: str = AUTO
    tenants: tuple[str, ...] | None = None
    kinds: Sequence[str] = ("events",)


class TestConnection:
    """The use case: checks in the order in which a person would make them."""

    __test__ = False

    def __init__(self, *, store: Callable[[], None], engine: Callable[[], None], now: Callable[[], datetime]) -> None:
        """`store` and `engine` raise what keeps them from being used."""
        self._store = store
        self._engine = engine
        self._now = now

    def run(self, subject: Subject) -> dict[str, Any]:
        """Every check's outcome; a failed check is an answer, no error."""
        return _Examination(subject, self._store, self._engine, self._now).answer()


def check_store(store: ObjectStore) -> None:
    """Write an object, read it and remove it; StoreError where one of them cannot be done."""
    key, body = f"probes/{uuid4()}", b"test-connection"
    generation = store.write(key, body, expected=ABSENT)
    stored = store.read(key)
    store.delete(key, expected=generation)
    if stored is None or stored.body != body:
        raise StoreError("what was written to the store could not be read again")


class _Examination:
    def __init__(
        self, subject: Subject, store: Callable[[], None], engine: Callable[[], None], now: Callable[[], datetime]
    ) -> None:
        self._subject = subject
        self._sophos = subject.sophos
        self._check_store = store
        self._check_engine = engine
        self._now = now
        self._checks: list[dict[str, Any]] = []
        self._streams: dict[str, dict[str, Any]] = {}
        self._who: Whoami | None = None
        self._tenants: list[Tenant] = []

    def answer(self) -> dict[str, Any]:
        """Make all checks. What depends on a failed one is listed as not made."""
        steps: list[tuple[str, Callable[[], str]]] = [
            ("sophos_reachable", self._reachable),
            ("clock", self._clock),
            ("credentials", self._credentials),
            ("whoami", self._whoami),
            ("region", self._region),
            ("tenants", self._readable_tenants),
            *[(f"siem_{kind}", lambda kind=kind: self._siem(kind)) for kind in self._subject.kinds],
        ]
        failed: str | None = None
        for name, step in steps:
            if failed in (None, "clock", "region") or (name.startswith("siem_") and failed.startswith("siem_")):
                failed = failed if self._made(name, step) else name
            else:
                self._note(name, ok=False, detail=f"Not tried, since {failed} failed.")
        self._made("store", self._store)
        self._made("engine", self._engine)
        return {
            "ok": all(check["ok"] for check in self._checks),
            "checks": self._checks,
            "tenant": self._tenant(),
            "streams": self._streams,
        }

    def _made(self, name: str, step: Callable[[], str]) -> bool:
        try:
            self._note(name, ok=True, detail=step())
        except ConnectorError as error:
            self._note(name, ok=False, detail=str(error), remedy=error.remedy)
            return False
        return True

    def _note(self, name: str, *, ok: bool, detail: str, remedy: str | None = None) -> None:
        check: dict[str, Any] = {"name": name, "ok": ok, "detail": detail}
        self._checks.append(check if remedy is None else check | {"remedy": remedy})

    def _reachable(self) -> str:
        self._clocks = self._sophos.reach()
        return f"{' and '.join(self._clocks)} answer."

    def _clock(self) -> str:
        shown = next((clock for clock in self._clocks.values() if clock is not None), None)
        if shown is None:
            return "Sophos's answers name no time; not compared."
        skew = self._now() - shown
        text = f"This machine's clock differs from Sophos's by {abs(skew.total_seconds()):.0f} s"
        if abs(skew) > LARGEST_SKEW:
            way = "ahead" if skew > timedelta(0) else "behind"
            raise CheckFailedError(
                f"{text}; it is {way}.", remedy="Let this machine take its time from an NTP server (timedatectl)."
            )
        return f"{text}."

    def _credentials(self) -> str:
        self._sophos.authenticate()
        return "Sophos issued a token."

    def _whoami(self) -> str:
        self._who = who = self._sophos.whoami()
        where = f", data region {region_of(who.data_region) or who.data_region}" if who.data_region else ""
        return f"The credential is that of {who.id_type} {who.id}{where}."

    def _region(self) -> str:
        host = self._who.data_region if self._who else None
        if host is None or self._subject.region == AUTO:
            return "The region is the one that Sophos names."
        right = mismatch(self._subject.region, host)
        if right is not None:
            raise CheckFailedError(
                f"Region {self._subject.region!r} is not this tenant's; its data region is {right}.",
                remedy=f"Set the region to {right}, or to auto.",
            )
        return f"Region {self._subject.region!r} is this tenant's."

    def _readable_tenants(self) -> str:
        assert self._who is not None  # noqa: S101 - whoami is made before
        found = {tenant.id: tenant for tenant in self._sophos.tenants(self._who)}
        wanted = self._subject.tenants
        missing = [each for each in wanted or () if each not in found or found[each].api_host is None]
        if missing:
            raise CheckFailedError(
                f"This credential does not read tenant {', '.join(missing)}.",
                remedy="Correct the tenant's id, or give the credential access to that tenant.",
            )
        self._tenants = [each for each in found.values() if each.api_host and (wanted is None or each.id in wanted)]
        if not self._tenants:
            raise CheckFailedError(
                "This credential reads no tenant at all.", remedy="Assign tenants to it in Sophos Central."
            )
        asleep = len(found) - sum(1 for each in found.values() if each.api_host)
        return f"It reads {len(self._tenants)} tenant(s)." + (f" {asleep} have no API host yet." if asleep else "")

    def _siem(self, kind: str) -> str:
        self._streams[kind] = {"readable": False}
        count = 0
        for tenant in self._tenants[:TENANTS_TRIED]:
            page = self._sophos.page(str(tenant.api_host), tenant.id, kind, cursor=None, from_date=self._now() - SAMPLE)
            count += len(page.items)
        minutes = int(SAMPLE.total_seconds()) // 60
        self._streams[kind] = {"readable": True, "sample": count, "sample_minutes": minutes}
        return f"{count} {kind} of the last {minutes} minutes were read."

    def _store(self) -> str:
        self._check_store()
        return "An object was written, read and removed."

    def _engine(self) -> str:
        self._check_engine()
        return "The engine takes logs."

    def _tenant(self) -> dict[str, Any]:
        if self._who is None:
            return {}
        host = self._who.data_region
        return {
            "id": self._who.id,
            "id_type": self._who.id_type,
            "region": region_of(host) if host else None,
            "host": host,
            "tenants": len(self._tenants),
        }
