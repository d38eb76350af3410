"""A virtual world for the real decision code: nodes, crons, a network, targets, MTAs, crashes, one clock (rules R2 to R7, R9).

Everything that happens is an event at a virtual time, so that nodes interleave at every message, every write and every
sendmail. The rounds are `dmonitor.core.round.run_round`, with the real verdict, incident and speaking; what is simulated is what
`dmonitor.check` does with their effects. The store keeps what was saved, and nothing else survives a crash. All chance
comes from one seed: the same seed gives the same trace.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dmonitor.core import effects, incident, result, round, verdict
from dmonitor.core.model import (
    Answer,
    Contact,
    Incident,
    Judgement,
    Kind,
    Node,
    NodeStatus,
    Notification,
    Outcome,
    Result,
    Silence,
    Statement,
    Test,
    node_test,
)

PLUGIN_LIMIT, ANSWER_LIMIT, GREETING_LIMIT, MTA_LIMIT, HANDED_OVER_BY, HARD_LIMIT = (
    10.0,
    15.0,
    5.0,
    15.0,
    54.0,
    55.0,
)
MEMORY = 5.0  # seconds for which a daemon gives out a result again

Reply = Callable[[float, Any], None]  # after how many seconds what is said


class Mail(NamedTuple):
    """One address's part of a hand-over, at the moment the MTA has it for good."""

    at: float
    node: str
    address: str
    told: tuple[tuple[Test, Kind, tuple[str, ...]], ...]
    flapping: tuple[tuple[Test, Kind], ...] = ()


class Disk:
    """What a node's store holds: only what was saved."""

    def __init__(self) -> None:
        self.node_memory = effects.NodeMemory()
        self.test_states: dict[Test, Any] = {}
        self.incidents: dict[str, Incident] = {}  # by every id
        self.outbox: dict[tuple[str, Kind, str], Notification] = {}
        self.silences: Mapping[str, Sequence[Silence]] = {}

    def save(self, what: effects.Save) -> None:
        self.node_memory = what.node or self.node_memory
        self.test_states |= what.test_states
        for test in what.gone:
            self.test_states.pop(test, None)
        for known in what.incidents:
            self.incidents |= dict.fromkeys(known.ids, known)
        for each in (*what.settled, *what.outbox):
            self.outbox = {
                key: left for key, left in self.outbox.items() if not _is_same(left, each)
            }
        self.outbox |= {(each.incident.id, each.kind, each.address): each for each in what.outbox}
        if what.silences is not None:
            self.silences = what.silences

    def recall(self, ids: Iterable[str]) -> list[Incident]:
        return list(
            {
                self.incidents[known].id: self.incidents[known]
                for known in ids
                if known in self.incidents
            }.values()
        )

    def living(self, now: float) -> list[Incident]:
        every = {known.id: known for known in self.incidents.values()}.values()
        return [known for known in every if _counts(known, now)]

    def books(self, now: float) -> effects.Memory:
        return effects.Memory(
            self.node_memory,
            dict(self.test_states),
            self.living(now),
            list(self.outbox.values()),
            self.silences,
            self.recall,
        )


def _is_same(one: Notification, other: Notification) -> bool:
    """Say whether both are the same debt; an incident's ids may have grown meanwhile."""
    same = (one.kind, one.address) == (other.kind, other.address)
    return same and not set(one.incident.ids).isdisjoint(other.incident.ids)


def _counts(known: Incident, now: float) -> bool:
    if known.removed:
        return False
    return (
        known.is_open
        or bool(incident.owed(known))
        or (incident.changed_at(known) or 0.0) > now - incident.LISTED_SECONDS
    )


@dataclasses.dataclass(eq=False)
class SimNode:
    """One machine."""

    name: str
    node_id: str
    site: str
    interval: int  # minutes
    phase: float  # seconds into its interval at which its cron starts a round
    tests: frozenset[Test]
    addresses: tuple[str, ...]
    offset: float = 0.0  # of its clock
    jitter: float = 1.0
    disk: Disk = dataclasses.field(default_factory=Disk)
    up: bool = True
    cron: bool = True
    daemon: bool = True
    epoch: int = 0  # counts crashes: what was begun in an earlier one is lost
    running: bool = False
    silences: tuple[Silence, ...] = ()
    flights: dict[Test, tuple[float, float, Outcome]] = dataclasses.field(
        default_factory=dict
    )  # began, ends, outcome
    visits: dict[Test, Visit] = dataclasses.field(default_factory=dict)  # of the daemon to peers


