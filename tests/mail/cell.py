"""One cell of `mail-matrix`, inside its own small Debian: cell.py SYSTEM CONDITION [quick].

Two real nodes watch one test, and hand over by the real mail system. Rounds begin each minute, as
cron begins them. The smart host is in a network namespace behind this one. The test fails, and,
unless it is to be quick, passes again. /opt/matrix/result.json has what came of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import smart_host
from judgement import ADDRESSES, CONDITIONS, Event, Result, expected
from local_nodes import LocalNode, Place, running
from mail_systems import HOSTNAME, NODE, SMART_HOST, SYSTEMS, System

OUT = Path("/opt/matrix")
NODES = ("127.0.0.11", "127.0.0.12")
TEST, FLAG = "target.test/flag", Path("/run/target-is-down")
PLUGIN = f"""
    if [ -e {FLAG} ]; then echo FAIL the flag is there; else echo OK no flag; fi
    """
MINUTE = 60.0
FLUSH_EVERY = 30.0  # seconds
# Seconds after the last mail in which a double would come: two rounds of each node, at their places.
STRAGGLERS = 130.0
QUICK_STRAGGLERS = 70.0


def shell(command: str) -> None:
    """Run `command`; what it says is kept with the logs."""
    with open(OUT / "log", "a") as log:
        subprocess.run(
            ["sh", "-c", command],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=120,
        )


def set_up(name: str, system: System) -> None:
    """Make the machine what an operator has, but for dmonitor."""
    socket.sethostname(HOSTNAME)
    Path("/etc/hosts").write_text(
        f"127.0.0.1 localhost\n{NODE} {HOSTNAME} node\n{SMART_HOST} smart.test\n"
    )
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    Path("/etc/mailname").write_text(f"{HOSTNAME}\n")
    shell("useradd --system --user-group --no-create-home dmonitor && ip link set lo up")
    threading.Thread(target=keep_syslog, args=(listener("/dev/log"),), daemon=True).start()
    threading.Thread(target=know_no_name, daemon=True).start()
    for path, content in system.files.items():
        Path(path).write_text(textwrap.dedent(content).lstrip())
        os.chmod(path, 0o644)  # else a system user could not read some (see dmonitor.conf(5))
    shell(system.prepare)


def listener(path: str) -> socket.socket:
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.bind(path)
    os.chmod(path, 0o666)
    return log


def keep_syslog(log: socket.socket) -> None:
    with open(OUT / "syslog", "ab", buffering=0) as file:
        while True:
            line = log.recv(65536).rstrip(b"\0\n")
            file.write(b"%.1f %s\n" % (time.monotonic(), line))


def know_no_name() -> None:
    """Be a name server that says of every name that there is none; some mail systems ask all the same."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        while True:
            question, client = server.recvfrom(2048)
            end = question.index(b"\0", 12) + 5
            flags = b"\x81\x83"  # an answer, by a server that recurses: NXDOMAIN
            server.sendto(question[:2] + flags + b"\0\1\0\0\0\0\0\0" + question[12:end], client)


@contextlib.contextmanager
def the_smart_host(directory: Path) -> Iterator[None]:
    """Run the smart host, in its own network namespace: to some mail systems, an own address is no relay."""
    (directory / "mode").write_text("up")
    (directory / "events").touch()
    wait = f"until ip link set smart up 2>/dev/null; do sleep 0.1; done; ip addr add {SMART_HOST}/24 dev smart"
    run = f"exec {sys.executable} -B {smart_host.__file__} {directory} {SMART_HOST}"
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", f"{wait}; {run}"])
    try:
        deadline = time.monotonic() + 60
        here = os.stat("/proc/self/ns/net").st_ino
        while os.stat(f"/proc/{process.pid}/ns/net").st_ino == here:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        shell(
            f"ip link add node type veth peer name smart netns {process.pid};"
            f"ip link set node up; ip addr add {NODE}/24 dev node"
        )
        while "listens" not in (directory / "events").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


