#!/usr/bin/env python3
"""The container of etc/examples/container, where there is neither Docker nor podman.

The steps of the Containerfile are carried out in a small Debian, and its entry point is run there as
process 1, in namespaces of its own, without syslog. Seen are: rounds, their log and the daemon's on its
output, a mail at a relay on loopback, and an end on SIGTERM. Then compose.yaml is read by docker-compose.

Needs root, mmdebstrap, the network, and DMONITOR_DEB, or else a package in dist/. BASE: a minimal
Debian as a tar file, in place of one that mmdebstrap makes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "etc/examples/container"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEY = "0123456789abcdef" * 4
RELAY_PORT = 1025
NAMESPACES = "--mount --pid --fork --kill-child"
# What podman and Docker give a container, as far as this needs it. There is no /dev/log.
INSIDE = """
root=$1; shift
ip link set lo up && hostname oslo || exit 1
mount -t proc proc "$root/proc" && mount -t tmpfs -o mode=755 tmpfs "$root/dev" || exit 1
for device in null zero full random urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device" || exit 1; done
ln -s /proc/self/fd "$root/dev/fd"
exec chroot "$root" env -i PATH="$PATH" "$@"
"""


class Checks:
    """Counts what holds and what does not."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def __call__(self, holds: object, what: str) -> None:
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)


class Relay(socketserver.StreamRequestHandler):
    """A mail relay that takes everything, and keeps it."""

    mails: list[str] = []  # noqa: RUF012 - of all connections

    def handle(self) -> None:
        self.wfile.write(b"220 relay\r\n")
        for line in self.rfile:
            word = line.split(None, 1)[0].upper() if line.strip() else b""
            if word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                mail = iter(self.rfile.readline, b".\r\n")
                self.mails.append(b"".join(mail).decode())
            self.wfile.write(b"250 ok\r\n")


