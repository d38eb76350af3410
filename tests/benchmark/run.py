#!/usr/bin/python3
"""Measure what dmonitor costs, compared with a floor and with other monitors; print a table.

    /usr/bin/python3 tests/benchmark/run.py [--repeats N] [--markdown FILE] [--no-judge] [PART...]

It measures the checkout that it lies in, as any user, and exits with 1 if a target is missed. The machine
should have nothing else to do. Nagios Core and Icinga 2 come from Debian's packages, which are unpacked and
not installed. That needs apt-get and, once, the network. It also needs cc.

A part is a function in PARTS, which takes a `frame.Bench` and yields `frame.Row`s.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

sys.dont_write_bytecode = True
sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[2]),
]

import frame  # noqa: E402
import part_daemon  # noqa: E402
import part_mass  # noqa: E402
import part_round  # noqa: E402
import part_size  # noqa: E402
import part_slow  # noqa: E402
import part_start  # noqa: E402
import part_told  # noqa: E402
from frame import Bench, Failed, Row  # noqa: E402

PARTS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "round": part_round.rows,
    "size": part_size.rows,
    "start": part_start.rows,
    "slow": part_slow.rows,
    "daemon": part_daemon.daemon,
    "idle": part_daemon.idle,
    "mass": part_mass.rows,
    "told": part_told.rows,
}
_HEAD = ["what", "median", "min – max", "unit", "target", "holds"]


def main() -> int:
    chosen = _arguments()
    signal.signal(signal.SIGTERM, _ended)
    os.umask(0o022)
    facts = machine()
    print("\n".join(facts), flush=True)
    written, missed = ["", *(f"    {fact}" for fact in facts)], 0
    for part in chosen.parts or PARTS:
        found: list[Row] = []
        notes: list[str] = []
        problems = []
        try:
            with frame.bench(chosen.repeats) as bench:
                notes = bench.notes
                found.extend(PARTS[part](bench))
        except Failed as failure:
            problems.append(f"FAILED {part}: {failure}")
        missed += len(problems) + sum(row.holds is False for row in found)
        print("\n".join(["", f"== {part}", *notes, *plain(found), *problems]), flush=True)
        paragraphs = [f"### {part}", *notes, "\n".join(markdown(found)), *problems]
        written += [line for paragraph in paragraphs for line in ("", paragraph)]
    if chosen.markdown:
        chosen.markdown.write_text("\n".join(written[1:]) + "\n")
    if missed:
        print(f"\n{missed} {'target' if missed == 1 else 'targets'} missed")
    else:
        print("\nall targets hold")
    return 1 if missed and chosen.judge else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What dmonitor costs, beside a floor and beside others."
    )
    parser.add_argument("--repeats", metavar="N", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there, too")
    parser.add_argument(
        "--no-judge", dest="judge", action="store_false", help="end with 0, whatever is missed"
    )
    parser.add_argument(
        "parts", metavar="PART", nargs="*", help=f"of {' '.join(PARTS)}; default: all"
    )
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no part is called {' '.join(sorted(unknown))}")
    if chosen.repeats < 1:
        parser.error("at least one repeat")
    return chosen


def machine() -> list[str]:
    """Return lines that describe this machine, and whether it is quiet."""
    cpus = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    release = dict(
        line.partition("=")[::2]
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    name = "".join(shlex.split(release.get("PRETTY_NAME", "")))
    load = os.getloadavg()[0]
    facts = [
        f"{os.cpu_count()} cores, {cpus[0] if cpus else platform.machine()}; Linux {platform.release()}; {name}",
        f"Python {platform.python_version()}; user {'root' if os.geteuid() == 0 else 'not root'}; load at the start {load:.2f}",
    ]
    if load > 0.25:
        facts.append("NOT QUIET: something else runs here; the figures are worth little")
    return facts


def plain(found: list[Row]) -> list[str]:
    lines = [_HEAD, *(row.cells() for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def markdown(found: list[Row]) -> list[str]:
    lines = [_HEAD, ["---", "--:", "--:", "---", "---", "---"], *(row.cells() for row in found)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _ended(*_: object) -> NoReturn:
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
