"""The arguments of the command line: every command with its options, examples and help, in groups."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module

from emulator.cli import proving
from lib.version import COMMAND, VERSION

# ruff: noqa: PLC0415 - each command loads only what it uses

EPILOG = """\
exit status: 0 no problem; 1 something needs attention, and is listed; 2 the command cannot run: an invalid
configuration, an unknown name, an unreachable store.
"""
CONFIG = "--config /etc/sophos-utmstack/connector.yaml"
EXAMPLES = {
    "run": (CONFIG, f"{CONFIG} --only forward-batch"),
    "demo": ("", "--listen 127.0.0.1:9090"),
    "central": ("", "--account account.yaml --tls-ca ca.pem"),
    "engine": ("--socket /tmp/engine.sock",),
    "relay": (CONFIG,),
    "check": ("--json | jq -r '.faults[]?.fault'", CONFIG),
    "completion": ("bash", "fish"),
    "tail": (CONFIG, "| jq -r .name"),
    "status": ("--problems --watch", "--json | jq '.streams[] | select(.problem)'"),
    "test-connection": ("--json | jq '.[].checks[] | select(.remedy)'", "--integration acme"),
    "gaps": (CONFIG, "--acknowledge all"),
    "warnings": (CONFIG, "--acknowledge all"),
    "dead-letters": (CONFIG, "--acknowledge 0f1e2d3c4b"),
    "pause": ("acme",),
    "resume": ("acme",),
    "audit": ("--since 2026-03-10 --json", "--since 7d"),
    "types": ("", "--integration acme --hours 6"),
    "reconcile": ("--integration acme",),
    "backfill": ("--since 12h", "--since 2026-03-10T08:00 --integration acme"),
    "replay": ("--since 1d --dead-letters", "--batch archive/acme/0f1e2d3c/events/2026-03-10/000000000042.ndjson.gz"),
    "missed": ("--since 7d",),
    "preview": (
        "--filter sophos_central.yml --rules rules/ --events events.jsonl",
        "--filter sophos_central.yml --rules rules/ --since 7d --json | jq '.rules[] | select(.never)'",
    ),
    "switch-over": ("--after 0f1e2d3c-4b5a-4678-8796-a5b4c3d2e1f0",),
    **proving.EXAMPLES,
}
"""Example arguments of each command. The help of all commands shows the last one for those in OVERVIEW."""
OVERVIEW = ("check", "test-connection", "status", "audit", "tail")
GROUPS = {
    "run": ("run", "demo", "relay", "central", "engine"),
    "set up": ("check", "test-connection", "pause", "resume", "switch-over", "completion"),
    "inspect": ("status", "tail", "gaps", "dead-letters", "warnings", "types", "missed", "preview"),
    "read or send again": ("reconcile", "backfill", "replay"),
    "verify": ("audit", "attest", "drill", "record"),
}
DESCRIPTION = "Runs the connector and its simulators on one machine, and has the operator's commands."
SHELLS = ("bash", "zsh", "fish")
HOW_TO_COMPLETE = """\
In a source tree, first, in bash or zsh:  sophos-utmstack() { python -m emulator "$@"; }
                                in fish:  function sophos-utmstack; python -m emulator $argv; end
