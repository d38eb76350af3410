#!/usr/bin/env python3
"""kill -9 of dmonitor-check at 300 random moments, and of dmonitord at 100.

The next round must always run, two must never run at once, and nothing a killed one started may go on. While
rounds are killed, others are started all the time, as an impatient cron would. kill_9.py [ROUNDS [DAEMONS [SEED]]]
"""

from __future__ import annotations

import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from hostile import gone_within, strays
from local_nodes import LocalNode, Place

ADDRESS, PORT = "127.0.0.62", 3962

# Proves that it is alone: two that run at once meet in the directory.
PLUGIN = """
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


def kill_rounds(node: LocalNode, count: int, dice: random.Random) -> list[str]:
    """Kill COUNT rounds, each at a random moment of its life; return what went wrong."""
    wrong = []
    finished = 0
    for number in range(count):
        first, second = node.popen("dmonitor-check"), node.popen("dmonitor-check")
        time.sleep(dice.uniform(0, 0.45))
        for process in (first, second):
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if not gone_within(1.0):
            wrong.append(f"kill {number}: left running: {strays()}")
        for left in node.state.glob("inside.*"):
            left.rmdir()
        after = node.run("dmonitor-check", "-v")
        if after.returncode != 0:
            wrong.append(f"kill {number}: the next round ended with {after.returncode}: {after.stderr[-300:]}")
        finished += 1
    if doubled(node):
        wrong.append("two rounds at once: " + (node.state / "doubled").read_text())
    print(f"      {2 * count} rounds killed, {finished} let live in between, {len(wrong)} things went wrong")
    return wrong


def ask(node: LocalNode) -> str:
    with socket.create_connection((ADDRESS, PORT), 12, (ADDRESS, 0)) as connection, connection.makefile("rb") as lines:
        lines.readline()
        connection.sendall(b"test 1/quick\n")
        return lines.readline().decode()


def kill_daemons(node: LocalNode, count: int, dice: random.Random) -> list[str]:
    """Kill COUNT daemons, starting included, some while they run a plugin; return what went wrong."""
    wrong = []
    for number in range(count):
        starting = node.popen("dmonitord", "--foreground")
        time.sleep(dice.uniform(0, 0.3))
        talks = False
        if dice.random() < 0.5:
            try:
                with socket.create_connection((ADDRESS, PORT), 1, (ADDRESS, 0)) as connection:
                    connection.sendall(b"test 1/hangs\n")
                    time.sleep(dice.uniform(0, 0.1))
                    talks = True
            except OSError:
                pass
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
    print(f"      {count} daemons killed, {len(wrong)} things went wrong")
    return wrong


def main() -> int:
    rounds, daemons, seed = (*map(int, sys.argv[1:]), *(300, 100, int(time.time()))[len(sys.argv) - 1 :])
    dice = random.Random(seed)
    print(f"      seed {seed}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dmonitor-kill.") as directory:
        node = LocalNode(Place(Path(directory)), ADDRESS, [ADDRESS], port=PORT)
        node.plugin("alone", PLUGIN.format(node.state))
        node.plugin("hangs", "setsid sleep 987 & sleep 987")
        node.plugin("quick", "echo OK")
        node.test("1/alone")
        for title, play, count in (("dmonitor-check", kill_rounds, rounds), ("dmonitord", kill_daemons, daemons)):
            began = time.monotonic()
            wrong = play(node, count, dice)
            print(
                f"{'FAIL' if wrong else 'ok':<5} kill -9 of {title} at {count} random moments: {time.monotonic() - began:.0f} s"
            )
            for what in wrong[:10]:
                print(f"      {what}")
            failed += bool(wrong)
            node.test("1/hangs")
            node.test("1/quick")
    print(f"{2 - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