class Cell:
    """The nodes, their mail system, and what the smart host has written down."""

    def __init__(self, name: str, condition: str, quick: bool) -> None:
        self.name = name
        self.system = SYSTEMS[name]
        self.condition = CONDITIONS[condition]
        self.quick = quick
        self.directory = Path("/run/smart-host")
        self.directory.mkdir()
        self.nodes = self.make_nodes()
        self.rounds: list[subprocess.Popen[bytes]] = []
        self.next_round = 0.0
        self.next_flush = float("inf")

    def make_nodes(self) -> list[LocalNode]:
        directory = Path("/srv/nodes")
        directory.mkdir()
        place = Place(directory)
        place.sendmail = Path("/usr/sbin/sendmail")
        nodes = []
        for address in NODES:
            node = LocalNode(place, address, NODES, conf=f"from = dmonitor@{HOSTNAME}\n")
            node.test(TEST)
            node.plugin("flag", PLUGIN)
            for recipient in ADDRESSES:
                node.mail(recipient)
            nodes.append(node)
        return nodes

    def tick(self) -> None:
        """Do what is due: begin rounds each minute as cron does, and flush the queue."""
        now = time.monotonic()
        if now >= self.next_round:
            self.next_round += MINUTE
            self.rounds = [process for process in self.rounds if process.poll() is None]
            for node in self.nodes:
                self.rounds.append(self.begin_round(node))
        if now >= self.next_flush:
            self.next_flush = now + FLUSH_EVERY
            with contextlib.suppress(subprocess.SubprocessError):  # nothing waits, for example
                shell(self.system.flush)

    def begin_round(self, node: LocalNode) -> subprocess.Popen[bytes]:
        with open(OUT / f"rounds-{node.address}", "ab") as log:
            return subprocess.Popen(
                node.command("dmonitor-check"),
                env=node.place.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )

    def wait(self, seconds: float, condition: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until `condition` is true, for `seconds` at the most."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not condition():
            self.tick()
            time.sleep(0.2)

    def events(self) -> list[Event]:
        lines = (self.directory / "events").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def all_came(self, kind: str) -> bool:
        """Return whether each address that is to have a mail of this kind has one."""
        came = {
            str(event["address"])
            for event in self.events()
            if event["event"] == "taken" and str(event["subject"]).startswith(f"{kind} ")
        }
        return came >= expected(self.system.queues, self.condition)

    def play(self) -> Result:
        """Play the story; return what came of it."""
        condition, stragglers = self.condition, QUICK_STRAGGLERS if self.quick else STRAGGLERS
        stragglers += smart_host.REPLY_AFTER.get(condition.mode, 0.0)
        for _ in range(2):  # in its very first round a node leaves the telling to others
            for node in self.nodes:
                node.round()
        self.next_round = time.monotonic() + 2
        self.begin_fault()
        began = time.monotonic()
        FLAG.touch()
        mended = None
        if condition.minutes:
            minutes = 1.2 if self.quick else condition.minutes
            self.wait(minutes * MINUTE)
            self.end_fault()
            mended = time.monotonic()
        self.wait(condition.alert_limit + MINUTE, lambda: self.all_came("DOWN"))
        self.wait(stragglers)
        recovered = None
        if not self.quick:
            recovered = time.monotonic()
            FLAG.unlink()
            self.wait(condition.recovery_limit + MINUTE, lambda: self.all_came("UP"))
            self.wait(stragglers)
        return Result(self.name, condition.name, self.events(), began, mended, recovered)

    def begin_fault(self) -> None:
        if self.condition.daemon_off:
            shell(self.system.stop)
            deadline = time.monotonic() + 30
            while running_processes(self.system.processes):
                assert time.monotonic() < deadline, "the mail system does not stop"
                time.sleep(0.2)
        (self.directory / "mode").write_text(self.condition.mode)
        time.sleep(0.5)  # the smart host looks more often

    def end_fault(self) -> None:
        (self.directory / "mode").write_text(smart_host.UP)
        if self.condition.daemon_off:
            shell(self.system.start)
        if self.system.flush:
            self.next_flush = time.monotonic() + 1


def running_processes(pattern: str) -> list[str]:
    """Return the names of processes that match `pattern`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, state = re.findall(r"\((.*)\) (\w)", status.read_text())[0]
            if re.fullmatch(pattern, name) and state != "Z":
                found.append(name)
    return found


def be_init() -> None:
    """Go on in a child. This process collects those whose parent has ended, as init does."""
    child = os.fork()
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status))


def main(name: str, condition: str, quick: str = "") -> None:
    be_init()
    set_up(name, SYSTEMS[name])
    cell = Cell(name, condition, bool(quick))
    with the_smart_host(cell.directory):
        if cell.system.start:
            shell(cell.system.start)
        with running(cell.nodes):
            result = cell.play()
    (OUT / "result.json").write_text(json.dumps(dataclasses.asdict(result)))


if __name__ == "__main__":
    main(*sys.argv[1:])
