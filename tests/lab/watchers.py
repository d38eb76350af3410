"""What the scenarios about loss, closing and doubles share: nodes that watch a target, and one mailbox.

It installs them, looks whether all is well, and reads what the mailbox was told. What a scenario does to them is its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from common import (
    Checks,
    Failed,
    Journal,
    Lab,
    Mail,
    Told,
    a_round,
    chapter,
    deliver,
    install,
    mails,
    peek,
    show,
    since,
    start,
    stop,
    subjects,
    told_in,
    until,
)

USER = "admin"
STRAGGLERS = 70.0  # seconds after which no round that began before a mail is under way any more
WELL_AGAIN = 200.0  # seconds within which a cluster is well again after a chapter
DELIVERED = 60.0  # seconds within which a test mail is in the mailbox


@dataclass(frozen=True)
class Watchers:
    """Nodes that watch a target; each mail that they send comes to one mailbox."""

    lab: Lab
    check: Checks
    nodes: Sequence[str]
    target: str
    mailbox: str

    @property
    def address(self) -> str:
        return f"{USER}@{self.mailbox}.lab"

    def set_up(self, tests: Sequence[str], settings: str = "", script: str = "") -> None:
        """Install dmonitor on all nodes, have them run `tests` of the target, and wait until all is well.

        `script` is run on each node, before its cron starts.
        """
        chapter(
            f"dmonitor is installed on {', '.join(self.nodes)}; {self.target} is the target, {self.mailbox} has the mailbox"
        )
        self.lab.run(self.mailbox, "useradd", "--create-home", USER)
        configure = f"""
            printf '%s\\ntroubles = root\\n' '{settings}' >/etc/dmonitor/dmonitor.conf
            cd /etc/dmonitor/hosts.d && mkdir {self.target}
            for test in {" ".join(tests)}; do touch {self.target}/$test; done
            touch ../alert.d/{self.address}
        """
        for node in self.nodes:  # a node that is half set up is not what this is about
            stop(self.lab, node, "cron")
        for node in self.nodes:
            install(self.lab, node)
            self.lab.run(node, "sh", "-e", "-c", configure + script)
        self.list_nodes(self.nodes)
        for node in self.nodes:
            start(self.lab, node, "cron")
        a_round(self.lab, self.nodes)
        self.healthy()
        self.mails_arrive()

    def mails_arrive(self) -> None:
        """Have each node send a test mail: a mail that does not come later was not sent."""
        at = time.time()
        for node in self.nodes:
            self.lab.run(node, "dmonitor-check", "--test-alert")
        until(lambda: len(self.inbox(at)) >= len(self.nodes), DELIVERED)
        came = subjects(self.inbox(at))
        self.check(len(came) == len(self.nodes), "the mailbox gets a mail of each node", *came)

    def list_nodes(self, nodes: Sequence[str]) -> None:
        """Write `nodes` into the nodes.txt of every node."""
        lines = "".join(f"{node}\n" for node in nodes).encode()
        for node in self.nodes:
            self.lab.run(node, "sh", "-c", "cat >/etc/dmonitor/nodes.txt", stdin=lines)
            self.lab.run(node, "sh", "-c", "kill -HUP $(cat /var/lib/dmonitor/dmonitord.pid)")

    # What the nodes know.

    def troubles(self) -> list[str]:
        """Return what is not well, for each node of which something is not."""
        found = []
        for node in self.nodes:
            known = peek(self.lab, node)
            if known["open"] or known["outbox"] or known["troubles"]:
                found.append(f"{node}: {known}")
        return found

    def healthy(self, limit: float = WELL_AGAIN) -> None:
        """Wait until no node holds an open incident, owes a mail, or is troubled."""
        until(lambda: not self.troubles(), limit)
        troubles = self.troubles()
        self.check(
            not troubles, "no node holds an open incident, owes a mail, or is troubled", *troubles
        )

    def evidence(self, began: float) -> None:
        """Show what the nodes logged, because something went wrong."""
        for node in self.nodes:
            try:
                events = Journal(self.lab, node, since(began)).events()
            except Failed as error:  # it is off, perhaps
                print(f"      {node}: {error}")
                continue
            telling = [event for event in events if event.name not in ("answer", "asked")]
            show([f"{node}'s journal:", *(str(event)[:300] for event in telling[-60:])])

    def no_traceback(self) -> None:
        for node in self.nodes:
            _, out, _ = self.lab.call("exec", node, "grep", "-c", "Traceback", "/var/log/syslog")
            self.check(
                out.strip() == b"0", f"{node}: no traceback in /var/log/syslog", out.decode()
            )

    # What came.

    def inbox(self, at: float) -> list[Mail]:
        """Return the mails that came since `at`."""
        every = mails(self.lab, self.mailbox, f"/home/{USER}")
        return [mail for mail in every if mail.came >= at]

    def told(self, at: float, test: str = "") -> list[Told]:
        """Return what the mailbox was told since `at`, of `test` or of all, in the order in which it came."""
        found: list[Told] = []
        for mail in self.inbox(at):
            found += [told for told in told_in(mail) if test in ("", told.test)]
        return found

    def wait_for(self, at: float, state: str, test: str, limit: float) -> Told:
        """Wait until the mailbox was told since `at` that `test` is in `state`, for `limit` seconds after `at`."""

        def found() -> list[Told]:
            return [told for told in self.told(at, test) if told.state == state]

        matching = until(found, at + limit - time.time())
        if not matching:
            self.evidence(at - 60)
            there = subjects(self.inbox(at))
            raise Failed("\n".join([f"no mail '{state} {test}' in {limit:g} s; there is:", *there]))
        first = matching[0]
        print(f"      after {first.came - at:.1f} s, from {first.sender}: {first}", flush=True)
        return first

    def expect(self, at: float, test: str, *states: str, wait: float = STRAGGLERS) -> None:
        """Wait for stragglers; then `test` was told since `at` to be in these states, in this order, and in no other."""
        time.sleep(wait)
        deliver(self.lab, self.running())
        told = self.told(at, test)
        self.check(
            [each.state for each in told] == list(states),
            f"{test} was told since: {', '.join(states) or 'nothing'}",
            *told,
        )

    def running(self) -> list[str]:
        """Return the nodes that are not switched off, those of target and mailbox among them."""
        every = [*self.nodes, self.target, self.mailbox]
        return [node for node in every if self.lab.call("exec", node, "true")[0] == 0]


def play_chapters(
    watchers: Watchers, chapters: Mapping[str, Callable[[], None]], chosen: Sequence[str]
) -> None:
    """Play the chapters that are `chosen`, or all; each ends with a healthy cluster."""
    for name in chosen or chapters:
        began = time.time()
        failed_before = watchers.check.failed
        try:
            chapters[name]()
        finally:
            print(f"-- {name}: {time.time() - began:.0f} s", flush=True)
        watchers.healthy()
        if watchers.check.failed > failed_before:
            watchers.evidence(began)
    watchers.no_traceback()