def chroot(root: Path, command: Sequence[str], output: int | None = None) -> None:
    """Run `command` in the system at `root`, with this machine's network."""
    enter = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    subprocess.run(
        [*f"unshare {NAMESPACES} sh -c".split(), enter, str(root), *command],
        check=True,
        stdout=output,
        env={"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Containerfile, each with its arguments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            word, _, arguments = line.partition(" ")
            yield word, arguments.strip()


def build(root: Path, package: Path) -> list[str]:
    """Carry out the Containerfile's steps at `root`; return its entry point."""
    entry: list[str] = []
    for word, arguments in instructions((EXAMPLE / "Containerfile").read_text()):
        print(f"    {word} {' '.join(arguments.split())}", flush=True)
        if word == "FROM":
            assert arguments.endswith("/debian:trixie-slim"), arguments
            subprocess.run(["tar", "-C", root, "--exclude=./dev/*", "-xf", base(root)], check=True)
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        elif word == "COPY":
            source, target = shlex.split(arguments)
            is_package = Path(source).match("dist/dmonitor_*_all.deb")
            shutil.copy(package if is_package else CHECKOUT / source, root / target.lstrip("/"))
        elif word == "RUN":
            chroot(root, ["sh", "-ec", arguments], subprocess.DEVNULL)
        elif word == "ENTRYPOINT":
            entry = json.loads(arguments)
        else:
            assert word in ("VOLUME", "EXPOSE"), f"this script does not know {word}"
    return entry


def base(root: Path) -> Path:
    """Return a minimal Debian as a tar file, which is made beside `root` unless BASE names one."""
    if "BASE" in os.environ:
        return Path(os.environ["BASE"])
    made = root.parent / "base.tar"
    mirror = subprocess.check_output(["sh", "-c", ". tests/prepare; mirror"], cwd=CHECKOUT)
    valid = '--aptopt=Acquire::Check-Valid-Until "false"'
    command = ["mmdebstrap", "--quiet", "--variant=minbase", valid, "trixie", str(made)]
    subprocess.run([*command, mirror.decode().strip()], check=True)
    return made


def configure(root: Path) -> None:
    """Put what an operator mounts there: one node that believes itself, and a test that fails."""
    directory = root / "etc/dmonitor"
    (directory / "nodes.txt").write_text("oslo\n")
    (directory / "dmonitor.conf").write_text("quorum = 1\nfrom = dmonitor@example.com\n")
    (directory / "hosts.d/127.0.0.1").mkdir()
    (directory / "hosts.d/127.0.0.1/tcp:81").touch()
    (directory / "alert.d/oncall@example.com").touch()
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 oslo\n")
    secrets = root / "run/secrets"
    secrets.mkdir(mode=0o755)
    (secrets / "dmonitor-key").write_text(KEY + "\n")
    settings = ("account default", "host 127.0.0.1", f"port {RELAY_PORT}")
    (secrets / "dmonitor-msmtprc").write_text("\n".join(settings) + "\n")
    for secret in secrets.iterdir():
        secret.chmod(0o444)  # as podman has it, and too much for a key
    shutil.rmtree(root / "var/lib/dmonitor")
    (root / "var/lib/dmonitor").mkdir()  # a new volume, which is root's


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Return whether `condition` is true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def play(root: Path, entry: Sequence[str], checks: Checks) -> None:
    """Run the container; this process is in a network namespace of its own."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    relay = socketserver.ThreadingTCPServer(("127.0.0.1", RELAY_PORT), Relay)
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    with tempfile.TemporaryFile("w+") as output:
        container = subprocess.Popen(
            [*f"unshare {NAMESPACES} --uts --ipc sh -c".split(), INSIDE, "sh", str(root), *entry],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": PATH},
        )

        def log() -> str:
            with open(f"/proc/self/fd/{output.fileno()}") as file:
                return file.read()

        def told(*parts: str) -> bool:
            return any(all(part in line for part in parts) for line in log().splitlines())

        try:
            checks(wait_for(lambda: told("dmonitord: started name=oslo"), 30), "the daemon's log")
            checks(told("dmonitord: keys-read keys=1"), "it has the key, which is a secret")
            opened = "dmonitor-check: incident-opened test=127.0.0.1/tcp:81"
            checks(wait_for(lambda: told(opened), 200), "a round that cron started, and its log")
            checks(wait_for(lambda: Relay.mails, 200), "a mail has come to the relay")
            checks(told("dmonitor-check: handed-over"), "the log says so")
            subject = "\nSubject: DOWN 127.0.0.1/tcp:81"
            checks(subject in "".join(Relay.mails).replace("\r", ""), "it is the alert")
            time.sleep(65)
            checks(len(Relay.mails) == 1, "another round has mailed nothing more")
            first = children(container.pid)[0]
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGTERM)
            checks(wait_for(lambda: container.poll() is not None, 8), "SIGTERM ends it at once")
            checks(container.returncode == 0, f"with status 0: {container.returncode}")
            checks(told("dmonitord: stopped"), "the daemon has ended by itself")
        finally:
            if container.poll() is None:
                container.kill()
                container.wait()
            if checks.failed:
                print(log())
                print("\n".join(Relay.mails))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def compose(root: Path, checks: Checks) -> None:
    """Let docker-compose read compose.yaml, by its schema; it needs no Docker for that."""
    chroot(root, ["apt-get", "-qq", "update"], subprocess.DEVNULL)
    install = "apt-get -qq -y --no-install-recommends install docker-compose >/dev/null"
    chroot(root, ["sh", "-ec", install])
    shutil.copytree(EXAMPLE, root / "srv/etc/examples/container")
    found = root / "srv/found.json"
    read = "cd /srv/etc/examples/container && docker-compose config --format json >/srv/found.json"
    try:
        chroot(root, ["sh", "-ec", read])
    except subprocess.CalledProcessError as error:
        checks(False, f"compose.yaml is as its schema has it: {error}")
        return
    services = json.loads(found.read_text())["services"]
    checks(set(services) == {"oslo", "paris", "rome", "target", "mailbox"}, "compose.yaml is read")
    for name in ("oslo", "paris", "rome"):
        node = services[name]
        targets = {volume["target"] for volume in node["volumes"]}
        wanted = {f"/etc/dmonitor/{name}" for name in ("nodes.txt", "hosts.d", "alert.d")}
        secrets = {secret["source"] for secret in node["secrets"]}
        checks(
            targets == {*wanted, "/var/lib/dmonitor"}
            and secrets == {"dmonitor-key", "dmonitor-msmtprc"}
            and node["hostname"] == name
            and (CHECKOUT / node["build"]["dockerfile"]).is_file(),
            f"{name} has its files, its state and its secrets",
        )
    wrong = (root / "srv/etc/examples/container/compose.yaml").read_text()
    wrong = wrong.replace("hostname: oslo", "hostnam: oslo")
    (root / "srv/wrong.yaml").write_text(wrong)
    wrongly = "cd /srv && ! docker-compose -f wrong.yaml config --quiet 2>/dev/null"
    chroot(root, ["sh", "-ec", wrongly])
    checks(True, "a key that the schema does not have is refused")


def main() -> int:
    checks = Checks()
    if sys.argv[1:]:  # in a network namespace
        play(Path(sys.argv[1]), sys.argv[2:], checks)
        return 1 if checks.failed else 0
    packages = sorted(CHECKOUT.glob("dist/dmonitor_*_all.deb"))
    package = Path(os.environ["DMONITOR_DEB"]) if "DMONITOR_DEB" in os.environ else packages[-1]
    work = Path(tempfile.mkdtemp(prefix="dmonitor-container.", dir="/var/tmp"))
    try:
        work.chmod(0o755)
        root = work / "root"
        root.mkdir()
        entry = build(root, package)
        configure(root)
        played = ["unshare", "--net", sys.executable, __file__, str(root), *entry]
        checks(subprocess.run(played, check=False).returncode == 0, "all of the container")
        compose(root, checks)
    finally:
        shutil.rmtree(work)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
