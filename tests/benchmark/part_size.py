"""`size`: dmonitor-check with up to 10,000 tests, compared with the floor in C with as many.

CPU is user and system time of the whole tree of processes, plugins included; memory is what the largest single
process ever had.
"""

from __future__ import annotations

from collections.abc import Iterator

from contestants import Dmonitor, Floor, Plugin
from frame import Bench, Row, cpus, interleaved, measured, ratios
from part_round import counted

SIZES = (0, 10, 100, 1000, 10000)


def rows(bench: Bench) -> Iterator[Row]:
    plugin = Plugin(bench.directory)
    for tests in SIZES:
        floor, ours = Floor(bench, plugin, tests), Dmonitor(bench, plugin, tests)
        yield from counted(f"{tests} tests", ours.run, plugin, tests)
        repeats = max(2, bench.repeats // 3) if tests > 1000 else bench.repeats
        found = interleaved({"floor": floor.run, "ours": ours.run}, repeats)
        least, mine = cpus(found["floor"]), cpus(found["ours"])
        yield measured(f"{tests} tests: dmonitor-check, CPU", mine, "s")
        yield measured(
            f"{tests} tests: dmonitor-check, wall", [usage.wall for usage in found["ours"]], "s"
        )
        yield measured(
            f"{tests} tests: dmonitor-check, peak memory",
            [usage.memory for usage in found["ours"]],
            "kB",
        )
        if tests:
            yield measured(
                f"{tests} tests: dmonitor-check, CPU per test",
                [1000 * cpu / tests for cpu in mine],
                "ms",
            )
            yield measured(f"{tests} tests: floor in C, CPU", least, "s")
            yield ratios(f"{tests} tests: dmonitor-check / floor in C, CPU", mine, least)
