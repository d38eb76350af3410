#!/usr/bin/env python3
"""A full disk and a read-only one: rounds go on and complain once, and every mail that is owed goes out once.

What cannot be written to the state is kept in a database in the run directory. When there is room again, the state
takes it back. Only a node that has no id yet cannot go on. If the run directory is full as well, the mail still goes
out. If there are other nodes, one of them speaks.

This needs root, because it mounts small file systems. Run it under `unshare --mount`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from local_nodes import LocalNode, Place, run_as, running

from dmonitor.net import flights

ADDRESS, PORT = "127.0.0.63", 3963
TEST = "www.example.com/web"
counts = {True: 0, False: 0}


@contextlib.contextmanager
def small(directory: Path) -> Iterator[None]:
    """Mount a small file system on `directory` for the time of a block."""
    options = f"size=256k,uid={run_as().pw_uid},gid={run_as().pw_gid},mode=750"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def remount(directory: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(directory)], check=True)


def fill(directory: Path) -> None:
    """Leave no room in the file system of `directory`."""
    with contextlib.suppress(OSError), open(directory / "fill", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def make_room(directory: Path) -> None:
    (directory / "fill").unlink()


def note(good: bool, text: str) -> None:
    """Count and print the outcome of one check."""
    counts[good] += 1
    print(f"{'ok' if good else 'FAIL':<5} {text}")


def check(
    node: LocalNode, program: str, when: str, status: int, complaint: str, mails: int
) -> None:
    """Run `program` and check how it ends.

    It ends with `status`, and prints one line that contains `complaint`, or nothing if that is empty. `mails` is the
    number of mails that were handed over by then. A program that fails may print two lines: the first is then about
    what it went on without.
    """
    options = ["--once"] if program == "dmonitor-check" else []
    ran = node.run(program, *options)
    lines = ran.stderr.count("\n")
    if status:
        complained = complaint in ran.stderr and lines in (1, 2)
    elif complaint:
        complained = complaint in ran.stderr and lines == 1
    else:
        complained = lines == 0
    count = len(node.place.mails())
    good = ran.returncode == status and complained and count == mails
    note(
        good, f"{program}, {when}: {ran.returncode}, {count} of {mails} mails. {ran.stderr.strip()}"
    )


def set_result(node: LocalNode, text: str) -> None:
    """Make the node's plugin print `text` from now on."""
    node.plugin("web", f"echo {text}")


def check_stand_in(run_dir: Path, expected: bool) -> None:
    exists = (run_dir / "state.db").exists()
    note(exists == expected, f"there is {'a' if exists else 'no'} stand-in for the state")


def alone(directory: Path) -> None:
    """One node: every mail that it owes goes out, and goes out once."""
    node = LocalNode(Place(directory), ADDRESS, [ADDRESS], port=PORT, conf="quorum = 1\n")
    run_dir = node.place.writable("run")
    node.also = ("--run", str(run_dir))
    node.mail()
    node.test(TEST)
    ok, tempfail = os.EX_OK, os.EX_TEMPFAIL
    with small(node.state), small(run_dir):
        set_result(node, "OK fine")
        fill(node.state)
        for program in ("dmonitor-check", "dmonitord"):  # a node cannot go on without an id
            check(
                node,
                program,
                "full from the start",
                tempfail,
                "node-id: No space left on device",
                0,
            )
        make_room(node.state)
        # The full disk has left an empty database, which is named once.
        check(node, "dmonitor-check", "with room again", ok, "was empty, and a new one is begun", 0)
        check_stand_in(run_dir, False)

        fill(node.state)
        set_result(node, "FAIL no route")
        check(node, "dmonitor-check", "full when the test fails", ok, "unable to write", 1)
        check_stand_in(run_dir, True)
        check(node, "dmonitor-check", "still full", ok, "", 1)
        make_room(node.state)
        check(node, "dmonitor-check", "with room again", ok, "", 1)
        check_stand_in(run_dir, False)
        fill(node.state)
        check(
            node, "dmonitor-check", "full again, with the incident told", ok, "unable to write", 1
        )
        set_result(node, "OK back")
        check(node, "dmonitor-check", "still full when it is over", ok, "", 2)
        make_room(node.state)
        check(node, "dmonitor-check", "with room again", ok, "", 2)

        set_result(node, "FAIL again")
        remount(node.state, "ro")
        check(node, "dmonitor-check", "read-only when the test fails", ok, "unable to write", 3)
        check(node, "dmonitor-check", "still read-only", ok, "", 3)
        remount(node.state, "rw")
        check(node, "dmonitor-check", "writable again", ok, "", 3)
        check_stand_in(run_dir, False)

        fill(node.state)
        fill(run_dir)
        set_result(node, "OK back")
        check(node, "dmonitor-check", "full, and the run directory too", ok, "unable to write", 4)
        make_room(run_dir)
        make_room(node.state)
        kinds = [subject.split()[0] for subject in node.place.subjects()]
        note(kinds == ["DOWN", "UP", "DOWN", "UP"], f"the mails: {' '.join(kinds)}")


def among_others(directory: Path) -> None:
    """Three nodes, of which the first has a full disk: another one speaks, once."""
    place = Place(directory)
    addresses = ["127.0.0.64", "127.0.0.65", "127.0.0.66"]
    nodes = [LocalNode(place, address, addresses, port=PORT) for address in addresses]
    for node in nodes:
        node.also = ("--run", str(place.writable(f"{node.address}-run")))
        node.mail()
        node.test(TEST)
        set_result(node, "OK fine")
    first = nodes[0]
    with small(first.state), running(nodes):
        for node in nodes * 2:
            node.round()
        fill(first.state)
        for node in nodes:
            node.round()
        for node in nodes:
            node.round()
        for node, words in zip(
            nodes, ("no room on its disk", "peer-not-stored", "peer-not-stored"), strict=True
        ):
            said = node.run("dmonitor-check", "-t").stderr
            note(words in said, f"-t on {node.address} names {words}")
            if node is first:
                note("not-stored, as of the last round" in said, "and so does its last round")
        for node in nodes:
            set_result(node, "FAIL no route")
        time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)  # what was rehearsed is forgotten
        for node in nodes:
            node.round()
        count = len(place.mails())
        note(count == 1, f"one of three is full: {count} mails, one was due")
        senders = [str(mail["From"]) for mail in place.mails()]
        note(bool(senders) and first.address not in senders[0], f"another node speaks: {senders}")
        make_room(first.state)
        for node in nodes:
            node.round()
        count = len(place.mails())
        note(count == 1, f"with room again: {count} mails, one was due")


def main() -> int:
    for play in (alone, among_others):
        with tempfile.TemporaryDirectory(prefix="dmonitor-full.") as directory:
            play(Path(directory))
    print(f"{counts[True]} passed, {counts[False]} failed")
    return 1 if counts[False] else 0


if __name__ == "__main__":
    sys.exit(main())
