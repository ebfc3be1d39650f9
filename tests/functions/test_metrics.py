"""Metrics by Prometheus's conventions; alerts that fire when what they are about happens, and not else."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from emulator.central import Fault
from emulator.metrics import registry_of
from emulator.platform import Platform
from emulator.status import status
from lib import config as configuration
from lib import wiring
from lib.pipeline.accounts import Accounts
from tests.site import ROOT, Site, site

RULES = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "infra/grafana/sophos-utmstack.json").read_text())
SIMPLE = re.compile(
    r'(?P<increase>increase\()?(?P<name>\w+)(\{code!="(?P<but>\w+)"\})?(\[1h\]\))? (?P<op>>|==) (?P<bound>\d+)'
)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Watched:
    """A site whose platform is asked for metrics before and after something happens."""

    def __init__(self, found: Site) -> None:
        self.site = found
        self.config = configuration.load(str(found.config))
        self.accounts = Accounts(wiring.open_store(self.config.store), now=wiring.now, jitter=lambda: 0.0)
        self.platform = Platform(self.config, str(found.config))

    def post(self, name: str) -> None:
        """As the emulator does it; the function's process is the site's."""
        self.platform.functions[name] = self.site.function(name)
        self.platform.call(name, b"{}")

    def scrape(self, *, later: timedelta = timedelta(0)) -> str:
        feeds = [wiring.feed_of(each, self.config.gap_data_type) for each in self.config.integrations]
        told = status(
            self.config,
            self.site.books,
            self.accounts,
            feeds=feeds,
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
    found = set()
    for rule in RULES:
        match = SIMPLE.fullmatch(rule["expr"])
        assert match, rule["expr"]
        for key, value in new.items():
            if key[0] != match["name"] or dict(key[1]).get("code") == (match["but"] or "-"):
                continue
            seen = value - old.get(key, 0.0) if match["increase"] else value
            if seen > float(match["bound"]) if match["op"] == ">" else seen == float(match["bound"]):
                found.add(rule["alert"])
    return found


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


def sophos_is_down(watched: Watched) -> timedelta:
    watched.site.central.faults.add(Fault("status", status=503, times=99))
    watched.post("fetch-page")
    return timedelta(minutes=20)


def sophos_refuses_calls(watched: Watched) -> timedelta:
    watched.site.central.faults.add(Fault("status", status=429, retry_after=1, times=99))
    watched.post("fetch-page")
    watched.platform.budgets[0]["refused"] += 20  # an hour of it
    return timedelta(0)


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
    watched.accounts.pause("acme")
    return timedelta(0)


def a_function_dies(watched: Watched) -> timedelta:
    watched.platform.functions["fetch-page"].restarts += 4
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
    watched.accounts.pause("acme", resume=True)
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
    (sophos_refuses_calls, {"SophosThrottled", "SophosStreamFails", "SophosIntegrationFails"}),
    (the_secret_is_wrong, {"SophosIntegrationFails", "SophosStreamFails"}),
)


def test_each_alert_fires_when_its_cause_is_provoked_and_no_other(watched: Watched) -> None:
    assert {rule["alert"] for rule in RULES} == set[str]().union(*(alerts for _, alerts in CAUSES))
    for cause, alerts in CAUSES:
        before = watched.scrape()
        later = cause(watched)
        assert firing(before, watched.scrape(later=later)) == alerts, cause.__name__
        mended(watched)