bash, in ~/.bashrc:  source <(sophos-utmstack completion bash)
zsh, in ~/.zshrc:    source <(sophos-utmstack completion zsh)
fish, in ~/.config/fish/config.fish:  sophos-utmstack completion fish | source
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    def start_section(self, heading: str | None) -> None:
        super().start_section("what to give" if heading == "positional arguments" else heading)


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, with the arguments of one command; None: with the arguments of all.

    The arguments of some commands are in modules that are slow to import.
    """
    whole = argparse.ArgumentParser(prog=COMMAND, description=DESCRIPTION, formatter_class=_Help)
    whole.add_argument("--version", action="version", version=f"sophos-utmstack {VERSION}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", help="one of the commands below")

    def add(
        name: str, text: str, command: proving.Run, *, config: bool = False, json: bool = False
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, description=text)
        added.set_defaults(command=command)
        if config:
            added.add_argument("--config", metavar="FILE", help="default: $SOPHOS_UTMSTACK_CONFIG")
        if json:
            added.add_argument("--json", action="store_true", help="print JSON")
        return added

    run = add("run", "run the connector until SIGTERM", _run, config=True)
    run.add_argument("--only", choices=["fetch-page", "forward-batch"], help="if another platform runs the other one")
    demo = add("demo", "run the connector with a simulated Sophos Central and a stand-in engine", _demo)
    demo.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT", help="default: %(default)s")
    demo.add_argument(
        "--minute",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="length of the demo's minute; default: %(default)s",
    )
    for name, text in (
        ("central", "run only a simulated Sophos Central"),
        ("engine", "run only a stand-in for UTMStack's engine"),
    ):
        companion = add(name, text, _companion)
        companion.set_defaults(name=name)
        if command in (None, name):
            import_module(f"emulator.{name}").add_arguments(companion)
    add("relay", "run only the relay in front of the engine's socket", _relay, config=True)
    checked = add(
        "check", "validate the configuration, and what it needs on this machine", _check, config=True, json=True
    )
    checked.add_argument(
        "--no-environment",
        dest="environment",
        action="store_false",
        help="check only the file: not its references, the store and the socket's folder",
    )
    shell = add("completion", "print the script that completes these commands in a shell", _completion)
    shell.add_argument("shell", choices=SHELLS, help="your shell")
    shell.epilog = HOW_TO_COMPLETE
    add("tail", "print events as they are fetched, until Ctrl-C; always JSON lines", _tail, config=True, json=True)
    status = add(
        "status", "show the health, the problems with their remedies, and every stream", _status, config=True, json=True
    )
    status.add_argument("--problems", action="store_true", help="show only problems, each with all its streams")
    status.add_argument("--history", action="store_true", help="show when the health changed, and why")
    status.add_argument("--integration", metavar="NAME", help="default: all")
    status.add_argument("--tenant", metavar="ID", help="id or name; default: all")
    status.add_argument("--watch", action="store_true", help="update every two seconds, until Ctrl-C")
    for name, text, listing in (
        ("gaps", "list the intervals that can no longer be fetched, or acknowledge them", "GAPS"),
        ("warnings", "list warnings about credentials, or acknowledge them", "WARNINGS"),
        ("dead-letters", "list the events that could not be delivered, or acknowledge them", "DEAD_LETTERS"),
    ):
        holes = add(name, text, _holes, config=True, json=True)
        holes.add_argument("--acknowledge", metavar="ID", help="an id from the list, or all; the item stays listed")
        holes.set_defaults(listing=listing)
    test = add(
        "test-connection",
        "test each step from DNS to the engine, and print how to fix what fails",
        _test_connection,
        config=True,
        json=True,
    )
    test.add_argument("--integration", metavar="NAME", help="default: all")
    for name, text in (
        ("pause", "stop fetching for an integration; stored events are still delivered"),
        ("resume", "continue fetching for a paused integration"),
    ):
        add(name, text, _pause, config=True, json=True).add_argument(
            "integration", metavar="NAME", help="an integration"
        )
        commands.choices[name].set_defaults(resume=name == "resume")
    _add_readers(add)
    proving.add_commands(add)
    seen = add(
        "preview", "apply UTMStack's filter and rules to events on this machine", _preview, config=True, json=True
    )
    if command in (None, "preview"):
        import_module("emulator.preview.command").add_arguments(seen)
    for name, added in commands.choices.items():
        added.formatter_class = _Help
        added.epilog = "\n\n".join(filter(None, (added.epilog, _examples({name: EXAMPLES[name]}))))
    whole.epilog = "\n\n".join(
        (
            *(_group(title, names, commands.choices) for title, names in GROUPS.items()),
            EPILOG + "\n" + _examples({name: EXAMPLES[name][-1:] for name in OVERVIEW}),
        )
    )
    return whole


def _group(title: str, names: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> str:
    return "\n".join((f"{title}:", *(f"  {name:<16} {commands[name].description}" for name in names)))


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command. A mistyped command or option exits with 2 and names the nearest one."""
    name = arguments[0] if arguments else ""
    whole = parser(name)
    commands = commands_of(whole)
    if name and not name.startswith("-") and name not in commands:
        whole.error(f"unknown command {name!r}{_nearest(name, commands)}")
    args, unknown = whole.parse_known_args(arguments)
    if unknown:
        options = [option for action in commands[name]._actions for option in action.option_strings]  # noqa: SLF001
        commands[name].error(f"{name} does not accept {unknown[0]!r}{_nearest(unknown[0].partition('=')[0], options)}")
    return args


