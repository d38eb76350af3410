#!/usr/bin/env python3
"""Each system call of a round fails in turn, or is the round's last: the alert goes out all the same, once or twice.

Three nodes, one test that fails on all of them: a round on the first opens an incident and mails. One such round is
traced; then, from a fresh copy of the state each time, for each call that it and its children make: kill -9 at it, EIO
and ENOSPC for what writes, EMFILE for what makes a descriptor. Nothing may end with a traceback or an unknown status,
nothing may go on or be left behind; two rounds of this node and one of another later the mail was handed over, at
least once and at most twice. And the incident is on disk before sendmail starts, by the trace of a round; the proof of
that proof is a copy with `synchronous = OFF`, where it must fail.

Needs strace, no root. inject.py [K]: try only each K-th call.
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
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from local_nodes import ADDRESS, LocalNode, Place, run_as, running

from dmonitor.net import flights

TEST = "www.example.com/web"
YARDS = 2  # that work at the same time, each on addresses and a port of its own
STALE = 40.0  # seconds for which the good rounds count as the last minute's
SLOW = 30.0  # seconds that no round may take
MAIN = "umask"  # the first call of dmonitor_check.main that nothing before it makes

WRITES = "write,pwrite64,writev,pwritev,rename,renameat,renameat2,link,linkat,fsync,fdatasync,ftruncate,unlink,unlinkat,mkdir"
OPENS = "openat,socket,socketpair,pipe2,memfd_create,epoll_create1,dup,dup3,accept4"
READS = "pread64"
SYNCED = "pwrite64,fdatasync,ftruncate,unlink"
FILLS = "pwrite64,ftruncate"
DATABASE = ("state.db", "state.db-wal", "state.db-shm")
FORKS = "clone,clone3,fork,vfork"
SHARED = "execve,setsid,close_range,dup3,pipe2,memfd_create,waitid,readv"  # calls that the checker's children make
KEPT = ("node-id", "dmonitord.lock", "dmonitord.pid")
STATUSES = {os.EX_OK, *range(os.EX_USAGE, os.EX_CONFIG + 1)} - {os.EX_SOFTWARE}

# What sendmail is here: the usual one, under strace if there is a file that says how.
SENDMAIL = """#!/bin/sh
[ -e {0}/inject ] || exec {0}/sendmail "$@"
exec strace -f -q -o {1}/log $(cat {0}/inject) {0}/sendmail "$@"
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """ACTION at the NUMBER-th CALL of the checker, of sendmail, or of each process; of those that concern PATHS, if given."""

    who: str
    call: str
    number: str
    action: str
    paths: tuple[str, ...] = ()
    most: int = 2  # mails
    after_full: bool = False  # begins with what stood in for the state in the round before

    def __str__(self) -> str:
        where = f" ({self.paths[0]})" if self.paths else ""
        return f"{self.action} at {self.call} {self.number} of {self.who}{where}{' after a full disk' if self.after_full else ''}"

    def options(self, places: dict[str, Path]) -> list[str]:
        """Return strace's; PATHS are templates that PLACES fill in."""
        calls = self.call if self.paths else f"{self.call},{MAIN}"
        paths = [word for path in self.paths for word in ("-P", path.format(**places))]
        return [
            "-e",
            f"trace={calls}",
            *paths,
            "-e",
            f"inject={self.call}:{self.action}:when={self.number}",
        ]


