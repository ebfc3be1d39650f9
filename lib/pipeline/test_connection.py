"""test-connection: ask every station one question, and say what to do about each failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar
from uuid import uuid4

from lib.errors import ConflictError, ConnectorError, PermanentError, StoreError, WrongTenantError
from lib.model.clock import believed
from lib.model.event_fields import EventFields
from lib.model.inventory import FIRST_PAGE_SIZE
from lib.model.page import DevicePage, Page, Tenant, Whoami
from lib.model.rate_policy import Used
from lib.model.region import AUTO, region_of
from lib.model.region import refusal as wrong_region
from lib.pipeline.accounts import listed
from lib.store.base import ABSENT, ObjectStore

T = TypeVar("T")

LARGEST_SKEW = timedelta(seconds=60)
SAMPLE = timedelta(minutes=15)
"""How far back the SIEM API is read to see that it can be."""
LONGER_SAMPLE = timedelta(hours=23)
"""How far back where nothing happened lately; Sophos refuses a date over 24 hours ago, and clocks differ."""
TENANTS_TRIED = 5
"""Of a partner's or organization's tenants: one call each, of the 100 a minute that there are."""

Check = dict[str, Any]
"""name, ok, outcome (`ok`, `warning`, `failed`, `skipped`), milliseconds, detail; code and remedy of a failed one, and
of a warning: what was asked works, but not for every tenant."""


class CheckFailedError(PermanentError):
    """Everything answers, and something in the answer is wrong."""

    code = "check_failed"
    title = "Something in an answer is wrong"
    remedy = "Do what the check says."


class _NotNeededError(Exception):
    """There is nothing to check, and nothing wrong with that."""


@dataclass(frozen=True, slots=True)
class _Warning:
    """What was asked works, but not for every tenant."""

    detail: str
    why: ConnectorError


class Way(Protocol):
    """The way to a host; each method goes it up to one station, and says in a sentence how that was."""

    @property
    def host(self) -> str:
        """The host."""

    def resolve(self) -> str:
        """Look up the name."""

    def connect(self) -> str:
        """Open a connection."""

    def secure(self) -> str | None:
        """Do a TLS handshake; None where the way needs none."""


class Sophos(Protocol):
    """Sophos Central, with the credential in question. `deadline` is a monotonic time."""

    def way(self, url: str) -> Way:
        """The way to a host; HostRefusedError where credentials must not go there."""

    def ways(self) -> Sequence[Way]:
        """The ways to the hosts that every credential needs."""

    def reach(self, *, deadline: float | None = None) -> Mapping[str, datetime | None]:
        """What the hosts' clocks show, by host; SophosDownError names the one that does not answer."""

    def authenticate(self, *, deadline: float | None = None) -> bool:
        """Get a token, and whether it is the next credential's, since the first is refused."""

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        """Whose the credential is."""

    def tenants(self, who: Whoami, *, deadline: float | None = None) -> Iterator[Tenant]:
        """The tenants that it can read."""

    def page(
        self,
        host: str,
        tenant: str,
        kind: str,
        *,
        cursor: str | None,
        from_date: datetime | None,
        deadline: float | None = None,
    ) -> Page:
        """A page of the SIEM API."""

    def devices(
        self, host: str, tenant: str, *, page_key: str | None, page_size: int, deadline: float | None = None
    ) -> DevicePage:
        """A page of the endpoint API."""


