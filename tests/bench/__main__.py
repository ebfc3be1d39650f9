"""`python -m tests.bench`: what the product costs and how fast it is, beside two baselines in the same run.

Each round lets the plain poller, the product and the bare gRPC loop do the same work, one after the other, on the same
simulator and the same engine in Go; ratios are taken within a round, and medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Sequence

from tests.bench import flow, page, relay, standing, table
from tests.bench.cold_start import cold_start
from tests.bench.setting import Figures, fresh, simulator, write_config

PARTS = ("flow", "relay", "cold", "scale", "page", "idle")


def medians(rounds: Sequence[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def measure_flow(args: argparse.Namespace) -> Figures:
    rounds = []
    for _ in range(args.rounds):
        with fresh() as (folder, socket), simulator(folder, args.events) as central:
            rounds.append(flow.measure(folder, socket, central, args.events))
    return medians(rounds)


def measure_relay(args: argparse.Namespace) -> Figures:
    rounds = []
    for _ in range(args.rounds):
        with fresh() as (folder, socket):
            rounds.append(relay.measure(folder, socket, args.events))
    return medians(rounds)


def measure_cold(_: argparse.Namespace) -> Figures:
    with fresh() as (folder, socket), simulator(folder, 0) as central:
        return cold_start(write_config(folder, socket, central))


def measure_scale(args: argparse.Namespace) -> Figures:
    found: Figures = {}
    for streams in args.streams:
        with fresh() as (folder, socket):
            found |= standing.scale(folder, socket, streams)
    return found


def measure_page(args: argparse.Namespace) -> Figures:
    return {
        f"page, {streams} streams, {view}, {name}": value
        for streams in args.streams
        for view, figures in page.measure(streams).items()
        for name, value in figures.items()
    }


def measure_idle(args: argparse.Namespace) -> Figures:
    with fresh() as (folder, socket):
        return standing.idle(folder, socket, args.idle)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], help=f"of {', '.join(PARTS)}; all where none is named"
    )
    parser.add_argument("--events", type=int, default=50_000, help="a round (default: 50000)")
    parser.add_argument("--rounds", type=int, default=1, help="of flow and relay, whose medians are shown (default: 1)")
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS", help="how long idling is watched")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 10, 100, 1000], help="of scale and page")
    return parser.parse_args()


def main() -> None:
    """Measure, keep the figures, and print them beside their goals."""
    args = arguments()
    measures = {
        "flow": measure_flow,
        "relay": measure_relay,
        "cold": measure_cold,
        "scale": measure_scale,
        "page": measure_page,
        "idle": measure_idle,
    }
    found: Figures = {}
    for part in args.parts or PARTS:
        print(part, flush=True)
        found |= measures[part](args)
    before = table.last_figures()
    file = table.keep(found, {"events": args.events, "rounds": args.rounds})
    rounds = (
        f"medians of {args.rounds} rounds of {args.events:,} events" if args.rounds > 1 else f"{args.events:,} events"
    )
    load = os.getloadavg()[0]
    print(f"\n{os.cpu_count()} CPUs, load {load:.1f}, Python {sys.version.split()[0]}, {rounds}; kept as {file}\n")
    print("\n".join(table.lines(found, before)))


if __name__ == "__main__":
    main()
