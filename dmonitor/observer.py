"""See for a round: run the tests, greet the peers, ask them about what fails, rehearse (rules R3, R5, R7, R10).

One loop for all of it, which ends by itself. What is seen is a value; what it means is `verdict`'s and `round`'s.
"""

from __future__ import annotations

import faulthandler
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dmonitor.base import log, names
from dmonitor.config import cluster
from dmonitor.config.config import Config
from dmonitor.core import result, verdict
from dmonitor.core.digest import digest
from dmonitor.core.effects import Clock, Greet, Observation, Observe, Rehearse
from dmonitor.core.model import Answer, Contact, Incident, Judgement, Node, Outcome, Rehearsal, Result, Test, Vote, node_test
from dmonitor.net import peers

if TYPE_CHECKING:
    from dmonitor.execution import runner

# Seconds from the start of the round (rule R10). A plugin takes 10 at most, an answer 15, sendmail 15.
OWN_RESULTS_BY = 30.0
ANSWERS_BY = 45.0
HANDED_OVER_BY = 54.0
HARD_LIMIT = 55.0
GREETINGS_BY = 15.0  # of `greet_all`

Known = Mapping[str, Sequence[str]]
Run = Callable[[], str | None]

_NOT_RUN = Result(Outcome.UNKNOWN, "not run in this round: too many slow tests for the setting concurrency")


