"""`mass`: ten nodes on this machine, 500 tests each, crons in step, and all tests fail at once.

Once each test says FAIL at once, and once each of them hangs, as if a switch were dead. In between, all is well.
cron's program runs the rounds, the daemons run, and each run of a plugin is counted. The nodes share the processors of
this machine, which ten real nodes do not: what holds here holds there.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from frame import Bench, Failed, Row, measured
from local_nodes import LocalNode, Place, running, wait_until

NODES, TESTS = 10, 500
ROUND, RUNS = 55.0, 2.0  # seconds; plugin runs of one test on one node
CONNECTIONS = 3.0  # between two nodes, in one round
ADDRESSES = ("one@example.com", "two@example.com")
# Each run leaves a character. The files that are there decide the result.
PLUGIN = """\
printf . >>"$COUNT"
[ ! -e "$SWITCH.hang" ] || exec sleep 60
[ -e "$SWITCH.fail" ] && echo FAIL no route || echo OK fine
"""


class Cluster:
    """Ten nodes with the same tests, on loopback addresses."""

    def __init__(self, bench: Bench) -> None:
        directory = bench.directory / "mass"
        directory.mkdir()
        self.place = Place(directory)
        addresses = [f"127.0.3.{number}" for number in range(1, NODES + 1)]
        self.nodes = [LocalNode(self.place, address, addresses, port=2930) for address in addresses]
        self.counts = self.place.writable("counts")
        self.switch = directory / "switch"
        for node in self.nodes:
            for address in ADDRESSES:
                node.mail(address)
            node.plugin("mass", PLUGIN)
            (self.counts / node.address).mkdir(mode=0o777)
            (self.counts / node.address).chmod(0o777)
            for number in range(TESTS):
                name = f"host{number}.example.com"
                node.test(
                    f"{name}/mass",
                    f"COUNT={self.counts / node.address / name}\nSWITCH={self.switch}\n",
                )

    def round(self) -> tuple[list[float], list[str]]:
        """Run a round on all nodes at once; return the seconds each took, and what each logged."""
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            logs = [
                stack.enter_context(open(self.place.directory / f"{node.address}.log", "w+"))
                for node in self.nodes
            ]
            rounds = [
                stack.enter_context(
                    subprocess.Popen(
                        node.command("dmonitor-check", "--verbose"),
                        env=self.place.environment(),
                        stdin=subprocess.DEVNULL,
                        stderr=log,
                        cwd="/",
                    )
                )
                for node, log in zip(self.nodes, logs, strict=True)
            ]
            took: dict[int, float] = {}
            while len(took) < NODES:
                took |= {
                    place: time.monotonic() - began
                    for place, each in enumerate(rounds)
                    if place not in took and each.poll() is not None
                }
                time.sleep(0.02)
            if any(each.returncode for each in rounds):
                raise Failed(f"rounds ended with {sorted(each.returncode for each in rounds)}")
            said = []
            for log in logs:
                log.seek(0)
                said.append(log.read())
        return [took[place] for place in range(NODES)], said

    def runs(self) -> list[int]:
        """Return how often each test was run on each node since this was last asked."""
        found = []
        for path in self.counts.glob("*/*"):
            found.append(path.stat().st_size)
            path.unlink()
        return found

    def mails(self) -> Counter[tuple[str, str]]:
        """Return how many mails came since this was last asked, for each address and first word of the subject."""
        found: Counter[tuple[str, str]] = Counter()
        for mail in self.place.mails():
            found[str(mail["To"]), str(mail["Subject"]).split()[0]] += 1
        for path in self.place.mailbox.iterdir():
            path.unlink()
        return found


def rows(bench: Bench) -> Iterator[Row]:
    cluster = Cluster(bench)
    with running(cluster.nodes):
        for _ in range(3):  # until everybody has been heard of, and has an interval
            cluster.round()
        for kind in ("fail", "hang"):
            cluster.runs(), cluster.mails()
            yield from _fail(cluster, kind)
            Path(f"{cluster.switch}.{kind}").unlink()
            wait_until(lambda: not _left_over(), 30)
            time.sleep(6)  # until the daemons have forgotten what they saw
            cluster.runs()
            took, _ = cluster.round()
            yield measured(f"all pass again after {kind}: a round", took, "s", ROUND)
            yield measured(
                f"all pass again after {kind}: runs of a test on a node",
                [*map(float, cluster.runs())],
                "",
                None,
            )
            yield _mails(cluster, kind, "UP")


def _fail(cluster: Cluster, kind: str) -> Iterator[Row]:
    Path(f"{cluster.switch}.{kind}").touch()
    took, logs = cluster.round()
    runs = cluster.runs()
    what = f"{NODES} nodes × {TESTS} tests {kind}"
    yield Row(
        f"{what}: a round, the longest",
        max(took),
        (min(took), max(took)),
        "s",
        f"≤ {ROUND:g}",
        max(took) <= ROUND,
    )
    yield Row(
        f"{what}: runs of a test on a node, the most",
        max(runs),
        (min(runs), max(runs)),
        "",
        f"≤ {RUNS:g}",
        max(runs) <= RUNS,
    )
    yield Row(
        f"{what}: runs in all, for each test and node", sum(runs) / (NODES * TESTS), None, "×"
    )
    verdicts = [Counter(re.findall(r" verdict test=host\S+ verdict=(\w+)", log)) for log in logs]
    down = [float(found["DOWN"]) for found in verdicts]
    yield Row(
        f"{what}: DOWN, on each node",
        min(down),
        (min(down), max(down)),
        "",
        f"= {TESTS}",
        min(down) == TESTS,
    )
    asked = [
        len(found.split(","))
        for log in logs
        for found in re.findall(r" asked test=host\S+ peers=(\S+)", log)
    ]
    yield Row(
        f"{what}: peers asked about a test", sum(asked) / len(asked), (min(asked), max(asked)), "×"
    )
    met = [
        float(count)
        for log in logs
        for count in Counter(re.findall(r" greeted peer=(\S+)", log)).values()
    ]
    yield Row(
        f"{what}: connections to a peer in a round",
        max(met),
        (min(met), max(met)),
        "",
        f"≤ {CONNECTIONS:g}",
        max(met) <= CONNECTIONS,
    )
    yield _mails(cluster, kind, "DOWN")


def _mails(cluster: Cluster, kind: str, word: str) -> Row:
    """An alert is one mail. Recoveries may be seen, or heard of, at two moments of a round: then there are two mails."""
    found = cluster.mails()
    each = [float(found[address, word]) for address in ADDRESSES]
    most = 1 if word == "DOWN" else 2
    good = (
        {at for at, _ in found} == set(ADDRESSES)
        and {first for _, first in found} == {word}
        and max(each) <= most
    )
    return Row(
        f"{kind}: mails {word} for each address",
        max(each),
        (min(each), max(each)),
        "",
        f"≤ {most}",
        good,
    )


def _left_over() -> bool:
    """Return whether a plugin of ours still hangs; none outlives its limit."""
    return bool(
        subprocess.run(["pgrep", "-f", "^sleep 60$"], capture_output=True, check=False).stdout
    )
