"""The checks of test-connection: each tests one step, and describes the result in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from lib.errors import ConnectorError, PermanentError, ProtocolError, WrongTenantError
from lib.model.clock import believed
from lib.model.credential import left_out
from lib.model.event_fields import EventFields
from lib.model.inventory import FIRST_PAGE_SIZE
from lib.model.page import OddTenant, Page, SophosTenant, Whoami
from lib.model.region import AUTO, region_of
from lib.model.region import refusal as wrong_region
from lib.model.text import several
from lib.model.text import span as span_text
from lib.pipeline.accounts import listed
from lib.pipeline.ports import CallLimiter, ExaminedSophos, NetworkPath

T = TypeVar("T")

LARGEST_SKEW = timedelta(seconds=60)
SAMPLE = timedelta(minutes=15)
"""The time span that the check of the SIEM API reads."""
LONGER_SAMPLE = timedelta(hours=23)
"""The span if there are no events in SAMPLE. Sophos refuses more than 24 hours; the clocks may differ."""
TENANTS_TRIED = 5
"""Tenants of a partner or an organization that are tried. Each costs one of the 100 calls a minute."""


class CheckFailedError(PermanentError):
    """Sophos answered, but the content is wrong."""

    code = "check_failed"
    title = "A check found a fault"
    remedy = "Follow the instruction of the check."


class NotNeededError(Exception):
    """The check does not apply here. It is listed as skipped, and ok."""


@dataclass(frozen=True, slots=True)
class PartlyOk:
    """The check works, but not for every tenant."""

    detail: str
    why: ConnectorError


@dataclass(frozen=True, slots=True)
class CheckSubject:
    """The integration to test."""

    sophos: ExaminedSophos
    rate_limiter: CallLimiter
    region: str = AUTO
    tenants: tuple[str, ...] | None = None
    streams: Sequence[str] = ("events",)
    """The kinds of streams."""


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The checks' environment. `store` and `engine` raise a ConnectorError if they do not work."""

    store: Callable[[], None]
    engine: Callable[[], str]
    """Opens a gRPC stream to the engine, and returns the connection's description."""
    event_fields: Callable[[bytes], EventFields]
    now: Callable[[], datetime]
    monotonic: Callable[[], float]


@dataclass(frozen=True, slots=True)
class CheckStep:
    """A check, and the check it depends on."""

    name: str
    make: Callable[[], str | PartlyOk]
    """Returns the result as a sentence; raises NotNeededError, or the ConnectorError that was found."""
    needs: str = ""
    """The step that must succeed first."""


