#!/usr/bin/env python3
"""kill -9 of dmonitor-check at 300 random moments, and of dmonitord at 100; and of rounds that have a result unread.

The next round must always run, two must never run at once, and nothing a killed one started may go on. While
rounds are killed, others are started all the time, as an impatient cron would. kill_9.py [ROUNDS [DAEMONS [SEED]]]
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from hostile import LONG, gone_within, strays
from local_nodes import LocalNode, Place, wait_until

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
            wrong.append(
                f"kill {number}: the next round ended with {after.returncode}: {after.stderr[-300:]}"
            )
        finished += 1
    if doubled(node):
        wrong.append("two rounds at once: " + (node.state / "doubled").read_text())
    print(
        f"      {2 * count} rounds killed, {finished} let live in between, {len(wrong)} things went wrong"
    )
    return wrong


def kill_busy_rounds(node: LocalNode, count: int, _: random.Random) -> list[str]:
    """Kill COUNT rounds that were stopped while plugins ran, one of which has said something since."""
    wrong = []
    may_end, says, stays = (node.state / name for name in ("may-end", "says", "stays"))
    for number in range(count):
        round = node.popen("dmonitor-check")
        wait_until(lambda: says.exists() and stays.exists() and stays.read_text().endswith("\n"))
        pid = int(stays.read_text())  # our own: others may run such plugins on this machine
        round.send_signal(signal.SIGSTOP)
        may_end.touch()
        wait_until(lambda: not says.exists())
        time.sleep(0.2)  # the result is under way
        round.send_signal(signal.SIGKILL)
        round.communicate()
        try:
            wait_until(lambda pid=pid: not runs(pid), 1.0)
        except AssertionError:
            wrong.append(f"kill {number}: left running: plugin {pid}")
            os.kill(pid, signal.SIGKILL)
        may_end.unlink()
        stays.unlink()
    return wrong


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"sleep\0{LONG}".encode())
    except OSError:
        return False


def ask(node: LocalNode) -> str:
    with (
        socket.create_connection((ADDRESS, PORT), 12, (ADDRESS, 0)) as connection,
        connection.makefile("rb") as lines,
    ):
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
    rounds, daemons, seed = (
        *map(int, sys.argv[1:]),
        *(300, 100, int(time.time()))[len(sys.argv) - 1 :],
    )
    dice = random.Random(seed)
    print(f"      seed {seed}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="dmonitor-kill.") as directory:
        node = LocalNode(Place(Path(directory)), ADDRESS, [ADDRESS], port=PORT)
        node.plugin("alone", PLUGIN.format(node.state))
        node.plugin("hangs", f"setsid sleep {LONG} & sleep {LONG}")
        node.plugin("quick", "echo OK")
        node.plugin(
            "says",
            f">{node.state}/says; until [ -e {node.state}/may-end ]; do sleep 0.05; done; rm {node.state}/says",
        )
        node.plugin("stays", f"echo $$ >{node.state}/stays; exec sleep {LONG}")
        node.test("1/alone")
        plays = (
            ("dmonitor-check at {} random moments", kill_rounds, rounds, ["hangs", "quick"]),
            ("dmonitord at {} random moments", kill_daemons, daemons, ["says", "stays"]),
            ("{} rounds with a result unread", kill_busy_rounds, 3, []),
        )
        for title, play, count, more in plays:
            began = time.monotonic()
            wrong = play(node, count, dice)
            print(
                f"{'FAIL' if wrong else 'ok':<5} kill -9 of {title.format(count)}: {time.monotonic() - began:.0f} s"
            )
            for what in wrong[:10]:
                print(f"      {what}")
            failed += bool(wrong)
            for path in (node.config / "hosts.d/1").iterdir() if "says" in more else ():
                path.unlink()
            for name in more:
                node.test(f"1/{name}")
    print(f"{len(plays) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
