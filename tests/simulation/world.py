"""A virtual world for the real decision code (rules R2 to R7, R9).

It has nodes, crons, a network, targets, MTAs, crashes, and one clock. Everything that happens is an
event at a virtual time, so that nodes interleave at every message, every write and every sendmail.
The rounds are `dmonitor.core.round.run_round`; `virtual_round` carries out their effects. All chance
comes from one seed: the same seed gives the same trace.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dmonitor.core import effects, result
from dmonitor.core.incident import surely_open
from dmonitor.core.model import (
    Contact,
    Incident,
    Node,
    NodeStatus,
    Outcome,
    Result,
    Rhythm,
    Statement,
    Test,
)
from dmonitor.core.wants import Wants

from .node import Disk, Flight, SimNode, Visit, shift_memory, shift_statement, shift_status
from .process import Check
from .virtual_round import GREETING_LIMIT, Mail

PLUGIN_LIMIT = 10.0  # seconds
RESULT_CACHE_SECONDS = 5.0  # for which a daemon gives out a result again
SLOW_LOOK = 4.0  # seconds from the beginning of a look to the next one beside it
SECOND_LOOK_PAUSE = 2.0  # seconds from the end of a failing look to the second one
CHECKER_SECONDS = 180.0  # after which a daemon does not go by what its checker has stored
VISITED_UNTIL = 15.0  # seconds of a daemon's visit after which it does not greet again
FAILING = (Outcome.FAIL, Outcome.TIMEOUT)

Reply = Callable[[float, Any], None]  # called with the seconds until the reply, and the reply


class Look(NamedTuple):
    """One run of a plugin for a test that has a rhythm, as the tested server counts it."""

    at: float
    looker: str  # the node's round or its daemon
    node: str
    test: Test
    fails: bool


class Timeline:
    """The events, the virtual clock, and the trace."""

    def __init__(self) -> None:
        self.now = 0.0
        self.trace: list[str] = []
        self.tracing = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()  # events of one time happen in the order of planning

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have `event` happen at a time."""
        heapq.heappush(self._events, (when, next(self._count), event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Have `event` happen in some seconds."""
        self.at(self.now + seconds, event)

    def run(self, until: float) -> None:
        """Let everything happen that happens until then."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def note(self, node: str, *words: object) -> None:
        """Add a line to the trace."""
        if self.tracing:
            self.trace.append(f"{self.now:9.3f} {node:6} " + " ".join(map(str, words)))


class World(Timeline):
    """The nodes and all that is between them."""

    # What mutations switch off.
    second_look = True  # whether rounds look again at what fails
    daemons_look_again = True  # whether daemons do, too
    clocks_count_sleep = True  # whether `elapsed` counts the time for which a round sleeps

    def __init__(self, seed: int, plan: random.Random | None = None) -> None:
        """Begin with no node. `plan` is the chance by which a history is set up.

        hypothesis passes a plan that it can shrink.
        """
        super().__init__()
        self.chance = random.Random(seed)  # what happens while it runs
        self.plan = plan or random.Random(f"plan {seed}")
        self.nodes: list[SimNode] = []
        self.aliases: dict[str, str] = {}  # a second line of nodes.txt, and whose it is
        # Whether a test fails at a time, seen from a node.
        self.fails: Callable[[float, Test, SimNode], bool] = lambda at, test, node: False
        self.slow = 0.0  # chance that a failing plugin hangs until its limit
        # The seconds that a node's MTA takes for an address, and whether it takes the mail.
        self.mta: Callable[[SimNode, str], tuple[float, bool]] = lambda node, address: (0.1, True)
        # The seconds from when it has the mail until its sendmail ends.
        self.mta_lag: Callable[[SimNode, str], float] = lambda node, address: 0.01
        self.slowest_mta = 0.0  # seconds
        self.cut: set[tuple[str, str]] = set()  # who cannot connect to whom
        self.loss = 0.0  # chance that an exchange is lost
        self.wake_loss = 0.0  # chance that a wake is lost, if that is more
        # The same for the exchanges that one node begins with another one, if it is not `loss`.
        self.link_loss: dict[tuple[str, str], float] = {}
        # The chance that a look at a test fails although it would pass.
        self.noise: dict[Test, float] = {}
        # The names of the nodes whose plugins cannot tell how anything is.
        self.unable: set[str] = set()
        # Whether a node's MTA refuses what is for an address.
        self.refuses: Callable[[SimNode, str], bool] = lambda node, address: False
        self.delay = 0.01  # seconds that a message takes at most
        self.kill_at_save = 0.0  # chance that a round is killed just before or after a write
        self.settings: dict[str, Any] = {"flapping": False}
        self.quorum = 2
        self.confirm = 1
        # What addresses want, and whether the hours of those hold that have some.
        self.wants: dict[str, Wants] = {}
        self.hours: dict[str, Callable[[float], bool]] = {}
        self.behind: dict[Test, tuple[Test, ...]] = {}  # the tests that each test stands behind
        self.confirmations: dict[Test, int] = {}  # of the tests that have their own
        self.rhythms: dict[Test, Rhythm] = {}  # of the tests with EVERY
        # When rounds begin: "spread" as rounds before have left it; "fresh", spread from the second
        # round on; "in step" with their crons, because an operator has configured that.
        self.places = "spread"

        # What a history is about, if it is about one node.
        self.many = False  # whether there are more nodes than usual
        self.topology = ""
        self.lost: SimNode
        self.gone = (0.0, 0.0)  # from when to when that node is gone

        # What has happened.
        self.faults = 0  # crashes, link changes, lost exchanges: c of promise 3
        self.mails: list[Mail] = []
        self.looks: list[Look] = []  # at the tests with EVERY
        # Called with each mail that an MTA takes.
        self.mailed: list[Callable[[Mail], None]] = []
        # Called with each node that a wake reaches.
        self.rung: list[Callable[[SimNode], None]] = []
        # The tests that an operator silences: not all is told of them.
        self.unowed: set[Test] = set()
        # Until when tests are silenced, and when one is acknowledged, in `quiet`.
        self.quiet_until = 0.0
        self.acknowledged = 0.0
        # Until when all mail systems refuse, in `hooked`; 0: one of them does not.
        self.refused_until = 0.0
        # The addresses that an operator removes from some nodes: those do not mail them.
        self.removed_addresses: set[str] = set()
        # When each site last saw a test fail: by two failing looks in a row, or two failed greetings.
        self.seen_failing: dict[Test, dict[str, float]] = {}
        # Since when all looks of a node's round or daemon at a test have failed.
        self._failing_since: dict[tuple[str, str, Test], float] = {}
        self.complaints: list[tuple[float, str, str]] = []  # when, of which node, the text
        self.opened: list[tuple[float, str, Incident]] = []
        self.united: dict[str, str] = {}  # ids that are one incident
        self.max_elapsed = 0.0
        self._ids = itertools.count()
        self.numbers = itertools.count()  # of processes that stay
        self._stripped: dict[int, tuple[Incident, Incident]] = {}

    # Setting up.

    def begin(self) -> None:
        """Start the crons. All nodes remember rounds in which they greeted each other.

        A round that cron has started before the world's 0 may be waiting for its place.
        """
        self._choose_places()
        for node in self.nodes:
            step = node.interval * 60.0 / node.rate
            first = self.plan.uniform(0.0, step) if node.phase < 0 else node.phase
            place = node.disk.place / node.rate
            if first - step + place > -3.0:
                first -= step
            begins = tuple(first - step * back for back in range(5, 0, -1))
            node.disk.node_memory = effects.NodeMemory(
                begins,
                begins[-1] + place + 2.0,
                speaks=bool(node.addresses),
                quorum=node.quorum or self.quorum,
                confirm=node.confirm or self.confirm,
            )
            node.next_cron = first
            self.at(first, self._cron(node, first))
        for node in self.nodes:
            node_memory = node.disk.node_memory
            heard = []
            for peer in self.nodes:
                if peer is not node and (node.name, peer.name) not in self.cut:
                    heard.append(self.status(peer)._replace(at=node_memory.finished))
            node_memory = node_memory._replace(heard=tuple(heard))
            node.disk.node_memory = shift_memory(node_memory, node.offset)

    def _choose_places(self) -> None:
        """Let the nodes begin one after the other, as rounds before have left it, or in step."""
        for number, node in enumerate(self.nodes):
            if self.places == "in step":
                node.fixed_place = 0.0
            if self.places == "spread" and not node.is_old:
                node.disk.place = round(60.0 * number / len(self.nodes), 1)
            if node.fixed_place is not None:
                node.disk.place = node.fixed_place

    def _cron(self, node: SimNode, planned: float) -> Callable[[], None]:
        def tick() -> None:
            following = planned + node.interval * 60.0 / node.rate
            node.next_cron = following
            self.at(following, self._cron(node, following))
            if node.is_asleep(self.now):
                return
            if node.up and node.cron and not node.lie:
                check = Check(self, node)
                self.after(self.chance.uniform(0.0, node.jitter), check.begin)

        return tick

    # What may happen to nodes and links.

    def kill_round(self, node: SimNode) -> None:
        """Kill the round that runs, as kill -9 does; the daemon goes on."""
        if node.running:
            self.faults += 1
            self.note(node.name, "round killed")
            node.epoch += 1
            node.running = False
            if node.round:
                node.round.ended(None)

    def kill_waiting(self, node: SimNode) -> None:
        """Kill each process of a node that waits, for its place or to be woken."""
        self.faults += 1
        self.note(node.name, "waiting processes killed")
        for process in (*node.waiting, *node.stays):
            process.kill()

    def power_cut(self, node: SimNode, seconds: float) -> None:
        """Switch a node off, and on again after `seconds`."""
        self.faults += 1
        self.note(node.name, "power cut")
        node.epoch += 1
        node.up, node.running = False, False
        node.asleep_until = node.stopped_until = float("-inf")
        node.boots += 1
        node.waiting.clear()
        node.stays.clear()
        node.handed.clear()
        self._end_daemon(node)
        self.after(seconds, lambda: self._boot(node))

    def _end_daemon(self, node: SimNode) -> None:
        """Forget what only the daemon of `node` knew."""
        node.flights.clear()
        node.visits.clear()
        node.is_rung = False

    def restart_daemon(self, node: SimNode, seconds: float) -> None:
        """Let the daemon of `node` be gone for a while."""
        self.faults += 1
        self.note(node.name, f"daemon gone for {seconds:.0f} s")
        self._end_daemon(node)
        node.daemon = False
        self.after(seconds, lambda: setattr(node, "daemon", True))

    def suspend(self, node: SimNode, seconds: float) -> None:
        """Suspend a machine: nothing happens on it, and nothing reaches it."""
        self.faults += 1
        self.note(node.name, f"suspended for {seconds:.0f} s")
        node.asleep_until = self.now + seconds
        node.slept += seconds
        node.suspended += seconds

    def stop_round(self, node: SimNode, seconds: float) -> None:
        """Stop the round that runs for a while; the daemon goes on."""
        if node.running:
            self.faults += 1
            self.note(node.name, f"round stopped for {seconds:.0f} s")
            node.stopped_until = self.now + seconds
            node.slept += seconds

    def restore(self, node: SimNode, disk: Disk, seconds: float) -> None:
        """Switch a node off, and on again with an older disk."""
        self.power_cut(node, seconds)
        self.note(node.name, "gets an older disk")
        node.disk = disk

    def _boot(self, node: SimNode) -> None:
        self.note(node.name, "boots")
        node.up = True
        node.booted = self.now

    def link(self, source: str, to: str, up: bool) -> None:
        """Let one node connect to another, or no more."""
        if up != ((source, to) in self.cut):
            return
        self.faults += 1
        self.note(source, "link to", to, "up" if up else "cut")
        if up:
            self.cut.discard((source, to))
        else:
            self.cut.add((source, to))

    # The network.

    def exchange(
        self,
        source: SimNode,
        to: SimNode,
        serve: Callable[[Reply], None],
        got: Callable[[Any], None],
        limit: float,
    ) -> None:
        """Have `source`, its round or its daemon, ask `to`.

        `serve` is called at `to` and says what it replies, after how many seconds. `got` is called
        with the reply, or with None after `limit` seconds without one.
        """
        is_done = False
        boots = source.boots  # a daemon goes on if a round is killed; a round looks for itself
        deadline = self.now + limit

        def once(value: Any) -> None:
            nonlocal is_done
            if is_done or source.boots != boots:
                return
            if source.is_asleep(self.now):  # what came meanwhile is too late when it goes on
                self.at(source.asleep_until, lambda: once(value))
                return
            is_done = True
            if self.now > deadline and self.clocks_count_sleep:
                value = None
            got(value)

        self.after(limit, lambda: once(None))
        loss = self.link_loss.get((source.name, to.name), self.loss)
        if loss and self.chance.random() < loss:
            self.faults += 1
            self.note(source.name, "lost exchange with", to.name)
            return
        if (source.name, to.name) in self.cut:
            return

        def arrive() -> None:
            if not to.up or to.is_asleep(self.now):
                return
            if not to.daemon or source.name in to.unlisted:  # refused
                self.after(self.chance.uniform(0.0, self.delay), lambda: once(None))
                return
            boots_there = to.boots

            def send(value: Any) -> None:
                if to.is_asleep(self.now):
                    self.at(to.asleep_until, lambda: send(value))
                    return
                is_cut = (source.name, to.name) in self.cut
                if not to.up or not to.daemon or to.boots != boots_there or is_cut:
                    return
                # A value is read when it leaves, not when the question came.
                reply = value() if callable(value) else value
                self.after(self.chance.uniform(0.0, self.delay), lambda: once(reply))

            serve(lambda seconds, value: self.after(seconds, lambda: send(value)))

        self.after(self.chance.uniform(0.0, self.delay), arrive)

    def wake(self, source: SimNode, to: SimNode) -> None:
        """Have `source` wake `to`; nobody hears whether that has come."""
        loss = self.link_loss.get((source.name, to.name), self.loss)
        loss = max(loss, self.wake_loss)
        if loss and self.chance.random() < loss:
            self.note(source.name, "lost wake of", to.name)
            return

        def arrive() -> None:
            is_cut = (source.name, to.name) in self.cut or source.name in to.unlisted
            if is_cut or not to.up or not to.daemon or to.is_asleep(self.now) or to.is_old:
                return
            self.note(to.name, "woken by", source.name)
            to.is_rung = True
            for rung in tuple(self.rung):
                rung(to)
            for stay in list(to.stays):
                stay.ring()

        self.after(self.chance.uniform(0.0, self.delay), arrive)

    # The daemons and the plugins.

    def status(self, node: SimNode) -> NodeStatus:
        """Return what `node` states of itself."""
        now = node.clock(self.now)
        up = now - node.clock(node.booted)
        status = node.disk.node_memory.status(node.name, node.node_id, now, up=up)
        status = status._replace(wakes=not node.is_old)
        return node.lie.status(status) if node.lie else status

    def statement(
        self, node: SimNode, wanted: Sequence[tuple[str, ...]], source: SimNode
    ) -> Statement:
        """Return what the daemon of `node` states to `source`, with times on the clock of `source`.

        It also states what it knows of the incidents whose ids are `wanted`.
        """
        now, disk = node.clock(self.now), node.disk
        statement = effects.statement_of(
            disk.node_memory,
            disk.listed_incidents(now),
            node.silences_at(self.now),
            self.status(node),
            now,
        )
        listed: set[str] = set()
        for incident in statement.incidents:
            listed.update(incident.ids)
        stated = list(statement.incidents)
        for ids in wanted:
            if listed.isdisjoint(ids):
                stated += [incident for incident in disk.recall(ids) if not incident.removed]
        tests = None if node.tests == source.tests else node.tests
        statement = statement._replace(incidents=tuple(map(self._strip, stated)), tests=tests)
        if node.lie:
            statement = node.lie.statement(self, node, statement)
        return shift_statement(statement, source.clock(self.now) - now)

    def _strip(self, incident: Incident) -> Incident:
        """Return what travels of an incident: not the judgement that closed it."""
        if incident.closing is None:
            return incident
        if self._stripped.get(id(incident), (None,))[0] is not incident:
            self._stripped[id(incident)] = incident, incident._replace(closing=None)
        return self._stripped[id(incident)][1]

    def plugin(self, node: SimNode, test: Test, looker: str) -> tuple[float, Outcome]:
        """Run a test on a node; return the seconds that it takes, and its outcome.

        `looker` is who looks: the node's round or its daemon.
        """
        if node.name in self.unable:
            return self.chance.uniform(0.05, 1.5), Outcome.UNKNOWN
        fails = self.fails(self.now, test, node)
        noise = self.noise.get(test)
        if noise and not fails:
            fails = self.chance.random() < noise
        self.note_look(looker, node, test, fails=fails)
        if test in self.rhythms:
            self.looks.append(Look(self.now, looker, node.name, test, fails))
        if not fails:
            return self.chance.uniform(0.05, 1.5), Outcome.OK
        if self.chance.random() < self.slow:
            return PLUGIN_LIMIT, Outcome.TIMEOUT
        return self.chance.uniform(0.05, 2.0), Outcome.FAIL

    def note_look(self, looker: str, node: SimNode, test: Test, *, fails: bool) -> None:
        """Note a look at a test, or a greeting of the peer that it is, for judges that count them."""
        key = looker, node.name, test
        if not fails:
            self._failing_since.pop(key, None)
            return
        since = self._failing_since.setdefault(key, self.now)
        if self.now - since >= SECOND_LOOK_PAUSE:
            self.seen_failing.setdefault(test, {})[node.site] = self.now

    def answer(self, node: SimNode, test: Test, reply: Reply) -> None:
        """Have the daemon of `node` reply how a test is.

        Its looks serve all who ask meanwhile, and for RESULT_CACHE_SECONDS after the last one.
        """
        if node.lie:
            if node.lie.answer:
                reply(0.1, Result(node.lie.answer))
            return
        if test.host == "node":
            self._visit(node, test, reply)
            return
        if test not in node.tests:
            reply(0.0, Result(Outcome.UNKNOWN))
            return

        def tell(outcome: Outcome) -> None:
            reply(0.0, Result(outcome))

        flight = node.flights.get(test)
        if flight is not None and flight.ends is None:
            flight.waiting.append(tell)
        elif flight is not None and flight.ends and self.now <= flight.ends + RESULT_CACHE_SECONDS:
            tell(flight.outcome)
        else:
            node.flights[test] = Flight(waiting=[tell])
            self._look(node, test, node.flights[test])

    def _look(self, node: SimNode, test: Test, flight: Flight) -> None:
        """Let a daemon look at a test; again after a pause if it fails, beside that if it is slow."""
        under_way = 0
        failed = 0

        def look(*, is_first: bool) -> None:
            nonlocal under_way
            if node.flights.get(test) is not flight or flight.ends is not None:
                return  # the node has lost its power, or the first look has passed
            under_way += 1
            seconds, outcome = self.plugin(node, test, "daemon")
            is_slow = seconds > SLOW_LOOK and test not in node.disk.node_memory.slow
            if is_first and is_slow and self._looks_again(node, test):
                self.after(SLOW_LOOK, lambda: look(is_first=False))
            self.after(seconds, lambda: looked(outcome))

        def looked(outcome: Outcome) -> None:
            nonlocal under_way, failed
            if node.is_asleep(self.now):
                self.at(node.asleep_until, lambda: looked(outcome))
                return
            if flight.ends is not None:
                return  # the other look has passed
            under_way -= 1
            failed += outcome in FAILING
            if outcome in FAILING and under_way:
                return  # the other look has not ended
            if outcome in FAILING and failed == 1 and self._looks_again(node, test):
                self.after(SECOND_LOOK_PAUSE, lambda: look(is_first=False))
                return
            flight.ends, flight.outcome = self.now, outcome
            for waiting in flight.waiting:
                waiting(outcome)

        look(is_first=True)

    def _looks_again(self, node: SimNode, test: Test) -> bool:
        """Return whether a daemon looks again: its checker has said lately that it is not open."""
        if not self.daemons_look_again:
            return False
        disk = node.disk
        if node.clock(self.now) - disk.node_memory.finished > CHECKER_SECONDS:
            return True
        return test not in surely_open(disk.incidents.values())

    def _visit(self, node: SimNode, test: Test, reply: Reply) -> None:
        """Have the daemon of `node` greet the peer that `test` is, and reply how that is."""
        line = test.name
        peer = self._node_at(line)
        if peer is None or peer is node or line in node.unlisted:
            reply(0.0, Result(Outcome.UNKNOWN))
            return

        def tell(outcome: Outcome) -> None:
            reply(0.0, Result(outcome))

        last = node.visits.get(test)
        if last and last.outcome is None:
            last.waiting.append(tell)
            return
        if last and last.outcome is not None and self.now - last.at <= RESULT_CACHE_SECONDS:
            tell(last.outcome)
            return
        visit = node.visits[test] = Visit(self.now, [tell])

        began = self.now

        def got(status: NodeStatus | None) -> None:
            statement = None
            if status:
                seconds = node.clock(self.now) - peer.clock(self.now)
                statement = Statement(shift_status(status, seconds))
            self.note_look("daemon", node, test, fails=statement is None)
            may_go_on = self._looks_again(node, test) and self.now - began < VISITED_UNTIL
            if statement is None and may_go_on:
                self.after(SECOND_LOOK_PAUSE, greet)
                return
            contact = Contact(Node(line, line), peer.node_id, "", statement)
            visit.at = self.now
            visit.outcome = result.of_contact(contact, node.node_id).outcome
            for waiting in visit.waiting:
                waiting(visit.outcome)

        def serve(reply: Reply) -> None:
            reply(0.001, lambda: self.status(peer))

        def greet() -> None:
            if node.visits.get(test) is visit:  # the node has not lost its power
                self.exchange(node, peer, serve, got, GREETING_LIMIT)

        greet()

    def _node_at(self, line: str) -> SimNode | None:
        """Return the node that answers at a line of nodes.txt."""
        name = self.aliases.get(line, line)
        for node in self.nodes:
            if node.name == name:
                return node
        return None

    def outside_hours(self) -> frozenset[str]:
        """Return the circles that are not told anything now."""
        return frozenset(
            self.wants[address].circle for address, hold in self.hours.items() if not hold(self.now)
        )

    # What is known of the incidents of all nodes.

    def fresh_id(self) -> str:
        """Return an id; in no order of time, as real ones are."""
        return f"{self.chance.getrandbits(40):010x}{next(self._ids):03d}"

    def root(self, incident_id: str) -> str:
        """Return one id that stands for all ids of the same incident."""
        while self.united.get(incident_id, incident_id) != incident_id:
            incident_id = self.united[incident_id]
        return incident_id

    def saved(self, node: SimNode, save: effects.Save) -> None:
        """Note which incidents a node has opened or united."""
        for incident in save.incidents:
            for incident_id in incident.ids:
                if incident_id not in self.united:
                    self.united[incident_id] = incident_id
                    if not incident.flapping:
                        self.opened.append((self.now, node.name, incident))
                self.united[self.root(incident_id)] = self.root(incident.ids[0])
