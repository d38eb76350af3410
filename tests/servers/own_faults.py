"""The faults of the node that tests: each is brought about, and every test is tried against a healthy host meanwhile.

A fault may end in UNKNOWN, or in the right answer if that was reached; it is never FAIL (rule R1). A plugin is run here as
dmonitor runs it, but without dmonitor, which would fail itself. Each fault has a proof that it was there.
"""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bad_names

LIMIT = 10.0  # seconds that a plugin has (rule R1)
COUNTS = Path("/opt/matrix/spoilt-questions.json")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
}
# Rounds and dmonitord may send ICMP, and nothing else that an ordinary user may not.
_RAW_SOCKETS = ("--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw")
DROP = ("setpriv", "--reuid=dmonitor", "--regid=dmonitor", "--init-groups", *_RAW_SOCKETS)
# Each run has a user of its own, because limits of processes are counted by user.
_FIRST_USER, _USERS = 40000, 3000
# A clock that is off. What is waited for is measured by another clock, which goes right.
_FAKE_CLOCK = {
    "LD_PRELOAD": "/usr/$LIB/faketime/libfaketime.so.1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    "NO_FAKE_STAT": "1",
}
_HOSTS = "192.0.2.1 good.test\n2001:db8::1 good6.test\n"
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Fault:
    """A fault of this node."""

    title: str
    space: str = ""  # the network namespace in which the node lacks something
    script: str = ""  # what root does before the plugin begins, in a mount namespace of its own
    servers: Sequence[int] = ()  # kinds of the name servers in /etc/resolv.conf, if not as usual
    limits: Sequence[tuple[int, int]] = ()  # of resources, one for each run
    environment: Mapping[str, str] = field(default_factory=dict)
    runs: int = 1
    only: str = "OK|UNKNOWN"  # the results that are right
    proof: str = "true"  # a script that succeeds where the fault is, as the plugin's user


@dataclass(frozen=True)
class Run:
    """What a plugin said in a fault."""

    outcome: str
    seconds: float
    text: str


_CANNOT_SEND = """python3 -c '
import socket
for host in "192.0.2.1", "2001:db8::1":
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        datagram = socket.socket(kind, socket.SOCK_DGRAM)
        datagram.connect((host, 9))
        datagram.send(b"")
    except OSError:
        continue
    raise SystemExit(1)'"""
_KEEP_NAMES = (
    f"printf '{_HOSTS}' >/opt/matrix/hosts.$$; mount --bind /opt/matrix/hosts.$$ /etc/hosts\n"
)


def faults(is_quick: bool) -> list[Fault]:
    """Return all faults; if `is_quick`, with fewer runs where chance or a limit decides."""
    runs = 4 if is_quick else 12
    step = 2 if is_quick else 1
    return [
        Fault("name server loses 30 %", servers=[bad_names.LOSSY], runs=runs),
        Fault("name server fails after the first question", servers=[bad_names.FIRST_ONLY]),
        Fault(
            "all name servers dead",
            servers=[bad_names.DEAD, bad_names.DEAD],
            proof="! timeout 5 getent ahosts good.test",
        ),
        Fault(
            "first name server dead, second alive",
            servers=[bad_names.DEAD, bad_names.WORKING],
            only="OK",
        ),
        Fault(
            "first name server SERVFAILs, second alive",
            servers=[bad_names.FAILING, bad_names.WORKING],
        ),
        Fault(
            "no process to be had",
            limits=[(resource.RLIMIT_NPROC, count) for count in range(1, 6, step)],
            proof="! (sleep 0 | sleep 0 | sleep 0 | sleep 0 | sleep 0 | sleep 0)",
        ),
        Fault("own firewall drops", space="dropping", servers=[bad_names.WORKING], proof=_CANNOT_SEND),
        Fault("own firewall rejects", space="rejecting", servers=[bad_names.WORKING], proof=_CANNOT_SEND),
        Fault("conntrack table full", space="full", script=_KEEP_NAMES, proof=_CANNOT_SEND),
        Fault("no route to the host", space="unrouted", servers=[bad_names.WORKING], proof=_CANNOT_SEND),
        Fault("route says unreachable", space="unreachable", servers=[bad_names.WORKING], proof=_CANNOT_SEND),
        Fault("no local port left", space="portless", script=_KEEP_NAMES, proof=_CANNOT_SEND),
        Fault(
            "/tmp full",
            script="""
            for place in /tmp /var/tmp /dev/shm; do
                mount -t tmpfs -o mode=1777,size=4k full $place
                head -c 4096 /dev/zero >$place/full
            done
            """,
            proof="! { echo much >/tmp/more-$$; } 2>/dev/null",
        ),
        Fault(
            "no memory",
            limits=[(resource.RLIMIT_AS, size * _MEGABYTE) for size in (6, 12, 18, 24, 32, 48)[::step]],
            proof="! python3 -c 'bytearray(40_000_000)' 2>/dev/null",
        ),
        Fault(
            "no file descriptors",
            limits=[(resource.RLIMIT_NOFILE, count) for count in (3, 4, 5, 6, 8, 11)[::step]],
            proof="! python3 -c 'import os; [os.dup(0) for _ in range(20)]' 2>/dev/null",
        ),
        Fault(
            "no CA certificates",
            script="mount -t tmpfs none /etc/ssl/certs\n",
            proof="[ ! -e /etc/ssl/certs/ca-certificates.crt ]",
        ),
        Fault(
            "clock 5 years behind",
            environment=_FAKE_CLOCK | {"FAKETIME": "-5y"},
            proof='[ "$(date +%s)" -lt "$(stat -c %Y /opt/matrix/good.crt)" ]',
        ),
        Fault(
            "clock 5 years ahead",
            environment=_FAKE_CLOCK | {"FAKETIME": "+5y"},
            proof='[ "$(date +%s)" -gt "$(($(stat -c %Y /opt/matrix/good.crt) + 100000000))" ]',
        ),
    ]  # fmt: skip


