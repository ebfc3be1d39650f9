"""The hosted form, planned and applied by the real Terraform against the providers' schemas and an imagined project."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from emulator.central import CentralServer
from lib.config import loading as configuration
from lib.config.schema import ConfigSchema
from lib.config.settings import CLOUD_RUN, Config
from lib.model.rate_policy import PUBLISHED
from tests.fakes.gcs import Call, FakeGcs, Reply, answered
from tests.fakes.terraform.cloud import BINDING_SETTLES, PROJECT, Cloud
from tests.fakes.terraform.command import APPLY, Terraform, hosted
from tests.site import ROOT, site

RELAY = {"relay_address": "relay.example.com:7443"}
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
ALL_KEYS = {
    "name": "acme",
    "region": "eu",
    "tenants": ["11111111-2222-4333-8444-555555555555"],
    "streams": ["events", "alerts", "endpoints"],
    "exclude_types": ["family:web_control"],
    "lookback": "12h",
    "settle": "1m",
    "reconcile": "off",
    "utmstack_tenant_id": "ce66672c-e36d-4761-a8c8-90058fee1a24",
    "alerts_data_type": "alerts",
    "endpoints_data_type": "endpoints",
    "data_source": "acme",
    "calls_per_minute": 50,
    "inventory": "12h",
    "next_credential": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": RELAY,
    "hybrid": {},
    "kms": {**RELAY, "kms_key": f"projects/{PROJECT}/locations/europe-west1/keyRings/r/cryptoKeys/k"},
    "no_tasks": {**RELAY, "fan_out": False},
    "all_keys": {
        **RELAY,
        "prefix": "sophos-soc-2",
        "relay_ca": CA,
        "relay_network": {"connector": f"projects/{PROJECT}/locations/europe-west1/connectors/c", "all_traffic": True},
        "min_instances": 1,
        "schedule": "*/5 * * * *",
        "testers": ["user:operator@example.com"],
        "alert_emails": ["soc@example.com"],
        "integrations": {
            "acme": ALL_KEYS,
            "beta": {"name": "beta", "tenants": None},
            "gamma": {"name": "g", "tenants": "all"},
        },
        "settings": {
            "archive": "7d",
            "gap_data_type": "off",
            "limits": {"max_pending_bytes": 1 << 30},
            "observe": False,
            "sophos": {"allow_hosts": ["sophos.example.com"]},
        },
    },
}


def variables(**changed: Any) -> dict[str, Any]:
    return {"project": PROJECT, "integrations": {"acme": {"name": "acme"}}, **changed}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terraform]:
    """The default form, applied."""
    with hosted(tmp_path_factory.mktemp("default"), Cloud()) as found:
        found.make(variables(**RELAY))
        yield found


@pytest.fixture
def terraform(tmp_path: Path) -> Iterator[Terraform]:
    with hosted(tmp_path, Cloud()) as found:
        yield found


def config_of(found: Mapping[str, Mapping[str, Any]]) -> Config:
    """The connector's configuration; InvalidConfigError where the connector would not take it."""
    return configuration.parse(found["google_secret_manager_secret_version.config"]["secret_data"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_apply_in_a_new_project_makes_all_and_a_configuration_that_is_valid(
    variant: str, terraform: Terraform
) -> None:
    given = variables(**VARIANTS[variant])
    terraform.make(given)
    found = terraform.resources()
    config = config_of(found)
    assert [each.name for each in config.integrations] == [each["name"] for each in given["integrations"].values()]
    assert (config.tasks is None) == (variant == "no_tasks")
    assert config.store == f"gs://{found['google_storage_bucket.store']['id']}"
    assert config.access.platform == CLOUD_RUN
    for forwards in ("google_eventarc_trigger.batches[0]", "google_cloud_scheduler_job.sweep[0]"):
        assert (forwards in found) == (variant != "hybrid")
    if variant == "kms":
        (encryption,) = found["google_storage_bucket.store"]["encryption"]
        assert encryption["default_kms_key_name"] == given["kms_key"]
    again = terraform.run("plan", "-input=false", "-no-color", "-detailed-exitcode")
    assert "No changes" in again


def test_the_example_is_applied_as_it_stands(terraform: Terraform) -> None:
    shutil.copy(terraform.folder / "terraform.tfvars.example", terraform.folder / "terraform.tfvars")
    terraform.make({})
    found = terraform.resources()
    (acme,) = config_of(found).integrations
    assert (acme.name, acme.streams) == ("acme", ("events", "alerts"))
    assert len(of_type(found, "google_monitoring_notification_channel")) == 1


def test_every_key_of_an_integration_arrives(terraform: Terraform) -> None:
    terraform.make(variables(**VARIANTS["all_keys"]))
    found = terraform.resources()
    integration = ConfigSchema().fields["integrations"].inner.schema.fields  # type: ignore[attr-defined] # nested
    text = found["google_secret_manager_secret_version.config"]["secret_data"]
    for key in integration:
        assert f'"{key}":' in text, key
    config = config_of(found)
    acme, beta, gamma = config.integrations
    assert (acme.streams, acme.calls_per_minute, acme.reconcile) == (("events", "alerts", "endpoints"), 50, None)
    assert acme.tenants == ("11111111-2222-4333-8444-555555555555",)
    assert (beta.tenants, beta.next_client_id, gamma.tenants) == (None, None, None)
    assert acme.next_client_secret is not None
    assert 'google_secret_manager_secret.sophos["acme-next-client-secret"]' in found
    assert config.gap_data_type is None
    assert config.every.interval is not None
    assert config.every.interval.total_seconds() == 300
    functions = {key: each for key, each in found.items() if key.startswith("google_cloudfunctions2_function")}
    egress = {each["name"]: each["service_config"][0]["vpc_connector_egress_settings"] for each in functions.values()}
    assert egress == {
        "sophos-soc-2-fetch-page": None,
        "sophos-soc-2-forward-batch": "ALL_TRAFFIC",
        "sophos-soc-2-test-connection": "ALL_TRAFFIC",
    }


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"integrations": {"acme": {"name": "acme", "streamz": ["events"]}}}, "acme.streamz"),
        ({"integrations": {"acme": {"name": "acme", "streams": ["devices"]}}}, "endpoints"),
        ({"settings": {"listen": "127.0.0.1:80"}}, "unknown key listen"),
    ],
)
def test_what_is_unknown_is_refused_by_name(changed: dict[str, Any], told: str, terraform: Terraform) -> None:
    terraform.write(variables(**changed))
    assert told in terraform.run("plan", "-input=false", "-no-color", status=1)


