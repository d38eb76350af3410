#!/usr/bin/env python3
"""Each system call of a round fails in turn, or is the round's last: the alert still goes out, once or twice.

There are three nodes and one test, which fails on all of them. So a round on the first node opens an incident and
mails. One such round is traced. Then, for each call that it and its children make, the round is repeated from a fresh
copy of the state, and something happens at that call: kill -9; EIO or ENOSPC if it writes; EMFILE if it makes a
descriptor.

No round may end with a traceback or an unknown status, and nothing may go on or be left behind. After two more rounds
of this node and one of another node, the mail was handed over at least once and at most twice.

A trace of a round also proves that the incident is on disk before sendmail starts. That proof is proved by a copy of
the package with `synchronous = OFF`, in which it must fail.

This needs strace, and no root. Usage: inject.py [K], to try only each K-th call.
"""

from __future__ import annotations

import collections
import compileall
import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from local_nodes import ADDRESS, LocalNode, Place, run_as, running

from dmonitor.net import flights

TEST = "www.example.com/web"
YARDS = 2  # yards that work at the same time, each with its addresses and its port
STALE = 40.0  # seconds for which the good rounds are as good as those of the last minute
SLOW = 30.0  # seconds; no round may take that long
END_LIMIT = 4.0  # seconds within which the children of a round must have ended
MAIN = "umask"  # the first call of dmonitor.check.main that nothing before it makes

WRITES = "write,pwrite64,writev,pwritev,rename,renameat,renameat2,link,linkat,fsync,fdatasync,ftruncate,unlink,unlinkat,mkdir"
OPENS = "openat,socket,socketpair,pipe2,memfd_create,epoll_create1,dup,dup3,accept4"
READS = "pread64"
SYNCED = "pwrite64,fdatasync,ftruncate,unlink"
FILLS = "pwrite64,ftruncate"
DATABASE = ("state.db", "state.db-wal", "state.db-shm")
FORKS = "clone,clone3,fork,vfork"
# Calls that the checker's children make.
SHARED = "execve,setsid,close_range,dup3,pipe2,memfd_create,waitid,readv"
KEPT = ("node-id", "dmonitord.lock", "dmonitord.pid")  # files that a running daemon relies on
CHECKER = "the checker"
SENDMAIL = "sendmail"
EVERYONE = "each process"
KILL = "signal=KILL"
STATUSES = {os.EX_OK, *range(os.EX_USAGE, os.EX_CONFIG + 1)} - {os.EX_SOFTWARE}

# The sendmail of the nodes: the usual one, but under strace if a file contains options for that.
SENDMAIL_PROGRAM = """#!/bin/sh
[ -e {0}/inject ] || exec {0}/sendmail "$@"
exec strace -f -q -o {1}/log $(cat {0}/inject) {0}/sendmail "$@"
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that happens at one system call."""

    process: str  # whose call it is: CHECKER, SENDMAIL or EVERYONE
    call: str
    number: str  # which of its calls of that name, as strace counts
    action: str  # as strace writes it
    paths: tuple[str, ...] = ()  # templates; if there are any, only calls on these files count
    most: int = 2  # mails that may be handed over
    after_full: bool = False  # the round before had a full disk, and left a stand-in for the state

    def __str__(self) -> str:
        text = f"{self.action} at {self.call} {self.number} of {self.process}"
        if self.paths:
            text += f" ({self.paths[0]})"
        if self.after_full:
            text += " after a full disk"
        return text

    def options(self, places: dict[str, Path]) -> list[str]:
        """Return the options of strace; `places` fills in the templates of the paths."""
        options = ["-e", f"trace={self.call}" if self.paths else f"trace={self.call},{MAIN}"]
        for path in self.paths:
            options += ["-P", path.format(**places)]
        return [*options, "-e", f"inject={self.call}:{self.action}:when={self.number}"]