class Checks:
    """The checks of one integration, from the network to the engine. Later checks use the results of earlier ones."""

    def __init__(self, subject: CheckSubject, context: CheckContext, deadline: float) -> None:
        self._subject = subject
        self._sophos = subject.sophos
        self._context = context
        self._deadline = deadline
        self._clocks: Mapping[str, datetime | None] = {}
        self._who: Whoami | None = None
        self._tenants: list[SophosTenant] = []
        self._reached: list[SophosTenant] = []
        self._pages: dict[str, list[Page]] = {}
        self._streams: dict[str, dict[str, Any]] = {}

    def steps(self) -> list[CheckStep]:
        """All checks, in order."""
        readers = {
            "events": CheckStep("siem_events", lambda: self._siem("events"), needs="tenant_hosts"),
            "alerts": CheckStep("siem_alerts", lambda: self._siem("alerts"), needs="tenant_hosts"),
            "endpoints": CheckStep("endpoints", self._endpoints, needs="tenant_hosts"),
        }
        return [
            CheckStep("dns", lambda: self._along(self._sophos.paths(), lambda path: path.resolve())),
            CheckStep("tcp", lambda: self._along(self._sophos.paths(), lambda path: path.connect()), needs="dns"),
            CheckStep("tls", self._secure, needs="tcp"),
            CheckStep("sophos_reachable", self._reachable, needs="tls"),
            CheckStep("clock", self._clock, needs="sophos_reachable"),
            CheckStep("credentials", self._credentials, needs="sophos_reachable"),
            CheckStep("whoami", self._whoami, needs="credentials"),
            CheckStep("region", self._region, needs="whoami"),
            CheckStep("tenants", self._readable_tenants, needs="whoami"),
            CheckStep("tenant_hosts", self._tenant_hosts, needs="tenants"),
            *[readers[kind] for kind in self._subject.streams],
            CheckStep("page", self._page, needs="tenant_hosts"),
            CheckStep("newest_event", self._newest_event, needs="tenant_hosts"),
            CheckStep("rate", self._rate, needs="credentials"),
            CheckStep("store", self._store),
            CheckStep("engine", self._engine),
        ]

    @property
    def tenant(self) -> dict[str, Any]:
        """The account that the credential belongs to; empty before the check `whoami`."""
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
        """The result for each kind of stream."""
        return dict(self._streams)

    # The network path

    @staticmethod
    def _along(paths: Sequence[NetworkPath], step: Callable[[NetworkPath], str]) -> str:
        return f"{'; '.join(dict.fromkeys(step(path) for path in paths))}."

    def _secure(self) -> str:
        results = [text for path in self._sophos.paths() if (text := path.secure()) is not None]
        if not results:
            raise NotNeededError("Sophos is on this machine, without TLS.")
        return f"{'; '.join(results)}."

    def _reachable(self) -> str:
        self._clocks = self._sophos.reach(deadline=self._deadline)
        return f"{' and '.join(self._clocks)} {'answers' if len(self._clocks) == 1 else 'answer'}."

    def _shown(self) -> datetime | None:
        return next((clock for clock in self._clocks.values() if clock is not None), None)

    def _clock(self) -> str:
        shown = self._shown()
        if shown is None:
            return "Sophos's answers have no date. The clock was not compared."
        skew = self._context.now() - shown
        text = f"This machine's clock differs from Sophos's by {abs(skew.total_seconds()):.0f} s"
        if abs(skew) > LARGEST_SKEW:
            direction = "ahead" if skew > timedelta(0) else "behind"
            raise CheckFailedError(
                f"{text}; it is {direction}.", remedy="Set this machine's clock from an NTP server (timedatectl)."
            )
        return f"{text}."

    # The credential's account

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
        every = {tenant.id: tenant for tenant in self._sophos.tenants(self._who, deadline=self._deadline)}
        odd = {tenant.id: tenant.fault for tenant in every.values() if isinstance(tenant, OddTenant)}
        by_id = {id_: tenant for id_, tenant in every.items() if id_ not in odd}
        wanted = self._subject.tenants
        self._tenants = [
            tenant for tenant in by_id.values() if tenant.api_host and (wanted is None or tenant.id in wanted)
        ]
        readable = f"The credential can read {several(len(self._tenants), 'tenant')}."
        missing = [id_ for id_ in wanted or () if id_ not in by_id or by_id[id_].api_host is None]
        if missing:
            error = WrongTenantError(
                f"This credential does not read tenant {', '.join(_name_of(id_, by_id) for id_ in missing)}; "
                f"it reads {listed([str(tenant) for tenant in by_id.values()])}."
            )
            if not self._tenants:
                raise error
            return PartlyOk(f"{readable} {error}", error)
        if not self._tenants:
            raise CheckFailedError(
                "This credential can read no tenant.", remedy="Assign tenants to it in Sophos Central."
            )
        without_host = len(by_id) - sum(1 for tenant in by_id.values() if tenant.api_host)
        readable += f" {without_host} without an API host yet." if without_host else ""
        if wanted is not None or not odd:
            return readable
        (warned,) = left_out(odd, self._context.now())
        return PartlyOk(f"{readable} {warned.text}.", ProtocolError(f"{warned.text}.", remedy=warned.remedy))

    def _tenant_hosts(self) -> str | PartlyOk:
        tested = {path.host for path in self._sophos.paths()}
        first = {tenant.api_host: tenant for tenant in reversed(self._tenants)}

        def connect(tenant: SophosTenant) -> str:
            path = self._sophos.path_to(str(tenant.api_host))
            if path.host in tested:
                return ""
            path.resolve()
            return path.secure() or path.connect()

        tried = _TriedTenants([tenant for tenant in self._tenants if tenant is first[tenant.api_host]])
        results = "; ".join(dict.fromkeys(filter(None, tried.read(connect))))
        reached = {tenant.api_host for tenant in tried.readable}
        self._reached = [tenant for tenant in self._tenants if tenant.api_host in reached]
        if not results and not tried.refused:
            raise NotNeededError("The tenants use a host that was tested above.")
        return tried.outcome(f"{results or 'The other tenants use a host that was tested above'}.")

    # Reading

    def _siem(self, kind: str) -> str | PartlyOk:
        self._streams[kind] = {"readable": False}
        tried = _TriedTenants(self._reached[:TENANTS_TRIED])
        span, pages = SAMPLE, tried.read(lambda tenant: self._sample(tenant, kind, SAMPLE))
        if not any(page.items for page in pages):
            span, pages = LONGER_SAMPLE, tried.read(lambda tenant: self._sample(tenant, kind, LONGER_SAMPLE))
        self._pages[kind] = pages
        count, minutes = sum(len(page.items) for page in pages), int(span.total_seconds()) // 60
        self._streams[kind] = {"readable": True, "sample": count, "sample_minutes": minutes}
        return tried.outcome(f"Read {several(count, kind.removesuffix('s'))} of the last {_span(span)}.")

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
        return tried.outcome(f"Read {several(count, 'device')} from the first page of the inventory.")

    def _sample(self, tenant: SophosTenant, kind: str, span: timedelta) -> Page:
        here, shown = self._context.now(), self._shown()
        # By Sophos's clock, since Sophos refuses a date over 24 hours ago.
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
        events = self._event_fields()
        if not events:
            return "The answer is a valid page without events."
        complete = sum(1 for event in events if event.id and event.created_at)
        types = len({event.type for event in events})
        without = "" if complete == len(events) else f"; {len(events) - complete} of them without id or time"
        return f"Parsed {several(len(events), 'item')} of {several(types, 'type')}{without}."

    def _newest_event(self) -> str:
        if "events" not in self._pages:
            raise NotNeededError("No events were read.")
        times = [event.created_at for event in self._event_fields("events") if event.created_at]
        if not times:
            when = f"of the last {_span(LONGER_SAMPLE)}"
            return f"Sophos has no event {when}: nothing happened, or no device reports to Sophos."
        age = max(timedelta(0), self._context.now() - max(times))
        more = any(page.has_more for page in self._pages["events"])
        self._streams["events"] |= {"newest": max(times).isoformat(), "newest_age_seconds": round(age.total_seconds())}
        return f"The newest event is {'at most ' if more else ''}{_span(age)} old."

    def _rate(self) -> str:
        used, available = self._subject.rate_limiter.used(), self._subject.rate_limiter.available()
        text = (
            f"{several(used.last_minute, 'call')} in the last minute; "
            f"{used.per_minute} a minute are allowed on average, {available} at once now"
        )
        if available == 0:
            raise CheckFailedError(
                f"{text}.", remedy="Create a credential for this connector alone, or wait until it has caught up."
            )
        return f"{text}."

    # The store and the engine

    def _store(self) -> str:
        self._context.store()
        return "Created, replaced, read and removed an object; the store refused stale writes."

    def _engine(self) -> str:
        return f"{self._context.engine()} accepted a stream and closed it cleanly."


