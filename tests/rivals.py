#!/usr/bin/python3 -B
"""Make the tables and the plot of other monitors beside dmonitor, from the results in doc/rivals.json.

    python3 tests/rivals.py

It writes doc/rivals.svg, and the tables in doc/rivals.md, between the comments that name them. A new
run of tests/lab/prompt or tests/benchmark/run.py is written into doc/rivals.json by hand. null is
what a run has not counted.
"""

from __future__ import annotations

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

DOC = Path(__file__).parents[1] / "doc"
RESULTS, PAGE, PLOT = DOC / "rivals.json", DOC / "rivals.md", DOC / "rivals.svg"
_LEFT, _RIGHT, _TOP, _ROW = 330, 720, 40, 30  # pixels
_SECONDS, _STEP = 180, 30  # of the axis

Results = dict[str, list[dict[str, Any]]]


def read() -> Results:
    """Return the results, each kind a list."""
    results: Results = json.loads(RESULTS.read_text())
    return results


def tables(results: Results) -> dict[str, str]:
    """Return each table in Markdown, by the name in its comment."""
    delay = [
        "| monitor | fault | failures | told | missed | told twice | false alarms | median | 90 % | worst |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in results["delay"]:
        counts = [run["failures"], run["told"], run["failures"] - run["told"], run["doubled"]]
        cells = [run["who"], run["fault"], *map(_count, [*counts, run["false"]])]
        cells += [f"{run[key]:.1f} s" for key in ("median", "ninety", "worst")]
        delay.append(f"| {' | '.join(cells)} |")
    cpu = ["| | CPU | times the C program |", "|---|--:|--:|"]
    for run in results["cpu"]:
        span = f" ({run['smallest']:.2f} – {run['largest']:.2f})" if run["smallest"] else ""
        cpu.append(f"| {run['who']} | {run['seconds']:.2f} s | {run['ratio']:.2f}{span} |")
    return {"delay": "\n".join(delay), "cpu": "\n".join(cpu)}


def _count(number: int | None) -> str:
    return "not counted" if number is None else str(number)


def fill_in(page: str, made: dict[str, str]) -> str:
    """Return a page with the tables in it."""
    for name, table in made.items():
        space = re.compile(rf"(?s)(<!-- table: {name} -->\n).*?(<!-- end -->)")
        page, count = space.subn(rf"\g<1>{table}\n\g<2>", page)
        assert count == 1, f"{PAGE} has no place for {name}"
    return page


def plot(results: Results) -> str:
    """Return a picture: a line from 0 to the worst delay, thick up to 90 %, and a dot at the median."""
    runs = results["delay"]
    height = _TOP + _ROW * len(runs) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_RIGHT + 60} {height}" '
        'font-family="sans-serif" font-size="13">',
        "<title>Seconds from a failure to the mail</title>",
        f'<rect width="{_RIGHT + 60}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="20">from a failure to the moment at which the mail system has the mail</text>',
    ]
    bottom = _TOP + _ROW * len(runs)
    for second in range(0, _SECONDS + 1, _STEP):
        at = _at(second)
        parts.append(f'<path d="M{at} {_TOP - 8}V{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{at}" y="{bottom + 18}" text-anchor="middle">{second} s</text>')
    for number, run in enumerate(runs):
        middle = _TOP + _ROW * number + _ROW // 2
        colour = "#1b6e4b" if run["who"].startswith("dmonitor") else "#777777"
        name = html.escape(f"{run['who']}, {run['fault']}")
        median, ninety, worst = (_at(run[key]) for key in ("median", "ninety", "worst"))
        parts += [
            f'<text x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end">{name}</text>',
            f'<path d="M{_LEFT} {middle}H{worst}" stroke="{colour}" stroke-width="2"/>',
            f'<path d="M{_LEFT} {middle}H{ninety}" stroke="{colour}" stroke-width="8" opacity="0.5"/>',
            f'<circle cx="{median}" cy="{middle}" r="6" fill="{colour}"/>',
        ]
    parts.append(
        f'<text x="{_LEFT}" y="{bottom + 36}">dot: median; thick: 90 of 100; line: the worst</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def _at(seconds: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * seconds / _SECONDS, 1)


def main() -> int:
    results = read()
    PLOT.write_text(plot(results))
    PAGE.write_text(fill_in(PAGE.read_text(), tables(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
