"""Metrics for Prometheus: the status, the functions' processes, and the duration of deliveries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from emulator.runtime.delivery import PREFIX
from lib.model.health import KINDS, Health

if TYPE_CHECKING:
    from emulator.runtime.platform import Platform

INTEGRATION = ("integration",)


def exposition(platform: Platform, status: dict[str, Any]) -> bytes:
    """The metrics of one scrape, in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_StatusMetrics(platform, status))
    registry.register(platform.delivery)
    return generate_latest(registry) + "".join(_streams(platform, status)).encode("utf-8", "replace")


class _StatusMetrics(Collector):
    def __init__(self, platform: Platform, status: dict[str, Any]) -> None:
        self._platform = platform
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Every metric, computed for this scrape."""
        yield from self._integrations()
        yield from self._functions()
        yield from self._health()
        engine = GaugeMetricFamily(f"{PREFIX}engine_up", "0 while the engine takes no events.")
        engine.add_metric([], float("engine_problem" not in self._status))
        paused = GaugeMetricFamily(f"{PREFIX}full", "1 while fetching waits because too much waits for the engine.")
        paused.add_metric([], float(self._status["paused"]))
        yield from (engine, paused)
        yield from self._deliveries()
        yield from self._heartbeat()

    def _deliveries(self) -> Iterator[Metric]:
        """Counters of rare events. Each exists from the first scrape: `increase()` needs a sample before a rise."""
        for name, text in (
            ("resent", "Logs sent again on a new stream, since the one before broke."),
            ("odd_acks", "The engine's acknowledgements that name no log in flight."),
        ):
            yield CounterMetricFamily(PREFIX + name, text, self._platform.engine_counts.get(name, 0))
        outages = CounterMetricFamily(f"{PREFIX}outages", "Outages that began, by their problem.", labels=["code"])
        for code, count in sorted((dict.fromkeys(KINDS, 0) | self._platform.outages.counts).items()):
            outages.add_metric([code], count)
        yield outages

    def _heartbeat(self) -> Iterator[Metric]:
        """The heartbeat's metrics; none unless `heartbeat` is configured."""
        beat = self._status.get("heartbeat", {})
        for name, text in (
            ("heartbeat_round_trip_seconds", "Seconds from making the last heartbeat to its acknowledgement."),
            ("heartbeat_age_seconds", "Seconds since the last acknowledged heartbeat was made."),
        ):
            value = beat.get(name.removeprefix("heartbeat_"))
            if value is not None:
                family = GaugeMetricFamily(PREFIX + name, text)
                family.add_metric([], value)
                yield family
        if beat:
            late = GaugeMetricFamily(f"{PREFIX}heartbeat_late", "1 while two heartbeats are overdue.")
            late.add_metric([], float(beat["late"]))
            yield late

    def _health(self) -> Iterator[Metric]:
        """The verdict. Every reason always has a series, so that an alert rule sees it rise from 0."""
        whole = GaugeMetricFamily(f"{PREFIX}health", "0 ok, 1 needs attention, 2 failing.")
        whole.add_metric([], _NUMBER[self._status["health"]])
        reasons = GaugeMetricFamily(
            f"{PREFIX}reasons", "Streams that each reason concerns (or 1, where it concerns all).", labels=["code"]
        )
        counts = dict.fromkeys(KINDS, 0) | {reason["code"]: reason["count"] for reason in self._status["reasons"]}
        for code, count in sorted(counts.items()):
            reasons.add_metric([code], count)
        integrations = GaugeMetricFamily(f"{PREFIX}integration_health", "As `health`.", labels=INTEGRATION)
        for line in self._status["integrations"]:
            integrations.add_metric([line["name"]], _NUMBER[line["health"]])
        waiting = GaugeMetricFamily(f"{PREFIX}waiting_streams", "Streams that wait for their turn; all is well.")
        waiting.add_metric([], self._status["waiting"])
        yield from (whole, reasons, integrations, waiting)

    def _integrations(self) -> Iterator[Metric]:
        failed = GaugeMetricFamily(
            f"{PREFIX}integration_troubled", "1 while no stream of it can be read.", labels=(*INTEGRATION, "code")
        )
        paused = GaugeMetricFamily(f"{PREFIX}paused", "1 while an operator has paused it.", labels=INTEGRATION)
        made = CounterMetricFamily(f"{PREFIX}sophos_calls", "Calls of Sophos's API.", labels=INTEGRATION)
        refused = CounterMetricFamily(f"{PREFIX}sophos_refused", "Calls answered with 429.", labels=INTEGRATION)
        outcomes = CounterMetricFamily(
            f"{PREFIX}sophos_requests",
            "Requests to Sophos by outcome: a status, or an error's code.",
            labels=(*INTEGRATION, "outcome"),
        )
        retried = CounterMetricFamily(f"{PREFIX}sophos_retries", "Requests tried again.", labels=INTEGRATION)
        for line in self._status["integrations"]:
            name, code = line["name"], line.get("problem", {}).get("code", "")
            failed.add_metric([name, code], float(bool(code)))
            paused.add_metric([name], float(line["state"] == "paused"))
            if "calls" in line:
                made.add_metric([name], line["calls"]["made"])
                refused.add_metric([name], line["calls"]["refused"])
                requests = dict(line["calls"]["outcomes"])
                retried.add_metric([name], requests.pop("retried", 0))
                for outcome, count in sorted(requests.items()):
                    outcomes.add_metric([name, outcome], count)
        yield from (failed, paused, made, refused, outcomes, retried)

    def _functions(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(f"{PREFIX}function_up", "1 while the process takes calls.", labels=["function"])
        restarts = CounterMetricFamily(f"{PREFIX}function_restarts", "Restarts.", labels=["function"])
        for name, function in self._platform.functions.items():
            up.add_metric([name], float(function.is_up()))
            restarts.add_metric([name], function.restarts)
        calls = CounterMetricFamily(
            f"{PREFIX}function_calls", "Calls by status; 0: no answer.", labels=["function", "status"]
        )
        for (name, status), count in sorted(self._platform.calls.items()):
            calls.add_metric([name, str(status)], count)
        yield from (up, restarts, calls)


_NUMBER = {str(health): float(health) for health in Health}


_GAUGES: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("stream_health", "As `health`.", lambda line: _NUMBER[line["health"]]),
    (
        "lag_seconds",
        "Seconds not read yet; for devices, seconds since a poll was due.",
        lambda line: line["lag_seconds"],
    ),
    ("interval_seconds", "Seconds between two polls of a stream.", lambda line: line["interval_seconds"]),
    (
        "measured_interval_seconds",
        "Seconds between the last two polls of a stream, or since the last one.",
        lambda line: line["measured_interval_seconds"],
    ),
    ("pending_batches", "Batches that wait for delivery.", lambda line: line["pending_batches"]),
    ("pending_bytes", "Bytes of the batches that wait.", lambda line: line["pending_bytes"]),
    ("oldest_pending_seconds", "Age of the oldest such batch.", lambda line: line["oldest_pending_seconds"]),
    ("set_aside_objects", "Objects in dead/, one a batch.", lambda line: line["dead_letter_objects"]),
    ("gaps", "Intervals that can no longer be fetched.", lambda line: len(line["gaps"])),
    (
        "gaps_unacknowledged",
        "Those that nobody acknowledged.",
        lambda line: sum(gap["acknowledged"] is None for gap in line["gaps"]),
    ),
    ("dead_letters", "Events that could not be delivered.", lambda line: line["set_aside"]),
    (
        "dead_letters_unacknowledged",
        "Those that nobody acknowledged.",
        lambda line: line["dead_letters_unacknowledged"],
    ),
    ("silent", "1 while a stream that usually speaks does not.", lambda line: int("silent_since" in line)),
)
_COUNTERS: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("events_fetched", "Events made durable.", lambda line: line["events"]),
    ("events_acked", "Events that the engine has acknowledged.", lambda line: line["acked"]),
    ("events_observed", "Events that were only observed.", lambda line: line["observed"]),
    ("repeats", "Items of Sophos's pages that had been stored before.", lambda line: line["repeats"]),
    ("changed", "Repeats with another text than the stored event; dropped.", lambda line: line["changed"]),
    (
        "other_customers",
        "Stored events that name another customer than the stream's tenant.",
        lambda line: line["other_customers_total"],
    ),
)


