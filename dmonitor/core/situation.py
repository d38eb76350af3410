"""What this node knows at a moment of its round: itself, its peers, the incidents, the silences.

Pure. Each greeting of the peers changes it. What follows from it is decided in `conclusions`,
`telling` and `self_check`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from dmonitor.base import names
from dmonitor.core import (
    ability,
    absence,
    behind,
    circles,
    digest,
    election,
    hearsay,
    quiet,
    round_log,
    verdict,
    wants,
)
from dmonitor.core.effects import (
    HARD_LIMIT,
    Effect,
    Memory,
    NodeMemory,
    Observation,
    RoundClock,
    RoundConfig,
    Save,
)
from dmonitor.core.incident import LISTED_SECONDS, correct_reminded, owed
from dmonitor.core.ledger import Ledger
from dmonitor.core.model import (
    Confirming,
    Contact,
    Hidden,
    Incident,
    Kind,
    Node,
    NodeStatus,
    Refusals,
    Statement,
    Test,
    TestState,
    Verdict,
    node_test,
)
from dmonitor.core.node_ids import SHARED
from dmonitor.core.round_log import Note
from dmonitor.core.silences import Silences

Steps = Generator[Effect, Any, None]  # a part of the round's script

_BEGINS_KEPT = 6  # rounds whose beginnings a node remembers, to measure its interval


class Situation:
    """All that the parts of a round share. `note` logs an event."""

    def __init__(self, config: RoundConfig, memory: Memory, clock: RoundClock, note: Note) -> None:
        self.config = config
        self.clock = clock
        self.note = note
        self.ledger = Ledger(
            memory.incidents,
            memory.recall,
            memory.node.slowest_interval(),
            memory.node.interval_that_holds(),
        )
        self.ledger.minute_of = clock.minute
        self.silences = Silences(config.silences, memory.silences, config.nodes)
        self.node_memory = memory.node._replace(
            speaks=bool(config.addresses),
            quorum=config.quorum,
            confirm=config.confirm,
            nodes=digest.digest_nodes(config.nodes),
            addresses=wants.digest_recipients(config.addresses, config.wants),
        )
        # Who is told of what.
        self.audience = wants.Audience(config.addresses, config.wants, config.outside_hours)
        # When the last round of this node began that tests: this one, unless it was woken. What it
        # has heard since then it has not asked the peers about.
        self.asked_at = max(memory.node.begins, default=float("-inf"))
        # Whether what this node stores is on disk for good.
        self.stores = config.stores
        # This node, and the tests that it runs; `recognise` knows better.
        self.me = Node(memory.node.name, "")
        self.tests = config.tests
        self.contacts: Sequence[Contact] = ()
        # What each peer states, by its node id.
        self.statements: Mapping[str, Statement] = {}
        # The line of nodes.txt at which each of them was greeted, by its node id.
        self._lines: Mapping[str, str] = {}
        # How many incidents this round has heard something new of.
        self._heard_count = 0
        # The tests that this round has concluded to be DOWN, with the time of that.
        self.down_now: dict[Test, float] = {}
        # Since when each node does not answer that no quorum can say is DOWN.
        self.unconfirmed_since: dict[Test, float] = {}
        for test, state in memory.test_states.items():
            self.note_unconfirmed(test, state)
        # The tests that are DOWN and have no incident yet, as of this node's last round.
        self.own_confirming = {confirming.test: confirming for confirming in memory.node.confirming}

    def begin(self) -> None:
        """Remember that a round has begun when cron started it, before it waited for its place."""
        self.asked_at = self.clock.now() - self.clock.elapsed()
        began = self.clock.now() - self.config.waited
        begins = (*self.node_memory.begins, began)[-_BEGINS_KEPT:]
        self.node_memory = self.node_memory._replace(begins=begins)
        for incident in self.ledger:
            for view in circles.views(incident):
                corrected = correct_reminded(view, self.config.remind, began)
                if corrected != view:
                    self.ledger.put(corrected)

    def has_slept(self) -> bool:
        """Return whether this round is over its limit, because the machine slept (R10).

        What it saw is of before the sleep, so nothing may be concluded or told any more.
        """
        return self.clock.elapsed() > HARD_LIMIT

    def open_incidents(self) -> dict[Test, Incident]:
        """Return the open incident of each test that has one."""
        found = {}
        for incident in self.ledger:
            if incident.is_open and not incident.flapping:
                found[incident.test] = incident
        return found

    @property
    def stated_quorums(self) -> dict[str, int]:
        """The quorum that each peer has stated last, by the peer's name."""
        return {name: quorum for name, quorum, _ in self.node_memory.stated_settings}

    def quorum(self) -> int:
        """Return the quorum that holds, by what the peers have stated last."""
        config = self.config
        return verdict.quorum_that_holds(config.quorum, self.stated_quorums, (), self.sites)

    @property
    def sites(self) -> int:
        """How many sites there are."""
        return len({node.site for node in self.config.nodes})

    def confirm(self, test: Test) -> int:
        """Return how many DOWN verdicts open an incident of `test`."""
        if test in self.config.confirmations:
            return self.config.confirmations[test]
        stated = [confirm for _, _, confirm in self.node_memory.stated_settings]
        return verdict.setting_that_holds(self.config.confirm, stated)

    def _remember_stated(self) -> None:
        """Remember what each peer in nodes.txt states by which the numbers of all are chosen.

        Its settings hold although it is silent now (R3), and so does what the turns of all are
        measured by (R5).
        """
        listed = {node.name for node in self.config.nodes}
        memory = self.node_memory
        settings = {}
        for name, quorum, confirm in memory.stated_settings:
            if name in listed:
                settings[name] = (quorum, confirm)
        intervals = {name: each for name, each in memory.stated_intervals if name in listed}
        refusals = tuple(each for each in memory.refusals if each.node in listed)
        self.node_memory = memory._replace(refusals=refusals)
        for contact in self.contacts:
            if contact.statement is None or self._is_own_line(contact):
                continue
            name = contact.node.name
            status = contact.statement.status
            settings[name] = (status.quorum, status.confirm)
            intervals[name] = status.interval
            self.note_refusals(name, contact.node_id, status.refused)
        self.node_memory = self.node_memory._replace(
            stated_settings=tuple((name, *numbers) for name, numbers in sorted(settings.items())),
            stated_intervals=tuple(each for each in sorted(intervals.items()) if each[1] > 1),
        )

    def note_refusals(self, name: str, node_id: str, refused: int) -> None:
        """Remember how many hand-overs were refused at a node, and since when that is so (R5)."""
        noted = {each.node: each for each in self.node_memory.refusals}
        before = noted.pop(name, None)
        if refused:
            since = self.clock.now()
            if before and before.refused == refused:
                since = before.since
            noted[name] = Refusals(name, node_id, refused, since)
        refusals = tuple(each for _, each in sorted(noted.items()))
        self.node_memory = self.node_memory._replace(refusals=refusals)

    def heard_confirming(self, test: Test) -> Confirming | None:
        """Return the longest row of DOWN verdicts of `test` that a peer has stated lately.

        The last round of a slow peer may have been long ago: its row does not go on.
        """
        longest = None
        recent = election.living_limit(self.status())
        for statement in self.living_peers(test):
            if statement.status.at - statement.status.finished > recent:
                continue
            for confirming in statement.confirming:
                if confirming.test != test:
                    continue
                if longest is None or confirming.downs > longest.downs:
                    earliest = self.clock.now() - confirming.downs * recent
                    longest = confirming._replace(since=max(confirming.since, earliest))
        return longest

    def names_at_work(self) -> set[str]:
        """Return the names of the peers whose checkers are at work."""
        at_work = set()
        for node_id, statement in self.statements.items():
            if election.is_at_work(statement.status):
                at_work.add(self._lines[node_id])
        return at_work

    def living_peers(self, test: Test) -> list[Statement]:
        """Return what the peers state that have `test` and whose checkers are at work."""
        living = []
        for statement in self._peers_at_work():
            if statement.tests is None or test.host == names.NODE or test in statement.tests:
                living.append(statement)
        return living

    def _peers_at_work(self) -> list[Statement]:
        statements = self.statements.values()
        return [statement for statement in statements if election.is_at_work(statement.status)]

    def recognise(self, observation: Observation) -> None:
        """Learn which node this is. No node has the test of itself."""
        self.me = observation.me
        self.node_memory = self.node_memory._replace(name=observation.me.name)
        own_tests = set()
        for contact in observation.contacts:
            if self._is_own_line(contact):
                own_tests.add(node_test(contact.node.name))
        self.tests = self.config.tests - own_tests

    def _is_own_line(self, contact: Contact) -> bool:
        """Return whether this node itself answers at this line of nodes.txt."""
        return contact.node_id == self.config.node_id and not contact.cloned

    def hear(self, contacts: Sequence[Contact]) -> None:
        """Take in what the peers state: their silences and their incidents.

        Closed incidents come first. An id that one peer has closed must not be taken for open
        because another peer has not heard that yet.
        """
        now = self.clock.now()
        self.contacts = contacts
        self.statements = {
            contact.node_id: contact.statement for contact in contacts if contact.statement
        }
        self._lines = _lines(contacts)
        round_log.note_silences(self.note, self.silences.hear(contacts))
        self._remember_stated()
        self.ledger.machines = self._machines()
        stated = self._stated_incidents(now)
        news: dict[str, set[str]] = {}  # by the id of an incident, the peers that stated some
        for incident, peer in stated:
            if self.ledger.meet(incident, now, peer):
                for incident_id in incident.ids:
                    news.setdefault(incident_id, set()).add(peer)
        self._heard_count += round_log.note_heard(
            self.note, self.ledger.changed.values(), news, before=self._heard_count
        )
        self.acknowledge()

    def _stated_incidents(self, now: float) -> list[tuple[Incident, str]]:
        """Return the incidents that the peers state, each with the peer's name, the closed first.

        What cannot be true of them is left out.
        """
        peers = {contact.node.name for contact in self.contacts if not self._is_own_line(contact)}
        bounds = hearsay.Bounds(
            self.config.nodes,
            peers,
            minute=self.clock.minute(now),
            quorum=self.quorum(),
            now=now,
            remind=self.config.remind,
            circles=self.audience.after,
        )
        stated = []
        for contact in self.contacts:
            if contact.statement is None:
                continue
            peer = contact.node.name
            for incident in contact.statement.incidents:
                if incident.test in self.tests:
                    stated.append((hearsay.cut(incident, peer, bounds), peer))
        stated.sort(key=lambda pair: pair[0].is_open)
        return stated

    def _machines(self) -> dict[str, str]:
        """Return which machine each line of nodes.txt is, by its node id as far as it is known.

        Lines that have been one machine are taken for one, also while some of them are silent.
        """
        machines = dict(self.node_memory.known_ids)
        for contact in self.contacts:
            if contact.node_id and machines.get(contact.node.name) != SHARED:
                machines[contact.node.name] = contact.node_id
        return machines

    def is_quiet(self, view: Incident) -> bool:
        """Return whether those who are told `view` may not be mailed about it now.

        It is silenced, their hours have not begun, or its test is DOWN again and they are not told
        of that yet.
        """
        if view.circle:
            if self.audience.is_outside_hours(view.circle) or self._is_down_again(view):
                return True
        return self.is_silenced(view)

    def _is_down_again(self, view: Incident) -> bool:
        """Return whether `view` is over, and its test DOWN, of which its circle is not to be told.

        A late mail says STILL DOWN then (R6), and after it nobody would tell the circle of the end.
        """
        following = self.ledger.open_for(view.test)
        if view.closed is None or view.flapping or following is None:
            return False
        return circles.view_for(following, view.circle).circle != view.circle

    def widen(self) -> None:
        """Note of which incidents a circle is to be told from now on (R5).

        Its hours have begun, and an incident that has lasted for so long is open. What somebody is
        on already needs no more people. Peers hear it with the incident, so that they tell it if
        this node cannot. What is over before that is never told to the circle.
        """
        now = self.clock.now()
        for name, after in self.audience.after.items():
            if self.audience.is_outside_hours(name):
                continue
            for incident in list(self.ledger):
                if self._is_due_for(incident, name, after, now) and not self.is_silenced(incident):
                    self.ledger.put(circles.widen(incident, name, now))

    def _is_due_for(self, incident: Incident, name: str, after: float, now: float) -> bool:
        """Return whether a circle that is told `after` so many seconds is to hear of `incident`."""
        if not incident.is_open or incident.test not in self.tests:
            return False
        if any(circle.name == name for circle in incident.circles):
            return False
        if now - incident.began < after or (after and incident.acknowledged is not None):
            return False
        return bool(self.audience.recipients(incident.test, name))

    def settle_unwanted(self) -> None:
        """Owe nothing any more of what is over, and what no address here wants to hear (R4).

        That takes an hour: another node may have an address that does.
        """
        if not self.config.complete:
            return
        now = self.clock.now()
        for incident in list(self.ledger):
            if incident.closed is None or now - incident.closed < LISTED_SECONDS:
                continue
            for view in circles.views(incident):
                if owed(view) and not self.audience.is_told(view):
                    settled = view._replace(void=True)
                    if view.alert:
                        settled = view._replace(recovery=self.me.name)
                    self.ledger.put(settled)
                    self.note("info", "incident-unwanted", test=str(view.test), incident=view.id)

    def is_silenced(self, incident: Incident) -> bool:
        """Return whether nobody may be mailed about `incident` now (R9).

        An operator has silenced its test, or the test flaps and only the flapping is told, or what
        stands before it is DOWN. That a test flaps is not believed of one peer.
        """
        return quiet.is_quiet(
            incident,
            self.ledger,
            self.silences.cover,
            self.config.behind,
            now=self.clock.now(),
            slowest=self.node_memory.interval_that_holds(),
        )

    def hidden_behind(self, told: set[Test]) -> dict[Test, Hidden]:
        """Return for each test that is `told` which tests failed behind it, and are not told."""
        now, slowest = self.clock.now(), self.node_memory.interval_that_holds()
        return behind.hidden_behind(self.config.behind, told, self.ledger, now=now, slowest=slowest)

    def acknowledge(self) -> None:
        """Note which incidents an operator of this node has acknowledged (R9).

        An incident keeps that, so peers hear of it with the incident.
        """
        if not self.config.acknowledgements:
            return
        for incident in list(self.ledger):
            covering = [each for each in self.config.acknowledgements if each.covers(incident)]
            if incident.acknowledged is not None or not covering:
                continue
            first = covering[0]
            self.ledger.put(
                incident._replace(acknowledged=first.written, acknowledgement=first.text)
            )
            self.note(
                "info",
                "incident-acknowledged",
                test=str(incident.test),
                incident=incident.id,
                text=first.text or None,
            )

    def store(self, save: Save) -> Steps:
        """Store `save`, and with it the incidents and the silences that have changed.

        Nothing is stored if there is nothing to store.
        """
        self._suppress_closed_in_silence()
        changed = tuple(self.ledger.changed.values())
        self.ledger.changed = {}
        save = save._replace(incidents=changed, silences=self.silences.take_changes())
        if any(save):
            self.stores = yield save

    def _suppress_closed_in_silence(self) -> None:
        """Suppress each incident that closes in silence before its alert is told (R9)."""
        for incident in list(self.ledger.changed.values()):
            for view in circles.views(incident):
                if view.closed is None or view.void or Kind.ALERT not in owed(view):
                    continue
                if not self.is_silenced(view):
                    continue
                self.ledger.put(view._replace(void=True))
                peers = self.silences.peers_covering(incident.test, self.clock.now())
                self.note(
                    "info",
                    "incident-suppressed",
                    test=str(incident.test),
                    incident=incident.id,
                    peers=",".join(peers) or None,
                )

    # Who speaks (R5).

    def status(self) -> NodeStatus:
        """Return what this node states of itself now."""
        return self.node_memory.status(
            self.me.name,
            self.config.node_id,
            self.clock.now(),
            tests=self.config.tests_digest,
            stores=self.stores,
        )

    def candidates(self) -> list[election.Candidate]:
        """Return the peers that may speak."""
        down = {test.name for test in self.down_now if test.host == names.NODE}
        unheard = {contact.node.name for contact in self.contacts if not contact.statement}
        return election.candidates(
            self.status(), self.statements.values(), down, unheard, self._lines
        )

    def note_unconfirmed(self, test: Test, state: TestState) -> None:
        """Note since when a node is UNCONFIRMED, if that is what `test` is."""
        self.unconfirmed_since.pop(test, None)
        if test.host == names.NODE and state.verdict is Verdict.UNCONFIRMED:
            self.unconfirmed_since[test] = state.since

    def down_since(self) -> float:
        """Return when a node was last found DOWN that still is; -inf if none is.

        If too many have died at once, no quorum says so of any: then UNCONFIRMED counts.
        """
        since = self.unconfirmed_since | self.down_now
        for incident in self.ledger:
            if incident.is_open and incident.is_fact and not incident.flapping:
                since[incident.test] = incident.began
        found = [at for test, at in since.items() if test.host == names.NODE]
        return max(found, default=float("-inf"))

    def is_first(self) -> bool:
        """Return whether this node speaks for what every node has."""
        status = self.status()
        return election.choose(status, self.candidates(), self.clock.now()).speaker == status

    def holds_untold(self) -> bool:
        """Return whether this node knows of an incident that owes a notification now.

        What no address wants is not owed.
        """
        for incident in self.ledger:
            if incident.test not in self.tests:
                continue
            for view in circles.views(incident):
                if owed(view) and self.audience.is_told(view) and not self.is_quiet(view):
                    return True
        return False

    def is_able(self) -> bool:
        """Return whether this node can alert, as far as this round has found (R7)."""
        config = self.config
        return self.stores and not ability.lacking(
            self.me.name,
            config.nodes,
            {contact.node.name for contact in self.contacts if contact.statement},
            quorum=config.quorum,
            addresses=config.addresses,
            whole=config.complete,
            refused=self.node_memory.refused,
        )

    # What the next round is to know.

    def place(self) -> float:
        """Return how many seconds after cron's start this node's next round begins (R10).

        The living nodes begin one after the other, in the order of nodes.txt.
        """
        by_name = dict.fromkeys(self.own_node_names(), self.config.node_id)
        for contact in self.contacts:
            if contact.statement and election.is_at_work(contact.statement.status):
                by_name[contact.node.name] = contact.node_id
        in_order = [by_name[node.name] for node in self.config.nodes if node.name in by_name]
        living = list(dict.fromkeys(in_order))  # a node may have several lines
        if self.config.node_id not in living:
            return 0.0
        return round(60.0 * living.index(self.config.node_id) / len(living), 1)

    def finish(self) -> NodeMemory:
        """Return this node's memory at the end of its round."""
        heard = []
        for node_id, statement in self.statements.items():
            name = self._lines[node_id]
            heard.append(
                statement.status._replace(name=name, version="", wall=0.0, up=float("inf"))
            )
        return absence.remember(self.node_memory, self.asked_at)._replace(
            finished=self.clock.now(),
            heard=tuple(heard),
            reach=self._reach(),
            own_node_names=self.own_node_names(),
        )

    def _reach(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return each peer that was greeted, with the nodes that this peer had greeted.

        The names are those in nodes.txt here.
        """
        greeted = [contact for contact in self.contacts if contact.statement]
        names = {contact.node_id: contact.node.name for contact in greeted}
        names[self.config.node_id] = self.me.name
        reach = []
        for contact in greeted:
            if contact.node_id == self.config.node_id or not contact.statement:
                continue
            heard = contact.statement.heard
            reached = tuple(names.get(status.node_id, status.name) for status in heard)
            reach.append((contact.node.name, reached))
        return tuple(reach)

    def own_node_names(self) -> tuple[str, ...]:
        """Return the names in nodes.txt that are this node itself, or at which it answers."""
        own = {self.me.name, *self.config.own_names}
        for contact in self.contacts:
            if self._is_own_line(contact):
                own.add(contact.node.name)
        return tuple(node.name for node in self.config.nodes if node.name in own)


def _lines(contacts: Sequence[Contact]) -> dict[str, str]:
    """Return the line of nodes.txt at which each peer was greeted, by its node id.

    Of several lines that are one peer it is the one whose name the peer states, or else the last.
    A peer may state any name, so what it calls itself is nothing to know it by.
    """
    lines: dict[str, str] = {}
    for contact in contacts:
        if contact.statement and lines.get(contact.node_id) != contact.statement.status.name:
            lines[contact.node_id] = contact.node.name
    return lines
