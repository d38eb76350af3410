#!/usr/bin/env python3
"""What many nodes and many tests ask of each other: scale.py [NODES] [TESTS], from 3 nodes up; doc/scale.md has what came of it.

All nodes run the same tests, with crons in step. First all tests pass, then all fail on every node, then all pass again. Counted
are, for each node and in each of the three: plugin runs of one test, questions and greetings that it sends, incidents that
it is told in greetings, and mails; and the seconds until the last mail. The clocks are virtual, and so is all but dmonitor's own
decisions. Then the size of a greeting with so many incidents, and the time to write and to read one, as they really are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]
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

    def plugin(self, node: SimNode, test: Test) -> tuple[float, Outcome]:
        self.runs[node.name, test] += 1
        return super().plugin(node, test)

    def answer(self, node: SimNode, test: Test, reply: Callable[[float, Any], None]) -> None:
        self.counts["questions"] += test.host != "node"
        self.counts["questions about nodes"] += test.host == "node"
        super().answer(node, test, reply)

    def statement(self, node: SimNode, wanted: Any, source: SimNode) -> Statement:
        said = super().statement(node, wanted, source)
        self.counts["greetings"] += 1
        self.counts["incidents told"] += len(said.incidents)
        return said


def play(nodes: int, tests: int) -> None:
    world = Counting(1)
    every = frozenset(Test(f"host{number}", "ssh") for number in range(tests))
    for number in range(nodes):
        name = f"node{number + 1:02}"
        world.nodes.append(SimNode(name, f"{number:012x}", name, 1, 0.0, every, ADDRESSES))
    world.fails = lambda at, test, node: FAILED_AT <= at < PASS_AT and test.host != "node"
    world.begin()
    before: Counter[str] = Counter()
    minutes = 0
    for until, what in ((FAILED_AT, "all pass"), (PASS_AT, "all fail"), (END, "all pass again")):
        mails = len(world.mails)
        world.run(until)
        minutes, passed = 1 + int(until // 60), minutes
        most = max(world.runs.values(), default=0)
        counted = world.counts - before
        before = Counter(world.counts)
        each = ", ".join(
            f"{counted[key] / nodes:.0f} {key}"
            for key in ("questions", "questions about nodes", "greetings", "incidents told")
        )
        print(
            f"{what}, {minutes - passed} rounds: each node {each}; at most {most} runs of a test on a node"
        )
        sent = Counter(mail.address for mail in world.mails[mails:])
        if sent:
            began = FAILED_AT if what == "all fail" else PASS_AT
            last = max(mail.at for mail in world.mails[mails:]) - began
            print(
                f"    mails for each address {sorted(sent.values())}, the last after {last:.0f} s"
            )
        world.runs.clear()


def measure(nodes: int, tests: int) -> None:
    """Write and read a greeting with as many incidents as there are tests, each opened by as many nodes as travel."""
    now, name = 1e9, "node01.example.com"
    ids = min(nodes, protocol.IDS_LIMIT)
    presence = NodeStatus(
        name, "abcdef0123456789", now, tests="0" * 16, nodes="0" * 16, addresses="0" * 16
    )
    incidents = tuple(
        Incident(
            tuple(sorted(f"{number * 100 + place:016x}" for place in range(ids))),
            Test(f"host{number}.example.com", "http"),
            now,
            failed=(("node01.example.com", now), ("node02.example.com", now)),
            held=now,
        )
        for number in range(tests)
    )
    statement = Statement(presence, (presence,) * (nodes - 1), (), incidents)
    began = time.process_time()
    said = protocol.write_statement(statement, now)
    wrote = time.process_time()
    read = protocol.read_statement(
        said.splitlines()[:-1], protocol.Greeting(name, presence.node_id), now
    )
    took = time.process_time() - wrote
    assert len(read.incidents) == tests
    print(
        f"a greeting with {tests} incidents: {len(said) / 1e6:.2f} MB, {wrote - began:.2f} s to write, {took:.2f} s to read"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What many nodes and many tests ask of each other."
    )
    parser.add_argument("nodes", type=int, nargs="?", default=10)
    parser.add_argument("tests", type=int, nargs="?", default=50)
    chosen = parser.parse_args()
    print(f"{chosen.nodes} nodes, {chosen.tests} tests")
    play(chosen.nodes, chosen.tests)
    measure(chosen.nodes, chosen.tests)


if __name__ == "__main__":
    main()
