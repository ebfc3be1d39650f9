"""Metrics for Prometheus: the status, the functions' processes, and the duration of deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from emulator.runtime.delivery import PREFIX
from lib.model.health import KINDS, Health

if TYPE_CHECKING:
    from emulator.runtime.platform import Platform

STREAM = ("integration", "tenant", "stream")
INTEGRATION = ("integration",)


def registry_of(platform: Platform, status: dict[str, Any]) -> CollectorRegistry:
    """The metrics of one scrape."""
    registry = CollectorRegistry()
    registry.register(_StatusMetrics(platform, status))
    registry.register(platform.delivery)
    return registry


class _StatusMetrics(Collector):
    def __init__(self, platform: Platform, status: dict[str, Any]) -> None:
        self._platform = platform
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Every metric, computed for this scrape."""
        yield from self._streams()
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
        streams = GaugeMetricFamily(f"{PREFIX}stream_health", "As `health`.", labels=STREAM)
        for line in self._status["streams"]:
            if line["state"] != "retired":
                streams.add_metric(_labels(line), _NUMBER[line["health"]])
        waiting = GaugeMetricFamily(f"{PREFIX}waiting_streams", "Streams that wait for their turn; all is well.")
        waiting.add_metric([], self._status["waiting"])
        yield from (whole, reasons, integrations, streams, waiting)

    def _streams(self) -> Iterator[Metric]:
        lines = [line for line in self._status["streams"] if line["state"] != "retired"]
        for kind, name, text, value in (
            (
                GaugeMetricFamily,
                "lag_seconds",
                "Seconds not read yet; for devices, seconds since a poll was due.",
                "lag_seconds",
            ),
            (GaugeMetricFamily, "interval_seconds", "Seconds between two polls of a stream.", "interval_seconds"),
            (
                GaugeMetricFamily,
                "measured_interval_seconds",
                "Seconds between the last two polls of a stream, or since the last one.",
                "measured_interval_seconds",
            ),
            (GaugeMetricFamily, "pending_batches", "Batches that wait for delivery.", "pending_batches"),
            (GaugeMetricFamily, "pending_bytes", "Bytes of the batches that wait.", "pending_bytes"),
            (GaugeMetricFamily, "oldest_pending_seconds", "Age of the oldest such batch.", "oldest_pending_seconds"),
            (GaugeMetricFamily, "set_aside_objects", "Objects in dead/, one a batch.", "dead_letter_objects"),
            (CounterMetricFamily, "events_fetched", "Events made durable.", "events"),
            (CounterMetricFamily, "events_acked", "Events that the engine has acknowledged.", "acked"),
            (CounterMetricFamily, "events_observed", "Events that were only observed.", "observed"),
            (CounterMetricFamily, "repeats", "Items of Sophos's pages that had been stored before.", "repeats"),
            (CounterMetricFamily, "changed", "Repeats with another text than the stored event; dropped.", "changed"),
            (
                CounterMetricFamily,
                "other_customers",
                "Stored events that name another customer than the stream's tenant.",
                "other_customers_total",
            ),
        ):
            family = kind(f"{PREFIX}{name}", text, labels=STREAM)
            for line in lines:
                if line[value] is not None:
                    family.add_metric(_labels(line), line[value])
            yield family
        gaps = GaugeMetricFamily(f"{PREFIX}gaps", "Intervals that can no longer be fetched.", labels=STREAM)
        unseen = GaugeMetricFamily(f"{PREFIX}gaps_unacknowledged", "Those that nobody acknowledged.", labels=STREAM)
        dead = GaugeMetricFamily(f"{PREFIX}dead_letters", "Events that could not be delivered.", labels=STREAM)
        unread = GaugeMetricFamily(
            f"{PREFIX}dead_letters_unacknowledged", "Those that nobody acknowledged.", labels=STREAM
        )
        troubled = GaugeMetricFamily(f"{PREFIX}troubled", "1 while the stream has a problem.", labels=(*STREAM, "code"))
        silent = GaugeMetricFamily(f"{PREFIX}silent", "1 while a stream that usually speaks does not.", labels=STREAM)
        for line in lines:
            gaps.add_metric(_labels(line), len(line["gaps"]))
            unseen.add_metric(_labels(line), sum(gap["acknowledged"] is None for gap in line["gaps"]))
            dead.add_metric(_labels(line), line["set_aside"])
            unread.add_metric(_labels(line), line["dead_letters_unacknowledged"])
            code = line.get("problem", {}).get("code", "")
            troubled.add_metric([*_labels(line), code], float(bool(code)))
            silent.add_metric(_labels(line), float("silent_since" in line))
        stored = CounterMetricFamily(f"{PREFIX}fetched_bytes", "Bytes of stored batches.", labels=STREAM)
        for stream, size in sorted(self._platform.bytes.items()):
            stored.add_metric(stream, size)
        yield from (gaps, unseen, dead, unread, troubled, silent, stored)

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


def _labels(line: dict[str, Any]) -> list[str]:
    return [line[label] for label in STREAM]
