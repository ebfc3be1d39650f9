"""The checks of test-connection: each tests one step, and describes the result in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from lib.errors import ConnectorError, PermanentError, WrongTenantError
from lib.model.clock import believed
from lib.model.event_fields import EventFields
from lib.model.inventory import FIRST_PAGE_SIZE
from lib.model.page import Page, Tenant, Whoami
from lib.model.region import AUTO, region_of
from lib.model.region import refusal as wrong_region
from lib.pipeline.accounts import listed
from lib.pipeline.ports import CallLimiter, ExaminedSophos, NetworkPath

T = TypeVar("T")

LARGEST_SKEW = timedelta(seconds=60)
SAMPLE = timedelta(minutes=15)
"""How far back the SIEM API is read to see that it can be."""
LONGER_SAMPLE = timedelta(hours=23)
"""How far back where nothing happened lately; Sophos refuses a date over 24 hours ago, and clocks differ."""
TENANTS_TRIED = 5
"""Of a partner's or organization's tenants: one call each, of the 100 a minute that there are."""


class CheckFailedError(PermanentError):
    """An answer arrived, but its content is wrong."""

    code = "check_failed"
    title = "A check found a fault"
    remedy = "Follow the instruction of the check."


class NotNeededError(Exception):
    """The check does not apply here; this is no failure."""


@dataclass(frozen=True, slots=True)
class PartlyOk:
    """What was asked works, but not for every tenant."""

    detail: str
    why: ConnectorError


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be tested."""

    sophos: ExaminedSophos
    rate_limiter: CallLimiter
    region: str = AUTO
    tenants: tuple[str, ...] | None = None
    streams: Sequence[str] = ("events",)
    """The kinds of streams."""


@dataclass(frozen=True, slots=True)
class CheckContext:
    """What the checks need beside the subject; `store` and `engine` raise what keeps them from being used."""

    store: Callable[[], None]
    engine: Callable[[], str]
    """Opens a stream at the engine; says which way."""
    event_fields: Callable[[bytes], EventFields]
    now: Callable[[], datetime]
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Step:
    """A check, and what it depends on."""

    name: str
    make: Callable[[], str | PartlyOk]
    """What is found; NotNeededError, or the ConnectorError that says what is wrong."""
    needs: str = ""
    """The step that has to have succeeded before."""


