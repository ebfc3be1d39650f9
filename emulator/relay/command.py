"""`relay`: runs only the relay, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from emulator.cli.terminal import refuse
from emulator.relay.access import Certificates, RelayTokens
from emulator.relay.bounds import Bounds, Gate
from emulator.relay.server import Relay
from lib import telemetry
from lib.config import loading as configuration
from lib.errors import ConfigError, ConnectorError
from lib.utmstack.channel import socket_path

log = logging.getLogger(__name__)


def run(location: str | None) -> int:
    """Serve until SIGTERM or SIGINT, then 0; 2 if configuration, certificates, tokens or addresses cannot be used."""
    telemetry.start("relay")
    # hpack's debug entries hold every header, tokens too.
    logging.getLogger("hpack").setLevel(logging.INFO)
    try:
        config = configuration.load(location)
        telemetry.set_level(config.log.level)
        asyncio.run(_serve(config))
    except ConnectorError as error:
        refuse(error)
        return 2
    return 0


def relay_of(config: configuration.Config) -> Relay:
    """The relay of a configuration; ConfigError if there is none, or its files cannot be used."""
    settings, socket = config.relay, socket_path(config.engine)
    if settings is None:
        raise ConfigError("the configuration has no `relay` section", remedy="Add it as in connector.example.yaml.")
    if socket is None:
        raise ConfigError(
            f"engine {config.engine!r} is not a socket",
            remedy="Run the relay on UTMStack's machine, and set `engine: unix:/PATH` to the engine's socket.",
        )
    bounds = Bounds(settings.streams, settings.bytes_in_flight, settings.rate, settings.idle.total_seconds())
    tokens = None if settings.tokens is None else RelayTokens(settings.tokens)
    certificates = Certificates(settings.certificate, settings.key, settings.client_ca)
    return Relay(settings.listen, certificates, Gate(socket, tokens, bounds))


async def _serve(config: configuration.Config) -> None:
    _allow_files()
    relay = relay_of(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await relay.start()
    assert config.relay is not None  # noqa: S101 - relay_of has checked it
    if config.relay.metrics is not None:
        host, port = config.relay.metrics
        registry = CollectorRegistry()
        registry.register(_RelayMetrics(relay.gate))
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigError(
                f"relay.metrics: cannot listen on {host}:{port}: {error.strerror}",
                remedy="Set `relay.metrics` to a free port, or to off.",
            ) from None
        log.info("metrics at http://%s:%d/metrics", host, server.server_port)
    log.info("the relay listens on %s:%d and passes to %s", config.relay.listen[0], relay.port, config.engine)
    await stop.wait()
    log.info("stopping: open streams are finished first")
    await relay.stop()


def _allow_files() -> None:
    """Raise the limit of open files (soft limit) to the greatest allowed (hard limit): each connection needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _RelayMetrics(Collector):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        """The metrics of /metrics."""
        gate = self._gate
        yield GaugeMetricFamily("relay_streams", "Streams that are open.", len(gate.streams))
        yield GaugeMetricFamily("relay_in_flight_bytes", "Bytes that the engine has not acknowledged.", gate.in_flight)
        for name, text in (
            ("messages", "Messages passed to the engine."),
            ("bytes", "Bytes of them."),
            ("acks", "Acknowledgements passed back."),
        ):
            yield CounterMetricFamily(f"relay_{name}", text, gate.counts[name])
        ended = CounterMetricFamily("relay_streams_ended", "Streams by the status they ended with.", labels=["status"])
        for status, count in sorted(gate.ended.items()):
            ended.add_metric([status], count)
        yield ended
