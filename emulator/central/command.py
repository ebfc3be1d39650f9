"""`python -m emulator central`: the simulator alone, until it is told to stop."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from emulator.central.accounts import Credential
from emulator.central.api import Settings
from emulator.central.faults import load_faults
from emulator.central.server import CentralServer


def serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then 0; 2 where an option cannot be used."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    credential = Credential()
    try:
        host, _, port = args.listen.rpartition(":")
        central = CentralServer(
            host=host or "127.0.0.1",
            port=int(port),
            credentials=[credential],
            faults=load_faults(args.faults) if args.faults else (),
            settings=Settings(seed=args.seed),
            control=args.control,
            journal=args.journal,
            regions=args.regions,
            tls_ca=args.tls_ca,
        )
    except (OSError, OverflowError, ValueError) as error:
        print(f"central: {error}", file=sys.stderr)
        return 2
    with central:
        if not central.stats["held"]:
            central.fill(args.backlog)
        if args.rate > 0:
            central.start_emitting(args.rate)
        print(
            f"Sophos Central (simulated) at {central.url}  client_id={credential.client_id} "
            f"client_secret={credential.secret}  tenant={central.default_tenant}",
            flush=True,
        )
        if args.announce:
            _announce(
                args.announce,
                {
                    "url": central.url,
                    "regions": central.regions,
                    "client_id": credential.client_id,
                    "client_secret": credential.secret,
                },
            )
        stop.wait()
    return 0


def _announce(file: Path, told: dict[str, object]) -> None:
    """Write the file at once: who waits for it never reads half of it."""
    half = file.with_suffix(".half")
    half.write_text(json.dumps(told))
    half.rename(file)
