"""The streams of a view: search, filters, order and pages, all from the URL. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from lib.model.stream import Stream

PAGE = 50
BADNESS = {"failing": 2, "attention": 1, "ok": 0}
HEALTHS = ("failing", "attention", "waiting", "ok", "gaps", "dead_letters", "retired")
SORTS = ("trouble", "lag", "name", "events", "waiting", "last_event")

Line = Mapping[str, Any]
"""A stream in a status."""


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

    lines: Sequence[Line]
    total: int
    page: int
    pages: int


def waits(line: Line) -> bool:
    """Whether the stream only waits for its turn, within Sophos's rate limits."""
    return line["health"] == "ok" and "problem" in line


def labelled(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The streams' lines, each with a label for people, the text that a search looks at, and why it is not `ok`.

    An integration's only tenant has the integration's name.
    """
    why: dict[str, str] = {}
    for reason in status["reasons"]:  # The worst first.
        why = dict.fromkeys(reason["streams"], reason["title"]) | why
    alone = {line["name"] for line in status["integrations"] if line["tenants"] == 1}
    return [
        line
        | {
            "label": line["tenant_name"]
            or (line["integration"] if line["integration"] in alone else f"{line['tenant'][:8]}…"),
            "search_text": f"{line['integration']} {line['tenant_name']} {line['tenant']} {line['stream']}".casefold(),
            "why": None if line["health"] == "ok" else why.get(Stream.of(line).path),
        }
        for line in status["streams"]
    ]


def select(lines: Iterable[Line], query: Query) -> list[Line]:
    """The lines that the query selects, in their order."""
    for condition in _conditions(query):
        lines = [line for line in lines if condition(line)]
    return [*lines]


def _conditions(query: Query) -> Iterator[Callable[[Line], bool]]:
    """A condition for each filter that is set: one that is not set costs nothing."""
    yield lambda line: (line["state"] == "retired") == (query.health == "retired")
    if query.integration:
        yield lambda line: bool(line["integration"] == query.integration)
    if query.kind:
        yield lambda line: bool(line["stream"] == query.kind)
    if query.tenant:
        yield lambda line: bool(line["tenant"] == query.tenant)
    match query.health:
        case "waiting":
            yield waits
        case "gaps":
            yield lambda line: bool(line["gaps"])
        case "dead_letters":
            yield lambda line: bool(line["set_aside"])
        case "failing" | "attention" | "ok":
            yield lambda line: bool(line["health"] == query.health)
    for word in query.q.casefold().split():
        yield lambda line, word=word: word in line["search_text"]  # type: ignore[misc]


def name_of(line: Line) -> tuple[str, str, str]:
    """The last sort key of every order: no two streams have the same."""
    return line["integration"].casefold(), (line["tenant_name"] or line["tenant"]).casefold(), line["stream"]


def ordered(lines: Iterable[Line], sort: str) -> list[Line]:
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


def find(lines: Iterable[Line], query: Query, size: int = PAGE) -> ResultPage:
    """One page of the lines that the query selects; they are in its order already. The last page if it is after it."""
    chosen = select(lines, query)
    pages = max(1, -(-len(chosen) // size))
    page = min(query.page, pages)
    return ResultPage(chosen[(page - 1) * size : page * size], len(chosen), page, pages)


def without_stream(status: Mapping[str, Any]) -> list[Line]:
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