def test_without_the_foundation_the_first_apply_is_refused_and_the_next_goes_on(terraform: Terraform) -> None:
    """What the imagined project is worth: permissions take their time."""
    terraform.write(variables(**RELAY))
    said = terraform.run(*APPLY, status=1)
    assert re.search("google_cloudfunctions2_function: access to .* is not there yet", said), said
    terraform.cloud.wait(BINDING_SETTLES)
    terraform.run(*APPLY)
    config_of(terraform.resources())


def test_an_alert_that_cloud_monitoring_validates_would_be_refused(terraform: Terraform) -> None:
    path = terraform.folder / "alerts.tf"
    path.write_text(path.read_text().replace("disable_metric_validation = true", ""))
    terraform.write(variables(**RELAY))
    said = terraform.run(*APPLY, "-target=google_monitoring_alert_policy.lag", status=1)
    assert re.search("google_monitoring_alert_policy: metric .*lag_seconds.* is not there", said), said


def test_eventarc_needs_its_service_agent_and_the_next_apply_goes_on(terraform: Terraform) -> None:
    terraform.cloud.has_eventarc_agent = False
    with pytest.raises(AssertionError, match="Eventarc Service Agent"):
        terraform.make(variables(**RELAY))
    terraform.cloud.has_eventarc_agent = True
    terraform.run(*APPLY)
    assert "google_eventarc_trigger.batches[0]" in terraform.resources()


def test_the_foundation_has_every_secret_and_nothing_that_runs(terraform: Terraform) -> None:
    terraform.write(variables(**RELAY))
    terraform.run(*APPLY, "-target=terraform_data.foundation")
    found = terraform.resources()
    secrets = {each["secret_id"] for each in of_type(found, "google_secret_manager_secret")}
    assert secrets == {
        "sophos-acme-client-id",
        "sophos-acme-client-secret",
        "sophos-relay-token",
        "sophos-connector-yaml",
    }
    assert not of_type(found, "google_cloudfunctions2_function")


def test_the_queue_is_as_fast_as_the_credentials_and_too_few_instances_are_told(terraform: Terraform) -> None:
    def rate(*calls: int) -> float:
        many = {f"c-{each}": {"name": f"c-{each}", "calls_per_minute": each} for each in calls}
        plan = terraform.plan(variables(integrations=many or variables()["integrations"], **RELAY))
        (queue,) = planned(plan, "google_cloud_tasks_queue")
        return float(queue["rate_limits"][0]["max_dispatches_per_second"])

    assert rate() == 10 >= PUBLISHED / 30
    assert rate(2000, 1000) == 100
    assert rate(10_000) * 30 >= 10_000
    assert rate(20_000) == 500
    said = terraform.run("plan", "-input=false", "-no-color", "-var=max_instances=1")
    assert "max_instances = 1 are too few" in said


