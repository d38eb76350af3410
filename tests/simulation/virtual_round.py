"""A round on a virtual node: the real script, with effects that happen in the virtual world.

It stands for `dmonitor.driver`. The script may be killed at every effect, also between two outcomes
of a hand-over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dmonitor.core import effects, result, round, verdict
from dmonitor.core.model import (
    Answer,
    Contact,
    Incident,
    Judgement,
    Kind,
    Node,
    Notification,
    Outcome,
    Result,
    Statement,
    Test,
    node_test,
)

from .node import SimNode

if TYPE_CHECKING:
    from .world import Reply, World

# Seconds: what the real programs allow for each.
ANSWER_LIMIT = 15.0
GREETING_LIMIT = 5.0
MTA_LIMIT = 15.0
HANDED_OVER_BY = 54.0
HARD_LIMIT = 55.0


class Mail(NamedTuple):
    """What one address gets in a hand-over, at the moment the MTA has it for good."""

    at: float
    node: str
    address: str
    # The notifications of incidents of tests: test, kind, ids.
    told: tuple[tuple[Test, Kind, tuple[str, ...]], ...]
    # The notifications that a test flaps, or is steady again.
    flapping: tuple[tuple[Test, Kind], ...] = ()


class VirtualRound:
    """One run of dmonitor-check on a virtual node. It is the RoundClock of its script as well."""

    def __init__(self, world: World, node: SimNode) -> None:
        self.world = world
        self.node = node
        self.epoch = node.epoch
        self.began = world.now
        node.running = True
        config = effects.RoundConfig(
            node_id=node.node_id,
            tests=node.tests.union(node_test(line.name) for line, _ in self._lines()),
            tests_digest=str(hash(node.tests)),
            addresses=node.addresses,
            silences=node.silences,
            nodes=tuple(Node(peer.name, peer.site) for peer in world.nodes),
            quorum=world.quorum,
            **world.settings,
        )
        memory = node.disk.memory(self.now())
        self.script = round.run_round(config, memory, self, self._note, world.fresh_id)
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
            words = [f"{key}={value}" for key, value in facts.items() if value is not None]
            self.world.note(self.node.name, event, *words)

    @property
    def alive(self) -> bool:
        """Whether this round was neither killed nor has ended."""
        return self.node.epoch == self.epoch and self.node.running

    def _hard_limit(self) -> None:
        if self.alive:
            self.world.note(self.node.name, "hard limit")
            raise AssertionError("a round took longer than its hard limit")

    def resume(self, answer: Any) -> None:
        """Send `answer`, what came of the last effect, to the script; carry out its next effect.

        Nothing happens if the round was killed meanwhile.
        """
        if not self.alive:
            return
        try:
            effect = self.script.send(answer)
        except StopIteration:
            self.node.running = False
            self.world.max_elapsed = max(self.world.max_elapsed, self.elapsed())
            return
        match effect:
            case effects.Observe():
                self._observe(effect)
            case effects.Greet():
                self._greet_again(effect)
            case effects.Rehearse():  # there is no sandbox in this world
                self.world.after(0.0, lambda: self.resume(()))
            case effects.Save():
                self._save(effect)
            case effects.Wait(seconds):
                self.world.after(seconds, lambda: self.resume(None))
            case effects.HandOver():
                self._next_outcome(effect)
            case effects.Complain(text):
                self.world.complaints.append((self.world.now, self.node.name, text))
                self.world.note(self.node.name, "complains", text)
                self.world.after(0.0, lambda: self.resume(None))

    def _save(self, save: effects.Save) -> None:
        """Store, and perhaps die just before or just after."""
        world = self.world
        fate = world.chance.random() if world.kill_at_save else 1.0
        if fate < world.kill_at_save / 2:
            world.kill_round(self.node)
            return
        self.node.disk.save(save)
        world.saved(self.node, save)
        if fate < world.kill_at_save:
            world.kill_round(self.node)
            return
        world.after(world.chance.uniform(0.0, 0.03), lambda: self.resume(True))

    # Greeting and observing.

    def _lines(self) -> list[tuple[Node, SimNode]]:
        """Return the lines of nodes.txt that this node does not recognise as itself, and whose they are."""
        by_name = {peer.name: peer for peer in self.world.nodes}
        lines = []
        for peer in self.world.nodes:
            if peer is not self.node:
                lines.append((Node(peer.name, peer.site), peer))
        for alias, name in self.world.aliases.items():
            lines.append((Node(alias, alias), by_name[name]))
        return lines

    def _greet_again(self, effect: effects.Greet) -> None:
        def done() -> None:
            self.resume(list(self.contacts.values()))

        self._greet(effect.incidents, lambda _: None, done)

    def _greet(
        self,
        incidents: Sequence[Incident],
        heard: Callable[[Contact], None],
        done: Callable[[], None],
    ) -> None:
        """Greet every peer. Call `heard` with each contact, and `done` after the last one."""
        world, node = self.world, self.node
        wanted = [incident.ids for incident in incidents if incident.is_open]
        waiting = len(world.nodes) - 1

        def getter(peer: SimNode) -> Callable[[Statement | None], None]:
            def got(statement: Statement | None) -> None:
                nonlocal waiting
                waiting -= 1
                if self.alive:
                    self._take_statement(peer, statement, heard)
                if not waiting and self.alive:
                    done()

            return got

        for line, owner in self._lines():
            if owner is node:  # its own daemon, under another name
                self.contacts[line] = Contact(line, node.node_id)
                heard(self.contacts[line])
        for peer in world.nodes:
            if peer is not node:
                serve = self._serve_greeting(peer, wanted)
                world.exchange(node, peer, serve, getter(peer), GREETING_LIMIT)
        if not waiting:
            world.after(0.0, done)

    def _take_statement(
        self, peer: SimNode, statement: Statement | None, heard: Callable[[Contact], None]
    ) -> None:
        """Make a contact of what `peer` stated, for each of its lines; None if it stated nothing."""
        reason = "no statement in time"
        if statement is not None:
            reason = ""
            status = statement.status._replace(at=self.now())
            statement = statement._replace(status=status)
        for line, owner in self._lines():
            if owner is not peer:
                continue
            before = self.contacts.get(line)
            latest = statement
            if latest is None and before is not None:
                latest = before.statement
            node_id = peer.node_id if latest else ""
            self.contacts[line] = Contact(line, node_id, "", latest, reason)
            heard(self.contacts[line])

    def _serve_greeting(
        self, peer: SimNode, wanted: Sequence[tuple[str, ...]]
    ) -> Callable[[Reply], None]:
        return lambda reply: reply(0.001, lambda: self.world.statement(peer, wanted, self.node))

    def _observe(self, effect: effects.Observe) -> None:
        """Run the plugins and greet meanwhile.

        The peers are asked about a test that fails or is open as soon as its result is there.
        """
        world, node = self.world, self.node
        me = Node(node.name, node.site)
        tests = sorted(node.tests.union(node_test(line.name) for line, _ in self._lines()))
        peer_answers: dict[Test, list[Answer]] = {test: [] for test in tests}
        own_answers: dict[Test, Answer] = {}
        asked: set[Test] = set()
        waiting = 1 + len(tests)

        def settle() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0 and self.alive:
                judgements = {}
                for test in tests:
                    is_open = test in effect.open
                    judgements[test] = self._judge(own_answers[test], peer_answers[test], is_open)
                contacts = list(self.contacts.values())
                self.resume(effects.Observation(me, judgements, contacts, frozenset(asked)))

        def ran(test: Test, outcome: Outcome) -> None:
            nonlocal waiting
            if not self.alive:
                return
            own_answers[test] = Answer(me, node.node_id, Result(outcome))
            if verdict.must_ask(own_answers[test], incident_open=test in effect.open):
                asked.add(test)
                for line, peer in self._lines():
                    if test != node_test(line.name):
                        waiting += 1
                        heard = self._heard(line, peer, peer_answers[test], settle)
                        world.exchange(node, peer, self._serve(peer, test), heard, ANSWER_LIMIT)
            settle()

        def runner(test: Test, outcome: Outcome) -> Callable[[], None]:
            return lambda: ran(test, outcome)

        def greeted(contact: Contact) -> None:
            ran(node_test(contact.node.name), result.of_contact(contact, node.node_id).outcome)

        self._greet(effect.incidents, greeted, settle)
        for test in sorted(node.tests):
            seconds, outcome = world.plugin(node, test)
            world.after(seconds, runner(test, outcome))

    def _serve(self, peer: SimNode, test: Test) -> Callable[[Reply], None]:
        return lambda reply: self.world.answer(peer, test, reply)

    def _heard(
        self, line: Node, peer: SimNode, answers: list[Answer], settle: Callable[[], None]
    ) -> Callable[[Result | None], None]:
        def got(result: Result | None) -> None:
            if result is None:
                answers.append(Answer(line, reason="no answer in time"))
            else:
                answers.append(Answer(line, peer.node_id, result))
            settle()

        return got

    def _judge(self, own_answer: Answer, answers: list[Answer], is_open: bool) -> Judgement:
        return verdict.decide(own_answer, answers, self.world.quorum, incident_open=is_open)

    # Handing over.

    def _next_outcome(self, effect: effects.HandOver) -> None:
        """Send the next outcome to the script; the first time, start all mails."""
        if effect is not self.handing_over:
            self.handing_over = effect
            self._hand_over(effect.mails)
            self.world.after(0.0, self._send_outcome)
        else:
            self._send_outcome()

    def _send_outcome(self) -> None:
        """Send an outcome that is known to the script; without one, wait for it."""
        self.wants_outcome = not self.outcomes
        if self.outcomes:
            self.resume(self.outcomes.pop(0))

    def _hand_over(self, mails: Mapping[str, Sequence[Notification]]) -> None:
        """Start to hand over all mails."""
        world = self.world
        patience = HANDED_OVER_BY - self.elapsed()
        for address, mail in mails.items():
            seconds, taken = world.mta(self.node, address)
            limit = min(MTA_LIMIT, patience)
            if seconds > limit or patience < 1:
                world.after(max(0.0, limit), self._ended(address, False))
            else:
                world.after(seconds, self._delivered(address, mail, taken))

    def _delivered(
        self, address: str, mail: Sequence[Notification], taken: bool
    ) -> Callable[[], None]:
        """Return what happens when the MTA has the mail, or has refused it."""

        def delivered() -> None:
            if not self.alive:
                return  # sendmail dies with its round here: what it had not finished is not delivered
            world = self.world
            if taken:
                self._deliver(address, mail)
                if world.kill_at_save and world.chance.random() < world.kill_at_save:
                    world.kill_round(self.node)
            world.after(0.01, self._ended(address, taken))

        return delivered

    def _deliver(self, address: str, mail: Sequence[Notification]) -> None:
        """Note that the MTA has the mail for good."""
        world, told, flapping = self.world, [], []
        for notification in mail:
            incident = notification.incident
            if incident.flapping:
                flapping.append((incident.test, notification.kind))
            else:
                told.append((incident.test, notification.kind, incident.ids))
        world.mails.append(Mail(world.now, self.node.name, address, tuple(told), tuple(flapping)))
        words = [f"{kind.value}:{test}" for test, kind, _ in told]
        world.note(self.node.name, "MTA took for", address, *words)

    def _ended(self, address: str, taken: bool) -> Callable[[], None]:
        """Return what happens when sendmail has ended."""

        def ended() -> None:
            if self.alive:
                self.outcomes.append((address, taken))
                if self.wants_outcome:
                    self._send_outcome()

        return ended
