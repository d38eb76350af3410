#!/usr/bin/env python3
"""Play many histories: run.py KIND FIRST LAST [--branches] [--jobs N]; or show one: run.py KIND SEED.

With --branches it counts how many histories reached each branch of the decision code, which takes
longer. The exit status is 0 only if nothing was wrong. Each seed that went wrong is named; it replays to
the same trace.
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
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]
from simulation import histories  # noqa: E402

# The modules of the core whose branches are counted.
DECISIONS = (
    "complaints",
    "conclusions",
    "election",
    "health",
    "incident",
    "ledger",
    "outbox",
    "refusals",
    "rehearsal",
    "result",
    "round",
    "self_check",
    "silences",
    "situation",
    "telling",
    "trouble_telling",
    "mute_peers",
    "verdict",
)
_CHUNK = 250  # histories that one process plays before it reports


class Branches:
    """The lines after a branch that were reached in one history."""

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
    """Return the first line of each arm of each branch of a module, with the text of both lines."""
    source = (CHECKOUT / "dmonitor/core" / f"{name}.py").read_text()
    lines = source.splitlines()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.If | ast.For | ast.While):
            continue
        branch = lines[node.lineno - 1].strip()
        for arm, label in ((node.body, branch), (node.orelse, f"{branch} … else")):
            if arm:
                first = arm[0].lineno
                found[first] = f"{label}  ->  {lines[first - 1].strip()}"
    return found


class Tally:
    """What came of some histories."""

    def __init__(self) -> None:
        self.wrong: list[tuple[int, str]] = []  # seed, what was wrong first
        self.delays: list[float] = []
        self.reached: Counter[tuple[str, int]] = Counter()
        self.counts: Counter[str] = Counter()

    def add(self, other: Tally) -> None:
        self.wrong += other.wrong
        self.delays += other.delays
        self.reached.update(other.reached)
        self.counts.update(other.counts)


class Job(NamedTuple):
    """Histories for one process."""

    kind: str
    first: int
    last: int  # not played any more
    counting: bool  # whether branches are counted


def _play(job: Job) -> Tally:
    tally = Tally()
    for seed in range(job.first, job.last):
        branches = Branches()
        if job.counting:
            sys.settrace(branches)
        history = histories.play(seed, job.kind)
        sys.settrace(None)
        tally.reached.update(branches.reached)
        tally.wrong += [(seed, text) for text in history.wrong[:1]]
        tally.delays += history.delays
        world = history.world
        tally.counts.update(
            mails=len(world.mails),
            told=sum(len(mail.told) for mail in world.mails),
            faults=world.faults,
            doubled=history.doubled > 0,
            incidents=len(world.opened),
            failures=len(history.failures),
        )
    return tally


def main() -> int:
    """Play what the arguments ask for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=histories.KINDS)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--branches", action="store_true")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    options = parser.parse_args()
    if options.last is None:
        return _show(options.kind, options.first)
    began = time.monotonic()
    tally = _play_all(options)
    if options.branches:
        _print_branches(tally)
    _print_delays(sorted(tally.delays))
    print(
        f"{options.kind}: seeds {options.first} to {options.last - 1}: {dict(tally.counts)};"
        f" {len(tally.wrong)} histories went wrong;"
        f" {time.monotonic() - began:.0f} s on {options.jobs} processes"
    )
    return bool(tally.wrong)


def _show(kind: str, seed: int) -> int:
    """Print one history."""
    history = histories.play(seed, kind, tracing=True)
    for line in (*history.failures, *history.world.trace, *history.wrong):
        print(line)
    return bool(history.wrong)


def _play_all(options: argparse.Namespace) -> Tally:
    """Play the histories in several processes; print what goes wrong at once."""
    jobs = []
    for first in range(options.first, options.last, _CHUNK):
        last = min(first + _CHUNK, options.last)
        jobs.append(Job(options.kind, first, last, options.branches))
    total = Tally()
    with multiprocessing.Pool(options.jobs) as pool:
        for tally in pool.imap_unordered(_play, jobs):
            for seed, text in tally.wrong:
                print(f"WRONG {options.kind} {seed}: {text}", flush=True)
            total.add(tally)
    return total


def _print_branches(tally: Tally) -> None:
    for name in DECISIONS:
        for line, text in sorted(branches_of(name).items()):
            print(f"{tally.reached[name, line]:8} {name}.py:{line}  {text}")


def _print_delays(delays: list[float]) -> None:
    if delays:
        median, most, late = (delays[int(len(delays) * share)] for share in (0.5, 0.9, 0.99))
        print(
            f"failure to the MTA's acceptance: median {median:.0f} s, 90 % {most:.0f} s,"
            f" 99 % {late:.0f} s, worst {delays[-1]:.0f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