@dataclasses.dataclass
class Visit:
    """A daemon's greeting of a peer, for all who ask meanwhile and for a while; `outcome` is None as long as it lasts."""

    at: float
    waiting: list[Callable[[Outcome], None]] = dataclasses.field(default_factory=list)
    outcome: Outcome | None = None


class World:
    """The nodes and all that is between them. TARGETS says for a time, a test and a node whether the test fails there."""

    def __init__(self, seed: int, plan: random.Random | None = None) -> None:
        self.chance = random.Random(seed)  # what happens while it runs
        self.plan = plan or random.Random(
            f"plan {seed}"
        )  # how it is set up; hypothesis has one that it can shrink
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self.nodes: list[SimNode] = []
        self.aliases: dict[str, str] = {}  # a second line of nodes.txt, and whose it is
        self.fails: Callable[[float, Test, SimNode], bool] = lambda at, test, node: False
        self.slow = 0.0  # chance of a failing plugin to hang until its limit
        self.mta: Callable[[SimNode, str], tuple[float, bool]] = lambda node, address: (0.1, True)
        self.slowest_mta = 0.0
        self.many = False  # nodes
        self.topology = ""
        self.lost: SimNode  # the node that a history is about, and from when to when
        self.gone = (0.0, 0.0)
        self.cut: set[tuple[str, str]] = (
            set()
        )  # who cannot connect to whom, as with a firewall on one side
        self.loss = 0.0
        self.delay = 0.01
        self.faults = 0  # crashes, link changes, lost exchanges: c of promise 3
        self.mails: list[Mail] = []
        self.complaints: list[tuple[float, str, str]] = []  # when, of which node, and what
        self.opened: list[tuple[float, str, Incident]] = []
        self.united: dict[str, str] = {}  # ids that are one incident
        self.trace: list[str] = []
        self.tracing = False
        self.kill_at_save = 0.0  # chance that a round is killed just before or after a write
        self.settings: dict[str, Any] = {"flapping": False}
        self.quorum = 2
        self._ids = itertools.count()
        self._stripped: dict[int, tuple[Incident, Incident]] = {}
        self.max_elapsed = 0.0

    # Time.

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._count), what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.at(self.now + seconds, what)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = until

    def note(self, node: str, *what: object) -> None:
        if self.tracing:
            self.trace.append(f"{self.now:9.3f} {node:6} " + " ".join(map(str, what)))

    # Setting up.

    def begin(self) -> None:
        """Have all nodes look back on rounds in which they greeted each other, and start their crons."""
        for node in self.nodes:
            step = node.interval * 60.0
            first = self.plan.uniform(0.0, step) if node.phase < 0 else node.phase
            begins = tuple(first - step * back for back in range(5, 0, -1))
            node.disk.node_memory = effects.NodeMemory(
                begins, begins[-1] + 2.0, 0, bool(node.addresses)
            )
            self.at(first, self._cron(node, first))
        for node in self.nodes:
            heard = tuple(
                self._presence(peer)._replace(at=node.disk.node_memory.finished)
                for peer in self.nodes
                if peer is not node and (node.name, peer.name) not in self.cut
            )
            node.disk.node_memory = _to_clock(
                node.disk.node_memory._replace(heard=heard), node.offset
            )

    def _cron(self, node: SimNode, planned: float) -> Callable[[], None]:
        def tick() -> None:
            following = planned + node.interval * 60.0
            self.at(following, self._cron(node, following))
            if node.up and node.cron and not node.running:
                epoch = node.epoch
                self.after(self.chance.uniform(0.0, node.jitter), lambda: self._start(node, epoch))

        return tick

    def _start(self, node: SimNode, epoch: int) -> None:
        if node.up and node.epoch == epoch and not node.running:
            Round(self, node).resume(None)

    # What may happen to nodes and links.

    def kill_round(self, node: SimNode) -> None:
        """kill -9 of whatever round runs; the daemon goes on."""
        if node.running:
            self.faults += 1
            self.note(node.name, "round killed")
            node.epoch += 1
            node.running = False

    def power_cut(self, node: SimNode, seconds: float) -> None:
        self.faults += 1
        self.note(node.name, "power cut")
        node.epoch += 1
        node.up, node.running = False, False
        node.flights.clear()
        self.after(seconds, lambda: self._boot(node))

    def _boot(self, node: SimNode) -> None:
        self.note(node.name, "boots")
        node.up = True

    def link(self, source: str, to: str, up: bool) -> None:
        if up == ((source, to) in self.cut):
            self.faults += 1
            self.note(source, "link to", to, "up" if up else "cut")
            (self.cut.discard if up else self.cut.add)((source, to))

    # The network and the daemons.

    def exchange(
        self,
        source: SimNode,
        to: SimNode,
        serve: Callable[[Reply], None],
        got: Callable[[Any], None],
        limit: float,
    ) -> None:
        """Have SOURCE ask TO, which is to SERVE: reply what, after how many seconds. GOT gets that, or None after LIMIT."""
        done = [False]
        epoch = source.epoch

        def once(value: Any) -> None:
            if not done[0]:
                done[0] = True
                if source.epoch == epoch:
                    got(value)

        self.after(limit, lambda: once(None))
        if self.loss and self.chance.random() < self.loss:
            self.faults += 1
            self.note(source.name, "lost exchange with", to.name)
            return
        if (source.name, to.name) in self.cut:
            return

        def arrive() -> None:
            if not to.up:
                return
            if not to.daemon:  # refused
                self.after(self.chance.uniform(0.0, self.delay), lambda: once(None))
                return
            there = to.epoch

            def answer(value: Any) -> None:
                # A value is looked at when it leaves, not when the question came.
                if (
                    to.up
                    and to.daemon
                    and to.epoch == there
                    and (source.name, to.name) not in self.cut
                ):
                    said = value() if callable(value) else value
                    self.after(self.chance.uniform(0.0, self.delay), lambda: once(said))

            serve(lambda seconds, value: self.after(seconds, lambda: answer(value)))

        self.after(self.chance.uniform(0.0, self.delay), arrive)

    def _presence(self, node: SimNode) -> NodeStatus:
        now = self.now + node.offset
        return node.disk.node_memory.status(node.name, node.node_id, now)

    def statement(
        self, node: SimNode, wanted: Sequence[tuple[str, ...]], source: SimNode
    ) -> Statement:
        """What NODE's daemon states to SOURCE, on whose clock it comes, with what it knows of ids that SOURCE holds."""
        now, disk = self.now + node.offset, node.disk
        said = effects.statement_of(
            disk.node_memory, disk.living(now), node.silences, self._presence(node), now
        )
        listed = {known for each in said.incidents for known in each.ids}
        more = [
            old
            for ids in wanted
            if listed.isdisjoint(ids)
            for old in disk.recall(ids)
            if not old.removed
        ]
        tests = None if node.tests == source.tests else node.tests
        said = said._replace(
            incidents=tuple(map(self._on_the_wire, (*said.incidents, *more))), tests=tests
        )
        return _moved(said, source.offset - node.offset)

    def _on_the_wire(self, known: Incident) -> Incident:
        """What travels of an incident: not who saw it come back."""
        if known.closing is None:
            return known
        if self._stripped.get(id(known), (None,))[0] is not known:
            self._stripped[id(known)] = known, known._replace(closing=None)
        return self._stripped[id(known)][1]

    def plugin(self, node: SimNode, test: Test) -> tuple[float, Outcome]:
        """Run TEST on NODE: seconds it takes, and what comes out."""
        if not self.fails(self.now, test, node):
            return self.chance.uniform(0.05, 1.5), Outcome.OK
        if self.chance.random() < self.slow:
            return PLUGIN_LIMIT, Outcome.TIMEOUT
        return self.chance.uniform(0.05, 2.0), Outcome.FAIL

    def answer(self, node: SimNode, test: Test, reply: Reply) -> None:
        """Have NODE's daemon reply how TEST is: one run serves all who ask meanwhile, and for MEMORY seconds."""
        if test.host == "node":
            self._visit(node, test, reply)
            return
        if test not in node.tests:
            reply(0.0, Result(Outcome.UNKNOWN))
            return
        flight = node.flights.get(test)
        if flight is None or self.now > flight[1] + MEMORY:
            seconds, outcome = self.plugin(node, test)
            node.flights[test] = flight = (self.now, self.now + seconds, outcome)
        reply(max(0.0, flight[1] - self.now), Result(flight[2]))

    def _visit(self, node: SimNode, test: Test, reply: Reply) -> None:
        """Have NODE's daemon greet the peer that TEST is."""
        line = test.name
        peer = next(
            (peer for peer in self.nodes if peer.name == self.aliases.get(line, line)), None
        )
        if peer is None or peer is node:
            reply(0.0, Result(Outcome.UNKNOWN))
            return
        known = node.visits.get(test)
        if known and known.outcome is None and self.now - known.at <= GREETING_LIMIT:
            known.waiting.append(lambda outcome: reply(0.0, Result(outcome)))
            return
        if known and known.outcome is not None and self.now - known.at <= MEMORY:
            reply(0.0, Result(known.outcome))
            return
        visit = node.visits[test] = Visit(self.now, [lambda outcome: reply(0.0, Result(outcome))])

        def got(presence: NodeStatus | None) -> None:
            said = (
                Statement(_moved_presence(presence, node.offset - peer.offset))
                if presence
                else None
            )
            visit.at, visit.outcome = (
                self.now,
                result.of_contact(
                    Contact(Node(line, line), peer.node_id, "", said), node.node_id
                ).outcome,
            )
            for waiting in visit.waiting:
                waiting(visit.outcome)

        self.exchange(
            node,
            peer,
            lambda reply: reply(0.001, lambda: self._presence(peer)),
            got,
            GREETING_LIMIT,
        )

    def fresh_id(self) -> str:
        """Return an id; in no order of time, as real ones are."""
        return f"{self.chance.getrandbits(40):010x}{next(self._ids):03d}"

    def root(self, known: str) -> str:
        while (parent := self.united.get(known, known)) != known:
            known = parent
        return known

    def saved(self, node: SimNode, what: effects.Save) -> None:
        for each in what.incidents:
            for known in each.ids:
                if known not in self.united:
                    self.united[known] = known
                    if not each.flapping:
                        self.opened.append((self.now, node.name, each))
                self.united[self.root(known)] = self.root(each.ids[0])


