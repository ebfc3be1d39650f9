"""A simulated Sophos Central: a real HTTP server with the APIs that a SIEM poller uses.

`CentralServer()` listens on loopback at once, with one tenant and the credential `demo-client` / `demo-secret`:

    with CentralServer() as central:
        central.fill(10_000)                      # history; central.start_emitting(60) goes on live
        central.append(central.default_tenant, "events", [b'{"id": "…", "type": "…"}'])
        central.faults.add(Fault("status", status=503, times=2))

Without `regions`, one listener serves all paths: `POST /api/v2/oauth2/token`, `GET /whoami/v1`,
`/partner/v1/tenants`, `/organization/v1/tenants`, `/siem/v1/events`, `/siem/v1/alerts`, `/endpoint/v1/endpoints`. With
regions (`us03`, `eu01`, …) each region has its own host for the last three paths. It refuses tenants of other regions
(403) and other paths (404).

Faults
------
Faults wait in a queue. A request gets the first fault that matches it. Add faults from Python
(`central.faults.add(Fault(…))`), from a YAML or JSON file (`--faults FILE`: one fault or a list), or by HTTP.
Every fault may have:

    path            a prefix; default `/siem/v1/`
    region, tenant  only their requests
    with_cursor     true: only requests with a cursor; false: only those without
    skip            matching requests that pass first
    times           default 1; null: until cleared

An example, and the kinds of faults:

    {"path": "/siem/v1/events", "times": 2, "fault": "status", "status": 503, "body": "html", "retry_after": 3}

    status          answers `status` (default 503) with `body` json (default), bare (no message), gateway, html or
                    empty, and `retry_after`
    not_json        200 with a body that is not JSON
    redirect        302 to `location`, another host
    close           closes the connection without an answer
    cut             closes the connection after half the body
    slow            answers after `seconds`
    huge            puts `size` bytes (default 64 MiB) of white space before the body
    date            answers with `date` as the Date header (default: one of 2099)
    same_cursor     has_more with the cursor that was sent
    two_cursors     no items, has_more, and two cursors in turn
    empty_page      no items, has_more, another cursor for the same place
    unsorted        the page's items in reverse
    repeat          begins with the last item of the page before
    revoke_tokens   every token becomes invalid with this request
    expire_cursors  every cursor becomes older than 24 hours with this request: it is ignored, and the last 24 hours
                    are served again

Control
-------
JSON in and out, at `/_control/`; `tenant` defaults to the first, `kind` to `events`.

    GET    stats                  requests by path and status, records held, faults that wait
    GET    ids?tenant=&kind=      the native ids of a stream's records, in order
    GET    faults                 waiting faults;  POST: add one fault, or {"faults": […]};  DELETE: remove all
    POST   append                 {"tenant", "kind", "events": […] | "raws": ["…"] | "count": n}
    POST   late                   the same, and "seconds" (60): that long before the newest answered query
    POST   clock                  {"advance_seconds": n}
    POST   revoke                 {"client_id"?}: tokens become invalid
    POST   disable                {"client_id"}: the credential expires
    POST   expire-cursors         {}
    POST   limits                 {"limits": [[requests, seconds], …] or none, enforced, published; "retry_after"?}
    POST   tokens                 {"seconds": n}: how long new tokens are valid
    POST   renew                  {"tenant"?}: create the event Event::Task::RenewApiToken
    GET    account                tenants, credentials, URLs of the regions
    POST   tenants                {"id"?, …}: add a tenant, or change the named fields;  DELETE: {"id"}
    POST   credentials            {"client_id", …}: the same (secret, permissions, tenants, expired);  DELETE
    GET    devices?tenant=        a tenant's devices
    POST   devices                {"tenant"?, "device": {"id"?, …}}: the same;  DELETE: {"tenant"?, "id"}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from emulator.central.accounts import DEFAULT_TENANT_ID, PUBLISHED_LIMITS, Credential, Tenant
    from emulator.central.api import Settings
    from emulator.central.clock import Clock
    from emulator.central.faults import Fault
    from emulator.central.server import CentralServer

__all__ = [
    "DEFAULT_TENANT_ID",
    "PUBLISHED_LIMITS",
    "CentralServer",
    "Clock",
    "Credential",
    "Fault",
    "Settings",
    "Tenant",
    "add_arguments",
    "run",
]

_HOMES = {
    "DEFAULT_TENANT_ID": "accounts",
    "PUBLISHED_LIMITS": "accounts",
    "Credential": "accounts",
    "Tenant": "accounts",
    "Settings": "api",
    "Clock": "clock",
    "Fault": "faults",
    "CentralServer": "server",
}


def __getattr__(name: str) -> Any:
    # The command line imports this package only for its arguments. The server is imported when it is used.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m emulator central`."""
    import argparse  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = __doc__[__doc__.index("Faults\n") :]

    parser.add_argument("--listen", default="127.0.0.1:8181", metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument(
        "--account", type=Path, metavar="FILE", help="YAML: tenants, credentials, permissions, regions, limits, devices"
    )
    parser.add_argument(
        "--limits",
        default="none",
        choices=["none", "enforced", "published"],
        help="rate limits of a credential, if --account sets none; default: %(default)s",
    )
    parser.add_argument(
        "--regions",
        type=lambda text: text.split(","),
        default=[],
        metavar="A,B",
        help="a host for each region, such as us03,eu01, at the following ports; default: one host for all",
    )
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="serve HTTPS, and write the CA certificate to FILE")
    parser.add_argument(
        "--backlog",
        type=int,
        default=1000,
        metavar="N",
        help="events of the past hours, for all tenants together; default: %(default)s",
    )
    parser.add_argument(
        "--rate", type=float, default=60, metavar="N", help="live events a minute; 0: none; default: %(default)s"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the generated data; default: %(default)s"
    )
    parser.add_argument("--faults", type=Path, metavar="FILE", help="YAML or JSON list of scripted faults")
    parser.add_argument(
        "--recording", type=Path, metavar="FILE", help="serve a recording of `record`, and generate no data"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="N",
        help="speed of the recording; 0: everything at once; default: %(default)g, the recorded speed",
    )
    parser.add_argument(
        "--journal", type=Path, metavar="FILE", help="keep all records in FILE, and start with those in it"
    )
    parser.add_argument(
        "--announce", type=Path, metavar="FILE", help="write url, regions, client_id, client_secret to FILE as JSON"
    )
    parser.add_argument("--control", action=argparse.BooleanOptionalAction, default=True, help="serve /_control/")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then 0; 2 if an option is invalid."""
    from emulator.central.command import serve  # noqa: PLC0415

    return serve(args)
