"""`python -m emulator central`: runs only the simulator, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from emulator.central.account_file import Described, limits_from, load_account
from emulator.central.api import Settings
from emulator.central.faults import load_faults
from emulator.central.recording import load_recording
from emulator.central.server import CentralServer
from emulator.ending import EndRequest


def serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then 0; 2 if an option is invalid."""
    stop = EndRequest()
    try:
        recording = load_recording(args.recording) if args.recording else None
        account = load_account(args.account) if args.account else Described(limits=limits_from(args.limits))
        if recording is not None:
            account = replace(
                account, tenants=tuple(recording.tenants), credentials=(recording.credential,), devices=()
            )
        credential = account.credentials[0]
        host, _, port = args.listen.rpartition(":")
        central = CentralServer(
            address=(host or "127.0.0.1", int(port)),
            tenants=account.tenants,
            credentials=account.credentials,
            rate_limits=account.limits,
            retry_after=account.retry_after,
            faults=load_faults(args.faults) if args.faults else (),
            settings=Settings(
                page_cap=account.page_cap,
                cursor_rule=account.cursor_rule,
                seed=args.seed,
                token_seconds=account.token_seconds,
            ),
            control=args.control,
            journal=args.journal,
            regions=account.regions or args.regions,
            tls_ca=args.tls_ca,
        )
    except (OSError, OverflowError, ValueError) as error:
        print(f"central: {error}", file=sys.stderr)
        return 2
    with central:
        for tenant, device in account.devices:
            central.put_device(device, tenant=tenant)
        if recording is not None:
            central.replay(recording, args.speed)
        elif not central.stats["held"]:
            for place, tenant in enumerate(central.tenants):
                central.fill(share(args.backlog, place, len(central.tenants)), tenant=tenant)
        if args.rate > 0 and recording is None:
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


def share(total: int, number: int, of: int) -> int:
    """The share of `total` for the part with this number, of `of` parts that are as equal as possible."""
    return total // of + (number < total % of)


def _announce(file: Path, fields: dict[str, object]) -> None:
    """Write the file and rename it into place, so that a reader never sees half of it."""
    half = file.with_suffix(".half")
    half.write_text(json.dumps(fields))
    half.rename(file)