def commands_of(whole: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every command's parser, by its name."""
    for action in whole._actions:  # noqa: SLF001 - argparse has no public way to list its actions
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return dict(action.choices)
    return {}


def _nearest(word: str, words: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else "; `--help` lists them all"


def _add_readers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands that read the ledger, the archive, or Sophos again."""
    audit = add(
        "audit", "prove that every fetched batch was acknowledged or is accounted for", _audit, config=True, json=True
    )
    audit.add_argument("--since", metavar="DAY", help="a date, or a duration such as 7d; default: everything")
    types = add("types", "count events and bytes of each event type", _types, config=True, json=True)
    types.add_argument(
        "--hours", type=_hours, default=24.0, metavar="N", help="hours to read back; at most 24, the default"
    )
    types.add_argument("--integration", metavar="NAME", help="default: all")
    again = add(
        "reconcile", "read the last 24 hours again, and forward missing events", _reconcile, config=True, json=True
    )
    window = add(
        "backfill", "read again from a given time, and forward missing events", _reconcile, config=True, json=True
    )
    window.add_argument("--since", required=True, metavar="TIME", help="a time, or a duration such as 12h; at most 24h")
    for command in (again, window):
        command.add_argument("--integration", metavar="NAME", help="default: all")
        command.add_argument("--tenant", metavar="ID", help="id or name; default: all")
    replay = add("replay", "send archived batches or dead letters to the engine again", _replay, config=True, json=True)
    which = replay.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--since",
        metavar="TIME",
        help="batches fetched and dead letters written since a time, or a duration such as 3d",
    )
    which.add_argument("--batch", metavar="NAME", help="an object below archive/ or dead/")
    replay.add_argument("--dead-letters", action="store_true", help="with --since: only dead letters")
    missed = add(
        "missed",
        "count the events that UTMStack's own plugin missed in observe mode, by hour",
        _missed,
        config=True,
        json=True,
    )
    missed.add_argument("--since", metavar="DAY", help="a date, or a duration such as 7d; default: everything")
    over = add(
        "switch-over",
        "forward observed events that came after UTMStack's own plugin stopped",
        _switch_over,
        config=True,
        json=True,
    )
    over.add_argument("--after", required=True, metavar="ID", help="the newest Sophos event that UTMStack shows")


def _examples(of: Mapping[str, Sequence[str]]) -> str:
    lines = (f"  {COMMAND} {name} {example}".rstrip() for name, examples in of.items() for example in examples)
    return "\n".join(("examples:", *lines))


def _run(args: argparse.Namespace) -> int:
    from emulator.runtime.run import run

    return run(args.config, args.only)


def _companion(args: argparse.Namespace) -> int:
    status: int = import_module(f"emulator.{args.name}").run(args)
    return status


def _demo(args: argparse.Namespace) -> int:
    from emulator.cli.demo import demo

    return demo(args.listen, args.minute)


def _relay(args: argparse.Namespace) -> int:
    from emulator.relay.command import run

    return run(args.config)


def _check(args: argparse.Namespace) -> int:
    from emulator.cli.check import check

    return check(args.config, with_environment=args.environment, as_json=args.json)


def _completion(args: argparse.Namespace) -> int:
    from emulator.cli.completion import script, taken

    print(script(args.shell, {name: taken(command) for name, command in commands_of(parser()).items()}))
    return 0


def _tail(args: argparse.Namespace) -> int:
    from emulator.cli.tail import tail

    return tail(args.config, as_json=args.json)


def _status(args: argparse.Namespace) -> int:
    from emulator.cli.standing import Choice, status

    choice = Choice(args.integration, args.tenant)
    return status(
        args.config,
        choice,
        problems_alone=args.problems,
        history=args.history,
        watch=args.watch,
        as_json=args.json,
    )


def _holes(args: argparse.Namespace) -> int:
    from emulator.cli import holes

    return holes.run(getattr(holes, args.listing), args.config, args.acknowledge, as_json=args.json)


def _pause(args: argparse.Namespace) -> int:
    from emulator.cli.steering import pause

    return pause(args.config, args.integration, resume=args.resume, as_json=args.json)


def _audit(args: argparse.Namespace) -> int:
    from emulator.cli.ledger import audit

    return audit(args.config, args.since, as_json=args.json)


def _types(args: argparse.Namespace) -> int:
    from emulator.cli.reading import types

    return types(args.config, args.integration, args.hours, as_json=args.json)


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours: write 6, or 0.5") from None
    if not 0 < hours <= 24:
        raise argparse.ArgumentTypeError(f"must be between 0 and 24, not {text}: Sophos serves the last 24 hours")
    return hours


def _reconcile(args: argparse.Namespace) -> int:
    from emulator.cli.reading import reconcile

    return reconcile(args.config, args.integration, args.tenant, getattr(args, "since", None), as_json=args.json)


def _replay(args: argparse.Namespace) -> int:
    from emulator.cli.sending import replay

    return replay(args.config, args.since, args.batch, only_dead_letters=args.dead_letters, as_json=args.json)


def _missed(args: argparse.Namespace) -> int:
    from emulator.cli.ledger import missed

    return missed(args.config, args.since, as_json=args.json)


def _switch_over(args: argparse.Namespace) -> int:
    from emulator.cli.sending import switch_over

    return switch_over(args.config, args.after, as_json=args.json)


def _preview(args: argparse.Namespace) -> int:
    from emulator.preview.command import run

    return run(args)


def _test_connection(args: argparse.Namespace) -> int:
    from emulator.cli.connecting import test_connection

    return test_connection(args.config, args.integration, as_json=args.json)
