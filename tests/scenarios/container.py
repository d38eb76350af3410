#!/usr/bin/env python3
"""The containers of etc/examples/container, where there is neither Docker nor podman.

The steps of the Containerfile are carried out in a small Debian. Of compose.yaml, as docker-compose reads
it, which needs no Docker for that, each service is run as process 1 in namespaces of its own, without
syslog: three nodes and a target, on one network, with their files, volumes and secrets. A relay stands
in for the mailbox. The target is paused and goes on; two nodes end, and the third one is blind.

Needs root, mmdebstrap, the network, and DMONITOR_DEB, or else a package in dist/. BASE: a minimal
Debian as a tar file, in place of one that mmdebstrap makes.
"""

from __future__ import annotations

import functools
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = "etc/examples/container"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NODES = ("oslo", "paris", "rome")
RELAY_PORT = 1025
NETWORK = "10.55.0"  # of a network namespace
NAMESPACES = "--mount --pid --fork --kill-child"
# What podman and Docker give a container, as far as this needs it. There is no /dev/log.
INSIDE = """
set -e
directory=$1 address=$2 name=$3 lower=$4; shift 4
until ip link set eth0 up 2>/dev/null; do sleep 0.1; done
ip link set lo up
ip address add "$address/24" dev eth0
hostname "$name"
cd "$directory"
mkdir upper work root
mount -t overlay -o "lowerdir=$lower,upperdir=upper,workdir=work" overlay root
mount -t proc proc root/proc
[ ! -e ping_group_range ] || cat ping_group_range >/proc/sys/net/ipv4/ping_group_range
mount -t tmpfs -o mode=755 tmpfs root/dev
for device in null zero full random urandom; do touch "root/dev/$device"; mount --bind "/dev/$device" "root/dev/$device"; done
ln -s /proc/self/fd root/dev/fd
cp ../hosts root/etc/hosts
mkdir -p root/run/secrets
cp secrets/* root/run/secrets 2>/dev/null || :
while read -r source target; do mount --bind "$source" "root$target"; done <mounts
exec chroot root env -i PATH="$PATH" "$@"
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
    for word, arguments in instructions((CHECKOUT / EXAMPLE / "Containerfile").read_text()):
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


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Return whether `condition` is true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


class Container:
    """A service of compose.yaml that runs; its files lie in `directory`."""

    def __init__(
        self, name: str, service: Any, files: Any, place: Path, number: int, root: Path
    ) -> None:
        self.name = name
        self.directory = place / name
        (self.directory / "secrets").mkdir(parents=True)
        mounts = []
        for volume in service.get("volumes", ()):
            source = root / volume["source"].lstrip("/")
            if volume["type"] == "volume":
                source = self.directory / "volume"
                source.mkdir()  # a new one is root's
            mounts.append(f"{source} {volume['target']}\n")
        (self.directory / "mounts").write_text("".join(mounts))
        for secret in service.get("secrets", ()):
            given = root / files[secret["source"]]["file"].lstrip("/")
            copy = self.directory / "secrets" / Path(secret.get("target", secret["source"])).name
            shutil.copyfile(given, copy)
            copy.chmod(0o444)  # as podman has it, and too much for a key
        for key, value in service.get("sysctls", {}).items():
            assert key == "net.ipv4.ping_group_range", key
            (self.directory / "ping_group_range").write_text(value)
        entry = service["entrypoint"] or json.loads((place / "entry").read_text())
        command = [*f"unshare {NAMESPACES} --net --uts --ipc sh -c".split(), INSIDE, "sh"]
        command += [str(self.directory), f"{NETWORK}.{number}", name, str(root), *entry]
        with open(self.directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={"PATH": PATH}
            )
        own = os.readlink("/proc/self/ns/net")
        assert wait_for(lambda: os.readlink(f"/proc/{self.process.pid}/ns/net") != own, 10)
        link = f"ip link add {name} type veth peer name eth0 netns {self.process.pid}"
        subprocess.run(link.split(), check=True)
        subprocess.run(f"ip link set {name} master cluster up".split(), check=True)

    def first_process(self) -> int:
        """Return the id, here, of the process that is number 1 inside."""
        children = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        return int(Path(children).read_text().split()[0])

    def signal(self, number: int) -> None:
        """Send a signal to process 1."""
        os.kill(self.first_process(), number)

    def sees(self, tests: int) -> bool:
        """Return whether its last round found so many tests UP, and nothing else.

        `dmonitor status` is asked inside, as `docker exec` would; before the first round it fails.
        """
        enter = f"nsenter --target {self.first_process()} --mount --pid --net --uts --root --wd"
        command = [*enter.split(), "dmonitor", "status", "--json"]
        ran = subprocess.run(command, check=False, stdout=subprocess.PIPE, env={"PATH": PATH})
        if ran.returncode:
            return False
        status = json.loads(ran.stdout)
        found = [(test["here"], test["verdict"]) for test in status["tests"]]
        return bool(status["last_round"]) and found == [("OK", "UP")] * tests

    def log(self) -> str:
        return (self.directory / "output").read_text(errors="replace")

    def told(self, *parts: str) -> bool:
        """Return whether a line of the log has all `parts`."""
        return any(all(part in line for part in parts) for line in self.log().splitlines())

    def tells(self, seconds: float, *parts: str) -> bool:
        """Return whether within so many seconds a line of the log has all `parts`."""
        return wait_for(lambda: self.told(*parts), seconds)

    def ended(self) -> bool:
        """End it as podman and Docker do; return whether it did so by itself, and well."""
        self.signal(signal.SIGTERM)
        return wait_for(lambda: self.process.poll() is not None, 8) and not self.process.returncode


def subjects(word: str) -> list[str]:
    """Return the subjects of the mails that have come and begin with `word`."""
    lines = "\n".join(Relay.mails).replace("\r", "").splitlines()
    return [line for line in lines if line.startswith(f"Subject: {word} ")]


def play(place: Path, root: Path, checks: Checks) -> None:
    """Run what compose.yaml has; this process is in a network namespace of its own."""
    for command in (
        "ip link set lo up",
        "ip link add cluster type bridge",
        f"ip address add {NETWORK}.1/24 dev cluster",
        "ip link set cluster up",
    ):
        subprocess.run(command.split(), check=True)
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    relay = socketserver.ThreadingTCPServer(("", RELAY_PORT), Relay)
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    compose = json.loads((place / "compose.json").read_text())
    services = {name: compose["services"][name] for name in ("target", *NODES)}
    hosts = ["127.0.0.1 localhost", f"{NETWORK}.1 mailbox"]
    hosts += [f"{NETWORK}.{number} {name}" for number, name in enumerate(services, 2)]
    (place / "hosts").write_text("\n".join(hosts) + "\n")
    running: dict[str, Container] = {}
    try:
        for number, (name, service) in enumerate(services.items(), 2):
            running[name] = Container(name, service, compose["secrets"], place, number, root)
        tell(running, checks)
    finally:
        for container in running.values():
            if container.process.poll() is None:
                container.process.kill()
                container.process.wait()
        if checks.failed:
            for container in running.values():
                print(f"==> {container.name}\n{container.log()}")
            print("\n".join(Relay.mails))


def tell(running: Mapping[str, Container], checks: Checks) -> None:
    """Play the story."""
    nodes = [running[name] for name in NODES]
    for node in nodes:
        started = f"dmonitord: started name={node.name} "
        checks(node.tells(30, started, "peers=2"), f"{node.name}: the daemon's log")
        checks(node.told("dmonitord: keys-read keys=1"), "it has the key, which is a secret")
    for node in nodes:
        finds = functools.partial(node.sees, 3)
        checks(wait_for(finds, 240), f"{node.name}: cron's rounds find three tests UP")
    checks(not Relay.mails, f"no mail so far: {subjects('')}")

    running["target"].signal(signal.SIGSTOP)  # what `docker compose pause` does to all processes
    checks(wait_for(lambda: subjects("DOWN"), 200), "the target is paused: a mail has come")
    checks(count(nodes, "handed-over") == 1, "the log says so")
    time.sleep(65)
    checks(len(subjects("DOWN")) == 1, f"one mail for all: {subjects('DOWN')}")
    running["target"].signal(signal.SIGCONT)
    checks(wait_for(lambda: subjects("UP"), 200), "it goes on: a mail has come")
    checks(len(Relay.mails) == 2, f"that was all: {len(Relay.mails)} mails")

    oslo, paris, rome = nodes
    checks(paris.ended() and rome.ended(), "SIGTERM ends two nodes at once, with status 0")
    checks(paris.told("dmonitord: stopped"), "the daemon has ended by itself")
    checks(wait_for(lambda: subjects("TROUBLE oslo: no peer"), 150), "oslo says it is blind")
    time.sleep(65)
    checks(len(subjects("TROUBLE")) == 1, "it is mailed once, because no cron does")
    checks(oslo.ended(), "SIGTERM ends the last one")


def count(nodes: Sequence[Container], part: str) -> int:
    return sum(node.log().count(part) for node in nodes)


def compose(root: Path, place: Path, checks: Checks) -> None:
    """Let docker-compose read compose.yaml, once the manual's commands have made the files."""
    chroot(root, ["apt-get", "-qq", "update"], subprocess.DEVNULL)
    install = "apt-get -qq -y --no-install-recommends install docker-compose >/dev/null"
    chroot(root, ["sh", "-ec", install])
    directory = root / "srv" / EXAMPLE
    shutil.copytree(CHECKOUT / EXAMPLE, directory)
    manual = (CHECKOUT / "doc/container.md").read_text()
    block = manual.partition("<!-- cluster -->\n```sh\n")[2].partition("```")[0]
    build, enter, *commands = block.splitlines()
    assert (build, enter) == ("sh debian/build", f"cd {EXAMPLE}"), block
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=directory, check=True)
    read = f"cd /srv/{EXAMPLE} && docker-compose config --format json"
    with open(place / "compose.json", "w") as file:
        chroot(root, ["sh", "-ec", read], file.fileno())
    services = json.loads((place / "compose.json").read_text())["services"]
    checks(set(services) == {*NODES, "target", "mailbox"}, "docker-compose reads compose.yaml")
    for name in NODES:
        given = services[name]["build"]
        context = root / given["context"].lstrip("/")
        is_there = (context / given["dockerfile"]).is_file()
        checks(services[name]["hostname"] == name and is_there, f"{name} has a name and an image")
    wrong = (directory / "compose.yaml").read_text().replace("hostname: oslo", "hostnam: oslo")
    (directory / "wrong.yaml").write_text(wrong)
    refused = f"cd /srv/{EXAMPLE} && ! docker-compose -f wrong.yaml config --quiet 2>/dev/null"
    chroot(root, ["sh", "-ec", refused])
    checks(True, "what its schema does not have is refused")


def main() -> int:
    checks = Checks()
    if sys.argv[1:]:  # in a network namespace
        place = Path(sys.argv[1])
        play(place, place / "root", checks)
        print(f"{checks.passed} passed, {checks.failed} failed")
        return 1 if checks.failed else 0
    packages = sorted(CHECKOUT.glob("dist/dmonitor_*_all.deb"))
    package = Path(os.environ["DMONITOR_DEB"]) if "DMONITOR_DEB" in os.environ else packages[-1]
    place = Path(tempfile.mkdtemp(prefix="dmonitor-container.", dir="/var/tmp"))
    try:
        place.chmod(0o755)
        root = place / "root"
        root.mkdir()
        (place / "entry").write_text(json.dumps(build(root, package)))
        compose(root, place, checks)
        played = ["unshare", "--net", sys.executable, __file__, str(place)]
        checks(subprocess.run(played, check=False).returncode == 0, "the containers")
    finally:
        shutil.rmtree(place)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