class Yard:
    """Three nodes with running daemons, and a copy of their state after good rounds."""

    def __init__(self, directory: Path, number: int) -> None:
        self.place = Place(directory)
        compileall.compile_dir(directory / "dmonitor", quiet=1)
        self.scratch = self.place.writable("scratch")
        self.log = self.scratch / "log"
        self.injected = directory / "inject"
        self.place.sendmail = self.place.program(
            "traced-sendmail", SENDMAIL_PROGRAM.format(directory, self.scratch)
        )
        addresses = [f"127.0.0.{70 + 3 * number + node}" for node in (1, 2, 3)]
        self.nodes = [
            LocalNode(self.place, address, addresses, port=3970 + number) for address in addresses
        ]
        for node in self.nodes:
            node.also = ("--run", str(self.place.writable(f"{node.address}-run")))
            node.mail(ADDRESS)
            node.test(TEST)
            node.plugin("web", f"read -r line <{node.config}/sees; echo $line")
        self.seeded = float("-inf")

    @property
    def first(self) -> LocalNode:
        return self.nodes[0]

    def kept(self) -> Iterator[tuple[Path, Path]]:
        """Yield each directory that a round writes to, and the directory of its copy."""
        for node in self.nodes:
            for directory in (node.state, Path(node.also[1])):
                yield directory, self.place.directory / f"{directory.name}-kept"

    def see(self, text: str) -> None:
        """Make the plugin of every node print `text` from now on."""
        for node in self.nodes:
            (node.config / "sees").write_text(text + "\n")

    def ready(self) -> None:
        """Go back to the state after good rounds of a minute ago, with a test that fails now."""
        self.injected.unlink(missing_ok=True)
        for directory in (self.place.mailbox, self.scratch):
            empty(directory)
        if time.monotonic() - self.seeded > STALE:
            self.see("OK fine")
            for directory, _ in self.kept():
                empty(directory)
            for node in self.nodes * 2:  # in the second round each knows that it was greeted
                node.round()
            for directory, kept in self.kept():
                kept.mkdir(exist_ok=True)
                empty(kept)
                copy(directory, kept)
            self.seeded = time.monotonic()
            self.see("FAIL no route")
            # The daemons forget the results of the rehearsals.
            time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)
            return
        for directory, kept in self.kept():
            empty(directory)
            copy(kept, directory)

    def alerts(self) -> int:
        return sum("DOWN" in subject for subject in self.place.subjects())

    def strays(self) -> list[str]:
        """Return the command lines of rounds, plugins and sendmails that run."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                content = Path(f"/proc/{pid}/cmdline").read_bytes()
                command = content.replace(b"\0", b" ").decode(errors="replace")
                if str(self.place.directory) in command and "dmonitord" not in command:
                    found.append(f"{pid} {command}")
        return found

    def broken(self) -> str:
        """Return why the first node's database, as it lies on disk, is broken; empty if it is not."""
        aside = list(self.first.state.glob("*.broken-*"))
        if aside:
            return f"set aside as {aside[0].name}"
        empty(self.scratch)
        for path in self.first.state.glob("state.db*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, self.scratch)
        with contextlib.closing(sqlite3.connect(self.scratch / "state.db")) as db:
            try:
                findings = db.execute("PRAGMA integrity_check").fetchall()
                db.execute("SELECT * FROM incident").fetchall()
            except sqlite3.Error as error:
                return str(error)
        return "" if findings == [("ok",)] else str(findings)

    def trace(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a round on the first node under strace."""
        command = [
            "strace",
            "-q",
            "-o",
            str(self.log),
            *options,
            *self.first.command("dmonitor-check", "--verbose", "--once"),
        ]
        return subprocess.run(
            command,
            env=self.place.environment(),
            text=True,
            errors="replace",
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=70,
            cwd="/",
            check=False,
        )

    def stand_in(self) -> None:
        """Run a round for which the disk is full: it leaves a stand-in for the state."""
        paths = []
        for name in DATABASE:
            paths += ["-P", str(self.first.state / name)]
        self.trace("-e", f"trace={FILLS}", *paths, "-e", f"inject={FILLS}:error=ENOSPC")
        assert self.has_stand_in(), "a round with a full disk leaves a stand-in"

    def has_stand_in(self) -> bool:
        """Return whether there is a stand-in for the first node's state."""
        return (Path(self.first.also[1]) / "state.db").exists()

    def try_out(self, case: Case) -> tuple[bool, list[str]]:
        """Play a case; return whether its call was reached, and what went wrong."""
        self.ready()
        if case.after_full:
            self.stand_in()
        began = time.monotonic()
        ran = self.play(case)
        seconds = time.monotonic() - began
        self.injected.unlink(missing_ok=True)
        log = self.log.read_text(errors="replace") if self.log.exists() else ""
        killed = case.action == KILL and was_killed_at(log, case.call, int(case.number))
        injected = log.find("(INJECTED)")
        if case.process == CHECKER and not case.paths and not killed:
            if log.find(f"{MAIN}(") > injected:
                return False, []  # the call came before main
        wrong = []
        if seconds > SLOW:
            wrong.append(f"took {seconds:.0f} s")
        if ran.returncode not in STATUSES and not (killed and ran.returncode in (-9, 137)):
            wrong.append(f"ended with {ran.returncode}")
        if strays := self.strays_that_stay():
            wrong.append(f"left running: {strays}")
        alerts_at_once = self.alerts()
        if reason := self.broken():
            wrong.append(f"state.db: {reason}")
        outputs = [ran.stderr, *self.later_rounds(wrong)]
        if not 1 <= self.alerts() <= case.most:
            wrong.append(f"{self.alerts()} mails, {alerts_at_once} of them at once")
        if "Traceback" in "".join(outputs):
            wrong.append("a traceback")
        if wrong:
            wrong += evidence(outputs, log)
        return killed or injected >= 0, wrong

    def play(self, case: Case) -> subprocess.CompletedProcess[str]:
        """Run the round of a case."""
        options = case.options(
            {
                "state": self.first.state,
                "config": self.first.config,
                "sendmail": self.place.sendmail,
            }
        )
        if case.process == SENDMAIL:
            self.injected.write_text(" ".join(options))
            return self.first.run("dmonitor-check", "--verbose", "--once")
        if case.process == CHECKER:
            return self.trace(*options)
        return self.trace("-f", *options)

    def strays_that_stay(self) -> list[str]:
        """Return the strays that have not ended after END_LIMIT."""
        deadline = time.monotonic() + END_LIMIT
        while strays := self.strays():
            if time.monotonic() >= deadline:
                return strays
            time.sleep(0.02)
        return []

    def later_rounds(self, wrong: list[str]) -> list[str]:
        """Run the rounds after that of a case; add to `wrong`, and return what they print."""
        outputs = []
        for node in (self.nodes[0], self.nodes[1], self.nodes[0]):
            ran = node.run("dmonitor-check", "--verbose", "--once")
            outputs.append(ran.stderr)
            if ran.returncode:
                wrong.append(f"a later round of {node.address} ended with {ran.returncode}")
        reason = self.broken()
        if not reason and self.has_stand_in():
            reason = "still a stand-in"
        if reason:
            wrong.append(f"after two more rounds the state is not what it should be: {reason}")
        return outputs


def was_killed_at(log: str, call: str, number: int) -> bool:
    """Return whether a process in `log` was killed at its `number`-th `call`.

    The checker kills processes, too. One that strace kills makes no other call after that one.
    """
    counts: collections.Counter[str] = collections.Counter()
    last: dict[str, str] = {}
    for line in log.splitlines():
        match = re.fullmatch(r"(?:(\d+) +)?(?:(\w+)\(|(\+\+\+ killed by SIGKILL)).*", line)
        if match is None:
            continue
        process = match[1] or ""
        if match[3] and last.get(process) == call and counts[process] == number:
            return True
        if match[2]:
            last[process] = match[2]
            counts[process] += match[2] == call
    return False


def evidence(outputs: Sequence[str], log: str) -> list[str]:
    """Return the lines that explain a case that went wrong."""
    lines = []
    for number, output in enumerate(outputs):
        for line in output.splitlines():
            lines.append(f"    {number}: {line}")
    for line in log.splitlines():
        if "INJECTED" in line:
            lines.append(f"    strace: {line[:200]}")
    return lines


def empty(directory: Path) -> None:
    """Remove all files in `directory` that a running daemon does not rely on."""
    for path in directory.iterdir():
        if path.name not in KEPT:
            path.unlink()


def copy(source: Path, target: Path) -> None:
    """Copy into `target` all files in `source` that a running daemon does not rely on."""
    for path in source.iterdir():
        if path.name not in KEPT:
            made = shutil.copy2(path, target)
            os.chown(made, run_as().pw_uid, run_as().pw_gid)


# The cases.


class Call(NamedTuple):
    """A system call in a trace."""

    process: str
    name: str
    number: int  # of the calls of that name by that process, from 1
    begun: bool  # main had begun


def calls(trace: str, names: str) -> Iterator[Call]:
    """Yield the calls in `trace` that have one of the names."""
    wanted = set(names.split(","))
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    begun = False
    for line in trace.splitlines():
        if match := re.match(r"(\d+) +(\w+)\(", line):
            process, name = match.groups()
            counts[process, name] += 1
            begun = begun or name == MAIN
            if name in wanted:
                yield Call(process, name, counts[process, name], begun)


def highest_numbers(found: Iterable[Call]) -> list[tuple[str, int]]:
    """Return each name of a call with each number up to the highest that a process reached."""
    highest: dict[str, int] = {}
    for call in found:
        highest[call.name] = max(highest.get(call.name, 0), call.number)
    numbers = []
    for name, most in highest.items():
        for number in range(1, most + 1):
            numbers.append((name, number))
    return numbers


def cases(yard: Yard) -> dict[str, list[Case]]:
    """Trace a round, and sendmail by itself; return the cases in groups, by title."""
    yard.ready()
    names = ",".join([MAIN, WRITES, OPENS, READS, FORKS, SHARED])
    ran = yard.trace("-f", "-y", "-e", f"trace={names}")
    assert ran.returncode == 0, f"an undisturbed round: {ran.returncode}, {ran.stderr}"
    assert yard.alerts() == 1, f"an undisturbed round: {yard.alerts()} alerts, {ran.stderr}"
    trace = yard.log.read_text(errors="replace")
    checker = trace.split(maxsplit=1)[0]

    def of_checker(names: str, action: str, *, early: bool = False) -> list[Case]:
        found = []
        for call in calls(trace, names):
            if call.process == checker and (call.begun or early):
                found.append(Case(CHECKER, call.name, str(call.number), action))
        return found

    return {
        "kill -9 of the checker": of_checker(WRITES, KILL, early=True),
        "EIO for the checker": of_checker(f"{WRITES},{READS}", "error=EIO"),
        "ENOSPC for the checker": of_checker(WRITES, "error=ENOSPC"),
        "a disk that is full from then on": full_disk_cases(trace),
        "kill -9 of the checker as the state takes over from its stand-in": take_back_cases(yard),
        "EMFILE for the checker": of_checker(OPENS, "error=EMFILE"),
        "EAGAIN for the checker": of_checker(FORKS, "error=EAGAIN"),
        "its children, and they alike": children_cases(trace, checker),
        "kill -9 and EIO within sendmail": sendmail_cases(yard),
    }


def full_disk_cases(trace: str) -> list[Case]:
    """Return the cases of a disk that is full from some write to the database on."""
    database = tuple("{state}/" + name for name in DATABASE)
    writes = 0
    for line in trace.splitlines():
        if " pwrite64(" in line and "/state.db" in line:
            writes += 1
    found = []
    for number in range(1, writes + 1, 2):
        found.append(Case(CHECKER, FILLS, f"{number}+", "error=ENOSPC", database, most=1))
    return found


def take_back_cases(yard: Yard) -> list[Case]:
    """Return the cases of a round that is killed while the state takes back what stood in for it."""
    yard.ready()
    yard.stand_in()
    yard.trace("-f", "-e", f"trace={MAIN},{SYNCED}")
    trace = yard.log.read_text(errors="replace")
    checker = trace.split(maxsplit=1)[0]
    found = []
    for call in calls(trace, SYNCED):
        if call.process == checker and call.begun:
            found.append(Case(CHECKER, call.name, str(call.number), KILL, after_full=True))
    return found[::2]


def children_cases(trace: str, checker: str) -> list[Case]:
    """Return the cases in which every child of the checker fails at the same call."""
    found = []
    for path in ("{config}/plugins/check_web", "{sendmail}"):
        for action in (KILL, "error=EIO"):
            found.append(Case(EVERYONE, "execve", "1", action, (path,)))
    found.append(Case(EVERYONE, "openat", "1", "error=EMFILE", ("/dev/null",)))
    shared = []
    for call in calls(trace, SHARED):
        if call.process != checker and call.begun and call.name not in ("execve", "waitid"):
            shared.append(call)
    numbers = highest_numbers(shared)
    for name, number in [*numbers, ("waitid", 1), ("waitid", 3)]:
        found.append(Case(EVERYONE, name, str(number), KILL))
    for name, number in numbers:
        if name in OPENS.split(","):
            found.append(Case(EVERYONE, name, str(number), "error=EMFILE"))
    return found


def sendmail_cases(yard: Yard) -> list[Case]:
    """Return the cases in which a write of sendmail fails."""
    yard.log.unlink()
    yard.injected.write_text(f"-e trace={WRITES}")
    yard.first.run("dmonitor-check", "--test-alert")
    found = []
    for name, number in highest_numbers(calls(yard.log.read_text(errors="replace"), WRITES)):
        for action in (KILL, "error=EIO"):
            found.append(Case(SENDMAIL, name, str(number), action))
    return found


def play(groups: dict[str, list[Case]], yards: Sequence[Yard]) -> int:
    """Try out all cases and print the outcomes; return how many groups failed."""
    free: queue.SimpleQueue[Yard] = queue.SimpleQueue()
    for yard in yards:
        free.put(yard)

    def try_out(case: Case) -> tuple[bool, list[str]]:
        yard = free.get()
        try:
            return yard.try_out(case)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            return True, [repr(error)]
        finally:
            free.put(yard)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(yards)) as pool, contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        for title, chosen in groups.items():
            began = time.monotonic()
            outcomes = list(pool.map(try_out, chosen))
            reached = 0
            bad = {}
            for case, (was_reached, wrong) in zip(chosen, outcomes, strict=True):
                reached += was_reached
                if wrong:
                    bad[case] = wrong
            # Not every round makes the last calls that one has made; a sample may have one of them.
            spare = max(1, len(chosen) // 10)
            good = bool(reached) and not bad and len(chosen) - reached <= spare
            failed += not good
            seconds = time.monotonic() - began
            print(
                f"{'ok' if good else 'FAIL':<5} {title}: {len(chosen)} cases, {reached} reached, {len(bad)} wrong: {seconds:.0f} s"
            )
            for case, wrong in bad.items():
                print(f"      {case}: " + "\n        ".join(wrong))
            sys.stdout.flush()
    return failed


def unsynced(yard: Yard) -> str:
    """Run a traced round; return why the incident is not on disk when sendmail starts; empty if it is."""
    yard.ready()
    ran = yard.trace(
        "-f", "-y", "-ttt", "-s", "4096", "-e", "trace=execve,write,pwrite64,fsync,fdatasync"
    )
    match = re.search(r"incident-opened .* incident=(\w+)", ran.stderr)
    if not match or yard.alerts() != 1:
        return f"no round with an alert: {ran.stderr}"
    state = str(yard.first.state / "state.db")
    written = False
    synced = False
    for line in yard.log.read_text(errors="replace").splitlines():
        call = line.split(maxsplit=2)[2]
        if call.startswith(f'execve("{yard.place.sendmail}"'):
            if not written:
                return "not even written"
            return "" if synced else "sendmail starts before the database is synced"
        if re.match(rf"(write|pwrite64)\(\d+<{re.escape(state)}(-wal)?>", call):
            written = written or match[1] in call
            synced = False
        elif re.match(rf"(fsync|fdatasync)\(\d+<{re.escape(state)}(-wal)?>.* = 0$", call):
            synced = True
    return "sendmail never starts"


@contextlib.contextmanager
def yard_of(number: int, *, synchronous: str = "FULL") -> Iterator[Yard]:
    """Yield a yard with running daemons, whose package syncs its database as said."""
    with tempfile.TemporaryDirectory(prefix="dmonitor-inject.") as directory:
        yard = Yard(Path(directory), number)
        module = yard.place.directory / "dmonitor/store/database.py"
        code, count = re.subn(
            "PRAGMA synchronous = FULL", f"PRAGMA synchronous = {synchronous}", module.read_text()
        )
        assert count == 1, "database.py says how it syncs in one place"
        module.write_text(code)
        with running(yard.nodes):
            yield yard


def main() -> int:
    step = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(os.EX_TEMPFAIL))  # its daemons end with it
    if not shutil.which("strace"):
        print("FAIL  strace is not installed\n0 passed, 1 failed")
        return 1
    failed = 0
    with yard_of(0, synchronous="OFF") as yard:
        why = unsynced(yard)
        good = why == "sendmail starts before the database is synced"
        failed += not good
        print(f"{'ok' if good else 'FAIL':<5} with synchronous = OFF the next check fails: {why}")
    with contextlib.ExitStack() as stack:
        yards = [stack.enter_context(yard_of(number)) for number in range(YARDS)]
        why = unsynced(yards[0])
        failed += bool(why)
        print(
            f"{'FAIL' if why else 'ok':<5} the incident is on disk before sendmail starts{why and ': '}{why}",
            flush=True,
        )
        groups = {title: chosen[::step] for title, chosen in cases(yards[0]).items()}
        failed += play(groups, yards)
    print(f"{2 + len(groups) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