class Checks:
    """The checks of one subject, in the order in which a person would make them; each finds what later ones use."""

    def __init__(self, subject: Subject, context: CheckContext, deadline: float) -> None:
        self._subject = subject
        self._sophos = subject.sophos
        self._context = context
        self._deadline = deadline
        self._clocks: Mapping[str, datetime | None] = {}
        self._who: Whoami | None = None
        self._tenants: list[Tenant] = []
        self._reached: list[Tenant] = []
        self._pages: dict[str, list[Page]] = {}
        self._streams: dict[str, dict[str, Any]] = {}

    def steps(self) -> list[Step]:
        """All of them."""
        readers = {
            "events": Step("siem_events", lambda: self._siem("events"), needs="tenant_hosts"),
            "alerts": Step("siem_alerts", lambda: self._siem("alerts"), needs="tenant_hosts"),
            "endpoints": Step("endpoints", self._endpoints, needs="tenant_hosts"),
        }
        return [
            Step("dns", lambda: self._along(self._sophos.ways(), lambda way: way.resolve())),
            Step("tcp", lambda: self._along(self._sophos.ways(), lambda way: way.connect()), needs="dns"),
            Step("tls", self._secure, needs="tcp"),
            Step("sophos_reachable", self._reachable, needs="tls"),
            Step("clock", self._clock, needs="sophos_reachable"),
            Step("credentials", self._credentials, needs="sophos_reachable"),
            Step("whoami", self._whoami, needs="credentials"),
            Step("region", self._region, needs="whoami"),
            Step("tenants", self._readable_tenants, needs="whoami"),
            Step("tenant_hosts", self._tenant_hosts, needs="tenants"),
            *[readers[kind] for kind in self._subject.streams],
            Step("page", self._page, needs="tenant_hosts"),
            Step("newest_event", self._newest_event, needs="tenant_hosts"),
            Step("rate", self._rate, needs="credentials"),
            Step("store", self._store),
            Step("engine", self._engine),
        ]

    @property
    def tenant(self) -> dict[str, Any]:
        """Whose the credential is, as far as that is known."""
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

    @property
    def streams(self) -> dict[str, dict[str, Any]]:
        """What each kind of stream showed."""
        return dict(self._streams)

    # The way there

    @staticmethod
    def _along(ways: Sequence[NetworkPath], station: Callable[[NetworkPath], str]) -> str:
        return f"{'; '.join(dict.fromkeys(station(way) for way in ways))}."

    def _secure(self) -> str:
        told = [text for way in self._sophos.ways() if (text := way.secure()) is not None]
        if not told:
            raise NotNeededError("Sophos is on this machine, without TLS.")
        return f"{'; '.join(told)}."

    def _reachable(self) -> str:
        self._clocks = self._sophos.reach(deadline=self._deadline)
        return f"{' and '.join(self._clocks)} answer."

    def _shown(self) -> datetime | None:
        return next((clock for clock in self._clocks.values() if clock is not None), None)

    def _clock(self) -> str:
        shown = self._shown()
        if shown is None:
            return "Sophos's answers have no date. The clock was not compared."
        skew = self._context.now() - shown
        text = f"This machine's clock differs from Sophos's by {abs(skew.total_seconds()):.0f} s"
        if abs(skew) > LARGEST_SKEW:
            way = "ahead" if skew > timedelta(0) else "behind"
            raise CheckFailedError(
                f"{text}; it is {way}.", remedy="Set this machine's clock from an NTP server (timedatectl)."
            )
        return f"{text}."

    # Whose the credential is

    def _credentials(self) -> str:
        if self._sophos.authenticate(deadline=self._deadline):
            return "Sophos refuses the first credential and issued a token for the second one."
        return "Sophos issued a token."

    def _whoami(self) -> str:
        self._who = who = self._sophos.whoami(deadline=self._deadline)
        where = f", data region {region_of(who.data_region) or who.data_region}" if who.data_region else ""
        return f"The credential belongs to {who.id_type} {who.id}{where}."

    def _region(self) -> str:
        host = self._who.data_region if self._who else None
        if host is None or self._subject.region == AUTO:
            return "The region that Sophos reports is used."
        wrong = wrong_region(self._subject.region, host)
        if wrong is not None:
            raise wrong
        if region_of(host) is None and "://" not in self._subject.region:
            return f"{host} names no region: {self._subject.region!r} cannot be compared with it."
        return f"Region {self._subject.region!r} matches the tenant."

    def _readable_tenants(self) -> str | PartlyOk:
        assert self._who is not None  # noqa: S101 - whoami is made before
        found = {tenant.id: tenant for tenant in self._sophos.tenants(self._who, deadline=self._deadline)}
        wanted = self._subject.tenants
        self._tenants = [each for each in found.values() if each.api_host and (wanted is None or each.id in wanted)]
        readable = f"The credential can read {_count(len(self._tenants), 'tenant')}."
        missing = [each for each in wanted or () if each not in found or found[each].api_host is None]
        if missing:
            error = WrongTenantError(
                f"This credential does not read tenant {', '.join(_known(each, found) for each in missing)}; "
                f"it reads {listed([str(each) for each in found.values()])}."
            )
            if not self._tenants:
                raise error
            return PartlyOk(f"{readable} {error}", error)
        if not self._tenants:
            raise CheckFailedError(
                "This credential can read no tenant.", remedy="Assign tenants to it in Sophos Central."
            )
        asleep = len(found) - sum(1 for each in found.values() if each.api_host)
        return readable + (f" {asleep} without an API host yet." if asleep else "")

    def _tenant_hosts(self) -> str | PartlyOk:
        known = {way.host for way in self._sophos.ways()}
        first = {each.api_host: each for each in reversed(self._tenants)}

        def station(tenant: Tenant) -> str:
            way = self._sophos.way(str(tenant.api_host))
            if way.host in known:
                return ""
            way.resolve()
            return way.secure() or way.connect()

        tried = _TriedTenants([each for each in self._tenants if each is first[each.api_host]])
        told = "; ".join(dict.fromkeys(filter(None, tried.read(station))))
        reached = {each.api_host for each in tried.readable}
        self._reached = [each for each in self._tenants if each.api_host in reached]
        if not told and not tried.refused:
            raise NotNeededError("The tenants use a host that was tested above.")
        return tried.outcome(f"{told or 'The other tenants use a host that was tested above'}.")

    # What it can read

    def _siem(self, kind: str) -> str | PartlyOk:
        self._streams[kind] = {"readable": False}
        tried = _TriedTenants(self._reached[:TENANTS_TRIED])
        span, pages = SAMPLE, tried.read(lambda tenant: self._sample(tenant, kind, SAMPLE))
        if not any(page.items for page in pages):
            span, pages = LONGER_SAMPLE, tried.read(lambda tenant: self._sample(tenant, kind, LONGER_SAMPLE))
        self._pages[kind] = pages
        count, minutes = sum(len(page.items) for page in pages), int(span.total_seconds()) // 60
        self._streams[kind] = {"readable": True, "sample": count, "sample_minutes": minutes}
        return tried.outcome(f"Read {_count(count, kind.removesuffix('s'))} of the last {_span(span)}.")

    def _endpoints(self) -> str | PartlyOk:
        self._streams["endpoints"] = {"readable": False}
        tried = _TriedTenants(self._reached[:TENANTS_TRIED])
        pages = tried.read(
            lambda tenant: self._sophos.devices(
                str(tenant.api_host), tenant.id, page_key=None, page_size=FIRST_PAGE_SIZE, deadline=self._deadline
            )
        )
        count = sum(len(page.items) for page in pages)
        self._streams["endpoints"] = {"readable": True, "sample": count}
        return tried.outcome(f"Read {_count(count, 'device')} from the first page of the inventory.")

    def _sample(self, tenant: Tenant, kind: str, span: timedelta) -> Page:
        here, shown = self._context.now(), self._shown()
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
        return [self._context.event_fields(item) for page in pages for item in page.items]

    def _page(self) -> str:
        if not self._pages:
            raise NotNeededError("Nothing was read.")
        found = self._event_fields()
        if not found:
            return "The answer is a valid page without events."
        whole = sum(1 for each in found if each.id and each.created_at)
        types = len({each.type for each in found})
        without = "" if whole == len(found) else f"; {len(found) - whole} of them without id or time"
        return f"Parsed {_count(len(found), 'item')} of {_count(types, 'type')}{without}."

    def _newest_event(self) -> str:
        if "events" not in self._pages:
            raise NotNeededError("No events were read.")
        times = [each.created_at for each in self._event_fields("events") if each.created_at]
        if not times:
            when = f"of the last {_span(LONGER_SAMPLE)}"
            return f"Sophos has no event {when}: nothing happened, or no device reports to Sophos."
        age = max(timedelta(0), self._context.now() - max(times))
        more = any(page.has_more for page in self._pages["events"])
        self._streams["events"] |= {"newest": max(times).isoformat(), "newest_age_seconds": round(age.total_seconds())}
        return f"The newest event is {'at most ' if more else ''}{_span(age)} old."

    def _rate(self) -> str:
        used, available = self._subject.rate_limiter.used(), self._subject.rate_limiter.available()
        text = f"{used.last_minute} of {used.per_minute} calls were used in the last minute; {available} are free now"
        if available == 0:
            raise CheckFailedError(
                f"{text}.", remedy="Create a credential for this connector alone, or wait until it has caught up."
            )
        return f"{text}."

    # Where it goes

    def _store(self) -> str:
        self._context.store()
        return "Created, replaced, read and removed an object; the store refused stale writes."

    def _engine(self) -> str:
        return f"{self._context.engine()} accepted a stream and closed it cleanly."


def _known(id_: str, tenants: Mapping[str, Tenant]) -> str:
    return str(tenants.get(id_, id_))


@dataclass(slots=True)
class _TriedTenants:
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

    def outcome(self, text: str) -> str | PartlyOk:
        """What was read; a warning where some could not be."""
        if not self.refused:
            return text
        why = self._why()
        return PartlyOk(f"{text} {why}", why)

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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _span(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"
