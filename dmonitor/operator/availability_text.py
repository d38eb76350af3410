"""What `availability` says of a month, as text for a terminal or a mail, and as a page.

Pure: facts in, text out. For text, facts have to go through `terminal.printable` first.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from dmonitor.base import names
from dmonitor.operator import terminal
from dmonitor.operator.report import Facts

_HEAD = ("HOST, TEST", "AVAILABLE", "DOWN", "INCIDENTS", "RECOVERY", "SEEN")
_NOT_RECORDED = (
    "Not recorded, so not in here: when there were flakes, of which `dmonitor status` has the"
    " number, and how long silences lasted."
)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child { text-align: left; }
tbody th { font-weight: normal; }
tbody tr.host > * { font-weight: bold; padding-top: .8rem; }
tbody tr.test th { padding-left: 1.6rem; }
"""


def text(facts: Facts, paint: terminal.Paint) -> list[str]:
    """Return the report as lines: what was seen, then each host with its tests."""
    rows = []
    for host in facts["hosts"]:
        rows.append((host["host"], *_cells(host)))
        for test in host["tests"]:
            rows.append((f"  {test['test'].partition('/')[2]}", *_cells(test)))
    lines = [f"{_title(facts)}.", *_notes(facts), ""]
    return [*lines, *terminal.table(_HEAD, rows, paint), "", _NOT_RECORDED]


def page(facts: Facts) -> str:
    """Return the report as an HTML page, which needs no other file."""
    title = html.escape(names.escaped(_title(facts)))
    notes = "\n".join(f"<p>{html.escape(names.escaped(note))}</p>" for note in _notes(facts))
    rows = "\n".join(_rows(facts))
    head = "".join(f'<th scope="col">{each.capitalize()}</th>' for each in _HEAD)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{notes}
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p>{html.escape(_NOT_RECORDED)}</p>
</main>
</body>
</html>
"""


def _rows(facts: Facts) -> Iterator[str]:
    for host in facts["hosts"]:
        yield _row("host", host["host"], _cells(host))
        for test in host["tests"]:
            yield _row("test", test["test"].partition("/")[2], _cells(test))


def _row(kind: str, name: str, cells: Sequence[str]) -> str:
    shown = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    name = html.escape(names.escaped(name))
    return f'<tr class="{kind}"><th scope="row">{name}</th>{shown}</tr>'


def _title(facts: Facts) -> str:
    begin, end = (terminal.day(facts[key])[:16] for key in ("from", "to"))
    return f"Availability as {facts['node']} knows it, {begin} to {end}"


def _notes(facts: Facts) -> list[str]:
    """Return sentences about what this node has seen of that time."""
    seen = f"This node saw {percent(facts['seen'])} of that time"
    absences = facts["absences"]
    if absences:
        first = absences[0]
        spans = names.pluralize(len(absences), "absence")
        times = f"{terminal.day(first['from'])[:16]} to {terminal.day(first['to'])[:16]}"
        seen += f": {spans}, " + (f"from {times}" if len(absences) == 1 else f"the first {times}")
    notes = [f"{seen}. What it has not seen, or could not tell, is neither up nor down."]
    if facts["recorded_since"] is None:
        notes.append("It has no record yet of when it was on.")
    elif facts["unrecorded_seconds"]:
        since = terminal.day(facts["recorded_since"])[:16]
        notes.append(f"It has no record of whether it was on before {since}.")
    return notes


def _cells(each: Facts) -> tuple[str, ...]:
    incidents = str(each["incidents"])
    if each["untold"]:
        incidents += f" ({each['untold']} untold)"
    recovery = "-"
    if each["recovered"]:
        recovery = names.span(each["mean_recovery_seconds"])
        if each["recovered"] > 1:
            recovery += f" (max {names.span(each['longest_recovery_seconds'])})"
    return (
        percent(each["availability"]),
        names.span(each["down_seconds"]) if each["down_seconds"] else "-",
        incidents,
        recovery,
        percent(each["seen"]),
    )


def percent(share: float | None) -> str:
    """Return a share of the time, never rounded up: 100 % is all of it."""
    if share is None:
        return "-"
    if share >= 1:
        return "100 %"
    return f"{math.floor(share * 100_000) / 1000:.3f} %"