class Observer:
    """The eyes of one round: `observe` first, `greet` and `rehearse` as often as need be, `close` in the end.

    KNOWN are the nodes' addresses when they were last found. From now on this process ends at HARD_LIMIT, unless
    faulthandler.cancel_dump_traceback_later is called before. OWN_RUN is that of our own daemon now. With ASK_ALL the peers are
    asked about passing tests too, and nothing is rehearsed.
    """

    def __init__(self, config: Config, node_id: str, known: Known, clock: Clock, own_run: Run, *, ask_all: bool = False) -> None:
        self._config, self._node_id, self._clock, self._ask_all = config, node_id, clock, ask_all
        self._selector = selectors.DefaultSelector()
        self._results: dict[Test, Result] = {test: result.MISTAKEN for test, wants in config.tests.items() if wants is None}
        wanted = [(test, config.plugin(test), wants) for test, wants in config.tests.items() if wants is not None]
        self._runner: runner.Runner | None = None
        if wanted:
            from dmonitor.execution import runner

            self._runner = runner.Runner(self._selector, config.settings.concurrency)
            self._runner.submit_all(wanted, self._result)
        # Whatever hangs, in C code too, ends with its traceback on stderr, which cron mails. It is a thread, and so
        # has to wait until the runner has forked.
        try:
            faulthandler.dump_traceback_later(HARD_LIMIT - clock.elapsed(), exit=True, file=2)
        except RuntimeError as error:  # no thread to be had: the next round ends this one, should it hang
            log.warning("no-hard-limit", reason=str(error))
        settings = config.settings
        self.around = cluster.look_around(config.nodes, settings, known)  # may take a while; the plugins run meanwhile
        self._me, self._open, self._whole = self.around.me, frozenset[Test](), frozenset[Test]()
        self.tests = frozenset({*config.tests, *(node_test(peer.node.name) for peer in self.around.peers)})
        self._turns: set[Test] = set()  # of which somebody else may have to be asked now
        self._asker = peers.Asker(self._selector, self.around.peers, node_id, settings, config.keys, digest=digest(config.tests))
        self._asker.clock, self._asker.own_run = clock.now, own_run
        self._asker.heard, self._asker.answered = self._greeted, self._turns.add
        self._left: dict[Test, list[Node]] = {}  # the peers that were not asked about a test yet
        # Our own daemon, as a peer would call it: only from an address of ours that is a node's are we let in.
        here = self.around.here
        mirror = [cluster.Peer(self._me, here)] if here else []
        as_listed = settings._replace(listen=tuple(map(str, here)))
        self._mirror = peers.Asker(self._selector, mirror, "", as_listed, config.keys)

    def observe(self, wanted: Observe) -> Observation:
        """Run every test, ask about those that fail or are open, and judge; the last answer is waited for until ANSWERS_BY."""
        self._open, self._whole = wanted.open, wanted.whole
        self._start_greeting(wanted.incidents)
        for test in list(self._results):
            self._ask(test)
        self._take_turns()
        while (self._running or self._asker.greeting) and self._loop(OWN_RESULTS_BY):
            pass
        if self._has_twins():
            self._turns.update(self._left)
        for test in self.tests - self._results.keys():
            self._result(test, _NOT_RUN)
        self._take_turns()
        while (self._asker.pending or self._asker.greeting) and self._loop(ANSWERS_BY):
            pass
        self._left.clear()
        if self._running:
            self._end_plugins()
        if not self.around.listed and self._asker.echo:
            self._me = self._asker.echo
        judgements = {test: self._judge(test) for test in sorted(self.tests, key=lambda test: (test.host == names.NODE, test))}
        return Observation(self._me, judgements, tuple(self._asker.contacts.values()))

    def greet(self, wanted: Greet) -> Sequence[Contact]:
        """Greet all peers again; return what has come of that in this round."""
        self._start_greeting(wanted.incidents)
        while self._asker.greeting and self._loop(ANSWERS_BY):
            pass
        return tuple(self._asker.contacts.values())

    def rehearse(self, wanted: Rehearse) -> Rehearsal | None:
        """Ask our own daemon and one peer about the test that is WANTED, or has its turn, if it passes here."""
        passing = sorted(
            str(test) for test in self._config.tests if self._results[test].outcome is Outcome.OK and test not in self._open
        )
        name = wanted.test or min((name for name in passing if name > wanted.after), default=passing[0] if passing else "")
        if name not in passing:
            return None
        test = next(test for test in self._config.tests if str(test) == name)
        stated = ((known.node, known.statement) for known in self._asker.contacts.values())
        reached = sorted((node.name, node) for node, said in stated if said and (said.tests is None or test in said.tests))
        turn = (
            [(passing.index(name) + wanted.cycle + (name <= wanted.after)) % len(reached)] if reached and not wanted.test else []
        )
        only = [reached[place][1] for place in turn] or [node for peer, node in reached if peer == wanted.peer]
        own, theirs = self._question(self._mirror, test, self._me), self._question(self._asker, test, *only)
        while (self._mirror.pending or self._asker.pending) and self._loop(ANSWERS_BY):
            pass
        mine, peer = own(), theirs()
        again: list[Result] = []
        if mine and mine.result and mine.vote is not Vote.PASSING and self._runner:  # or has it begun to fail meanwhile?
            self._runner.submit(
                test, self._config.plugin(test), self._config.tests[test] or {}, lambda _, result: again.append(result)
            )
            while self._running and self._loop(HANDED_OVER_BY):
                pass
            mine = mine if again and again[0].outcome is Outcome.OK else None
        return Rehearsal(test, mine, peer)

    def _question(self, asker: peers.Asker, test: Test, *nodes: Node) -> Callable[[], Answer | None]:
        """Have ASKER ask the first of NODES about TEST, again if need be; return what gives the answer, None if moot, later."""
        asker.forget(test)
        for node in nodes[:1]:
            asker.ask(test, node)
        return lambda: next((answer for answer in asker.answers(test) if answer.reason != peers.IS_BUSY), None)

    def close(self) -> None:
        """End whatever still runs; no plugin outlives this."""
        self._end_plugins()
        self._asker.close()
        self._mirror.close()
        self._selector.close()

    @property
    def _running(self) -> int:
        return self._runner.pending if self._runner else 0

    def _start_greeting(self, incidents: Sequence[Incident]) -> None:
        self._greeting_since = self._clock.elapsed()
        known = {known for incident in incidents for known in incident.ids}
        self._asker.greet(known.__contains__, [incident.ids for incident in incidents if incident.is_open])

    def _end_plugins(self) -> None:
        if self._runner:
            self._runner.close()
            self._runner = None

    def _loop(self, by: float) -> bool:
        """Do what is ready, or wait for it; say whether there is time left."""
        left = by - self._clock.elapsed()
        if left <= 0:
            return False
        pauses = [asker.pause() for asker in (self._asker, self._mirror)]
        for key, _ in self._selector.select(min([left, *(pause for pause in pauses if pause is not None)])):
            key.data()
        self._asker.tick()
        self._mirror.tick()
        self._take_turns()
        return True

    def _greeted(self, contact: Contact) -> None:
        test = node_test(contact.node.name)
        self._result(test, result.of_contact(contact, self._node_id, self._clock.elapsed() - self._greeting_since))

    def _result(self, test: Test, result: Result) -> None:
        if test in self._results:
            return
        self._results[test] = result
        log.debug("ran", test=str(test), result=result.outcome.value, seconds=result.duration, text=result.text)
        self._ask(test)

    def _ask(self, test: Test) -> None:
        if not self._ask_all and not verdict.must_ask(self._own(test), incident_open=test in self._open):
            return
        if self._ask_all or len(self.around.peers) < verdict.FEW or test in self._whole:
            self._asker.ask(test)
        elif test not in self._left:
            nodes = [peer.node for peer in self.around.peers if test != node_test(peer.node.name)]
            self._left[test] = verdict.ring(test, self._me, nodes)
            self._turns.add(test)

    def _take_turns(self) -> None:
        """Ask whoever is to be asked now."""
        while self._turns:
            self._ask_further(self._turns.pop())

    def _has_twins(self) -> bool:
        """Say whether two lines of nodes.txt are one id, which has one vote: then all it says counts, and all are asked."""
        ids = [known.node_id for known in self._asker.contacts.values() if known.node_id]
        return len(set(ids)) < len(ids)

    def _ask_further(self, test: Test) -> None:
        """Ask those peers next that could decide about TEST, once all that were asked have answered; or all, if it is late."""
        if (left := self._left.get(test)) and not self._asker.awaits(test):
            answers, late = self._asker.answers(test), self._clock.elapsed() > verdict.ASK_ALL_FROM
            wanted = verdict.further(self._own(test), answers, left, self._config.settings.quorum)
            wanted = left if (wanted and late) or self._has_twins() else wanted
            self._left[test] = [node for node in left if node not in wanted]
            if wanted:
                self._asker.ask(test, *wanted)

    def _own(self, test: Test) -> Answer:
        return Answer(self._me, self._node_id, self._results[test])

    def _judge(self, test: Test) -> Judgement:
        quorum = self._config.settings.quorum
        return verdict.decide(self._own(test), self._asker.answers(test), quorum, incident_open=test in self._open)


def greet_all(config: Config, node_id: str, own_run: Run) -> tuple[cluster.Cluster, list[tuple[Contact, float]]]:
    """Greet every peer once; return the nodes as seen from here, and what came of each with the seconds it took.

    The times in it are those of the wall clock.
    """
    around = cluster.look_around(config.nodes, config.settings, {})
    found: dict[Node, tuple[Contact, float]] = {}
    with selectors.DefaultSelector() as selector:
        asker = peers.Asker(selector, around.peers, node_id, config.settings, config.keys, digest=digest(config.tests))
        asker.own_run = own_run

        def heard(contact: Contact) -> None:
            found[contact.node] = contact, time.monotonic() - began

        asker.heard = heard
        began = time.monotonic()
        asker.greet(lambda _: True, ())
        while asker.greeting and time.monotonic() - began < GREETINGS_BY:
            for key, _ in selector.select(asker.pause()):
                key.data()
            asker.tick()
        asker.close()
    return around, list(found.values())
