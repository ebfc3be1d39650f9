"""fetch-page in one place, forward-batch in another that is told of nothing, and a relay between it and the engine."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emulator.central import CentralServer
from tests.fakes.authority import Authority
from tests.site import ROOT, Emulator, Site, free_port, site, until

EVENTS = 1200


@contextmanager
def relay(found: Site) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "emulator", "relay", "--config", str(found.folder / "relay.yaml")], cwd=ROOT
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def set_up(found: Site) -> None:
    """A relay's configuration, and its callers'."""
    certificate, key = Authority(found.folder).issue("relay")
    tokens, port = found.folder / "tokens", free_port()
    tokens.write_text("a-token-of-this-site")
    (found.folder / "relay.yaml").write_text(f"""
engine: unix:{found.folder}/engine.sock
relay: {{listen: "127.0.0.1:{port}", metrics: off, certificate: {certificate}, key: {key}, tokens: {tokens}}}
""")
    access = {"token": f"${{file:{tokens}}}", "ca": f"${{file:{found.folder}/ca.pem}}"}
    found.write_config(engine=f"grpcs://127.0.0.1:{port}", engine_access=access)


def names(emulator: Emulator) -> list[str]:
    status: dict[str, Any] = emulator.status() or {"functions": []}
    return [each["name"] for each in status["functions"] if each["up"]]


def test_each_place_runs_its_function_alone_and_every_event_arrives_though_relay_and_forwarder_are_killed() -> None:
    with CentralServer() as central:
        central.fill(EVENTS)
        with site(central) as found:
            set_up(found)
            found.engine.faults["delay"] = "0.001"
            with Emulator(found, only="fetch-page") as fetching:
                until(lambda: names(fetching) == ["fetch-page"], "fetch-page alone")
                del found.env["SITE_SECRET"]  # whoever forwards needs no secret of Sophos
                with relay(found), Emulator(found, only="forward-batch") as forwarding:
                    until(lambda: len(found.raws()) >= 300, "the first events")
                    assert names(forwarding) == ["forward-batch"]
                    assert not Path(found.folder / "store" / "dead").exists()
                    forwarding.kill()
                with relay(found), Emulator(found, only="forward-batch") as forwarding:
                    until(lambda: len(set(found.raws())) == EVENTS, "all events")
                    until(lambda: not list(found.state.batches.waiting()), "their receipts")
                    assert forwarding.end() == 0
                assert fetching.end() == 0
            assert list(dict.fromkeys(found.raws())) == central.raws(central.default_tenant)
