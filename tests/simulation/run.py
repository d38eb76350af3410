#!/usr/bin/env python3
"""Play many histories: run.py KIND FIRST LAST [--branches] [--jobs N]; or show one: run.py KIND SEED.

With --branches it counts how many histories reached each branch of the decision code, at some cost. Exit status 0 only if
nothing was wrong; each seed that was is named, and replays to the same trace.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]
from simulation import histories  # noqa: E402

DECISIONS = ("incident", "speaking", "round", "verdict")
_CHUNK = 250


class Branches:
    """Which lines that follow a branch were reached, in one history."""

    def __init__(self) -> None:
        self.reached: set[tuple[str, int]] = set()
        self._files = {str(CHECKOUT / "dmonitor/core" / f"{name}.py"): name for name in DECISIONS}

    def __call__(self, frame: types.FrameType, event: str, _: object) -> Any:
        name = self._files.get(frame.f_code.co_filename)
        if name is None:
            return None
        reached = self.reached

        def line(frame: types.FrameType, event: str, _: object) -> Any:
            if event == "line":
                reached.add((name, frame.f_lineno))
            return line

        return line


def branches_of(name: str) -> dict[int, str]:
    """Return the first line of each arm of each branch of a module, with what it is an arm of."""
    source = (CHECKOUT / "dmonitor/core" / f"{name}.py").read_text()
    lines, found = source.splitlines(), {}
    for node in ast.walk(ast.parse(source)):
        for arm in ("body", "orelse"):
            if isinstance(node, ast.If | ast.For | ast.While) and getattr(node, arm):
                first = getattr(node, arm)[0].lineno
                found[first] = (
                    f"{lines[node.lineno - 1].strip()}{'' if arm == 'body' else ' … else'}  ->  {lines[first - 1].strip()}"
                )
    return found


def _play(
    job: tuple[str, int, int, bool],
) -> tuple[list[tuple[int, str]], list[float], Counter[tuple[str, int]], Counter[str]]:
    kind, first, last, counting = job
    wrong, delays, reached, counts = [], [], Counter(), Counter()
    for seed in range(first, last):
        branches = Branches()
        if counting:
            sys.settrace(branches)
        history = histories.play(seed, kind)
        sys.settrace(None)
        reached.update(branches.reached)
        wrong += [(seed, what) for what in history.wrong[:1]]
        delays += history.delays
        mails = history.world.mails
        counts.update(
            mails=len(mails),
            told=sum(len(m.told) for m in mails),
            faults=history.world.faults,
            doubled=history.doubled > 0,
        )
        counts.update(incidents=len(history.world.opened), failures=len(history.failures))
    return wrong, delays, reached, counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=histories.KINDS)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--branches", action="store_true")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    chosen = parser.parse_args()
    if chosen.last is None:
        history = histories.play(chosen.first, chosen.kind, tracing=True)
        print("\n".join([*map(str, history.failures), *history.world.trace, *history.wrong]))
        return bool(history.wrong)
    began = time.monotonic()
    chunks = [
        (chosen.kind, first, min(first + _CHUNK, chosen.last), chosen.branches)
        for first in range(chosen.first, chosen.last, _CHUNK)
    ]
    wrong, delays, reached, counts = [], [], Counter(), Counter()
    with multiprocessing.Pool(chosen.jobs) as pool:
        for more, late, lines, numbers in pool.imap_unordered(_play, chunks):
            for seed, what in more:
                print(f"WRONG {chosen.kind} {seed}: {what}", flush=True)
            wrong += more
            delays += late
            reached.update(lines)
            counts.update(numbers)
    if chosen.branches:
        for name in DECISIONS:
            for line, text in sorted(branches_of(name).items()):
                print(f"{reached[name, line]:8} {name}.py:{line}  {text}")
    delays.sort()
    if delays:
        at = [delays[int(len(delays) * share)] for share in (0.5, 0.99)]
        print(
            f"failure to the MTA's acceptance: median {at[0]:.0f} s, 99 % {at[1]:.0f} s, worst {delays[-1]:.0f} s"
        )
    print(
        f"{chosen.kind}: seeds {chosen.first} to {chosen.last - 1}: {dict(counts)}; {len(wrong)} histories went wrong;"
        f" {time.monotonic() - began:.0f} s on {chosen.jobs} processes"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