class RateLimiter(Protocol):
    """The calls that the credential may make."""

    def used(self) -> Used:
        """What was used up to now."""

    def headroom(self) -> int:
        """How many calls may go at once."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be tested."""

    sophos: Sophos
    rate_limiter: RateLimiter
    region: str = AUTO
    tenants: tuple[str, ...] | None = None
    kinds: Sequence[str] = ("events",)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks need beside the subject; `store` and `engine` raise what keeps them from being used."""

    store: Callable[[], None]
    engine: Callable[[], str]
    """Opens a stream at the engine; says which way."""
    event_fields: Callable[[bytes], EventFields]
    now: Callable[[], datetime]
    monotonic: Callable[[], float]


class TestConnection:
    """The use case: checks in the order in which a person would make them."""

    __test__ = False

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    def run(
        self, subject: Subject, *, deadline: float, tell: Callable[[Check], None] = lambda _: None
    ) -> dict[str, Any]:
        """Every check's outcome; a failed check is an answer, no error.

        `tell` hears of each check once it is made. At the deadline (a monotonic time) the answer is what was found so
        far, and what was not reached is listed as such.
        """
        examination = _Examination(subject, self._surroundings, deadline, tell)
        # A thread, since a name server, a disk or a bucket may keep whoever asks it for longer than there is time.
        worker = threading.Thread(target=examination.make, name="test-connection", daemon=True)
        worker.start()
        worker.join(max(0.0, deadline - self._surroundings.monotonic()))
        return examination.answer()


def check_store(store: ObjectStore) -> None:
    """Create an object, replace it, read it and remove it; StoreError where that, or compare-and-set, does not work."""
    key = f"probes/{uuid4()}"
    first = store.write(key, b"first", expected=ABSENT)
    latest = first
    try:
        _has_to_conflict(store, key, ABSENT, "an object that exists was created again")
        latest = store.write(key, b"second", expected=first)
        _has_to_conflict(store, key, first, "an object that had changed was replaced")
        stored = store.read(key)
        if stored is None or (stored.body, stored.generation) != (b"second", latest):
            raise StoreError("what was written to the store could not be read again")
    finally:
        with suppress(ConflictError):
            store.delete(key, expected=latest)


def _has_to_conflict(store: ObjectStore, key: str, generation: int, what: str) -> None:
    try:
        store.write(key, b"stale", expected=generation)
    except ConflictError:
        return
    raise StoreError(
        f"the store does not compare before it writes: {what}",
        remedy="Use a store that keeps to generations: a local disk, or Google Cloud Storage itself.",
    )


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    make: Callable[[], str | _Warning]
    needs: str = ""
    """The step that has to have succeeded before."""


class _Examination:
    def __init__(
        self, subject: Subject, surroundings: Surroundings, deadline: float, tell: Callable[[Check], None]
    ) -> None:
        self._subject = subject
        self._sophos = subject.sophos
        self._around = surroundings
        self._deadline = deadline
        self._tell = tell
        self._steps = self._planned()
        self._lock = threading.Lock()
        self._checks: list[Check] = []
        self._over = False
        self._fault: BaseException | None = None
        self._blame: dict[str, str] = {}
        """Of each step that did not succeed, the one that is to blame."""
        self._clocks: Mapping[str, datetime | None] = {}
        self._who: Whoami | None = None
        self._tenants: list[Tenant] = []
        self._reached: list[Tenant] = []
        self._pages: dict[str, list[Page]] = {}
        self._streams: dict[str, dict[str, Any]] = {}

    def _planned(self) -> list[_Step]:
        readers = {
            "events": _Step("siem_events", lambda: self._siem("events"), needs="tenant_hosts"),
            "alerts": _Step("siem_alerts", lambda: self._siem("alerts"), needs="tenant_hosts"),
            "endpoints": _Step("endpoints", self._endpoints, needs="tenant_hosts"),
        }
        return [
            _Step("dns", lambda: self._along(self._sophos.ways(), lambda way: way.resolve())),
            _Step("tcp", lambda: self._along(self._sophos.ways(), lambda way: way.connect()), needs="dns"),
            _Step("tls", self._secure, needs="tcp"),
            _Step("sophos_reachable", self._reachable, needs="tls"),
            _Step("clock", self._clock, needs="sophos_reachable"),
            _Step("credentials", self._credentials, needs="sophos_reachable"),
            _Step("whoami", self._whoami, needs="credentials"),
            _Step("region", self._region, needs="whoami"),
            _Step("tenants", self._readable_tenants, needs="whoami"),
            _Step("tenant_hosts", self._tenant_hosts, needs="tenants"),
            *[readers[kind] for kind in self._subject.kinds],
            _Step("page", self._page, needs="tenant_hosts"),
            _Step("newest_event", self._newest_event, needs="tenant_hosts"),
            _Step("rate", self._rate, needs="credentials"),
            _Step("store", self._store),
            _Step("engine", self._engine),
        ]

    def make(self) -> None:
        """Make all checks. What depends on a failed one is listed as not made."""
        try:
            for step in self._steps:
                if self._over:
                    return
                self._note(self._made(step))
        except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
            self._fault = error

    def answer(self) -> dict[str, Any]:
        """What was found up to now; nothing is added to it any more."""
        with self._lock:
            self._over = True
        if self._fault is not None:
            raise self._fault
        made = len(self._checks)
        for at, step in enumerate(self._steps[made:]):
            detail = "Not reached within the call's time." if at else "Not done within the call's time."
            check = _check(step.name, "skipped" if at else "failed", detail, ok=False)
            remedy = (
                {} if at else {"code": "too_slow", "remedy": "Call again; if it lasts, this station is the slow one."}
            )
            self._checks.append(check | remedy)
        return {
            "ok": all(check["ok"] for check in self._checks),
            "checks": self._checks,
            "tenant": self._tenant(),
            "streams": dict(self._streams),
        }

    def _made(self, step: _Step) -> Check:
        blamed = self._blame.get(step.needs)
        if blamed is not None:
            self._blame[step.name] = blamed
            return _check(step.name, "skipped", f"Not tried, since {blamed} failed.", ok=False)
        began = self._around.monotonic()
        try:
            made = step.make()
            if isinstance(made, _Warning):
                check = _check(step.name, "warning", made.detail, ok=True) | _what_to_do(made.why)
            else:
                check = _check(step.name, "ok", made, ok=True)
        except _NotNeededError as reason:
            check = _check(step.name, "skipped", str(reason), ok=True)
        except ConnectorError as error:
            self._blame[step.name] = step.name
            check = _check(step.name, "failed", str(error), ok=False) | _what_to_do(error)
        return check | {"milliseconds": round((self._around.monotonic() - began) * 1000)}

    def _note(self, check: Check) -> None:
        with self._lock:
            if self._over:
                return
            self._checks.append(check)
        self._tell(check)

    # The way there

    @staticmethod
    def _along(ways: Sequence[Way], station: Callable[[Way], str]) -> str:
        return f"{'; '.join(dict.fromkeys(station(way) for way in ways))}."

    def _secure(self) -> str:
        told = [text for way in self._sophos.ways() if (text := way.secure()) is not None]
        if not told:
            raise _NotNeededError("Sophos is on this machine, without TLS.")
        return f"{'; '.join(told)}."

    def _reachable(self) -> str:
        self._clocks = self._sophos.reach(deadline=self._deadline)
        return f"{' and '.join(self._clocks)} answer."

    def _shown(self) -> datetime | None:
        return next((clock for clock in self._clocks.values() if clock is not None), None)

    def _clock(self) -> str:
        shown = self._shown()
        if shown is None:
            return "Sophos's answers name no time; not compared."
        skew = self._around.now() - shown
        text = f"This machine's clock differs from Sophos's by {abs(skew.total_seconds()):.0f} s"
        if abs(skew) > LARGEST_SKEW:
            way = "ahead" if skew > timedelta(0) else "behind"
            raise CheckFailedError(
                f"{text}; it is {way}.", remedy="Let this machine take its time from an NTP server (timedatectl)."
            )
        return f"{text}."

    # Whose the credential is

    def _credentials(self) -> str:
        if self._sophos.authenticate(deadline=self._deadline):
            return "Sophos refuses the first credential, and issued a token for the next one."
        return "Sophos issued a token."

    def _whoami(self) -> str:
        self._who = who = self._sophos.whoami(deadline=self._deadline)
        where = f", data region {region_of(who.data_region) or who.data_region}" if who.data_region else ""
        return f"The credential is that of {who.id_type} {who.id}{where}."

    def _region(self) -> str:
        host = self._who.data_region if self._who else None
        if host is None or self._subject.region == AUTO:
            return "The region is the one that Sophos names."
        wrong = wrong_region(self._subject.region, host)
        if wrong is not None:
            raise wrong
        return f"Region {self._subject.region!r} is this tenant's."

    def _readable_tenants(self) -> str | _Warning:
        assert self._who is not None  # noqa: S101 - whoami is made before
        found = {tenant.id: tenant for tenant in self._sophos.tenants(self._who, deadline=self._deadline)}
        wanted = self._subject.tenants
        self._tenants = [each for each in found.values() if each.api_host and (wanted is None or each.id in wanted)]
        readable = f"It reads {len(self._tenants)} tenant(s)."
        missing = [each for each in wanted or () if each not in found or found[each].api_host is None]
        if missing:
            error = WrongTenantError(
                f"This credential does not read tenant {', '.join(_known(each, found) for each in missing)}; "
                f"it reads {listed([str(each) for each in found.values()])}."
            )
            if not self._tenants:
                raise error
            return _Warning(f"{readable} {error}", error)
        if not self._tenants:
            raise CheckFailedError(
                "This credential reads no tenant at all.", remedy="Assign tenants to it in Sophos Central."
            )
        asleep = len(found) - sum(1 for each in found.values() if each.api_host)
        return readable + (f" {asleep} have no API host yet." if asleep else "")

    def _tenant_hosts(self) -> str | _Warning:
        known = {way.host for way in self._sophos.ways()}
        first = {each.api_host: each for each in reversed(self._tenants)}

        def station(tenant: Tenant) -> str:
            way = self._sophos.way(str(tenant.api_host))
            if way.host in known:
                return ""
            way.resolve()
            return way.secure() or way.connect()

        tried = _Tried([each for each in self._tenants if each is first[each.api_host]])
        told = "; ".join(dict.fromkeys(filter(None, tried.read(station))))
        reached = {each.api_host for each in tried.readable}
        self._reached = [each for each in self._tenants if each.api_host in reached]
        if not told and not tried.refused:
            raise _NotNeededError("Tenants are read at a host that was reached before.")
        return tried.told(f"{told or 'The other tenants are read at a host that was reached before'}.")

    # What it can read

    def _siem(self, kind: str) -> str | _Warning:
        self._streams[kind] = {"readable": False}
        tried = _Tried(self._reached[:TENANTS_TRIED])
        span, pages = SAMPLE, tried.read(lambda tenant: self._sample(tenant, kind, SAMPLE))
        if not any(page.items for page in pages):
            span, pages = LONGER_SAMPLE, tried.read(lambda tenant: self._sample(tenant, kind, LONGER_SAMPLE))
        self._pages[kind] = pages
        count, minutes = sum(len(page.items) for page in pages), int(span.total_seconds()) // 60
        self._streams[kind] = {"readable": True, "sample": count, "sample_minutes": minutes}
        return tried.told(f"{count} {kind} of the last {_span(span)} were read.")

    def _endpoints(self) -> str | _Warning:
        self._streams["endpoints"] = {"readable": False}
        tried = _Tried(self._reached[:TENANTS_TRIED])
        pages = tried.read(
            lambda tenant: self._sophos.devices(
                str(tenant.api_host), tenant.id, page_key=None, page_size=FIRST_PAGE_SIZE, deadline=self._deadline
            )
        )
        count = sum(len(page.items) for page in pages)
        self._streams["endpoints"] = {"readable": True, "sample": count}
        return tried.told(f"{count} devices of the inventory's first page were read.")

    def _sample(self, tenant: Tenant, kind: str, span: timedelta) -> Page:
        here, shown = self._around.now(), self._shown()
        # By its own clock Sophos refuses a date over 24 hours ago.
        now = believed([shown] if shown else [], here, None) or here
        return self._sophos.page(
            str(tenant.api_host),
            tenant.id,
            kind,
            cursor=None,
            from_date=now - span,
            deadline=self._deadline,
        )

    def _event_fields(self, *kinds: str) -> list[EventFields]:
        pages = [page for kind, read in self._pages.items() if not kinds or kind in kinds for page in read]
        return [self._around.event_fields(item) for page in pages for item in page.items]

    def _page(self) -> str:
        if not self._pages:
            raise _NotNeededError("Nothing was read.")
        found = self._event_fields()
        if not found:
            return "The page is one of the SIEM API, and holds nothing."
        whole = sum(1 for each in found if each.id and each.created_at)
        types = len({each.type for each in found})
        return f"{len(found)} items were cut out of their pages, {whole} of them with id and time, of {types} type(s)."

    def _newest_event(self) -> str:
        if "events" not in self._pages:
            raise _NotNeededError("No events were read.")
        times = [each.created_at for each in self._event_fields("events") if each.created_at]
        if not times:
            when = f"of the last {_span(LONGER_SAMPLE)}"
            return f"Sophos holds no event {when}: none happened, or no device reports to Sophos."
        age = max(timedelta(0), self._around.now() - max(times))
        more = any(page.has_more for page in self._pages["events"])
        self._streams["events"] |= {"newest": max(times).isoformat(), "newest_age_seconds": round(age.total_seconds())}
        return f"The newest event is {'at most ' if more else ''}{_span(age)} old."

    def _rate(self) -> str:
        used, headroom = self._subject.rate_limiter.used(), self._subject.rate_limiter.headroom()
        text = (
            f"{used.last_minute} of {used.per_minute} calls were made within a minute; {headroom} more may go at once"
        )
        if headroom == 0:
            raise CheckFailedError(
                f"{text}.", remedy="Give this connector a credential of its own, or wait for a catch-up to end."
            )
        return f"{text}."

    # Where it goes

    def _store(self) -> str:
        self._around.store()
        return "An object was created, replaced, read and removed; stale writes were refused."

    def _engine(self) -> str:
        return f"{self._around.engine()} took a stream, and ended it in order."

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


def _check(name: str, outcome: str, detail: str, *, ok: bool) -> Check:
    return {"name": name, "ok": ok, "outcome": outcome, "milliseconds": 0, "detail": detail}


def _what_to_do(error: ConnectorError) -> Check:
    return {"code": error.code, "title": error.title, "remedy": error.remedy}


def _known(id_: str, tenants: Mapping[str, Tenant]) -> str:
    return str(tenants.get(id_, id_))


@dataclass(slots=True)
class _Tried:
    """The first few tenants, and which of them turned out not to be readable."""

    readable: list[Tenant]
    refused: list[tuple[Tenant, ConnectorError]] = field(default_factory=list)

    def read(self, read: Callable[[Tenant], T]) -> list[T]:
        """What is read of those that can be; where none can, the error says so of all."""
        found: list[T] = []
        for tenant in list(self.readable):
            try:
                found.append(read(tenant))
            except ConnectorError as error:
                self.readable.remove(tenant)
                self.refused.append((tenant, error))
        if not found:
            raise self._why()
        return found

    def told(self, text: str) -> str | _Warning:
        """What was read; a warning where some could not be."""
        if not self.refused:
            return text
        why = self._why()
        return _Warning(f"{text} {why}", why)

    def _why(self) -> ConnectorError:
        """The first tenant's error, with the reasons and remedies of all where there are several."""
        error, tried = self.refused[0][1], len(self.refused) + len(self.readable)
        if tried > 1:
            names: dict[str, list[str]] = {}
            for tenant, each in self.refused:
                names.setdefault(str(each), []).append(str(tenant))
            reasons = "; ".join(f"{', '.join(tenants)}: {reason}" for reason, tenants in names.items())
            error.remedy = " ".join(dict.fromkeys(each.remedy for _, each in self.refused))
            error.args = (f"{len(self.readable)} of {tried} tenants tried can be read; not {reasons}",)
        return error


def _span(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
