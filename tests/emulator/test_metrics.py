"""Metrics by Prometheus's conventions; alerts that fire when what they are about happens, and not else."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from emulator.central import Fault
from emulator.web.metrics import exposition
from emulator.web.status import Running, status
from lib.config import loading as configuration
from lib.model.duration import parse_duration
from tests.site import ROOT, Site, platform_for, site

RULES = yaml.safe_load((ROOT / "infra/prometheus/alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "infra/grafana/sophos-utmstack.json").read_text())
Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


class Watched:
    """A site whose platform is asked for metrics before and after something happens."""

    def __init__(self, found: Site) -> None:
        self.site = found
        self.config = configuration.load(str(found.config))
        self.platform = platform_for(self.config, str(found.config))

    def post(self, name: str) -> None:
        """As the emulator does it; the function's process is the site's."""
        self.platform.functions[name] = self.site.function(name)
        self.platform.call(name, b"{}")

    def scrape(self, *, later: timedelta = timedelta(0)) -> str:
        app = self.site.app
        site = status(
            self.config,
            app.state,
            app.accounts,
            now=datetime.now(UTC) + later,
            running=Running(
                latest=self.platform.latest, budgets=self.platform.budgets, engine=self.platform.engine_problem
            ),
        )
        return exposition(self.platform, site.fields).decode()


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
    expressions = [rule["expr"] for rule in RULES]
    expressions += [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for expression in expressions:
        for name in re.findall(r"sophos_utmstack_\w+", expression):
            assert name in known, name
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}
        assert parse_duration(rule.get("for", "1s"))


def test_what_is_met_now_and_then_is_counted() -> None:
    with site() as found:
        one = Watched(found)
        stream = {"integration": "acme", "stream": "events", "tenant": found.central.default_tenant}

        def values() -> dict[str, float]:
            told = samples(one.scrape())
            labels = {"changed": stream, "other_customers": stream, "outages": {"code": "engine_unavailable"}}
            names = ("resent", "odd_acks", "changed", "other_customers", "outages")
            keys = {name: tuple(sorted(labels.get(name, {}).items())) for name in names}
            return {name: told.get((f"sophos_utmstack_{name}_total", key), 0.0) for name, key in keys.items()}

        one.post("fetch-page")
        # Each is there before anything happens, but for the codes of passing troubles, which nobody can list.
        assert {"sophos_utmstack_resent_total", "sophos_utmstack_odd_acks_total"} <= {
            name for name, _ in samples(one.scrape())
        }
        assert values() == dict.fromkeys(values(), 0.0)
        raws = [json.dumps({"id": f"x-{number}", "customer_id": "somebody else"}).encode() for number in range(6)]
        found.central.append(found.central.default_tenant, "events", raws)
        one.post("fetch-page")
        changed = [raw.replace(b"somebody", b"nobody") for raw in raws[:2]]
        found.central.append(found.central.default_tenant, "events", changed)
        one.post("fetch-page")
        assert (values()["other_customers"], values()["changed"]) == (6, 2)
        found.engine.faults |= {"odd": "2", "hang_up_after": "4"}
        one.post("forward-batch")
        assert values()["odd_acks"] >= 2
        assert values()["resent"] >= 1
        found.engine.stop()
        found.central.emit(1)
        one.post("fetch-page")
        for _ in range(2):
            one.post("forward-batch")
        assert values()["outages"] == 1
