"""What the scenarios about delay share: a target whose ports fail, each at its own moment, and when each failure was told.

A port fails in one of two ways: it is closed, so connections to it are refused, or what comes for it is dropped. The target
notes when it did so. Who watches the target, and what it may take to be told, is a scenario's own.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common import Failed, Lab, mails, taken_by, told_in, until

FIRST_PORT = 3001
REFUSED, DROPPED = "refused", "dropped"  # the ways in which a port fails
LASTS = 210.0  # seconds that a failure lasts: longer than it may take to be mailed
STRAGGLERS = 70.0  # seconds after which no round that began before a mail is under way any more
_STEPS = {REFUSED: ("close", "listen"), DROPPED: ("add", "delete")}

# The target: listens on all ports, does to each what the schedule says, and notes when it did, and who connected when.
_PROGRAM, _SCHEDULE, _DONE, _ACCEPTED, _COMPLAINTS = (
    "/usr/local/sbin/lab-target",
    "/run/lab-schedule",
    "/run/lab-done",
    "/run/lab-accepted",
    "/run/lab-complaints",
)
_FIREWALL = """
table inet lab {
    set dropped { type inet_service; }
    chain input { type filter hook input priority 0; tcp dport @dropped drop; }
}
"""
_TARGET_PROGRAM = f"""
import json, selectors, socket, subprocess, time

def listen(port):
    listener = socket.create_server(("", port), backlog=100)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ, port)
    return listener

def close(port):
    selector.unregister(ports[port])
    ports[port].close()

def drop(what, port):
    subprocess.run(["nft", what, "element", "inet", "lab", "dropped", "{{", str(port), "}}"], check=True)

def wait(until):
    for key, _ in selector.select(max(0, until - time.time())):
        try:
            key.fileobj.accept()[0].close()
        except OSError:
            continue
        print(key.data, f"{{time.time():.6f}}", file=accepted)

selector, ports = selectors.DefaultSelector(), {{}}
accepted = open("{_ACCEPTED}", "a", buffering=1)
with open("{_SCHEDULE}") as file:
    schedule = json.load(file)
for at, port, step in schedule:
    while time.time() < at:
        wait(at)
    now = time.time()
    if step == "listen":
        ports[port] = listen(port)
    elif step == "close":
        close(port)
    else:
        drop(step, port)
    with open("{_DONE}", "a") as file:
        print(port, step, f"{{now:.6f}}", file=file)
while True:
    wait(time.time() + 60)
"""


@dataclass(frozen=True)
class Alert:
    """A word that a test is down: when its mail was begun, when the MTA had taken it, and who told it."""

    test: str
    began: float
    ended: float
    teller: str


@dataclass(frozen=True)
class Failure:
    test: str
    at: float


@dataclass(frozen=True)
class Outcome:
    """A failure, and the alerts that told it, the first one first."""

    failure: Failure
    alerts: Sequence[Alert]

    @property
    def delay(self) -> float:
        """Return the seconds from the failure to the moment at which the MTA had taken the alert."""
        return self.alerts[0].ended - self.failure.at


class Target:
    """A node with ports that fail as scheduled; `plugin` is the name of the tests of them."""

    def __init__(self, lab: Lab, node: str, ports: Sequence[int], plugin: str = "tcp") -> None:
        self.lab, self.node, self.ports, self.plugin = lab, node, ports, plugin

    @property
    def tests(self) -> list[str]:
        """Return the names of the tests, without the host."""
        return [f"{self.plugin}:{port}" for port in self.ports]

    def test_of(self, port: int) -> str:
        return f"{self.node}/{self.plugin}:{port}"

    def set_up(self) -> None:
        self.lab.run(self.node, "sh", "-c", f"cat >{_PROGRAM}", stdin=_TARGET_PROGRAM.encode())
        self.lab.run(self.node, "nft", "-f", "-", stdin=_FIREWALL.encode())
        self.fail([])

    def fail(self, moments: Iterable[tuple[float, int, str]], lasts: float = LASTS) -> None:
        """Have ports fail at `moments`, each with its port and kind, for `lasts` seconds; forget what was to come.

        All ports that are closed now are opened.
        """
        schedule = [(0.0, port, "listen") for port in self.ports]
        for at, port, kind in moments:
            fails, recovers = _STEPS[kind]
            schedule += [(at, port, fails), (at + lasts, port, recovers)]
        run = f"""
            cat >{_SCHEDULE}
            systemctl stop lab-target 2>/dev/null || :
            nft flush set inet lab dropped
            : >{_DONE}
            systemd-run -q --unit=lab-target sh -c 'exec python3 {_PROGRAM} >{_COMPLAINTS} 2>&1'
        """
        encoded = json.dumps(sorted(schedule)).encode()
        self.lab.run(self.node, "sh", "-e", "-c", run, stdin=encoded)
        if not until(lambda: self._listening() == len(self.ports), 10):
            raise Failed(self.complaints())

    def _listening(self) -> int:
        last = FIRST_PORT + len(self.ports) - 1
        ports = f"( sport >= :{FIRST_PORT} and sport <= :{last} )"
        return len(self.lab.run(self.node, "ss", "-Hltn4", ports).splitlines())

    def complaints(self) -> str:
        return self.lab.run(self.node, "cat", _COMPLAINTS)

    def failures(self) -> list[Failure]:
        """Return the failures that came of what was scheduled last."""
        found = []
        for line in self.lab.run(self.node, "cat", _DONE).splitlines():
            port, step, at = line.split()
            if step in ("close", "add"):
                found.append(Failure(self.test_of(int(port)), float(at)))
        return found

    def accepted(self, began: float, ended: float) -> dict[int, int]:
        """Return how many connections each port accepted from `began` to `ended`."""
        counts = dict.fromkeys(self.ports, 0)
        for line in self.lab.run(self.node, "cat", _ACCEPTED).splitlines():
            port, at = line.split()
            if began <= float(at) < ended:
                counts[int(port)] += 1
        return counts


def alerts(lab: Lab, nodes: Iterable[str], mailbox: str, user: str) -> list[Alert]:
    """Return what `user` on `mailbox` was told is down by `nodes`, whose sendmail is the stand-in."""
    taken = {}
    for each in sorted(taken_by(lab, list(nodes)), key=lambda each: each.ended, reverse=True):
        taken[each.message_id] = each  # in the end the first one
    found = []
    for mail in mails(lab, mailbox, f"/home/{user}"):
        if mail.subject.startswith("TEST "):  # from when the mailbox was tried
            continue
        for told in told_in(mail):
            if told.state in ("DOWN", "STILL DOWN"):
                first = taken[told.message_id]
                found.append(Alert(told.test, first.began, first.ended, told.sender))
    return found


def outcomes(failures: Iterable[Failure], told: Iterable[Alert]) -> list[Outcome]:
    """Return each failure with the alerts of its test that came before its test failed again."""
    by_test: dict[str, list[Alert]] = defaultdict(list)
    for alert in sorted(told, key=lambda alert: alert.ended):
        by_test[alert.test].append(alert)
    found = []
    again: dict[str, float] = {}
    for failure in sorted(failures, key=lambda failure: failure.at, reverse=True):
        end = again.get(failure.test, math.inf)
        mine = [each for each in by_test[failure.test] if failure.at <= each.ended < end]
        found.append(Outcome(failure, mine))
        again[failure.test] = failure.at
    return found[::-1]


def delays(some: Iterable[Outcome]) -> list[float]:
    """Return the delays of all that was told."""
    return [each.delay for each in some if each.alerts]


def percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return max(values, default=math.nan)
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
