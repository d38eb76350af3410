#!/usr/bin/env python3
"""kill -9 of dmonitor-check at 300 random moments, of dmonitord at 100, and of 3 rounds before they read a result.

The next round must always run, and two must never run at once. Nothing that a killed program started may go on.
While rounds are killed, others are started all the time, as an impatient cron would do.

Usage: kill_9.py [ROUNDS [DAEMONS [SEED]]]
"""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from hostile import LONG, gone_within, strays
from local_nodes import LocalNode, Place, wait_until

ADDRESS, PORT = "127.0.0.62", 3962

# A plugin that proves that it runs alone: two that run at once meet in the directory.
# It leaves a process behind, so that a killed round has left one if it is not cleared up after it.
PLUGIN = """
setsid sleep {1} >/dev/null 2>&1 &
mkdir {0}/inside.$PPID
for other in {0}/inside.*; do
    other=${{other##*.}}
    [ $other = $PPID ] || ! kill -0 $other 2>/dev/null || echo "$PPID and $other" >>{0}/doubled
done
sleep 0.$1
rmdir {0}/inside.$PPID
echo OK
"""


def doubled(node: LocalNode) -> bool:
    return (node.state / "doubled").exists()


def doubled_is_seen(node: LocalNode) -> bool:
    """Return whether the plugin finds out that it does not run alone, and forget that it did."""
    plugin = node.config / "plugins/check_alone"
    pair = [
        subprocess.Popen(["sh", "-c", f"{plugin} 4; :"], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    for process in pair:
        process.wait()
    for pid in strays():
        os.kill(int(pid.split()[0]), signal.SIGKILL)
    seen = doubled(node)
    (node.state / "doubled").unlink(missing_ok=True)
    return seen


def seconds_of(do: Callable[[], object]) -> float:
    """Return how long something takes on this machine, which decides at which moments to kill."""
    began = time.monotonic()
    do()
    return time.monotonic() - began


def kill_rounds(node: LocalNode, count: int, dice: random.Random) -> list[str]:
    """Kill `count` pairs of rounds, each at a random moment of its life; return what went wrong."""
    wrong = []
    finished = killed = busy = 0
    whole = seconds_of(lambda: node.run("dmonitor-check"))
    if not doubled_is_seen(node):
        wrong.append("two plugins at once are not noticed, so two rounds would not be")
    for number in range(count):
        first, second = node.popen("dmonitor-check"), node.popen("dmonitor-check")
        time.sleep(dice.uniform(0, 1.2 * whole))
        busy += bool(strays())
        for process in (first, second):
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
        if not gone_within(1.0):
            wrong.append(f"kill {number}: left running: {strays()}")
        for left_over in node.state.glob("inside.*"):
            left_over.rmdir()
        after = node.run("dmonitor-check", "-v")
        if after.returncode != 0:
            wrong.append(
                f"kill {number}: the next round ended with {after.returncode}: {after.stderr[-300:]}"
            )
        finished += 1
    if doubled(node):
        wrong.append("two rounds at once: " + (node.state / "doubled").read_text())
    if killed < count or not busy:
        wrong.append(
            f"{killed} of {2 * count} rounds still ran when they were killed, {busy} with a plugin"
        )
    print(
        f"      {killed} rounds killed, {busy} of them with a plugin; {finished} let live in between,"
        f" {len(wrong)} things went wrong"
    )
    return wrong


def kill_busy_rounds(node: LocalNode, count: int, _: random.Random) -> list[str]:
    """Kill `count` rounds that were stopped while two plugins ran and one of them printed its result.

    Return what went wrong.
    """
    wrong = []
    may_end = node.state / "may-end"
    says = node.state / "says"
    stays = node.state / "stays"
    for number in range(count):
        round = node.popen("dmonitor-check")
        wait_until(lambda: says.exists() and stays.exists() and stays.read_text().endswith("\n"))
        pid = int(stays.read_text())  # other tests may run such plugins on this machine, too
        round.send_signal(signal.SIGSTOP)
        may_end.touch()
        wait_until(lambda: not says.exists())
        time.sleep(0.2)  # the result is under way
        round.send_signal(signal.SIGKILL)
        round.communicate()
        try:
            wait_until(functools.partial(has_ended, pid), 1.0)
        except AssertionError:
            wrong.append(f"kill {number}: left running: plugin {pid}")
            os.kill(pid, signal.SIGKILL)
        may_end.unlink()
        stays.unlink()
    return wrong


def has_ended(pid: int) -> bool:
    """Return whether the plugin that sleeps as process `pid` has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return not command.startswith(f"sleep\0{LONG}".encode())


def ask(node: LocalNode) -> str:
    """Ask the node's daemon about a test; return the line that it answers."""
    with (
        socket.create_connection((ADDRESS, PORT), 12, (ADDRESS, 0)) as connection,
        connection.makefile("rb") as lines,
    ):
        lines.readline()
        connection.sendall(b"test 1/quick\n")
        return lines.readline().decode()


def kill_daemons(node: LocalNode, count: int, dice: random.Random) -> list[str]:
    """Kill `count` daemons, some of them while they start or run a plugin; return what went wrong."""
    wrong = []
    talked = busy = 0
    start = seconds_of(node.start)
    node.stop()
    number = 0
    # Chance decides which moments are hit, so a few more are tried until both kinds were.
    while number < count or (number < 5 * count and not (talked and busy)):
        number += 1
        starting = node.popen("dmonitord", "--foreground")
        time.sleep(dice.uniform(0, 1.5 * start))
        talks = False
        if dice.random() < 0.5:
            try:
                with socket.create_connection((ADDRESS, PORT), 1, (ADDRESS, 0)) as connection:
                    connection.sendall(b"test 1/hangs\n")
                    time.sleep(dice.uniform(0, 0.1))
                    talks = True
            except OSError:
                pass
        talked += talks
        busy += bool(strays())
        rival = node.run("dmonitord") if talks else None
        if rival and rival.returncode == 0:
            wrong.append(f"kill {number}: a second daemon started")
        starting.send_signal(signal.SIGKILL)
        starting.communicate()
        if not gone_within(1.0):
            wrong.append(f"kill {number}: left running: {strays()}")
        try:
            node.start()
            if not ask(node).startswith("answer 1/quick OK"):
                wrong.append(f"kill {number}: the next daemon gave no answer")
        except (AssertionError, OSError) as error:
            wrong.append(f"kill {number}: the next daemon: {error}")
        finally:
            node.stop()
    if not talked or not busy:
        wrong.append(f"{talked} of the daemons had a rival, and {busy} ran a plugin")
    print(
        f"      {number} daemons killed, {talked} with a rival and {busy} with a plugin;"
        f" {len(wrong)} things went wrong"
    )
    return wrong


class Play(NamedTuple):
    """What is killed, how often, and which tests the node gets after it."""

    title: str
    kill: Callable[[LocalNode, int, random.Random], list[str]]
    times: int
    next_tests: Sequence[str]


def main() -> int:
    numbers = [300, 100, int(time.time())]
    for position, argument in enumerate(sys.argv[1:]):
        numbers[position] = int(argument)
    rounds, daemons, seed = numbers
    dice = random.Random(seed)
    print(f"      seed {seed}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dmonitor-kill.") as directory:
        node = LocalNode(Place(Path(directory)), ADDRESS, [ADDRESS], port=PORT)
        node.plugin("alone", PLUGIN.format(node.state, LONG))
        node.plugin("hangs", f"setsid sleep {LONG} & sleep {LONG}")
        node.plugin("quick", "echo OK")
        node.plugin(
            "says",
            f">{node.state}/says; until [ -e {node.state}/may-end ]; do sleep 0.05; done; rm {node.state}/says",
        )
        node.plugin("stays", f"echo $$ >{node.state}/stays; exec sleep {LONG}")
        node.test("1/alone")
        plays = (
            Play("dmonitor-check at {} random moments", kill_rounds, rounds, ["hangs", "quick"]),
            Play("dmonitord at {} random moments", kill_daemons, daemons, ["says", "stays"]),
            Play("{} rounds with a result unread", kill_busy_rounds, 3, []),
        )
        for play in plays:
            began = time.monotonic()
            wrong = play.kill(node, play.times, dice)
            seconds = time.monotonic() - began
            title = play.title.format(play.times)
            print(f"{'FAIL' if wrong else 'ok':<5} kill -9 of {title}: {seconds:.0f} s")
            for complaint in wrong[:10]:
                print(f"      {complaint}")
            failed += bool(wrong)
            if "says" in play.next_tests:
                for path in (node.config / "hosts.d/1").iterdir():
                    path.unlink()
            for name in play.next_tests:
                node.test(f"1/{name}")
    print(f"{len(plays) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