# Each of these has an address of its own in the network of the servers.
_SPACES = {
    "dropping": "nft add rule ip f o ip daddr 192.0.2.1 drop; nft add rule ip6 f o ip6 daddr 2001:db8::1 drop",
    "rejecting": "nft add rule ip f o ip daddr 192.0.2.1 reject; nft add rule ip6 f o ip6 daddr 2001:db8::1 reject",
    "full": "nft add rule ip f o ct state new drop; nft add rule ip6 f o meta l4proto != ipv6-icmp ct state new drop;"
    " nft add rule ip6 f o icmpv6 type echo-request drop",
    "unrouted": "ip route del 192.0.2.0/24; ip -6 route del 2001:db8::/64; ip route add 192.0.2.10 dev eth0;"
    f" ip route del {bad_names.NETWORK}; ip route add {bad_names.NETWORK} via 192.0.2.10 onlink dev eth0",
    "unreachable": "ip route add unreachable 192.0.2.1; ip -6 route add unreachable 2001:db8::1",
    "portless": "echo 20000 20001 >/proc/sys/net/ipv4/ip_local_port_range",
}
# Takes every port that there is, and leaves none to connect from.
_TAKE_PORTS = """
import signal, socket
taken = []
for port in 20000, 20001:
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        for family, address in (socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0"):
            one = socket.socket(family, kind)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address, port))
            taken.append(one)
signal.pause()
"""


def make_spaces(
    sh: Callable[..., str], start: Callable[[str, str], None], wait_for: Callable[..., None]
) -> None:
    """Make the network namespaces in which a node lacks something, and start the bad name servers."""
    sh(f"""
        ip netns add names
        ip link add to-names type veth peer name eth0 netns names
        ip link set to-names master br0 up
        ip -n names link set lo up
        ip -n names link set eth0 up
        ip -n names addr add 192.0.2.10/24 dev eth0
        ip -n names route add local {bad_names.NETWORK} dev lo
        ip route add {bad_names.NETWORK} via 192.0.2.10
    """)
    for number, (space, script) in enumerate(_SPACES.items(), 101):
        sh(
            """
            ip netns add $1
            ip link add to-$1 type veth peer name eth0 netns $1
            ip link set to-$1 master br0 up
            ip -n $1 link set lo up
            ip -n $1 link set eth0 up
            ip -n $1 addr add 192.0.2.$2/24 dev eth0
            ip -n $1 addr add 2001:db8::$2/64 dev eth0 nodad
            ip -n $1 route add $3 via 192.0.2.10
            """,
            space, str(number), bad_names.NETWORK,
        )  # fmt: skip
        tables = "; ".join(
            f"nft add table {family} f;"
            f" nft add chain {family} f o '{{ type filter hook output priority 0; }}'"
            for family in ("ip", "ip6")
        )
        sh(f'ip netns exec {space} sh -ec "$1"', f"{tables}; {script}")
    Path("/opt/matrix/take_ports.py").write_text(_TAKE_PORTS)
    start("portless", "python3 -B /opt/matrix/take_ports.py")
    start("names", f"python3 -B /opt/matrix/bad_names.py 192.0.2.1 {COUNTS}")
    wait_for(
        lambda: sh(
            f"dig +short +tries=1 +time=1 @{bad_names.address(bad_names.WORKING)} good.test | grep 192.0.2.1"
        ),
        "the bad name servers",
    )


def make_users() -> None:
    """Let the users of all runs have names: some programs refuse to run without one."""
    with open("/etc/passwd", "a") as file:
        for user in range(_FIRST_USER, _FIRST_USER + _USERS):
            file.write(f"run{user}:x:{user}:{user}::/nonexistent:/usr/sbin/nologin\n")


