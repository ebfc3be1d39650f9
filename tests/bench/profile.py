"""`python -m tests.bench.profile`: a flame graph of each function at work, by py-spy, in build/bench."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.runtime.functions import Function
from tests.bench import flow
from tests.bench.setting import fresh, functions, pid_of, simulator, write_config
from tests.bench.table import KEPT

PER_SECOND = 250


@contextmanager
def recorded(function: Function) -> Iterator[Path]:
    """A flame graph of what the function does meanwhile, waiting left out."""
    graph = KEPT / f"{function.name}.svg"
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "--subprocesses", "--rate", str(PER_SECOND)]
    spy = subprocess.Popen([*command, "--pid", str(pid_of(function)), "--output", str(graph)])
    try:
        yield graph
    finally:
        spy.send_signal(signal.SIGINT)
        if spy.wait(60):
            raise RuntimeError("py-spy failed; it needs the right to trace its own user's processes, or root")


def record(function: Function, work: Callable[[Function, int], object], events: int) -> None:
    with recorded(function) as graph:
        work(function, events)
    print(graph)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    events = parser.parse_args().events
    KEPT.mkdir(parents=True, exist_ok=True)
    with fresh() as (folder, socket), simulator(folder, events) as central:
        config = write_config(folder, socket, central)
        with functions(config, "fetch-page", "forward-batch") as (fetch, forward):
            record(fetch, flow.fetch_alone, events)
            record(forward, flow.forward_alone, events)


if __name__ == "__main__":
    main()
