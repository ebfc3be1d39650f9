"""`pause` and `resume`."""

from __future__ import annotations

import json

from emulator.cli.site import (
    graph,
    refused,
)
from emulator.cli.terminal import say
from lib.errors import ConnectorError


def pause(location: str | None, integration: str, *, resume: bool, as_json: bool) -> int:
    """Pause or resume an integration."""
    try:
        app, _ = graph(location)
        app.pause(integration, resume=resume)
    except ConnectorError as error:
        return refused(error, as_json=as_json)
    if as_json:
        say(json.dumps({"ok": True, "integration": integration, "paused": not resume}))
    else:
        say(f"{integration}: {'resumed; the next tick fetches' if resume else 'paused until `resume`'}")
    return 0