def _streams(platform: Platform, status: dict[str, Any]) -> Iterator[str]:
    """The streams' metrics. They are most of a scrape, so they are written without the client library's objects."""
    lines = [
        (_labels(line["integration"], line["tenant"], line["stream"]), line)
        for line in status["streams"]
        if line["state"] != "retired"
    ]
    for kind, end, families in (("gauge", "", _GAUGES), ("counter", "_total", _COUNTERS)):
        for name, text, value_of in families:
            yield from _family(kind, name + end, text, ((labels, value_of(line)) for labels, line in lines))
    codes = ((labels, line.get("problem", {}).get("code", "")) for labels, line in lines)
    troubled = ((f'{labels},code="{code}"', int(bool(code))) for labels, code in codes)
    yield from _family("gauge", "troubled", "1 while the stream has a problem.", troubled)
    stored = ((_labels(*stream), size) for stream, size in sorted(platform.bytes.items()))
    yield from _family("counter", "fetched_bytes_total", "Bytes of stored batches.", stored)


def _family(kind: str, name: str, text: str, values: Iterable[tuple[str, float | None]]) -> Iterator[str]:
    name = PREFIX + name
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for labels, value in values:
        if value is not None:
            yield f"{name}{{{labels}}} {value}\n"


@lru_cache(maxsize=65_536)
def _labels(integration: str, tenant: str, kind: str) -> str:
    """The labels of a stream's metrics, with the escapes of Prometheus's text format."""
    values = (
        value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in (integration, tenant, kind)
    )
    return 'integration="{}",tenant="{}",stream="{}"'.format(*values)
