#!/usr/bin/env python3
"""A full disk, and a read-only one: rounds go on, say so once, and what is owed goes out all the same, once.

What cannot be written is kept in a database in the run directory, and with room again the state takes it over. Only a
node that has no id yet cannot go on. Where the run directory is full as well, the mail goes out all the same; where
there are other nodes, one of them speaks.

Needs root: mounts small file systems in a mount namespace of its own (run it under `unshare --mount`).
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
    """Have a small file system on DIRECTORY."""
    options = f"size=256k,uid={run_as().pw_uid},gid={run_as().pw_gid},mode=750"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def remount(directory: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(directory)], check=True)


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), open(directory / "fill", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def make_room(directory: Path) -> None:
    (directory / "fill").unlink()


def note(good: bool, what: str) -> None:
    counts[good] += 1
    print(f"{'ok' if good else 'FAIL':<5} {what}")


def check(node: LocalNode, program: str, when: str, status: int, said: str, mails: int) -> None:
    """Run PROGRAM: it ends with STATUS, says SAID in a line, or nothing, and MAILS are what was handed over in all."""
    ran = node.run(program, *(["--once"] if program == "dmonitor-check" else []))
    lines = (
        range(1, 3) if status else [said != ""]
    )  # what ends a round may come after what it went on without
    heard = said in ran.stderr and ran.stderr.count("\n") in lines
    count = len(node.place.mails())
    good = ran.returncode == status and heard and count == mails
    note(
        good, f"{program}, {when}: {ran.returncode}, {count} of {mails} mails. {ran.stderr.strip()}"
    )


def sees(node: LocalNode, text: str) -> None:
    node.plugin("web", f"echo {text}")


def stands_in(run: Path, expected: bool) -> None:
    there = (run / "state.db").exists()
    note(there == expected, f"there is {'a' if there else 'no'} stand-in for the state")


def alone(directory: Path) -> None:
    """One node: what it has to say goes out, and once."""
    node = LocalNode(Place(directory), ADDRESS, [ADDRESS], port=PORT, conf="quorum = 1\n")
    run = node.place.writable("run")
    node.also = ("--run", str(run))
    node.mail()
    node.test(TEST)
    ok, tempfail = os.EX_OK, os.EX_TEMPFAIL
    with small(node.state), small(run):
        sees(node, "OK fine")
        fill(node.state)
        for program in ("dmonitor-check", "dmonitord"):  # without an id it is nobody
            check(
                node,
                program,
                "full from the start",
                tempfail,
                "node-id: No space left on device",
                0,
            )
        make_room(node.state)
        check(node, "dmonitor-check", "with room again", ok, "", 0)
        stands_in(run, False)

        fill(node.state)
        sees(node, "FAIL no route")
        check(node, "dmonitor-check", "full when the test fails", ok, "unable to write", 1)
        stands_in(run, True)
        check(node, "dmonitor-check", "still full", ok, "", 1)
        make_room(node.state)
        check(node, "dmonitor-check", "with room again", ok, "", 1)
        stands_in(run, False)
        fill(node.state)
        check(
            node, "dmonitor-check", "full again, with the incident told", ok, "unable to write", 1
        )
        sees(node, "OK back")
        check(node, "dmonitor-check", "still full when it is over", ok, "", 2)
        make_room(node.state)
        check(node, "dmonitor-check", "with room again", ok, "", 2)

        sees(node, "FAIL again")
        remount(node.state, "ro")
        check(node, "dmonitor-check", "read-only when the test fails", ok, "unable to write", 3)
        check(node, "dmonitor-check", "still read-only", ok, "", 3)
        remount(node.state, "rw")
        check(node, "dmonitor-check", "writable again", ok, "", 3)
        stands_in(run, False)

        fill(node.state)
        fill(run)
        sees(node, "OK back")
        check(node, "dmonitor-check", "full, and the run directory too", ok, "unable to write", 4)
        make_room(run)
        make_room(node.state)
        kinds = [subject.split()[0] for subject in node.place.subjects()]
        note(kinds == ["DOWN", "UP", "DOWN", "UP"], f"the mails: {' '.join(kinds)}")


def among_others(directory: Path) -> None:
    """Three nodes, the first one's disk is full: another speaks, once."""
    place = Place(directory)
    addresses = ["127.0.0.64", "127.0.0.65", "127.0.0.66"]
    nodes = [LocalNode(place, address, addresses, port=PORT) for address in addresses]
    for node in nodes:
        node.also = ("--run", str(place.writable(f"{node.address}-run")))
        node.mail()
        node.test(TEST)
        sees(node, "OK fine")
    first = nodes[0]
    with small(first.state), running(nodes):
        for node in nodes * 2:
            node.round()
        fill(first.state)
        for node in nodes:
            node.round()
        for node in nodes:
            sees(node, "FAIL no route")
        time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)  # what was rehearsed is forgotten
        for node in nodes:
            node.round()
        count = len(place.mails())
        note(count == 1, f"one of three is full: {count} mails, one was due")
        told = [str(mail["From"]) for mail in place.mails()]
        note(bool(told) and first.address not in told[0], f"another node speaks: {told}")
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
