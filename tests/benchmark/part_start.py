"""`start`: a round without tests and peers, compared with an interpreter that does nothing.

CPU is user and system time of the whole tree of processes.
"""

from __future__ import annotations

from collections.abc import Iterator

from contestants import Dmonitor, Plugin
from frame import PYTHON, Bench, Row, cpus, interleaved, measured, ratios

TIMES = 4  # the CPU of the interpreter, at the most
_LEAST = 20  # repeats


def rows(bench: Bench) -> Iterator[Row]:
    ours = Dmonitor(bench, Plugin(bench.directory), 0, name="empty round")
    python = "python3 -c pass"
    runs = {python: lambda: bench.measure([PYTHON, "-c", "pass"]), ours.name: ours.run}
    found = interleaved(runs, max(_LEAST, 4 * bench.repeats))
    for name in runs:
        yield measured(f"{name}: CPU", cpus(found[name]), "s")
        yield measured(f"{name}: wall", [usage.wall for usage in found[name]], "s")
    yield ratios(f"{ours.name} / {python}: CPU", cpus(found[ours.name]), cpus(found[python]), TIMES)
