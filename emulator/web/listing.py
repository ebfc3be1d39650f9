"""The streams of a view: search, filters, order and pages, all from the URL. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

PAGE = 50
BADNESS = {"failing": 2, "attention": 1, "ok": 0}
HEALTHS = ("failing", "attention", "waiting", "ok", "gaps", "dead_letters", "retired")
SORTS = ("trouble", "lag", "name", "events", "waiting", "last_event")


@dataclass(frozen=True, slots=True)
class Query:
    """The arguments of a URL. An unknown value counts as missing."""

    q: str = ""
    health: str = ""
    integration: str = ""
    kind: str = ""
    tenant: str = ""
    sort: str = "trouble"
    page: int = 1

    @classmethod
    def of(cls, arguments: Mapping[str, str]) -> Query:
        """The query of a URL's arguments."""
        number = arguments.get("page", "1")
        health, order = arguments.get("health", ""), arguments.get("sort", "trouble")
        return cls(
            q=arguments.get("q", "").strip()[:200],
            health=health if health in HEALTHS else "",
            integration=arguments.get("integration", ""),
            kind=arguments.get("kind", ""),
            tenant=arguments.get("tenant", ""),
            sort=order if order in SORTS else "trouble",
            page=max(1, int(number)) if number.isascii() and number.isdigit() and len(number) < 7 else 1,
        )

    def url(self, **changes: Any) -> str:
        """The URL of the same view with these fields changed. It starts at page 1 unless `page` is given."""
        fields = asdict(self) | {"page": 1} | changes
        left = {key: value for key, value in fields.items() if value not in ("", None)}
        if left.get("page") == 1:
            del left["page"]
        if left.get("sort") == "trouble":
            del left["sort"]
        return "/streams" + (f"?{urlencode(left)}" if left else "")

    @property
    def is_filtered(self) -> bool:
        """Whether any filter is set."""
        return any((self.q, self.health, self.integration, self.kind, self.tenant))


@dataclass(frozen=True, slots=True)
class ResultPage:
    """One page of a query's results."""

    lines: Sequence[Mapping[str, Any]]
    total: int
    page: int
    pages: int


def waits(line: Mapping[str, Any]) -> bool:
    """Whether the stream only waits for its turn, within Sophos's rate limits."""
    return line["health"] == "ok" and "problem" in line


def matches(line: Mapping[str, Any], query: Query) -> bool:
    """Whether the query selects the stream."""
    text = f"{line['integration']} {line['tenant_name']} {line['tenant']} {line['stream']}".casefold()
    return (
        (line["state"] == "retired") == (query.health == "retired")
        and query.integration in ("", line["integration"])
        and query.kind in ("", line["stream"])
        and query.tenant in ("", line["tenant"])
        and (not query.health or _is(line, query.health))
        and all(word in text for word in query.q.casefold().split())
    )


def _is(line: Mapping[str, Any], health: str) -> bool:
    match health:
        case "waiting":
            return waits(line)
        case "gaps":
            return bool(line["gaps"])
        case "dead_letters":
            return bool(line["set_aside"])
        case "retired":
            return True
        case _:
            return bool(line["health"] == health)


def name_of(line: Mapping[str, Any]) -> tuple[str, str, str]:
    """The last sort key of every order: no two streams have the same."""
    return line["integration"].casefold(), (line["tenant_name"] or line["tenant"]).casefold(), line["stream"]


def ordered(lines: Iterable[Mapping[str, Any]], sort: str) -> list[Mapping[str, Any]]:
    """The lines in the chosen order; by default the worst health first, then the largest lag."""
    match sort:
        case "name":
            return sorted(lines, key=name_of)
        case "lag":
            return sorted(lines, key=lambda line: (-(line["lag_seconds"] or 0.0), *name_of(line)))
        case "events":
            return sorted(lines, key=lambda line: (-line["events"], *name_of(line)))
        case "waiting":
            return sorted(lines, key=lambda line: (-line["pending_bytes"], *name_of(line)))
        case "last_event":
            return sorted(lines, key=lambda line: line["last_event"] or "", reverse=True)
        case _:
            return sorted(
                lines,
                key=lambda line: (-BADNESS[line["health"]], "problem" not in line, -(line["lag_seconds"] or 0.0)),
            )


def find(lines: Iterable[Mapping[str, Any]], query: Query, size: int = PAGE) -> ResultPage:
    """One page of the streams that the query selects. A page after the last one is the last one."""
    chosen = ordered([line for line in lines if matches(line, query)], query.sort)
    pages = max(1, -(-len(chosen) // size))
    page = min(query.page, pages)
    return ResultPage(chosen[(page - 1) * size : page * size], len(chosen), page, pages)


def without_stream(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The integrations without a known stream: no stream can show their problem."""
    return [line for line in status["integrations"] if not line["tenants"]]


def tiles(status: Mapping[str, Any]) -> dict[str, int]:
    """The numbers of streams of each health, of gaps and of dead letters."""
    lines = [line for line in status["streams"] if line["state"] != "retired"]
    healths = Counter(line["health"] for line in lines)
    waiting = sum(map(waits, lines))
    bare = Counter(line["health"] for line in without_stream(status))
    return {
        "failing": healths["failing"] + bare["failing"],
        "attention": healths["attention"] + bare["attention"],
        "waiting": waiting,
        "ok": healths["ok"],
        "gaps": status["gaps"],
        "dead_letters": status["set_aside"],
        "streams": len(lines),
    }