class Yard:
    """Three nodes with running daemons, and what they know after good rounds."""

    def __init__(self, directory: Path, number: int) -> None:
        self.place = Place(directory)
        compileall.compile_dir(directory / "dmonitor", quiet=1)
        self.scratch = self.place.writable("scratch")
        self.log = self.scratch / "log"
        self.injected = directory / "inject"
        self.place.sendmail = self.place.program(
            "traced-sendmail", SENDMAIL.format(directory, self.scratch)
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
        """Each directory that a round writes to, and where it is kept after the good rounds."""
        for node in self.nodes:
            for directory in (node.state, Path(node.also[1])):
                yield directory, self.place.directory / f"{directory.name}-kept"

    def see(self, text: str) -> None:
        for node in self.nodes:
            (node.config / "sees").write_text(text + "\n")

    def ready(self) -> None:
        """Be as after good rounds of a minute ago, with everything failing now."""
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
            time.sleep(flights.RESULT_CACHE_SECONDS + 0.1)  # what was rehearsed is forgotten
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
                command = (
                    Path(f"/proc/{pid}/cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")
                )
                if str(self.place.directory) in command and "dmonitord" not in command:
                    found.append(f"{pid} {command}")
        return found

    def broken(self) -> str:
        """Return what is wrong with the first node's database, as it lies on disk; nothing if it is whole."""
        if aside := list(self.first.state.glob("*.broken-*")):
            return f"set aside as {aside[0].name}"
        empty(self.scratch)
        for path in self.first.state.glob("state.db*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, self.scratch)
        with contextlib.closing(sqlite3.connect(self.scratch / "state.db")) as db:
            try:
                said = db.execute("PRAGMA integrity_check").fetchall()
                db.execute("SELECT * FROM incident").fetchall()
            except sqlite3.Error as error:
                return str(error)
        return "" if said == [("ok",)] else str(said)

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
        """Run a round for which the disk is full."""
        paths = [word for name in DATABASE for word in ("-P", str(self.first.state / name))]
        self.trace("-e", f"trace={FILLS}", *paths, "-e", f"inject={FILLS}:error=ENOSPC")
        assert (Path(self.first.also[1]) / "state.db").exists(), (
            "a round with a full disk leaves a stand-in"
        )

    def try_out(self, case: Case) -> tuple[bool, list[str]]:
        """Play CASE; return whether the call was reached, and what went wrong."""
        self.ready()
        wrong = []
        if case.after_full:
            self.stand_in()
        began = time.monotonic()
        options = case.options(
            {
                "state": self.first.state,
                "config": self.first.config,
                "sendmail": self.place.sendmail,
            }
        )
        if case.who == "sendmail":
            self.injected.write_text(" ".join(options))
            ran = self.first.run("dmonitor-check", "--verbose", "--once")
        else:
            ran = self.trace(*(["-f"] if case.who != "the checker" else []), *options)
        took = time.monotonic() - began
        self.injected.unlink(missing_ok=True)
        log = self.log.read_text(errors="replace") if self.log.exists() else ""
        killed = "signal=KILL" in case.action and "killed by SIGKILL" in log
        reached = killed or "(INJECTED)" in log
        if (
            case.who == "the checker"
            and not case.paths
            and not killed
            and log.find(f"{MAIN}(") > log.find("(INJECTED)")
        ):
            return False, []  # before main
        if took > SLOW:
            wrong.append(f"took {took:.0f} s")
        if ran.returncode not in STATUSES and not (killed and ran.returncode in (-9, 137)):
            wrong.append(f"ended with {ran.returncode}")
        said = [ran.stderr]
        deadline = time.monotonic() + 4
        while (left := self.strays()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if left:
            wrong.append(f"left running: {left}")
        first = self.alerts()
        if why := self.broken():
            wrong.append(f"state.db: {why}")
        for node in (self.nodes[0], self.nodes[1], self.nodes[0]):
            after = node.run("dmonitor-check", "--verbose", "--once")
            said.append(after.stderr)
            if after.returncode:
                wrong.append(f"a later round of {node.address} ended with {after.returncode}")
        if self.broken() or (Path(self.first.also[1]) / "state.db").exists():
            wrong.append(
                f"after two more rounds the state is not what it should be: {self.broken() or 'still a stand-in'}"
            )
        if not 1 <= self.alerts() <= case.most:
            wrong.append(f"{self.alerts()} mails, {first} of them at once")
        if "Traceback" in "".join(said):
            wrong.append("a traceback")
        if wrong:
            wrong += [
                f"    {number}: {line}"
                for number, text in enumerate(said)
                for line in text.splitlines()
            ]
            wrong += [
                f"    strace: {line[:200]}" for line in log.splitlines() if "INJECTED" in line
            ]
        return reached, wrong


def empty(directory: Path) -> None:
    """Remove all files in DIRECTORY but what a daemon that runs relies on."""
    for path in directory.iterdir():
        if path.name not in KEPT:
            path.unlink()


def copy(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name not in KEPT:
            made = shutil.copy2(path, target)
            os.chown(made, run_as().pw_uid, run_as().pw_gid)


# What there is to try.


def calls(trace: str, names: str) -> Iterator[tuple[str, str, int, bool]]:
    """Yield process, name, number of that name, and whether main had begun, for each call in TRACE that is one of NAMES."""
    wanted = set(names.split(","))
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    begun = False
    for line in trace.splitlines():
        if match := re.match(r"(\d+) +(\w+)\(", line):
            process, name = match.groups()
            counts[process, name] += 1
            begun = begun or name == MAIN
            if name in wanted:
                yield process, name, counts[process, name], begun


def cases(yard: Yard) -> dict[str, list[Case]]:
    """Trace a round, and sendmail by itself; return what to do at its calls, in groups."""
    yard.ready()
    ran = yard.trace(
        "-f", "-y", "-e", "trace=" + ",".join([MAIN, WRITES, OPENS, READS, FORKS, SHARED])
    )
    assert ran.returncode == 0 and yard.alerts() == 1, (
        f"an undisturbed round: {ran.returncode}, {ran.stderr}"
    )
    trace = yard.log.read_text(errors="replace")
    checker = trace.split(maxsplit=1)[0]
    own = list(calls(trace, ",".join([WRITES, OPENS, READS, FORKS])))
    own = [known for known in own if known[0] == checker]

    def of(names: str, action: str, *, early: bool = False) -> list[Case]:
        return [
            Case("the checker", name, str(number), action)
            for _, name, number, begun in own
            if name in names.split(",") and (begun or early)
        ]

    highest: dict[str, int] = {}
    for process, name, number, begun in calls(trace, SHARED):
        if process != checker and begun and name not in ("execve", "waitid"):
            highest[name] = max(highest.get(name, 0), number)
    counts = [(name, number) for name, most in highest.items() for number in range(1, most + 1)]
    programs = ("{config}/plugins/check_web", "{sendmail}")
    everyone = [
        Case("each process", "execve", "1", action, (path,))
        for path in programs
        for action in ("signal=KILL", "error=EIO")
    ]
    everyone += [Case("each process", "openat", "1", "error=EMFILE", ("/dev/null",))]
    everyone += [
        Case("each process", name, str(number), "signal=KILL")
        for name, number in [*counts, ("waitid", 1), ("waitid", 3)]
    ]
    everyone += [
        Case("each process", name, str(number), "error=EMFILE")
        for name, number in counts
        if name in OPENS.split(",")
    ]

    yard.log.unlink()
    yard.injected.write_text(f"-e trace={WRITES}")
    yard.first.run("dmonitor-check", "--test-alert")
    most: dict[str, int] = {}
    for _, name, number, _ in calls(yard.log.read_text(errors="replace"), WRITES):
        most[name] = max(most.get(name, 0), number)
    within = [
        Case("sendmail", name, str(number + 1), action)
        for name, count in most.items()
        for number in range(count)
        for action in ("signal=KILL", "error=EIO")
    ]

    database = tuple("{state}/" + name for name in DATABASE)
    writes = sum(" pwrite64(" in line and "/state.db" in line for line in trace.splitlines())
    full = [
        Case("the checker", FILLS, f"{number}+", "error=ENOSPC", database, most=1)
        for number in range(1, writes + 1, 2)
    ]
    yard.ready()
    yard.stand_in()
    yard.trace("-f", "-e", f"trace={MAIN},{SYNCED}")
    restoring = yard.log.read_text(errors="replace")
    after = [
        Case("the checker", name, str(number), "signal=KILL", after_full=True)
        for process, name, number, begun in calls(restoring, SYNCED)
        if process == restoring.split(maxsplit=1)[0] and begun
    ]
    return {
        "kill -9 of the checker": of(WRITES, "signal=KILL", early=True),
        "EIO for the checker": of(f"{WRITES},{READS}", "error=EIO"),
        "ENOSPC for the checker": of(WRITES, "error=ENOSPC"),
        "a disk that is full from then on": full,
        "kill -9 of the checker as the state takes over from its stand-in": after[::2],
        "EMFILE for the checker": of(OPENS, "error=EMFILE"),
        "EAGAIN for the checker": of(FORKS, "error=EAGAIN"),
        "its children, and they alike": everyone,
        "kill -9 and EIO within sendmail": within,
    }


def play(groups: dict[str, list[Case]], yards: Sequence[Yard]) -> int:
    """Try out all cases; say how that went; return how many groups failed."""
    free: queue.SimpleQueue[Yard] = queue.SimpleQueue()
    for yard in yards:
        free.put(yard)

    def one(case: Case) -> tuple[bool, list[str]]:
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
            outcomes = list(pool.map(one, chosen))
            reached = sum(outcome[0] for outcome in outcomes)
            bad = {case: wrong for case, (_, wrong) in zip(chosen, outcomes, strict=True) if wrong}
            good = not bad and len(chosen) - reached <= len(chosen) // 10
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
    """Run a traced round; return why the incident is not on disk when sendmail starts; nothing if it is."""
    yard.ready()
    ran = yard.trace(
        "-f", "-y", "-ttt", "-s", "4096", "-e", "trace=execve,write,pwrite64,fsync,fdatasync"
    )
    match = re.search(r"incident-opened .* incident=(\w+)", ran.stderr)
    if not match or yard.alerts() != 1:
        return f"no round with an alert: {ran.stderr}"
    state, known, synced = str(yard.first.state / "state.db"), False, False
    for line in yard.log.read_text(errors="replace").splitlines():
        call = line.split(maxsplit=2)[2]
        if call.startswith(f'execve("{yard.place.sendmail}"'):
            return (
                ""
                if known and synced
                else "sendmail starts before the database is synced"
                if known
                else "not even written"
            )
        if re.match(rf"(write|pwrite64)\(\d+<{re.escape(state)}(-wal)?>", call):
            known, synced = known or match[1] in call, False
        elif re.match(rf"(fsync|fdatasync)\(\d+<{re.escape(state)}(-wal)?>.* = 0$", call):
            synced = True
    return "sendmail never starts"


@contextlib.contextmanager
def yard_of(number: int, *, synchronous: str = "FULL") -> Iterator[Yard]:
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