def _name_of(id_: str, tenants: Mapping[str, SophosTenant]) -> str:
    return str(tenants.get(id_, id_))


@dataclass(slots=True)
class _TriedTenants:
    """The tenants that a check tries, and those that could not be read."""

    readable: list[SophosTenant]
    refused: list[tuple[SophosTenant, ConnectorError]] = field(default_factory=list)

    def read(self, read: Callable[[SophosTenant], T]) -> list[T]:
        """The results for the tenants that can be read; raises the error if none can."""
        results: list[T] = []
        for tenant in list(self.readable):
            try:
                results.append(read(tenant))
            except ConnectorError as error:
                self.readable.remove(tenant)
                self.refused.append((tenant, error))
        if not results:
            raise self._why()
        return results

    def outcome(self, text: str) -> str | PartlyOk:
        """The text, or a warning if some tenants could not be read."""
        if not self.refused:
            return text
        why = self._why()
        return PartlyOk(f"{text} {why}", why)

    def _why(self) -> ConnectorError:
        """The first tenant's error; if several were tried, with the reasons and remedies of all."""
        error, tried = self.refused[0][1], len(self.refused) + len(self.readable)
        if tried > 1:
            names: dict[str, list[str]] = {}
            for tenant, refusal in self.refused:
                names.setdefault(str(refusal), []).append(str(tenant))
            reasons = "; ".join(f"{', '.join(tenants)}: {reason}" for reason, tenants in names.items())
            error.remedy = " ".join(dict.fromkeys(refusal.remedy for _, refusal in self.refused))
            error.args = (f"{len(self.readable)} of {tried} tenants tried can be read; not {reasons}",)
        return error


def _span(age: timedelta) -> str:
    return span_text(int(age.total_seconds()))
