"""Metrics by Prometheus's conventions; alerts that fire when what they are about happens, and not else."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psutil
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from emulator.central import CentralServer, Credential, Fault, Tenant
from emulator.runtime.platform import Platform
from emulator.web.metrics import registry_of
from emulator.web.status import status
from lib.config import loading as configuration
from lib.model.duration import parse_duration
from lib.model.stream import Stream
from lib.state.schedules import Schedules
from tests.site import ROOT, WAIT_SECONDS, Site, site, until

RULES = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "infra/grafana/sophos-utmstack.json").read_text())
SIMPLE = re.compile(
    r'((?P<since>increase|delta)\()?(?P<name>\w+)(\{code!="(?P<but>\w+)"\})?(?(since)\[1h\]\)) '
    r"(?P<op>>|==) (?P<bound>\d+)( \* (?P<times>\w+))?"
)
"""What an expression is made of, joined by ` and `."""
Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


class Watched:
    """A site whose platform is asked for metrics before and after something happens."""

    def __init__(self, found: Site) -> None:
        self.site = found
        self.config = configuration.load(str(found.config))
        self.platform = Platform(self.config, str(found.config))

    def post(self, name: str) -> None:
        """As the emulator does it; the function's process is the site's."""
        self.platform.functions[name] = self.site.function(name)
        self.platform.call(name, b"{}")

    def scrape(self, *, later: timedelta = timedelta(0)) -> str:
        app = self.site.app
        told = status(
            self.config,
            app.state,
            app.accounts,
            latest=self.platform.latest,
            budgets=self.platform.budgets,
            now=datetime.now(UTC) + later,
        )
        if self.platform.engine_problem is not None:
            told["engine_problem"] = self.platform.engine_problem
        return generate_latest(registry_of(self.platform, told)).decode()


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with site(limits={"max_pending_bytes": 20_000}) as found:
        found.central.fill(60)
        one = Watched(found)
        one.post("fetch-page")
        one.post("forward-batch")
        yield one


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def firing(before: str, after: str) -> set[str]:
    """The alerts whose condition holds after, with what was before an hour ago."""
    old, new = samples(before), samples(after)
    return {rule["alert"] for rule in RULES if series(rule["expr"], old, new)}


def series(expression: str, old: Samples, new: Samples) -> set[Labels]:
    """The labels of which the expression holds."""
    found = []
    for part in expression.split(" and "):
        match = SIMPLE.fullmatch(part)
        assert match, expression
        if match["since"]:
            assert (match["since"] == "increase") == match["name"].endswith("_total"), "increase() is of counters only"
        holds = set()
        for (name, labels), value in new.items():
            factor = new.get((match["times"], labels)) if match["times"] else 1.0
            if name != match["name"] or factor is None or dict(labels).get("code") == (match["but"] or "-"):
                continue
            seen, bound = (
                value - old.get((name, labels), 0.0) if match["since"] else value,
                int(match["bound"]) * factor,
            )
            if seen > bound if match["op"] == ">" else seen == bound:
                holds.add(labels)
        found.append(holds)
    return set.intersection(*found)


def test_metrics_keep_to_the_conventions(watched: Watched) -> None:
    text = watched.scrape()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == text.count("# TYPE ")
    for name, family in families.items():
        assert re.fullmatch(r"sophos_utmstack_[a-z_]+", name)
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram"}
        assert not re.search(r"_(ms|milliseconds|kb|mb|minutes|hours)$", name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
    assert samples(text)["sophos_utmstack_delivery_seconds_count", ()] >= 1
    stream = (("integration", "acme"), ("stream", "events"), ("tenant", watched.site.central.default_tenant))
    assert samples(text)["sophos_utmstack_events_acked_total", stream] >= 60
    assert samples(text)["sophos_utmstack_fetched_bytes_total", stream] > 60 * 100


def test_requests_are_counted_by_outcome_and_those_tried_again(watched: Watched) -> None:
    before = samples(watched.scrape())
    watched.site.central.faults.add(Fault("status", status=503, times=2))
    watched.post("fetch-page")
    after = samples(watched.scrape())

    def more(name: str, **labels: str) -> float:
        key = (f"sophos_utmstack_sophos_{name}_total", tuple(sorted({"integration": "acme", **labels}.items())))
        return after[key] - before.get(key, 0.0)

    assert (more("requests", outcome="503"), more("requests", outcome="200"), more("retries")) == (2, 1, 2)


def test_rules_and_dashboard_name_metrics_that_there_are_and_nothing_fires_while_all_is_well(watched: Watched) -> None:
    known = {name for name, _ in samples(watched.scrape())}
    assert firing(watched.scrape(), watched.scrape()) == set()
    expressions = [rule["expr"] for rule in RULES]
    expressions += [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for expression in expressions:
        for name in re.findall(r"sophos_utmstack_\w+", expression):
            assert name in known, name
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}
        assert parse_duration(rule.get("for", "1s"))


def sophos_is_down(watched: Watched) -> timedelta:
    watched.site.central.faults.add(Fault("status", status=503, times=99))
    watched.post("fetch-page")
    return timedelta(minutes=20)


def nothing_is_said(watched: Watched) -> timedelta:
    for _ in range(2):
        watched.site.central.emit(1)
        watched.post("fetch-page")
    watched.site.central.clock.advance(20 * 3600)
    mended(watched)
    return timedelta(hours=20)


def a_cursor_expires(watched: Watched) -> timedelta:
    watched.site.central.clock.advance(40 * 3600)
    watched.site.central.emit(1)
    mended(watched)
    return timedelta(hours=60)


def an_event_is_no_object(watched: Watched) -> timedelta:
    watched.site.central.append(watched.site.central.default_tenant, "events", [b'"not an object"'])
    watched.post("fetch-page")
    watched.post("forward-batch")
    return timedelta(0)


def the_engine_is_down(watched: Watched) -> timedelta:
    watched.site.engine.stop()
    watched.site.central.emit(60)
    watched.post("fetch-page")
    watched.post("forward-batch")
    return timedelta(minutes=12)


def somebody_pauses(watched: Watched) -> timedelta:
    watched.site.app.accounts.pause("acme")
    return timedelta(0)


def a_function_dies(watched: Watched) -> timedelta:
    function = watched.platform.functions["fetch-page"]
    ends = function.restarts + 4

    def ended() -> bool:
        for each in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "fetch_page" in each.cmdline():
                    each.kill()
        return function.restarts >= ends

    until(ended, "four restarts")
    assert function.is_up(WAIT_SECONDS)
    return timedelta(0)


def the_secret_is_wrong(watched: Watched) -> timedelta:
    watched.site.central.revoke_tokens()
    watched.site.central.disable("demo-client")
    watched.post("fetch-page")
    return timedelta(0)


def mended(watched: Watched) -> None:
    """What can be set right is, and a tick and a delivery follow."""
    watched.site.central.faults.clear()
    if not watched.site.engine.socket.exists():
        watched.site.engine.start()
    watched.site.app.accounts.pause("acme", resume=True)
    watched.post("fetch-page")
    watched.post("forward-batch")


CAUSES = (
    (somebody_pauses, {"SophosPaused"}),
    (a_function_dies, {"SophosFunctionRestarts"}),
    (an_event_is_no_object, {"SophosEventsSetAside"}),
    (the_engine_is_down, {"UTMStackEngineDown", "SophosEventsWait", "SophosStoreFull"}),
    (sophos_is_down, {"SophosEventsLate", "SophosStreamFails"}),
    (nothing_is_said, {"SophosStreamSilent"}),
    (a_cursor_expires, {"SophosGap"}),
    (the_secret_is_wrong, {"SophosIntegrationFails", "SophosStreamFails"}),
)


def test_each_alert_fires_when_its_cause_is_provoked_and_no_other(watched: Watched) -> None:
    provoked = set[str]().union(*(alerts for _, alerts in CAUSES), {"SophosThrottled"})
    assert {rule["alert"] for rule in RULES} == provoked
    for cause, alerts in CAUSES:
        before = watched.scrape()
        later = cause(watched)
        assert firing(before, watched.scrape(later=later)) == alerts, cause.__name__
        mended(watched)


def partner(tenants: int) -> CentralServer:
    held = [Tenant(id=f"t-{number}") for number in range(tenants)]
    return CentralServer(tenants=held, credentials=[Credential(id_type="partner", id="p-1")])


def test_calls_that_sophos_refuses_again_and_again_are_told() -> None:
    with site(partner(8)) as found:
        watched = Watched(found)
        watched.post("fetch-page")
        before = watched.scrape()
        found.central.faults.add(Fault("status", status=429, retry_after=1, times=99))

        def refused() -> bool:
            watched.post("fetch-page")
            return bool(watched.platform.budgets[0]["refused"] > 20)

        watched.post("fetch-page")
        assert "SophosThrottled" not in firing(before, watched.scrape())
        until(refused, "more than 20 refusals")
        alerts = {"SophosThrottled", "SophosStreamFails", "SophosIntegrationFails"}
        assert firing(before, watched.scrape()) == alerts


def test_late_is_what_missed_its_turn_three_times_and_no_inventory_that_is_not_due() -> None:
    one = {"name": "acme", "client_id": "demo-client", "client_secret": "${env:SITE_SECRET}"}
    many = one | {"streams": ["events", "endpoints"], "calls_per_minute": 16}
    with site(partner(100), every="60s", integrations=[many]) as found:
        watched = Watched(found)
        assert {line["outcome"] for line in found.results("fetch-page", {"integration": "acme", "tenant": "t-0"})} == {
            "fetched",
            "up_to_date",
        }

        def late(**later: int) -> tuple[set[str], float]:
            """The streams that are, and what is told of the inventory."""
            told = samples(watched.scrape(later=timedelta(**later)))
            lag = next(
                told[key] for key in told if key[0].endswith("lag_seconds") and ("stream", "endpoints") in key[1]
            )
            return {dict(labels)["stream"] for labels in series(RULES[0]["expr"], {}, told)}, lag

        # It spoke, and was asked out of turn; after a quarter of an hour it is one of many again.
        schedules, now = Schedules(watched.site.state.store), datetime.now(UTC)
        path = Stream("acme", "t-0", "events").path
        for seconds in (120, 0):
            schedules.choose("acme", [path], 1, now - timedelta(seconds=seconds))
        schedules.answered("acme", spoke={path}, missed=(), now=now)
        # The credential's 14 first calls a minute ask the hundred tenants in 7 minutes.
        assert late(minutes=20) == (set(), 0.0)
        assert late(minutes=25) == ({"events"}, 0.0)
        alerts, lag = late(hours=7)
        assert (alerts, round(lag, -2)) == ({"events"}, 3600.0)
        assert late(hours=25)[0] == {"events", "endpoints"}