def test_what_waits_is_swept_every_few_minutes_where_the_functions_forward(default: Terraform) -> None:
    sweep = default.resources()["google_cloud_scheduler_job.sweep[0]"]
    assert re.fullmatch(r"\*/[1-5] \* \* \* \*", sweep["schedule"])
    assert sweep["http_target"][0]["body"] == "e30="
    assert "sophos-forward-batch" in sweep["http_target"][0]["uri"]
    assert default.resources()["google_cloud_scheduler_job.fetch"]["schedule"] == "* * * * *"


def planned(plan: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The resources of that type, as they will be."""
    return [each["change"]["after"] for each in plan["resource_changes"] if each["type"] == kind]


LATE = (("512", 0), ("1024", 5), ("+Inf", 5))
IN_TIME = (("64", 5), ("512", 5), ("1024", 5), ("+Inf", 5))


def of_type(found: Mapping[str, dict[str, Any]], kind: str, name: str = "") -> list[dict[str, Any]]:
    """The resources of that type."""
    return [each for address, each in found.items() if address.startswith(f"{kind}.{name}")]


# What a chart or a threshold makes of a metric: https://cloud.google.com/monitoring/api/ref_v3/rest/v3/projects.alertPolicies#Aligner
NUMBERS = {"ALIGN_SUM", "ALIGN_RATE", "ALIGN_DELTA", "ALIGN_MAX", "ALIGN_MEAN"}
OF_A_DISTRIBUTION = {"ALIGN_PERCENTILE_99", "ALIGN_PERCENTILE_95", "ALIGN_PERCENTILE_50", "ALIGN_PERCENTILE_05"}
GOOGLES = {
    "run.googleapis.com/request_count": {"response_code_class", "response_code"},
    "cloudtasks.googleapis.com/queue/depth": set(),
}


def test_alerts_and_charts_read_metrics_that_there_are_in_a_way_that_gives_numbers(default: Terraform) -> None:
    found = default.resources()
    metrics = {each["name"]: each["metric_descriptor"][0] for each in of_type(found, "google_logging_metric")}
    filters = [each["filter"] for each in of_type(found, "google_logging_metric")]
    filters += [
        each["filter"]
        for policy in of_type(found, "google_monitoring_alert_policy")
        for each in policy["conditions"][0]["condition_matched_log"]
    ]
    names = [each["name"] for each in of_type(found, "google_cloudfunctions2_function")]
    for filter_ in filters:
        service = re.search(r'service_name=~"([^"]+)"', filter_)
        assert service, filter_
        assert {name for name in names if re.search(service[1], name)} == {"sophos-fetch-page", "sophos-forward-batch"}
    seen = set()
    for alert, function in (("silence", "fetch-page"), ("no_sweeps", "forward-batch")):
        (policy,) = of_type(found, "google_monitoring_alert_policy", alert)
        (absent,) = policy["conditions"][0]["condition_absent"]
        name = found[f'google_cloudfunctions2_function.this["{function}"]']["name"]
        assert f'service_name = "{name}"' in absent["filter"]
        seen.add(read(absent["filter"], snake(absent["aggregations"][0]), metrics))
    seen |= {
        queried(policy["conditions"][0], metrics) for policy in of_type(found, "google_monitoring_alert_policy")
    } - {""}
    board = json.loads(found["google_monitoring_dashboard.this"]["dashboard_json"])
    for tile in board["mosaicLayout"]["tiles"]:
        (data,) = tile["widget"]["xyChart"]["dataSets"]
        query = data["timeSeriesQuery"]
        if "prometheusQuery" in query:
            seen.add(named(query["prometheusQuery"], metrics))
        else:
            only = query["timeSeriesFilter"]
            seen.add(read(only["filter"], snake(only["aggregation"]), metrics))
    assert seen == set(metrics) | set(GOOGLES)


SERIES = 'logging_googleapis_com:user_sophos_{}{{monitored_resource="cloud_run_revision",integration="acme"{}}}'


@pytest.mark.parametrize(
    ("alert", "series", "fires"),
    [
        ("failures", {SERIES.format("failures", ',outcome="failed",code="x"'): "0+1x40"}, True),
        ("failures", {SERIES.format("failures", ',outcome="failed",code="x"'): "0+1x5 5x35"}, False),
        ("lag", {SERIES.format("lag_seconds_bucket", f',le="{le}"'): f"0+{each}x40" for le, each in LATE}, True),
        ("lag", {SERIES.format("lag_seconds_bucket", f',le="{le}"'): f"0+{each}x40" for le, each in IN_TIME}, False),
    ],
)
def test_an_alert_fires_when_its_cause_lasts_and_only_then(
    alert: str, series: dict[str, str], fires: bool, default: Terraform, tmp_path: Path
) -> None:
    (policy,) = of_type(default.resources(), "google_monitoring_alert_policy", alert)
    (query,) = policy["conditions"][0]["condition_prometheus_query_language"]
    rule = {"alert": alert, "expr": query["query"], "for": query["duration"]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "hosted", "rules": [rule]}]}))
    labels = {"integration": "acme"} | ({"outcome": "failed", "code": "x"} if alert == "failures" else {})
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": "25m", "alertname": alert, "exp_alerts": [{"exp_labels": labels}] if fires else []}
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    program = shutil.which("promtool")
    assert program, "promtool is missing: install Debian's package `prometheus`"
    done = subprocess.run(
        [program, "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def queried(condition: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The metric that a condition's PromQL reads; nothing for one of another kind."""
    return "".join(named(each["query"], metrics) for each in condition["condition_prometheus_query_language"])


def named(query: str, metrics: Mapping[str, Any]) -> str:
    """The metric that a PromQL reads by its name there, grouped by labels that it has."""
    found = re.search(r"logging_googleapis_com:user_sophos_(\w+?)(_sum|_bucket)?\{monitored_resource=", query)
    assert found, query
    metric = metrics[f"sophos/{found[1]}"]
    assert (metric["value_type"] == "DISTRIBUTION") == bool(found[2]), query
    grouped = re.search(r" by \(([^)]*)\)", query)
    labels = {each["key"] for each in metric["labels"]} | {"le"}
    assert set(grouped[1].split(", ") if grouped else ()) <= labels, query
    return f"sophos/{found[1]}"


def snake(aggregation: Mapping[str, Any]) -> dict[str, Any]:
    return {re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in aggregation.items()}


def read(filter_: str, aggregation: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The metric that is read, once it is known to give numbers."""
    found = re.search(r'metric\.type ?= ?"([^"]+)"', filter_)
    assert found, filter_
    name = found[1].removeprefix("logging.googleapis.com/user/")
    labels = GOOGLES.get(name) if name in GOOGLES else {each["key"] for each in metrics[name]["labels"]}
    is_distribution = name not in GOOGLES and metrics[name]["value_type"] == "DISTRIBUTION"
    assert aggregation["per_series_aligner"] in (OF_A_DISTRIBUTION if is_distribution else NUMBERS), filter_
    for field in aggregation.get("group_by_fields") or ():
        kind, _, label = field.partition(".label.")
        assert kind == "resource" or label in (labels or ()), field
    return name


OBJECT = re.compile(r"/storage/v1/b/[^/]+/o/([^/?]+)")


def test_test_connection_gets_by_with_what_it_may_do_and_cannot_write_a_cursor(
    default: Terraform, gcs: FakeGcs, bucket: str
) -> None:
    found = default.resources()
    (condition,) = found["google_storage_bucket_iam_member.test_connection"]["condition"]
    whole = f"projects/_/buckets/{found['google_storage_bucket.store']['id']}/objects/"
    prefixes = tuple(
        each.removeprefix(whole)
        for each in re.findall(r"resource\.name\.startsWith\('([^']+)'\)", condition["expression"])
    )
    assert prefixes == (".layout", "probes/", "budgets/")
    assert not any("test-connection" in key for key in found if "iam_member.store" in key)

    def guarded(call: Call, go: Any) -> Reply | None:
        return go(call) if object_of(call).startswith(prefixes) else answered(403, "forbidden")(call, go)

    with CentralServer() as central, site(central, store=bucket) as here, refusing(gcs, guarded):
        answer = json.loads(here.post("test-connection", {"integration": "acme"}).body)
        assert [check for check in answer["checks"] if not check["ok"]] == []
        refused = here.post("fetch-page")
        assert "fetched" not in refused.body.decode()


@contextmanager
def refusing(gcs: FakeGcs, fault: Any) -> Iterator[None]:
    """Every call that reads, writes or removes an object meets the fault."""
    with gcs.failing("get", fault):
        gcs.fail("upload", fault, 1000)
        gcs.fail("delete", fault, 1000)
        yield


def object_of(call: Call) -> str:
    found = OBJECT.search(urlsplit(call.path).path)
    if found:
        return unquote(found[1])
    if call.path.startswith("/download/"):
        return unquote(urlsplit(call.path).path.rpartition("/o/")[2])
    return str(call.query.get("name", [""])[0]) or str(
        json.loads(call.body.split(b"\r\n\r\n")[1].split(b"\r\n")[0])["name"]
    )


def test_the_configurations_own_module_passes_its_tests(tmp_path: Path) -> None:

    shutil.copytree(ROOT / "infra/connector", tmp_path / "connector")
    found = Terraform(tmp_path / "connector")
    found.init()
    assert "0 failed" in found.run("test", "-no-color")