def run_plugin(plugin: Path, host: str, parameters: str, fault: Fault, number: int) -> Run:
    """Run `plugin` for `host` as dmonitor does, in the fault; `number` is the run's."""
    limit = fault.limits[number % len(fault.limits)] if fault.limits else None
    environment = dict(_ENVIRONMENT)
    for line in parameters.splitlines():
        key, _, value = line.partition("=")
        environment[key] = value
    return _run([str(plugin), host], fault, number, environment, limit)


def _run(
    command: Sequence[str],
    fault: Fault,
    number: int,
    environment: dict[str, str],
    limit: tuple[int, int] | None,
) -> Run:
    user = _FIRST_USER + number
    script = fault.script
    if fault.servers:
        resolv = Path(f"/opt/matrix/resolv.own-{number}")
        lines = [f"nameserver {bad_names.address(kind, number)}\n" for kind in fault.servers]
        resolv.write_text("".join(lines))
        script += f"mount --bind {resolv} /etc/resolv.conf\n"
    words = [f"{key}={value}" for key, value in (environment | dict(fault.environment)).items()]
    limits = []
    if limit:
        names = {
            resource.RLIMIT_NPROC: "nproc",
            resource.RLIMIT_AS: "as",
            resource.RLIMIT_NOFILE: "nofile",
        }
        limits = ["prlimit", f"--{names[limit[0]]}={limit[1]}"]
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *_RAW_SOCKETS]
    enter = ["ip", "netns", "exec", fault.space] if fault.space else []
    prepare = ["unshare", "--mount", "sh", "-ec", f'cd /\n{script}exec "$@"', "sh"]
    whole = [*enter, *prepare, *drop, *limits, "env", "-i", *words, *command]
    began = time.monotonic()
    with subprocess.Popen(
        whole,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            out = None
        _kill_group(process.pid)
        if out is None:
            return Run("TIMEOUT", LIMIT, "")
    line = out.decode(errors="replace").partition("\n")[0]
    word, _, text = line.partition(" ")
    if word not in ("OK", "FAIL"):
        text = text if word == "UNKNOWN" else line or "nothing was said"
        word = "UNKNOWN"
    return Run(word, time.monotonic() - began, text)


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


@dataclass(frozen=True)
class Cell:
    """All runs of a test in a fault."""

    test: str
    fault: Fault
    runs: Sequence[Run]

    @property
    def wrong(self) -> list[Run]:
        return [run for run in self.runs if not re.fullmatch(self.fault.only, run.outcome)]

    def __str__(self) -> str:
        counts = collections.Counter(run.outcome for run in self.runs)
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items()))


class OwnFaults:
    """Runs of tests in all faults, most of them at one time."""

    def __init__(self, pool: concurrent.futures.Executor, is_quick: bool) -> None:
        self._pool = pool
        self.faults = faults(is_quick)
        self._numbers = 0
        self._cells: list[tuple[str, Fault, list[concurrent.futures.Future[Run]]]] = []
        self._proofs = [(fault, self._prove(fault)) for fault in self.faults]

    def _next(self) -> int:
        self._numbers += 1
        return self._numbers

    def _prove(self, fault: Fault) -> concurrent.futures.Future[Run]:
        """Look whether the fault is there; with the hardest of its limits that lets a shell begin."""
        script = f"{{ {fault.proof}; }} && echo OK it is there || echo FAIL it is not"
        limit = None
        if fault.limits:
            limit = fault.limits[len(fault.limits) // 2]
        command = ["sh", "-c", script]
        return self._pool.submit(_run, command, fault, self._next(), dict(_ENVIRONMENT), limit)

    def try_all(self, test: str, plugin: Path, host: str, parameters: str) -> None:
        """Begin to try a test in each fault."""
        for fault in self.faults:
            count = len(fault.limits) or fault.runs
            first = self._numbers + 1
            self._numbers += count
            # The numbers of a fault's runs choose their limits.
            chosen = range(first, first + count)
            runs = [
                self._pool.submit(run_plugin, plugin, host, parameters, fault, number)
                for number in chosen
            ]
            self._cells.append((test, fault, runs))

    def cells(self) -> list[Cell]:
        """Return what came of it, when all has ended."""
        return [
            Cell(test, fault, [run.result() for run in runs]) for test, fault, runs in self._cells
        ]

    def unproved(self) -> list[str]:
        """Return the faults that were not there."""
        missing = [fault.title for fault, proof in self._proofs if proof.result().outcome != "OK"]
        spoilt = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
        for kind in (bad_names.LOSSY, bad_names.FIRST_ONLY, bad_names.DEAD, bad_names.FAILING):
            if not spoilt.get(str(kind)):
                missing.append(f"no name server of kind {kind} spoilt a question")
        return missing
