"""A round on a virtual node: the real script, with effects that happen in the virtual world.

It stands for `dmonitor.driver`. The script may be killed at every effect, also between two outcomes
of a hand-over.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dmonitor.base import names
from dmonitor.core import effects, result, round, story, verdict
from dmonitor.core import mail as mail_module
from dmonitor.core.incident import surely_open
from dmonitor.core.model import (
    HAND_OVER_LIMIT,
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

from . import old_node
from .node import SimNode

if TYPE_CHECKING:
    from .world import Reply, World

# Seconds: what the real programs allow for each.
ANSWER_LIMIT = 25.0
GREETING_LIMIT = 5.0
MTA_LIMIT = 15.0
HOOK_LIMIT = 10.0
HANDED_OVER_BY = 54.0
WOKEN_HANDED_OVER_BY = 27.0
HARD_LIMIT = 55.0
SLOW_LOOK = 4.0  # from the beginning of a look to the next one beside it
SECOND_LOOK_PAUSE = 2.0  # from the end of a failing look, or greeting, to the next one
LOOKED_AGAIN_BY = 18.0  # of the round: a look that fails later is not looked at again
GREETED_AGAIN_BY = 15.0  # of the round: the same for greetings
EPOCH_MINUTE = 29_000_000  # the minute of the time of day at which the world begins

_FAILING = (Outcome.FAIL, Outcome.TIMEOUT)


class Mail(NamedTuple):
    """What one address gets in a hand-over, at the moment the MTA has it for good."""

    at: float
    node: str
    address: str
    # The notifications of incidents of tests: test, kind, ids.
    told: tuple[tuple[Test, Kind, tuple[str, ...]], ...]
    # The notifications that a test flaps, or is steady again.
    flapping: tuple[tuple[Test, Kind], ...] = ()
    # How each test is by this mail's words.
    states: tuple[tuple[Test, str], ...] = ()
    # By what a mailbox knows it again.
    message_id: Hashable = None
    # The tests of which its sender held an open incident.
    open: frozenset[Test] = frozenset()
    # When its sendmail was started: nothing takes a mail back after that.
    handed: float = float("-inf")


class VirtualRound:
    """One run of dmonitor-check on a virtual node. It is the RoundClock of its script as well."""

    def __init__(
        self,
        world: World,
        node: SimNode,
        *,
        waited: float = 0.0,
        woken: bool = False,
        ended: Callable[[effects.RoundEnd | None], None] = lambda end: None,
    ) -> None:
        """Begin a round that has `waited` for its place, or one that was `woken` and tests nothing.

        `ended` is called with what it leaves, or with None if it is killed.
        """
        self.world = world
        self.node = node
        self.woken = woken
        self.ended = ended
        self.epoch = node.epoch
        self.began = world.now
        node.running, node.round = True, self
        node.stopped_until, node.slept = float("-inf"), 0.0
        self._lines_read: list[tuple[Node, SimNode]] = []
        self.slept_counted = 0.0  # seconds of sleep by which the hard limit has been put off
        config = effects.RoundConfig(
            node_id=node.node_id,
            tests=node.tests.union(node_test(line.name) for line, _ in self._lines()),
            tests_digest=str(hash(node.tests)),
            addresses=node.addresses,
            wants=world.wants,
            outside_hours=world.outside_hours(),
            silences=node.silences_at(world.now),
            acknowledgements=() if node.is_old else node.acknowledgements(),
            nodes=self._listed_nodes(),
            waited=waited,
            rhythms={} if node.is_old else world.rhythms,
            quorum=node.quorum or world.quorum,
            confirm=node.confirm or world.confirm,
            confirmations=world.confirmations,
            behind=world.behind,
            **world.settings,
        )
        memory = node.disk.memory(self.now())
        if woken:
            self.script = round.run_woken(config, memory, self, self._note, world.fresh_id)
        else:
            self.script = round.run_round(config, memory, self, self._note, world.fresh_id)
        self.contacts: dict[Node, Contact] = {}
        self.handing_over: effects.HandOver | None = None
        self.outcomes: list[tuple[str, bool | None]] = []  # that the script has not got yet
        self.reported: set[str] = set()  # the addresses whose outcomes were sent, or are in that
        self.wants_outcome = False
        world.at(self.began + HARD_LIMIT / node.rate, self._hard_limit)

    def now(self) -> float:
        return self.node.clock(self.world.now)

    def elapsed(self) -> float:
        seconds = self.world.now - self.began
        if not self.world.clocks_count_sleep:
            seconds -= self.node.slept
        return seconds * self.node.rate

    def text(self, at: float) -> str:
        return f"{self.node.world_time(at):.0f}"

    def minute(self, at: float) -> int:
        return EPOCH_MINUTE + int((self.node.world_time(at) + self.node.wall_skew) // 60)

    def _note(self, level: str, event: str, /, **facts: object) -> None:
        if self.world.tracing and level != "debug":
            words = [f"{key}={value}" for key, value in facts.items() if value is not None]
            self.world.note(self.node.name, event, *words)

    @property
    def alive(self) -> bool:
        """Whether this round was neither killed nor has ended."""
        node = self.node
        return node.epoch == self.epoch and node.running and node.round is self

    def _hard_limit(self) -> None:
        if not self.alive:
            return
        more = self.node.slept - self.slept_counted
        if more:
            self.slept_counted += more
            self.world.after(more, self._hard_limit)
            return
        self.world.note(self.node.name, "hard limit")
        if not self.slept_counted:
            raise AssertionError("a round took longer than its hard limit")
        self.world.kill_round(self.node)

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        """Have `event` happen in this round; while it sleeps, nothing happens."""
        self.world.after(seconds, lambda: self._when_awake(event))

    def _when_awake(self, event: Callable[[], None]) -> None:
        """Have `event` happen now, or as soon as this round goes on; never if it was killed."""
        if not self.alive:
            return
        goes_on = max(self.node.asleep_until, self.node.stopped_until)
        if self.world.now < goes_on:
            self.world.at(goes_on, lambda: self._when_awake(event))
        else:
            event()

    def resume(self, answer: Any) -> None:
        """Send `answer`, what came of the last effect, to the script; carry out its next effect.

        Nothing happens if the round was killed meanwhile.
        """
        if not self.alive:
            return
        try:
            effect = self._next_effect(answer)
        except StopIteration as end:
            self.node.running = False
            self.world.max_elapsed = max(self.world.max_elapsed, self.elapsed())
            self.ended(end.value)
            return
        match effect:
            case effects.Observe() if self.woken:
                self._observe_peers(effect)
            case effects.Observe():
                self._observe(effect)
            case effects.Greet():
                self._greet_again(effect)
            case effects.Wake(node_ids):
                self._wake(node_ids)
            case effects.Rehearse() | effects.Examine():  # no sandbox, no files in this world
                self._after(0.0, lambda: self.resume(()))
            case effects.Save():
                self._save(effect)
            case effects.Wait(seconds):
                self._after(seconds / self.node.rate, lambda: self.resume(None))
            case effects.HandOver():
                self._next_outcome(effect)
            case effects.LookAfter():
                self._look_after(effect)
            case effects.Complain(text):
                self.world.complaints.append((self.world.now, self.node.name, text))
                self.world.note(self.node.name, "complains", text)
                self._after(0.0, lambda: self.resume(None))

    def _next_effect(self, answer: Any) -> effects.Effect:
        if self.node.is_old:
            with old_node.decides():
                return self.script.send(answer)
        return self.script.send(answer)

    def _save(self, save: effects.Save) -> None:
        """Store, and perhaps die just before or just after."""
        world = self.world
        fate = world.chance.random() if world.kill_at_save else 1.0
        if fate < world.kill_at_save / 2:
            world.kill_round(self.node)
            return
        self.node.disk.save(save)
        if save.node:
            self.node.disk.forget_hearsay(self.node.clock(world.now))
        world.saved(self.node, save)
        if fate < world.kill_at_save:
            world.kill_round(self.node)
            return
        self._after(world.chance.uniform(0.0, 0.03), lambda: self.resume(True))

    # Greeting and observing.

    def _listed_nodes(self) -> tuple[Node, ...]:
        """Return the nodes in the order of nodes.txt, in which this node is listed, too."""
        node = self.node
        listed = [p for p in self.world.nodes if p is node or p.name not in node.unlisted]
        return tuple(Node(each.name, each.site) for each in listed)

    def _peers(self) -> list[SimNode]:
        """Return the other nodes that are listed in nodes.txt here."""
        listed = {owner.name: owner for _, owner in self._lines() if owner is not self.node}
        return list(listed.values())

    def _lines(self) -> list[tuple[Node, SimNode]]:
        """Return the lines of nodes.txt that this node does not recognise as itself, and whose they are.

        They are read once, when the round begins.
        """
        if self._lines_read:
            return self._lines_read
        node = self.node
        peers = [p for p in self.world.nodes if p is not node and p.name not in node.unlisted]
        lines = [(Node(peer.name, peer.site), peer) for peer in peers]
        by_name = {peer.name: peer for peer in self.world.nodes}
        for alias, name in self.world.aliases.items():
            if name not in node.unlisted:
                lines.append((Node(alias, alias), by_name[name]))
        self._lines_read = lines
        return lines

    def _wake(self, node_ids: frozenset[str]) -> None:
        """Wake these peers, if they are connected: they were greeted in this round."""
        stated = {contact.node_id for contact in self.contacts.values() if contact.statement}
        for peer in self._peers():
            if peer.node_id in node_ids & stated and not self.node.is_old:
                assert not peer.is_old, f"{self.node.name} wakes {peer.name}, which knows no wake"
                self.world.wake(self.node, peer)
        self._after(0.0, lambda: self.resume(None))

    def _observe_peers(self, effect: effects.Observe) -> None:
        """Greet every peer once; test nothing."""
        me = Node(self.node.name, self.node.site)

        def done() -> None:
            self.resume(self._observation(me, {}, set(), {}))

        self._greet(effect.incidents, lambda _: None, done)

    def _greet_again(self, effect: effects.Greet) -> None:
        def done() -> None:
            self.resume(list(self.contacts.values()))

        self._greet(effect.incidents, lambda _: None, done)

    def _greet(
        self,
        incidents: Sequence[Incident],
        heard: Callable[[Contact], None],
        done: Callable[[], None],
        failed: Callable[[SimNode], None] | None = None,
    ) -> None:
        """Greet every peer. Call `heard` with each contact, and `done` after the last one.

        With `failed` a peer that cannot be greeted is greeted again and again; `failed` is called
        the first time.
        """
        world, node = self.world, self.node
        wanted = [incident.ids for incident in incidents if incident.is_open]
        peers = self._peers()
        waiting = len(peers)

        def greet(peer: SimNode) -> None:
            serve = self._serve_greeting(peer, wanted)
            world.exchange(node, peer, serve, getter(peer), GREETING_LIMIT)

        def getter(peer: SimNode) -> Callable[[Statement | None], None]:
            return lambda statement: self._when_awake(lambda: got(peer, statement))

        def got(peer: SimNode, statement: Statement | None) -> None:
            nonlocal waiting
            if failed is not None:
                world.note_look("round", node, node_test(peer.name), fails=statement is None)
                if statement is None and world.second_look and self.elapsed() < GREETED_AGAIN_BY:
                    failed(peer)
                    self._after(SECOND_LOOK_PAUSE, lambda: greet(peer))
                    return
            waiting -= 1
            self._take_statement(peer, statement, heard)
            if not waiting:
                done()

        for line, owner in self._lines():
            if owner is node:  # its own daemon, under another name
                self.contacts[line] = Contact(line, node.node_id)
                heard(self.contacts[line])
        for peer in peers:
            greet(peer)
        if not waiting:
            self._after(0.0, done)

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

        The peers are asked about a test that is open at once, and about one that fails as soon as
        its first look has failed, or takes long.
        """
        world, node = self.world, self.node
        me = Node(node.name, node.site)
        run = node.tests - effect.resting
        tests = sorted(run.union(node_test(line.name) for line, _ in self._lines()))
        peer_answers: dict[Test, list[Answer]] = {test: [] for test in tests}
        own_answers: dict[Test, Answer] = {}
        flakes: dict[Test, Result] = {}
        asked: set[Test] = set()
        only_slow: set[Test] = set()  # those in `asked` of which no first look has failed
        failures: list[Test] = []  # one for each look that failed
        # One for the greetings, for each own result and for each answer.
        awaited: list[Test | None] = [None, *tests]

        def settle(test: Test | None = None) -> None:
            if test not in awaited:
                return  # an answer that nobody waits for any more
            awaited.remove(test)
            if not awaited and self.alive:
                quorum = verdict.quorum_that_holds(
                    effect.quorum, effect.stated_quorums, self.contacts.values(), effect.sites
                )
                judgements = {}
                for test in tests:
                    judgements[test] = verdict.decide(
                        own_answers[test],
                        peer_answers[test],
                        quorum,
                        incident_open=test in effect.open,
                        owners=effect.owners,
                    )
                self.resume(self._observation(me, judgements, asked, flakes))

        def ask(test: Test) -> None:
            if test in asked:
                return
            asked.add(test)
            for line, peer in self._lines():
                if test != node_test(line.name):
                    awaited.append(test)
                    heard = self._heard(line, peer, peer_answers[test], lambda: settle(test))
                    world.exchange(node, peer, self._serve(peer, test), heard, ANSWER_LIMIT)

        def ran(test: Test, outcome: Outcome) -> None:
            own_answers[test] = Answer(me, node.node_id, Result(outcome))
            if verdict.must_ask(own_answers[test], incident_open=test in effect.open):
                ask(test)
            elif test in only_slow:
                asked.discard(test)
                peer_answers[test] = []
                while awaited.count(test) > 1:
                    awaited.remove(test)
            elif test in asked:
                flakes[test] = Result(Outcome.FAIL)
            settle(test)

        def look(test: Test, *, is_first: bool) -> None:
            seconds, outcome = world.plugin(node, test, "round")
            is_beside = is_first and world.second_look and seconds > SLOW_LOOK
            is_beside = is_beside and test not in effect.open | effect.slow

            def slow() -> None:
                only_slow.add(test)
                ask(test)
                look(test, is_first=False)

            def looked() -> None:
                if test in own_answers:
                    return  # the look beside it has passed
                may_look_again = world.second_look and self.elapsed() <= LOOKED_AGAIN_BY
                may_look_again = may_look_again and test not in surely_open(effect.incidents)
                if outcome in _FAILING and is_first:
                    only_slow.discard(test)
                failures.extend([test] * (outcome in _FAILING))
                if outcome not in _FAILING or failures.count(test) > 1:
                    ran(test, outcome)
                elif is_beside or not is_first:
                    return  # the other look has not ended
                elif may_look_again:
                    ask(test)
                    self._after(SECOND_LOOK_PAUSE, lambda: look(test, is_first=False))
                else:
                    ran(test, outcome)

            if is_beside:
                self._after(SLOW_LOOK, slow)
            self._after(seconds, looked)

        def greeted(contact: Contact) -> None:
            ran(node_test(contact.node.name), result.of_contact(contact, node.node_id).outcome)

        def failed(peer: SimNode) -> None:
            for line, owner in self._lines():
                if owner is peer:
                    ask(node_test(line.name))

        for test in sorted(effect.open.intersection(tests)):
            ask(test)
        self._greet(effect.incidents, greeted, settle, failed)
        for test in sorted(run):
            look(test, is_first=True)

    def _observation(
        self,
        me: Node,
        judgements: Mapping[Test, Judgement],
        asked: set[Test],
        flakes: Mapping[Test, Result],
    ) -> effects.Observation:
        contacts = list(self.contacts.values())
        return effects.Observation(me, judgements, contacts, frozenset(asked), flakes)

    def _serve(self, peer: SimNode, test: Test) -> Callable[[Reply], None]:
        return lambda reply: self.world.answer(peer, test, reply)

    def _heard(
        self, line: Node, peer: SimNode, answers: list[Answer], settle: Callable[[], None]
    ) -> Callable[[Result | None], None]:
        def got(result: Result | None) -> None:
            self._when_awake(lambda: take(result))

        def take(result: Result | None) -> None:
            if result is None:
                answers.append(Answer(line, reason="no answer in time"))
            else:
                answers.append(Answer(line, peer.node_id, result))
            settle()

        return got

    # Handing over.

    def _next_outcome(self, effect: effects.HandOver) -> None:
        """Send the next outcome to the script; the first time, start all mails."""
        if effect is not self.handing_over:
            self.handing_over = effect
            self.reported = set()
            self._hand_over(effect)
            self._after(0.0, self._send_outcome)
        else:
            self._send_outcome()

    def _send_outcome(self) -> None:
        """Send an outcome that is known to the script; without one, wait for it."""
        self.wants_outcome = not self.outcomes
        if self.outcomes:
            self.resume(self.outcomes.pop(0))

    def _hand_over(self, effect: effects.HandOver) -> None:
        """Start to hand over all mails. Their sendmails go on if the round ends, or is killed."""
        world = self.world
        handed_over_by = WOKEN_HANDED_OVER_BY if self.woken else HANDED_OVER_BY
        left = handed_over_by - self.elapsed()
        for address, mail in effect.mails.items():
            limit = HOOK_LIMIT if names.is_hook(address) else MTA_LIMIT
            patience = min(limit, left) / self.node.rate
            seconds, taken = world.mta(self.node, address)
            taken = taken and not world.refuses(self.node, address)
            self._start_sendmail(effect, address, mail, seconds, taken)
            self._after(max(0.0, patience), self._waited(effect, address))

    def _start_sendmail(
        self,
        effect: effects.HandOver,
        address: str,
        mail: Sequence[Notification],
        seconds: float,
        taken: bool,
    ) -> None:
        """Let the MTA have a mail in so many seconds, if it takes it; then sendmail ends."""
        world, node = self.world, self.node
        key = effect.name, address
        limit = HAND_OVER_LIMIT / node.rate
        boots = node.boots
        began = world.now
        node.handed[key] = None

        def when_awake(event: Callable[[], None]) -> Callable[[], None]:
            def happen() -> None:
                if node.boots != boots or node.handed.get(key, True) is not None:
                    return
                if node.is_asleep(world.now):
                    world.at(node.asleep_until, happen)
                else:
                    event()

            return happen

        def deliver() -> None:
            self._deliver(effect, address, mail, began)
            if world.kill_at_save and world.chance.random() < world.kill_at_save:
                world.kill_round(node)

        def end(result: bool) -> Callable[[], None]:
            def ended() -> None:
                node.handed[key] = result
                self._when_awake(lambda: self._report(effect, address))

            return ended

        if taken and seconds <= limit:
            world.after(seconds, when_awake(deliver))
        ends = seconds + world.mta_lag(node, address)
        world.after(min(ends, limit), when_awake(end(taken and ends <= limit)))

    def _waited(self, effect: effects.HandOver, address: str) -> Callable[[], None]:
        """Return what happens when the round has waited long enough for a sendmail."""
        return lambda: self._report(effect, address)

    def _report(self, effect: effects.HandOver, address: str) -> None:
        """Send the script what became of a mail, once."""
        if effect is not self.handing_over or address in self.reported:
            return
        self.reported.add(address)
        self.outcomes.append((address, self.node.handed.get((effect.name, address))))
        if self.wants_outcome:
            self._send_outcome()

    def _look_after(self, effect: effects.LookAfter) -> None:
        """Tell what became of earlier mails; a power cut has ended their sendmails."""
        ended: dict[tuple[str, str], bool | None] = {}
        for hand_over in effect.handing:
            for address in hand_over.addresses:
                key = hand_over.known_as, address
                if self.node.handed.get(key, False) is not None:
                    ended[key] = self.node.handed.get(key)
        self._after(0.0, lambda: self.resume(ended))

    def _deliver(
        self, effect: effects.HandOver, address: str, mail: Sequence[Notification], began: float
    ) -> None:
        """Note that the MTA has the mail for good; its sendmail was started when this `began`."""
        world, told, flapping = self.world, [], []
        for notification in mail:
            incident = notification.incident
            if incident.flapping:
                flapping.append((incident.test, notification.kind))
            else:
                told.append((incident.test, notification.kind, incident.ids))
        stories = story.stories_of(mail, effect.latest)
        states = tuple((each.test, each.state) for each in stories)
        is_open = {
            i.test for i in self.node.disk.incidents.values() if i.is_open and not i.flapping
        }
        message_id = mail_module.message_id(mail, b"", effect.latest)
        letter = Mail(
            world.now,
            self.node.name,
            address,
            tuple(told),
            tuple(flapping),
            states,
            message_id,
            frozenset(is_open),
            began,
        )
        world.mails.append(letter)
        for mailed in tuple(world.mailed):
            mailed(letter)
        words = [f"{kind.value}:{test}" for test, kind, _ in told]
        says = ", ".join(f"{state} {test}" for test, state in states)
        world.note(self.node.name, "MTA took for", address, *words, "which says:", says)
