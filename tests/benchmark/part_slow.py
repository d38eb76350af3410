"""`slow`: 2,000 tests that all hang for ten seconds, and 100 quick ones among them.

Memory is the sum over all processes of their private memory and their share of what they share (PSS), measured each
second. The quick tests are compared with those of a round without hanging ones.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from contestants import Copy
from frame import Bench, Failed, Row, descendants, measured
from local_nodes import LocalNode

HANGING, QUICK = 2_000, 100
WALL, MEMORY = 30.0, 1_000.0  # seconds; MB


def rows(bench: Bench) -> Iterator[Row]:
    place = Copy(bench, "slow")
    nodes = {}
    for number, hanging in ((81, 0), (82, HANGING)):
        nodes[hanging] = node = LocalNode(place, f"127.0.0.{number}", [f"127.0.0.{number}"])
        node.mail()
        node.plugin("hang", "sleep 60\necho OK")
        node.plugin("quick", "echo OK fine")
        for number in range(hanging):
            node.test(f"h{number:04}.example.com/hang")
        for number in range(QUICK):
            node.test(f"h{number * 20:04}.example.com/quick")
    _, alone, _ = _round(bench, nodes[0], 0)
    wall, among, memory = _round(bench, nodes[HANGING], HANGING)
    yield Row(f"{HANGING} hanging tests: the round", wall, None, "s", f"≤ {WALL:g}", wall <= WALL)
    yield Row(
        f"{HANGING} hanging tests: memory in all, at the most",
        memory,
        None,
        "MB",
        f"≤ {MEMORY:g}",
        memory <= MEMORY,
    )
    yield measured(f"{QUICK} quick tests alone: each", alone, "s")
    yield measured(f"{QUICK} quick tests among them: each", among, "s")
    yield Row("the slowest of them, among and alone", max(among) / max(alone), None, "×")
    if median(among) > 1:
        raise Failed("the quick ones starve")


def _round(bench: Bench, node: LocalNode, hanging: int) -> tuple[float, list[float], float]:
    """Run a round; return the seconds it took, those of each quick test, and MB."""
    peak = 0.0

    def watch(pid: int) -> None:
        nonlocal peak
        while Path(f"/proc/{pid}/exe").exists():
            peak = max(peak, sum(map(_pss, (pid, *descendants(pid)))))
            time.sleep(1)

    usage = bench.measure(
        node.command("dmonitor-check", "--verbose"),
        meanwhile=watch,
        environment={**os.environ, **node.place.environment()},
    )
    said = bench.output()
    timeouts = len(re.findall(r" test-ran test=\S+/hang result=TIMEOUT ", said))
    quick = [
        float(seconds)
        for seconds in re.findall(r" test-ran test=\S+/quick result=OK seconds=([\d.]+) ", said)
    ]
    if (timeouts, len(quick)) != (hanging, QUICK):
        raise Failed(
            f"{timeouts} of {hanging} hanging tests ended with TIMEOUT, {len(quick)} of {QUICK} quick ones with OK"
        )
    return usage.wall, quick, peak


def _pss(pid: int) -> float:
    try:
        found = re.search(
            r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE
        )
    except OSError:
        return 0.0
    return int(found[1]) / 1000 if found else 0.0
