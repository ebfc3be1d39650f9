"""The drill's report: one self-contained HTML page, for an auditor who does not know the product."""

from __future__ import annotations

from html import escape

from emulator.drill.drill import CONNECTOR, ENGINE, FETCHING, FORWARDING, SOPHOS, SOPHOS_ERRORS, Cut, Result
from lib.model.text import several

WORDS = {
    SOPHOS: "Sophos Central did not answer",
    SOPHOS_ERRORS: "Sophos Central answered with errors",
    ENGINE: "UTMStack's engine was killed",
    FETCHING: "The process that fetches was killed",
    FORWARDING: "The process that forwards was killed",
    CONNECTOR: "The whole connector was killed",
}
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem;border-bottom:1px solid #ccc}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.ok{color:#0a6b2d}.bad{color:#b00020}
svg{width:100%;height:3rem}h1 span{font-weight:normal}
"""


def page(result: Result) -> str:
    """The report as HTML."""
    verdict = "passed" if result.ok else "FAILED"
    kind = "ok" if result.ok else "bad"
    names = ", ".join(map(escape, result.integrations))
    streams = several(result.streams, "stream")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Outage drill: {verdict}</title><style>{_STYLE}</style></head><body>
<h1>Outage drill: <span class="{kind}">{verdict}</span></h1>
<p>{_summary(result)}</p>
<p>The drill ran a copy of this site's configuration ({names}; {streams}) against a simulated Sophos
Central and a stand-in for UTMStack's engine. It cut each of them off and killed the connector's processes without
warning (SIGKILL). Real events and the real store were not touched.</p>
<p>From {escape(result.began_at)} to {escape(result.ended_at)}. Seed {result.seed} repeats the same outages.</p>
<h2>Counts</h2>
<table>{"".join(_row(*row) for row in _counts(result))}</table>
<h2>Outages, and the time until recovery</h2>
{_timeline(result)}
<table><tr><th>At (UTC)</th><th>What</th><th class="n">Cut off for</th><th class="n">Healed in</th></tr>
{"".join(map(_cut, result.cuts))}</table>
<p>“Healed in” is the time from the end of an outage until every event that Sophos held at that moment had arrived.</p>
</body></html>
"""


def _summary(result: Result) -> str:
    counts = result.counts
    lost = "No event was lost" if not counts.lost else f"{several(counts.lost, 'event was', 'events were')} LOST"
    audit = "the audit passed" if result.audit else "the audit FAILED"
    return f"{lost} of {counts.events} in {several(len(result.cuts), 'outage')}, and {audit}."


def _counts(result: Result) -> list[tuple[str, int | str, str]]:
    counts = result.counts
    return [
        ("Events that Sophos held", counts.events, "read from the simulator's own journal"),
        ("Arrived at the engine", counts.arrived, "read from the engine's own record"),
        ("Acknowledged", counts.acked, "the sum of the connector's receipts"),
        ("Lost", counts.lost, "held by Sophos but never arrived"),
        ("Altered", counts.altered, "arrived with other bytes than Sophos sent"),
        ("Delivered again", counts.doubled, "after a kill, with the same id, so that UTMStack can recognise them"),
        ("Audit", "passed" if result.audit else "FAILED", "every receipt follows the one before"),
        (
            "Exit status",
            "?" if result.exit_status is None else result.exit_status,
            "of the connector at its end; 0 means no error",
        ),
    ]


def _row(name: str, value: int | str, note: str) -> str:
    return f'<tr><th>{name}</th><td class="n">{escape(str(value))}</td><td>{note}</td></tr>'


def _cut(cut: Cut) -> str:
    healed = (
        '<td class="n bad">not</td>' if cut.healed_seconds is None else f'<td class="n">{cut.healed_seconds} s</td>'
    )
    at = escape(cut.began_at[11:19])
    return f'<tr><td>{at}</td><td>{WORDS[cut.what]}</td><td class="n">{cut.seconds} s</td>{healed}</tr>\n'


def _timeline(result: Result) -> str:
    """Outages in red, each followed by the time until all events had arrived, in yellow."""
    whole = max([result.minutes * 60, *(cut.at + cut.seconds + (cut.healed_seconds or 0) for cut in result.cuts)])
    bars = []
    for cut in result.cuts:
        for start, length, colour in (
            (cut.at, cut.seconds, "#b00020"),
            (cut.at + cut.seconds, cut.healed_seconds or 0.0, "#e0a800"),
        ):
            bars.append(
                f'<rect x="{start / whole * 1000:.1f}" y="0" width="{max(1.0, length / whole * 1000):.1f}" height="40" '
                f'fill="{colour}"><title>{WORDS[cut.what]}</title></rect>'
            )
    return (
        '<svg viewBox="0 0 1000 40" preserveAspectRatio="none" role="img" aria-label="Outages and healing">'
        f'<rect width="1000" height="40" fill="#d7ead9"/>{"".join(bars)}</svg>'
    )
