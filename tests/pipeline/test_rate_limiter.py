"""One credential's calls on a modelled clock, against the simulator's own count of them, over a real store."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest

from emulator.central.accounts import PUBLISHED_LIMITS, RequestWindows
from emulator.central.clock import Clock
from lib.app import App
from lib.config.loading import parse
from lib.errors import OverBudgetError, ThrottledError
from lib.model.credential import InUse
from lib.model.page import DevicePage, Page, SophosTenant, Whoami
from lib.parts import Parts
from lib.pipeline.fetch_page import FetchPage
from lib.pipeline.rate_limiter import RateLimiter
from lib.store.directory import DirectoryStore

ENFORCED = PUBLISHED_LIMITS[1::2]
"""A hundred a minute, and 200,000 a day."""


class World:
    """A clock that moves when somebody waits, a store, and Sophos's count of calls."""

    def __init__(self, folder: Path, limits: Sequence[Sequence[float]] = ENFORCED) -> None:
        self.store = DirectoryStore(folder / "store")
        self.clock = Clock(start=1_790_000_000.0)
        self.limiter = RequestWindows(self.clock, limits)
        self.allowed = self.refused = 0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.monotonic(), UTC)

    def monotonic(self) -> float:
        return self.clock.now() / 1000

    def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds + 0.001)

    def rate_limiter(self, per_minute: int = 100, client_id: str = "partner") -> RateLimiter:
        return RateLimiter(
            lambda: self.store,
            lambda: client_id,
            per_minute,
            now=self.now,
            monotonic=self.monotonic,
            sleep=self.sleep,
            jitter=lambda: 1.0,
        )

    def call(self, rate_limiter: RateLimiter) -> None:
        """What Sophos says to one more call; ThrottledError where it refuses it."""
        wait = self.limiter.wait_seconds("partner")
        if wait is None:
            self.allowed += 1
        else:
            self.refused += 1
            raise ThrottledError("Sophos answered 429", retry_after=rate_limiter.refused(None))

    def catch_up(self, budgets: Sequence[RateLimiter], minutes: float) -> None:
        """Every instance calls whenever it may."""
        start = self.monotonic()
        due = dict.fromkeys(range(len(budgets)), start)
        while (now := min(due.values())) < start + 60 * minutes:
            self.sleep(max(0.0, now - self.monotonic()))
            one = min(due, key=due.__getitem__)
            try:
                budgets[one].acquire(f"stream {one}", self.monotonic())
                self.call(budgets[one])
                due[one] = self.monotonic() + 0.05
            except (OverBudgetError, ThrottledError) as error:
                due[one] = self.monotonic() + max(0.001, error.retry_after or 0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize(("instances", "most_refused"), [(1, 1), (2, 6), (4, 18)])
def test_catching_up_uses_95_of_100_allowed_calls_and_draws_few_429s(
    world: World, instances: int, most_refused: int
) -> None:
    world.catch_up([world.rate_limiter() for _ in range(instances)], minutes=20)
    assert world.allowed >= 0.95 * 20 * 100
    assert world.refused <= most_refused


def test_a_burst_is_used_where_sophos_grants_it(tmp_path: Path) -> None:
    world = World(tmp_path, [(300, 60), (1200, 600)])
    world.catch_up([world.rate_limiter()], minutes=10)
    assert world.refused == 0
    assert world.allowed >= 0.95 * 1200


def test_a_lower_share_is_kept(world: World) -> None:
    world.catch_up([world.rate_limiter(per_minute=30)], minutes=10)
    assert world.refused == 0
    assert 0.95 * 300 <= world.allowed <= 300 + 2 * 30


def test_a_429_that_one_instance_met_holds_the_others_back(world: World) -> None:
    one, other = world.rate_limiter(), world.rate_limiter()
    one.acquire("a", world.monotonic())
    assert one.refused(40.0) == 40.0
    other.reserve(1, 60.0)
    with pytest.raises(OverBudgetError) as over:
        other.acquire("b", world.monotonic())
    assert over.value.retry_after == pytest.approx(40.0, abs=1.0)
    assert other.used().is_strict
    world.sleep(41.0)
    other.acquire("b", world.monotonic())


@pytest.mark.parametrize("strict", [False, True])
def test_a_noisy_stream_leaves_the_others_their_calls_and_uses_all_the_rest(world: World, strict: bool) -> None:
    rate_limiter, minutes, pages, slowest = world.rate_limiter(), 10, 0, 0.0
    if strict:
        rate_limiter.refused(1.0)
    start = world.monotonic()
    for minute in range(minutes):
        began = max(start + 60.0 * minute, world.monotonic())
        rate_limiter.reserve(30, 60.0)
        for number in range(30):
            rate_limiter.acquire(f"quiet {number}", began + 50)
        slowest = max(slowest, world.monotonic() - began)
        while world.monotonic() < start + 60.0 * (minute + 1):
            try:
                rate_limiter.acquire("noisy", world.monotonic())
                pages += 1
            except OverBudgetError as over:
                world.sleep(over.retry_after or 0.0)
    assert slowest <= 10
    assert pages >= 0.95 * minutes * (100 - 30)


def test_few_calls_write_nothing(world: World) -> None:
    rate_limiter = world.rate_limiter()
    for _ in range(60):
        for number in range(15):
            rate_limiter.acquire(f"s{number}", world.monotonic() + 50)
        world.sleep(60.0)
    assert not [*world.store.list("budgets/")]


def test_another_credential_has_calls_of_its_own(world: World) -> None:
    one, other = world.rate_limiter(), world.rate_limiter(client_id="somebody else")
    world.catch_up([one], minutes=3)
    other.reserve(1, 60.0)
    assert other.used().last_minute == 0


@dataclass
class Quiet:
    """A partner's tenants, some of which have something new at each asking."""

    world: World
    tenants_: list[SophosTenant]
    busy: frozenset[str]
    asked: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    in_use: InUse | None = None

    def is_replaced(self) -> bool:
        return False

    def limited_by(self, rate_limiter: RateLimiter) -> Self:
        self.rate_limiter = rate_limiter
        return self

    def whoami(self, *, deadline: float | None = None) -> Whoami:
        return Whoami("p", "partner", "https://api.example.com", None)

    def tenants(self, _who: Whoami, *, deadline: float | None = None) -> Iterator[SophosTenant]:
        return iter(self.tenants_)

    def devices(self, host: str, tenant: str, **_: object) -> DevicePage:
        raise NotImplementedError

    def clock(self, *, deadline: float | None = None) -> datetime | None:
        return None

    def page(self, host: str, tenant: str, kind: str, *, deadline: float | None = None, **_: object) -> Page:
        self.rate_limiter.acquire(f"{host}/{tenant}/{kind}", deadline or 0.0)
        self.world.sleep(0.02)
        self.world.call(self.rate_limiter)
        times = self.asked.setdefault(tenant, [])
        times.append(self.world.monotonic())
        raw = f'{{"id":"{tenant}-{len(times)}","created_at":"{self.world.now():%Y-%m-%dT%H:%M:%SZ}"}}'
        items = (raw.encode(),) if tenant in self.busy else ()
        return Page(items, f"{tenant}-{len(times)}", has_more=False, served_at=self.world.now())


def fetch_page(world: World, source: Quiet) -> FetchPage:
    config = parse(
        json.dumps({"integrations": [{"name": "partner", "client_id": "p", "client_secret": "s", "reconcile": "off"}]})
    )
    parts = Parts(
        now=world.now,
        monotonic=world.monotonic,
        sleep=world.sleep,
        random=lambda: 1.0,
        store=lambda _: world.store,
        sophos=lambda _parts, _hosts, _credentials, calls: source.limited_by(calls),
    )
    return replace(App(lambda: config, parts).fetch_page, workers=1)


def test_of_1000_tenants_each_is_asked_within_12_minutes_and_a_busy_one_within_2(world: World) -> None:
    tenants = [SophosTenant(f"t-{number:04}", f"Tenant {number}", "https://api.example.com") for number in range(1000)]
    busy = frozenset(tenant.id for tenant in tenants[::50])
    source = Quiet(world, tenants, busy)
    use_case = fetch_page(world, source)
    start = world.monotonic()
    for tick in range(28):
        world.sleep(max(0.0, start + 60.0 * tick - world.monotonic()))
        fetched = use_case.run(deadline=world.monotonic() + 50)
        assert len(fetched.results) + fetched.deferred == 1000 or fetched.results[0].outcome == "rate_limited"
    end = world.monotonic()
    waits = [longest([start, *source.asked[tenant.id], end]) for tenant in tenants]
    spoke = [longest(source.asked[tenant]) for tenant in busy]
    assert max(waits) <= 12 * 60
    assert max(spoke) <= 2 * 60 + 1
    assert world.refused <= 3


def longest(times: Sequence[float]) -> float:
    """The longest time between two that follow each other."""
    return max(later - sooner for sooner, later in pairwise(times))


class Jumping(World):
    """The same, with a time of day that is set back and forth."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


JUMPS = [timedelta(0), timedelta(seconds=-180), timedelta(days=-2), timedelta(days=3), timedelta(days=200)]


@pytest.mark.parametrize("jump", JUMPS, ids=str)
@pytest.mark.parametrize(("instances", "most_refused"), [(1, 1), (3, 24)])
def test_a_clock_that_jumps_and_comes_back_neither_stalls_nor_floods(
    tmp_path: Path, jump: timedelta, instances: int, most_refused: int
) -> None:
    world = Jumping(tmp_path, ENFORCED)
    budgets = [world.rate_limiter() for _ in range(instances)]
    for ahead in (timedelta(0), jump, timedelta(0)):
        world.ahead, allowed = ahead, world.allowed
        world.catch_up(budgets, minutes=6)
        assert world.allowed - allowed >= 0.88 * 6 * 100
    assert world.refused <= most_refused


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_an_instance_that_starts_after_a_jump_waits_no_longer_than_was_asked_for(
    tmp_path: Path, jump: timedelta
) -> None:
    world = Jumping(tmp_path)
    one = world.rate_limiter()
    one.acquire("a", world.monotonic())
    assert one.refused(40.0) == 40.0
    world.ahead = jump
    other = world.rate_limiter()
    other.reserve(1, 60.0)
    with suppress(OverBudgetError):
        other.acquire("b", world.monotonic())
    world.sleep(41.0)
    other.reserve(1, 60.0)
    other.acquire("b", world.monotonic())
    one.acquire("a", world.monotonic())


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_what_another_told_by_a_clock_that_differs_counts(tmp_path: Path, jump: timedelta) -> None:
    world = Jumping(tmp_path)
    one, other = world.rate_limiter(), world.rate_limiter()
    other.reserve(1, 60.0)
    world.ahead = jump
    for _ in range(40):
        one.acquire("", world.monotonic() + 50)
    world.ahead = timedelta(0)
    other.reserve(1, 60.0)
    assert 20 <= other.used().last_minute <= 40
    world.sleep(70.0)
    assert other.used().last_minute == 0


def test_a_record_of_an_instance_that_died_ahead_of_time_is_forgotten(tmp_path: Path) -> None:
    world = Jumping(tmp_path)
    world.ahead = timedelta(days=200)
    one = world.rate_limiter()
    for _ in range(40):
        one.acquire("", world.monotonic() + 50)
    world.ahead = timedelta(0)
    other = world.rate_limiter()
    for _ in range(3):
        other.reserve(1, 60.0)
        world.sleep(40.0)
    assert other.used().last_minute == 0


def test_what_is_told_of_a_refused_turn_is_why(tmp_path: Path) -> None:
    world = World(tmp_path)
    rate_limiter = world.rate_limiter(per_minute=5)
    rate_limiter.refused(30.0)
    with pytest.raises(OverBudgetError, match="throttled this credential") as told:
        rate_limiter.acquire("stream", world.monotonic() + 1)
    assert (told.value.retry_after or 0.0) > 1.0
    world.sleep(60.0)
    for _ in range(5):
        rate_limiter.acquire("", world.monotonic() + 60)
    with pytest.raises(OverBudgetError, match="limit of 5 calls a minute"):
        rate_limiter.acquire("", world.monotonic() + 1)
