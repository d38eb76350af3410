#!/usr/bin/env python3
"""Each hostile plugin twenty times, through dmonitor-check and through dmonitord.

Each run must give the right result, and leave nothing running a second after its limit. Memory and
descriptors must not grow. Then one that kills the supervisor, alone, in the same ways.
Usage: hostile_plugins.py [RUNS], of which the first and the last are compared, so at least 2
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from hostile import gone_within, kills_warden, plant, strays, warden_of
from local_nodes import LocalNode, Place, running

from dmonitor.core.model import Outcome
from dmonitor.net import flights

ADDRESS, PORT = "127.0.0.61", 3961


def family_of(pid: int) -> list[int]:
    """Return the pids of a daemon and its supervisor."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def resident(pid: int) -> int:
    """Return the memory of a daemon and its supervisor together, in kB."""
    return sum(
        int(Path(f"/proc/{member}/status").read_text().partition("VmRSS:")[2].split()[0])
        for member in family_of(pid)
    )


def descriptors(pid: int) -> int:
    return sum(len(os.listdir(f"/proc/{member}/fd")) for member in family_of(pid))


def through_the_checker(
    node: LocalNode, expected: dict[str, tuple[Outcome, str]], runs: int
) -> Counter[str]:
    wrong: Counter[str] = Counter()
    for _ in range(runs):
        dry = node.run("dmonitor-check", "--dry-run").stdout
        if not gone_within(0.0):
            wrong["left something running"] += 1
        seen = dict(
            re.findall(rf"^www.example.com/(\S+)  .*\n    {ADDRESS}  (\S+)", dry, re.MULTILINE)
        )
        for name, (outcome, _) in expected.items():
            if seen.get(name) != outcome.value:
                wrong[f"{name}: {seen.get(name)}"] += 1
    return wrong


def through_the_daemon(
    node: LocalNode, expected: dict[str, tuple[Outcome, str]], runs: int
) -> Counter[str]:
    wrong: Counter[str] = Counter()
    sizes = []
    with running([node]):
        for _ in range(runs):
            with (
                socket.create_connection((ADDRESS, PORT), 20, (ADDRESS, 0)) as connection,
                connection.makefile("rb") as lines,
            ):
                lines.readline()
                connection.sendall(
                    b"".join(b"test www.example.com/%s\n" % name.encode() for name in expected)
                )
                time.sleep(1.0)
                if not strays():
                    wrong["nothing was running that could be left"] += 1
                seen = dict(lines.readline().decode().split()[1:3] for _ in expected)
            for name, (outcome, _) in expected.items():
                if seen.get(f"www.example.com/{name}") != outcome.value:
                    wrong[f"{name}: {seen.get(f'www.example.com/{name}')}"] += 1
            if not gone_within(1.0):
                wrong["left something running"] += 1
            time.sleep(flights.RESULT_CACHE_SECONDS)
            sizes.append((resident(node.daemon_pid), descriptors(node.daemon_pid)))
    print(
        f"      daemon and supervisor: {sizes[0][0]} kB and {sizes[0][1]} descriptors after 1 run, {sizes[-1][0]} kB and {sizes[-1][1]} after {runs}"
    )
    if sizes[-1][0] - sizes[0][0] > 1500 or sizes[-1][1] > sizes[0][1]:
        wrong["memory or descriptors grew"] += 1
    return wrong


def ask_the_daemon(name: str) -> str:
    """Return the daemon's line about www.example.com/NAME."""
    with (
        socket.create_connection((ADDRESS, PORT), 20, (ADDRESS, 0)) as connection,
        connection.makefile("rb") as lines,
    ):
        lines.readline()
        connection.sendall(b"test www.example.com/%s\n" % name.encode())
        return lines.readline().decode()


def kill_the_warden(node: LocalNode, proof: Path, runs: int) -> Counter[str]:
    """Run a plugin that takes its mark off and kills the supervisor; return what went wrong."""
    wrong: Counter[str] = Counter()

    def judge(way: str, said: str, is_gone: bool) -> None:
        if not proof.exists():
            wrong[f"{way}: the plugin did not get as far"] += 1
            return
        if "the process that runs the plugins was killed" not in said:
            wrong[f"{way}: {said}"] += 1
        if not is_gone:
            wrong[f"{way}: left something running"] += 1
        if Path(f"/proc/{warden_of(proof)}").exists():
            wrong[f"{way}: the supervisor lives"] += 1
        proof.unlink()

    for _ in range(runs):
        said = node.run("dmonitor-check", "--dry-run").stdout
        judge("dmonitor-check", said, gone_within(0.0))
    with running([node]):
        for _ in range(runs):
            time.sleep(1.1)  # a supervisor that dies sooner may be unable to live here
            said = ask_the_daemon("kills-warden")
            judge("dmonitord", said, gone_within(1.0))
            time.sleep(flights.RESULT_CACHE_SECONDS)
    return wrong


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    if runs < 2:
        sys.exit("hostile_plugins.py: one run does not show whether anything grows")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dmonitor-hostile.") as directory:
        node = LocalNode(Place(Path(directory)), ADDRESS, [ADDRESS], port=PORT)
        expected = plant(node.config / "plugins")
        for name in expected:
            node.test(f"www.example.com/{name}")
        for title, play in (
            ("dmonitor-check", through_the_checker),
            ("dmonitord", through_the_daemon),
        ):
            began = time.monotonic()
            wrong = play(node, expected, runs)
            took = time.monotonic() - began
            print(
                f"{'FAIL' if wrong else 'ok':<5} {len(expected)} hostile plugins, {runs} runs each, through {title}: {took:.0f} s"
            )
            for what, count in wrong.items():
                print(f"      {count} times: {what}")
            failed += bool(wrong)
        failed += alone(Path(directory), runs)
    print(f"{3 - failed} passed, {failed} failed")
    return 1 if failed else 0


def alone(directory: Path, runs: int) -> bool:
    """Play the plugin that kills the supervisor on a node of its own; return whether it failed."""
    (directory / "alone").mkdir()
    node = LocalNode(Place(directory / "alone"), ADDRESS, [ADDRESS], port=PORT)
    proofs = directory / "proofs"
    proofs.mkdir()
    proofs.chmod(0o777)  # the programs become another user
    plugin = node.config / "plugins" / "check_kills-warden"
    plugin.write_text(kills_warden(proofs / "proof"))
    plugin.chmod(0o755)
    node.test("www.example.com/kills-warden")
    wrong = kill_the_warden(node, proofs / "proof", runs)
    print(f"{'FAIL' if wrong else 'ok':<5} a plugin that kills the supervisor, {runs} runs each")
    for what, count in wrong.items():
        print(f"      {count} times: {what}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
