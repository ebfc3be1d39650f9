"""Prometheus's own rule tests, over series of a connector that runs, restarts, is down, or is back after 30 hours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from lib.model.health import KINDS

ALERTS = Path(__file__).resolve().parents[2] / "infra/prometheus/alerts.yml"
RULES = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
HEALTH = "sophos_utmstack_health"
UP = 'up{job="sophos-utmstack"}'
WELL = {HEALTH: "0x120", UP: "1x120"}
BACK = {HEALTH: "0x30 _x1800 1x120", UP: "1x30 0x1800 1x120"}
"""Up, down for 30 hours, and up again: what a rule needs an earlier sample for, it never sees."""
STREAM = {"integration": "acme", "tenant": "t", "stream": "events"}
OF_STREAM = '{integration="acme",tenant="t",stream="events"}'
GAPS = f"sophos_utmstack_gaps_unacknowledged{OF_STREAM}"
ODD = "sophos_utmstack_odd_acks_total"
DEAD = f"sophos_utmstack_dead_letters_unacknowledged{OF_STREAM}"


def troubled(code: str) -> str:
    return f'sophos_utmstack_troubled{{integration="acme",tenant="t",stream="events",code="{code}"}}'


Case = tuple[str, str, dict[str, str], str, dict[str, str] | None, str | None]
"""What happens, the alert, the series, the minute to look, the labels of what fires then, and a minute of peace."""
CASES: list[Case] = [
    (
        "the scrape fails",
        "SophosConnectorDown",
        {HEALTH: "0x30 _x60", UP: "1x30 0x60"},
        "40m",
        {"job": "sophos-utmstack"},
        "30m",
    ),
    ("no target is left", "SophosConnectorDown", {HEALTH: "0x30 _x60", UP: "1x30 _x60"}, "45m", {}, "30m"),
    (
        "a restart of two minutes",
        "SophosConnectorDown",
        {HEALTH: "0x30 _x2 0x60", UP: "1x30 0x2 1x60"},
        "40m",
        None,
        "33m",
    ),
    ("failing", "SophosConnectorFailing", {HEALTH: "0x30 2x60", UP: "1x90"}, "41m", {}, "39m"),
    ("attention", "SophosConnectorNeedsAttention", {HEALTH: "0x30 1x100", UP: "1x130"}, "95m", {}, "60m"),
    ("a quiet hour", "UTMStackEngineDown", WELL | {"sophos_utmstack_engine_up": "1x30 0x60"}, "37m", {}, "34m"),
    (
        "the engine hangs",
        "SophosEventsUndelivered",
        WELL | {f"sophos_utmstack_oldest_pending_seconds{OF_STREAM}": "0x30 601+60x60"},
        "37m",
        STREAM,
        "30m",
    ),
    ("too much waits", "SophosStoreFull", WELL | {"sophos_utmstack_full": "0x30 1x60"}, "32m", {}, "30m"),
    (
        "restart after restart",
        "SophosFunctionRestarts",
        WELL | {'sophos_utmstack_function_restarts_total{function="fetch-page"}': "0x30 0+1x30"},
        "50m",
        {"function": "fetch-page"},
        "30m",
    ),
    (
        "late",
        "SophosEventsLate",
        WELL
        | {
            f"sophos_utmstack_lag_seconds{OF_STREAM}": "0x30 901+60x60",
            f"sophos_utmstack_interval_seconds{OF_STREAM}": "60x100",
        },
        "37m",
        STREAM,
        "30m",
    ),
    (
        "read in turn",
        "SophosEventsLate",
        WELL
        | {
            f"sophos_utmstack_lag_seconds{OF_STREAM}": "2000x100",
            f"sophos_utmstack_interval_seconds{OF_STREAM}": "720x100",
        },
        "60m",
        None,
        None,
    ),
    ("a gap while it runs", "SophosGap", WELL | {GAPS: "0x30 1x120"}, "32m", STREAM, "30m"),
    ("a gap at the first scrape", "SophosGap", BACK | {GAPS: "0x30 _x1800 1x120"}, "1832m", STREAM, "1000m"),
    ("an acknowledged gap", "SophosGap", WELL | {GAPS: "1x30 0x60"}, "40m", None, None),
    (
        "dead letters at the first scrape",
        "SophosDeadLetters",
        BACK | {DEAD: "0x30 _x1800 3x120"},
        "1832m",
        STREAM,
        "9m",
    ),
    (
        "Sophos is out of reach",
        "SophosProblemLasts",
        WELL | {troubled("dns_failed"): "0x30 1x60"},
        "47m",
        {**STREAM, "code": "dns_failed"},
        "40m",
    ),
    (
        "it waits for its turn",
        "SophosProblemLasts",
        WELL | {troubled("over_budget"): "1x90", troubled(""): "0x90"},
        "60m",
        None,
        None,
    ),
    ("silent", "SophosStreamSilent", WELL | {f"sophos_utmstack_silent{OF_STREAM}": "0x30 1x60"}, "62m", STREAM, "45m"),
    (
        "paused",
        "SophosPaused",
        WELL | {'sophos_utmstack_paused{integration="acme"}': "0x30 1x90"},
        "92m",
        {"integration": "acme"},
        "60m",
    ),
    ("an odd acknowledgement", "UTMStackOddAcknowledgements", WELL | {ODD: "0x30 1x120"}, "37m", {}, "30m"),
    ("odd ones, an hour later", "UTMStackOddAcknowledgements", WELL | {ODD: "0x10 1x110"}, "100m", None, None),
    (
        "an odd acknowledgement before the first scrape",
        "UTMStackOddAcknowledgements",
        BACK | {ODD: "0x30 _x1800 4x120"},
        "1837m",
        {},
        "30m",
    ),
    (
        "the function that counts them begins anew",
        "UTMStackOddAcknowledgements",
        WELL | {ODD: "4x90 0x30"},
        "100m",
        None,
        None,
    ),
    (
        "throttled",
        "SophosThrottled",
        WELL | {'sophos_utmstack_sophos_refused_total{integration="acme"}': "0x30 0+2x60"},
        "50m",
        {"integration": "acme"},
        "30m",
    ),
]
BY_REASON = {
    "SophosCredentialsRefused": (5, ("credentials_refused",)),
    "SophosAccessWrong": (5, ("permission_missing", "wrong_tenant", "wrong_region", "host_refused", "config_invalid")),
    "SophosStoreFailing": (2, ("store_unavailable", "layout_newer", "object_unreadable")),
    "SophosFunctionFailing": (2, ("function_failing",)),
    "SophosFiguresStale": (5, ("stale",)),
    "SophosObserving": (1440, ("observing",)),
    "SophosCredentialWarning": (
        60,
        ("credential_ending", "credential_ended", "credential_old", "next_credential_used"),
    ),
    "SophosTenantLeftOut": (60, ("tenant_left_out",)),
    "SophosConfigurationBroken": (10, ("config_edit_broken", "followed_config")),
    "SophosObjectDamaged": (10, ("object_damaged",)),
    "SophosHeartbeatLate": (5, ("heartbeat_late",)),
    "SophosWrongCustomer": (0, ("wrong_customer",)),
}
"""Alerts on the count of a reason: after how many minutes, and which reasons."""
OF_OWN = {
    "engine_down": "UTMStackEngineDown",
    "undelivered": "SophosEventsUndelivered",
    "store_full": "SophosStoreFull",
    "gap": "SophosGap",
    "dead_letters": "SophosDeadLetters",
    "paused": "SophosPaused",
    "late": "SophosEventsLate",
    "silent": "SophosStreamSilent",
}
"""Reasons that have a metric, and an alert, of their own."""
for alert, (minutes, codes) in BY_REASON.items():
    for code in codes:
        series = f'sophos_utmstack_reasons{{code="{code}"}}'
        CASES.append(
            (code, alert, WELL | {series: f"0x30 3x{minutes + 30}"}, f"{32 + minutes}m", {"code": code}, "30m")
        )
    if minutes < 60:
        first = {HEALTH: "0x30 _x200 1x60", UP: "1x30 0x200 1x60", series: "0x30 _x200 3x60"}
        CASES.append((f"{code} at the first scrape", alert, first, f"{232 + minutes}m", {"code": code}, "130m"))


def rule_test(case: Case) -> dict[str, Any]:
    name, alert, series, at, labels, peace = case
    severity = RULES[alert]["labels"]["severity"]

    def looked(minute: str, *found: dict[str, str]) -> dict[str, Any]:
        samples = [
            {
                "labels": "ALERTS{" + ",".join(f'{key}="{value}"' for key, value in each.items()) + "}",
                "value": 1,
            }
            for each in found
        ]
        return {
            "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
            "eval_time": minute,
            "exp_samples": samples,
        }

    fires = {"alertname": alert, "alertstate": "firing", "severity": severity, **(labels or {})}
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "promql_expr_test": [looked(at, *([] if labels is None else [fires])), *([looked(peace)] if peace else [])],
    }


def promtool(folder: Path, cases: list[Case], rules: Path = ALERTS) -> int:
    """The exit status of a rule test."""
    program = shutil.which("promtool")
    assert program, "promtool is missing: `make test` installs Debian's package `prometheus`"
    path = folder / "alerts_test.yml"
    document = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        "tests": [rule_test(case) for case in cases],
    }
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run([program, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    return done.returncode


def promtool_firing(folder: Path, scraped: str, minutes: int = 120) -> set[str]:
    """The alerts that fire where a scrape's samples stay as they are for so long."""
    series = [
        {"series": f"{sample.name}{{{_labels(sample.labels)}}}", "values": f"{sample.value}x{minutes}"}
        for family in text_string_to_metric_families(scraped)
        for sample in family.samples
    ]
    looked = {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{minutes}m", "exp_samples": []}
    test = {
        "interval": "1m",
        "input_series": [*series, {"series": UP, "values": f"1x{minutes}"}],
        "promql_expr_test": [looked],
    }
    path = folder / "scraped.yml"
    document = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(yaml.safe_dump(document))
    program = shutil.which("promtool")
    assert program
    done = subprocess.run([program, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    # What was not expected is listed by name: there is no other way to ask promtool for it.
    return set(re.findall(r'alertname="(\w+)"', done.stdout + done.stderr))


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items())


def test_every_rule_fires_when_its_cause_is_there_and_only_then(tmp_path: Path) -> None:
    assert promtool(tmp_path, CASES) == 0


def test_every_rule_is_tested_and_every_reason_has_a_rule() -> None:
    assert {alert for _, alert, _, _, labels, _ in CASES if labels is not None} == RULES.keys()
    covered = {code for _, codes in BY_REASON.values() for code in codes} | OF_OWN.keys()
    assert covered == KINDS.keys()
    assert set(OF_OWN.values()) <= RULES.keys()


def test_a_rule_that_compares_with_the_past_would_be_caught(tmp_path: Path) -> None:
    """`delta` sees nothing where the first sample after an outage has the gap already."""
    rules = yaml.safe_load(ALERTS.read_text())
    rules["groups"][0]["rules"] = [{**RULES["SophosGap"], "expr": f"delta({GAPS}[1h]) > 0"}]
    broken = tmp_path / "broken.yml"
    broken.write_text(yaml.safe_dump(rules))
    assert promtool(tmp_path, [next(each for each in CASES if each[0] == "a gap at the first scrape")], broken) == 1
    rules["groups"][0]["rules"] = [RULES["SophosGap"]]
    broken.write_text(yaml.safe_dump(rules))
    assert promtool(tmp_path, [next(each for each in CASES if each[0] == "a gap at the first scrape")], broken) == 0
