#!/usr/bin/env python3
"""What many nodes and many tests ask of each other: scale.py [NODES] [TESTS], from 3 nodes up.

All nodes run the same tests, with crons in step. First all tests pass, then all fail on every node, then
all pass again. Counted are, for each node and in each of the three: plugin runs of one test, questions
and greetings that it sends, incidents that it is told in greetings, and mails; and the seconds until the
last mail. The clocks are virtual, and so is all but dmonitor's own decisions. Then a greeting with so
many incidents is really written and read, and its size and the time are printed. doc/scale.md has the
figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]
from dmonitor.core import hearsay  # noqa: E402
from dmonitor.core.model import Incident, NodeStatus, Outcome, Statement, Test  # noqa: E402
from dmonitor.net import protocol  # noqa: E402
from simulation.node import SimNode  # noqa: E402
from simulation.world import World  # noqa: E402

FAILED_AT, PASS_AT, END = 150.0, 330.0, 450.0  # seconds
ADDRESSES = ("one@example.com", "two@example.com")


class Counting(World):
    """A world in which every run, question and greeting is counted."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.counts: Counter[str] = Counter()
        self.runs: Counter[tuple[str, Test]] = Counter()

    def plugin(self, node: SimNode, test: Test, looker: str) -> tuple[float, Outcome]:
        self.runs[node.name, test] += 1
        return super().plugin(node, test, looker)

    def answer(self, node: SimNode, test: Test, reply: Callable[[float, Any], None]) -> None:
        self.counts["questions"] += test.host != "node"
        self.counts["questions about nodes"] += test.host == "node"
        super().answer(node, test, reply)

    def statement(
        self, node: SimNode, wanted: Sequence[tuple[str, ...]], source: SimNode
    ) -> Statement:
        statement = super().statement(node, wanted, source)
        self.counts["greetings"] += 1
        self.counts["incidents told"] += len(statement.incidents)
        return statement


def play(nodes: int, tests: int) -> None:
    """Let so many nodes run so many tests; print what is counted."""
    world = Counting(1)
    every_test = frozenset(Test(f"host{number}", "ssh") for number in range(tests))
    for number in range(nodes):
        name = f"node{number + 1:02}"
        world.nodes.append(SimNode(name, f"{number:012x}", name, 1, 0.0, every_test, ADDRESSES))
    world.fails = lambda at, test, node: FAILED_AT <= at < PASS_AT and test.host != "node"
    world.begin()
    began, rounds_before = 0.0, 0
    for until, label in ((FAILED_AT, "all pass"), (PASS_AT, "all fail"), (END, "all pass again")):
        mails_before = len(world.mails)
        world.counts.clear()
        world.runs.clear()
        world.run(until)
        rounds = 1 + int(until // 60)
        _print_counts(world, label, rounds - rounds_before)
        mails = world.mails[mails_before:]
        if mails:
            counts = Counter(mail.address for mail in mails)
            last = max(mail.at for mail in mails) - began
            print(
                f"    mails for each address {sorted(counts.values())}, the last after {last:.0f} s"
            )
        began, rounds_before = until, rounds


def _print_counts(world: Counting, label: str, rounds: int) -> None:
    counts = []
    for key in ("questions", "questions about nodes", "greetings", "incidents told"):
        counts.append(f"{world.counts[key] / len(world.nodes):.0f} {key}")
    most = max(world.runs.values(), default=0)
    print(
        f"{label}, {rounds} rounds: each node {', '.join(counts)};"
        f" at most {most} runs of a test on a node"
    )


def measure(nodes: int, tests: int) -> None:
    """Write and read a greeting with one incident for each test, each opened by many nodes."""
    now, name = 1e9, "node01.example.com"
    digest = "0" * 16
    status = NodeStatus(name, "abcdef0123456789", now, tests=digest, nodes=digest, addresses=digest)
    incidents = []
    for number in range(tests):
        ids = [f"{number * 100 + opener:016x}" for opener in range(min(nodes, hearsay.IDS_LIMIT))]
        failed = (("node01.example.com", now), ("node02.example.com", now))
        test = Test(f"host{number}.example.com", "http")
        incidents.append(Incident(tuple(sorted(ids)), test, now, failed=failed, held=now))
    statement = Statement(status, (status,) * (nodes - 1), (), tuple(incidents))
    began = time.process_time()
    text = protocol.write_statement(statement, now)
    wrote = time.process_time()
    read = protocol.read_statement(
        text.splitlines()[:-1], protocol.Greeting(name, status.node_id), now
    )
    seconds = time.process_time() - wrote
    assert len(read.incidents) == tests
    print(
        f"a greeting with {tests} incidents: {len(text) / 1e6:.2f} MB,"
        f" {wrote - began:.2f} s to write, {seconds:.2f} s to read"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What many nodes and many tests ask of each other."
    )
    parser.add_argument("nodes", type=int, nargs="?", default=10)
    parser.add_argument("tests", type=int, nargs="?", default=50)
    options = parser.parse_args()
    print(f"{options.nodes} nodes, {options.tests} tests")
    play(options.nodes, options.tests)
    measure(options.nodes, options.tests)


if __name__ == "__main__":
    main()