class Round:
    """One run of dmonitor-check on a virtual node: the script, and what becomes of its effects."""

    def __init__(self, world: World, node: SimNode) -> None:
        self.world, self.node, self.epoch = world, node, node.epoch
        self.began = world.now
        node.running = True
        setup = effects.RoundConfig(
            node_id=node.node_id,
            tests=node.tests.union(node_test(line.name) for line, _ in self._lines()),
            tests_digest=str(hash(node.tests)),
            addresses=node.addresses,
            silences=node.silences,
            nodes=tuple(Node(peer.name, peer.site) for peer in world.nodes),
            quorum=world.quorum,
            **world.settings,
        )
        books = node.disk.books(self.now())
        self.course = round.run_round(setup, books, self, self._note, world.fresh_id)
        self.contacts: dict[Node, Contact] = {}
        self.handing_over: effects.HandOver | None = None
        self.outcomes: list[tuple[str, bool]] = []  # that the script has not got yet
        self.wants_outcome = False
        world.at(self.began + HARD_LIMIT, self._hard_limit)

    def now(self) -> float:
        return self.world.now + self.node.offset

    def elapsed(self) -> float:
        return self.world.now - self.began

    def text(self, at: float) -> str:
        return f"{at - self.node.offset:.0f}"

    def _note(self, level: str, event: str, /, **facts: object) -> None:
        if self.world.tracing and level != "debug":
            self.world.note(
                self.node.name,
                event,
                *(f"{key}={value}" for key, value in facts.items() if value is not None),
            )

    @property
    def alive(self) -> bool:
        return self.node.epoch == self.epoch and self.node.running

    def _hard_limit(self) -> None:
        if self.alive:
            self.world.note(self.node.name, "hard limit")
            raise AssertionError("a round took longer than its hard limit")

    def resume(self, came: Any) -> None:
        """Go on with what CAME of the last effect, unless the round was killed meanwhile."""
        if not self.alive:
            return
        try:
            effect = self.course.send(came)
        except StopIteration:
            self.node.running = False
            self.world.max_elapsed = max(self.world.max_elapsed, self.elapsed())
            return
        match effect:
            case effects.Observe():
                self._observe(effect)
            case effects.Greet():
                self._greet(
                    effect.incidents,
                    lambda _: None,
                    lambda: self.resume(list(self.contacts.values())),
                )
            case effects.Rehearse():  # there is no sandbox in this world
                self.world.after(0.0, lambda: self.resume(()))
            case effects.Save():
                self._save(effect)
            case effects.Wait(seconds):
                self.world.after(seconds, lambda: self.resume(None))
            case effects.HandOver(mails):
                if effect is not self.handing_over:
                    self.handing_over = effect
                    self._hand_over(mails)
                else:
                    self._next()
            case effects.Complain(text):
                self.world.complaints.append((self.world.now, self.node.name, text))
                self.world.note(self.node.name, "complains", text)
                self.world.after(0.0, lambda: self.resume(None))

    def _save(self, what: effects.Save) -> None:
        world = self.world
        fate = world.chance.random() if world.kill_at_save else 1.0
        if fate < world.kill_at_save / 2:
            world.kill_round(self.node)
            return
        self.node.disk.save(what)
        world.saved(self.node, what)
        if fate < world.kill_at_save:
            world.kill_round(self.node)
            return
        world.after(world.chance.uniform(0.0, 0.03), lambda: self.resume(True))

    def _greet(
        self,
        incidents: Sequence[Incident],
        heard: Callable[[Contact], None],
        done: Callable[[], None],
    ) -> None:
        """Greet every peer; tell HEARD what came of each of its lines, and DONE that this was all."""
        world, node = self.world, self.node
        wanted = [known.ids for known in incidents if known.is_open]
        waiting = len(world.nodes) - 1

        def getter(peer: SimNode) -> Callable[[Statement | None], None]:
            def got(said: Statement | None) -> None:
                nonlocal waiting
                waiting -= 1
                if said is not None:
                    said = said._replace(status=said.status._replace(at=self.now()))
                for line, whose in self._lines() if self.alive else ():
                    if whose is peer:
                        before = self.contacts.get(line)
                        stated = said or (before.statement if before else None)
                        known_id = peer.node_id if stated else ""
                        self.contacts[line] = Contact(
                            line, known_id, "", stated, "" if said else "no statement in time"
                        )
                        heard(self.contacts[line])
                if not waiting and self.alive:
                    done()

            return got

        for line, whose in self._lines():
            if whose is node:  # our own daemon, under another name
                self.contacts[line] = Contact(line, node.node_id)
                heard(self.contacts[line])
        for peer in world.nodes:
            if peer is not node:
                world.exchange(
                    node, peer, self._serve_greeting(peer, wanted), getter(peer), GREETING_LIMIT
                )
        if not waiting:
            world.after(0.0, done)

    def _serve_greeting(
        self, peer: SimNode, wanted: Sequence[tuple[str, ...]]
    ) -> Callable[[Reply], None]:
        return lambda reply: reply(0.001, lambda: self.world.statement(peer, wanted, self.node))

    def _observe(self, effect: effects.Observe) -> None:
        """Run the plugins, greet meanwhile, ask about each test that fails or is open as soon as its result is there."""
        world, node = self.world, self.node
        me = Node(node.name, node.site)
        every = sorted(node.tests.union(node_test(line.name) for line, _ in self._lines()))
        answers: dict[Test, list[Answer]] = {test: [] for test in every}
        own: dict[Test, Answer] = {}
        asked: set[Test] = set()
        waiting = 1 + len(every)

        def settle() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0 and self.alive:
                judgements = {
                    test: self._judge(own[test], answers[test], test in effect.open)
                    for test in every
                }
                contacts = list(self.contacts.values())
                self.resume(effects.Observation(me, judgements, contacts, frozenset(asked)))

        def ran(test: Test, outcome: Outcome) -> None:
            nonlocal waiting
            if not self.alive:
                return
            own[test] = Answer(me, node.node_id, Result(outcome))
            if verdict.must_ask(own[test], incident_open=test in effect.open):
                asked.add(test)
                for line, peer in self._lines():
                    if test != node_test(line.name):
                        waiting += 1
                        heard = self._heard(line, peer, answers[test], settle)
                        world.exchange(node, peer, self._serve(peer, test), heard, ANSWER_LIMIT)
            settle()

        def runner(test: Test, outcome: Outcome) -> Callable[[], None]:
            return lambda: ran(test, outcome)

        def heard(contact: Contact) -> None:
            ran(node_test(contact.node.name), result.of_contact(contact, node.node_id).outcome)

        self._greet(effect.incidents, heard, settle)
        for test in sorted(node.tests):
            seconds, outcome = world.plugin(node, test)
            world.after(seconds, runner(test, outcome))

    def _lines(self) -> list[tuple[Node, SimNode]]:
        """The lines of nodes.txt that this node does not recognise as itself, and whose they are."""
        by_name = {peer.name: peer for peer in self.world.nodes}
        lines = [
            (Node(peer.name, peer.site), peer) for peer in self.world.nodes if peer is not self.node
        ]
        return lines + [
            (Node(alias, alias), by_name[name]) for alias, name in self.world.aliases.items()
        ]

    def _serve(self, peer: SimNode, test: Test) -> Callable[[Reply], None]:
        return lambda reply: self.world.answer(peer, test, reply)

    def _heard(
        self, line: Node, peer: SimNode, answers: list[Answer], settle: Callable[[], None]
    ) -> Callable[[Any], None]:
        def got(result: Result | None) -> None:
            if result is None:
                answers.append(Answer(line, reason="no answer in time"))
            else:
                answers.append(Answer(line, peer.node_id, result))
            settle()

        return got

    def _judge(self, own: Answer, answers: list[Answer], incident_open: bool) -> Judgement:
        return verdict.decide(own, answers, self.world.quorum, incident_open=incident_open)

    def _hand_over(self, mails: Mapping[str, Sequence[Notification]]) -> None:
        world = self.world
        patience = HANDED_OVER_BY - self.elapsed()
        for address, mail in mails.items():
            seconds, taken = world.mta(self.node, address)
            limit = min(MTA_LIMIT, patience)
            if seconds > limit or patience < 1:
                world.after(max(0.0, limit), self._came(address, False))
            else:
                world.after(seconds, self._delivered(address, mail, taken))
        world.after(0.0, self._next)

    def _delivered(
        self, address: str, mail: Sequence[Notification], taken: bool
    ) -> Callable[[], None]:
        def delivered() -> None:
            if not self.alive:
                return  # sendmail dies with its round in this world: what it had not finished is not delivered
            if taken:
                ordinary = [each for each in mail if not each.incident.flapping]
                told = tuple(
                    (each.incident.test, each.kind, each.incident.ids) for each in ordinary
                )
                flapping = tuple(
                    (each.incident.test, each.kind) for each in mail if each.incident.flapping
                )
                self.world.mails.append(
                    Mail(self.world.now, self.node.name, address, told, flapping)
                )
                self.world.note(
                    self.node.name,
                    "MTA took for",
                    address,
                    *(f"{kind.value}:{test}" for test, kind, _ in told),
                )
                if self.world.kill_at_save and self.world.chance.random() < self.world.kill_at_save:
                    self.world.kill_round(self.node)
            self.world.after(0.01, self._came(address, taken))

        return delivered

    def _came(self, address: str, taken: bool) -> Callable[[], None]:
        def came() -> None:
            if self.alive:
                self.outcomes.append((address, taken))
                if self.wants_outcome:
                    self._next()

        return came

    def _next(self) -> None:
        """Send the next outcome to the script; without one, wait for it."""
        self.wants_outcome = not self.outcomes
        if self.outcomes:
            self.resume(self.outcomes.pop(0))


def _to_clock(node_memory: effects.NodeMemory, offset: float) -> effects.NodeMemory:
    heard = tuple(_moved_presence(other, offset) for other in node_memory.heard)
    begins = tuple(at + offset for at in node_memory.begins)
    finished = node_memory.finished + offset
    return node_memory._replace(begins=begins, finished=finished, heard=heard)


def _moved_presence(presence: NodeStatus, by: float) -> NodeStatus:
    return presence._replace(at=presence.at + by, finished=presence.finished + by)


def _moved(said: Statement, by: float) -> Statement:
    """Bring a statement to another node's clock; the wire carries ages."""
    if not by:
        return said

    def later(at: float | None) -> float | None:
        return None if at is None else at + by

    return said._replace(
        status=_moved_presence(said.status, by),
        heard=tuple(_moved_presence(other, by) for other in said.heard),
        silences=tuple(known._replace(until=later(known.until)) for known in said.silences),
        incidents=tuple(
            known._replace(
                began=known.began + by,
                closed=later(known.closed),
                held=known.held + by,
                failed=tuple((site, at + by) for site, at in known.failed),
            )
            for known in said.incidents
        ),
    )
