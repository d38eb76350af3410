"""See for a round: run the tests, greet the peers, ask them about what fails, rehearse (rules R3, R5, R7, R10).

One loop for all of it, which ends by itself. What is seen is a value; what it means is `verdict`'s and `round`'s.
"""

from __future__ import annotations

import faulthandler
import os
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dmonitor.base import log, names
from dmonitor.config import cluster
from dmonitor.config.configuration import Configuration
from dmonitor.core import result, verdict
from dmonitor.core.digest import digest
from dmonitor.core.effects import Greet, Observation, Observe, Rehearse, RoundClock
from dmonitor.core.model import (
    Answer,
    Contact,
    Incident,
    Judgement,
    Node,
    Outcome,
    Rehearsal,
    Result,
    Test,
    node_test,
)
from dmonitor.net import peers

if TYPE_CHECKING:
    from dmonitor.execution import runner

# Seconds from the start of the round (rule R10). A plugin takes 10 at most, an answer 15, sendmail 15.
OWN_RESULTS_BY = 30.0
ANSWERS_BY = 45.0
HANDED_OVER_BY = 54.0
HARD_LIMIT = 55.0
GREETINGS_BY = 15.0  # of `greet_all`

_Thing = TypeVar("_Thing")
Known = Mapping[str, Sequence[str]]
Run = Callable[[], str | None]

_NOT_RUN = Result(
    Outcome.UNKNOWN, "not run in this round: too many slow tests for the setting concurrency"
)


class Observer:
    """The eyes of one round: `observe` first, `greet` and `rehearse` as often as need be, `close` in the end.

    KNOWN are the nodes' addresses when they were last found. From now on this process ends at HARD_LIMIT, unless
    faulthandler.cancel_dump_traceback_later is called before. OWN_RUN is that of our own daemon now. With ASK_ALL the peers are
    asked about passing tests too, and nothing is rehearsed.
    """

    def __init__(
        self,
        config: Configuration,
        node_id: str,
        known: Known,
        clock: RoundClock,
        own_incarnation: Run,
        *,
        ask_all: bool = False,
    ) -> None:
        self._config, self._node_id, self._clock, self._ask_all = config, node_id, clock, ask_all
        self._selector = selectors.DefaultSelector()
        self._results: dict[Test, Result] = {
            test: result.MISTAKEN for test, wants in config.tests.items() if wants is None
        }
        wanted = [
            (test, config.plugin(test), wants)
            for test, wants in config.tests.items()
            if wants is not None
        ]
        self._runner: runner.Runner | None = None
        if wanted:
            from dmonitor.execution import runner

            self._runner = runner.Runner(self._selector, config.settings.concurrency)
            self._runner.submit_all(wanted, self._result)
        # Whatever hangs, in C code too, ends with its traceback on stderr, which cron mails. It is a thread, and so
        # has to wait until the runner has forked.
        try:
            faulthandler.dump_traceback_later(HARD_LIMIT - clock.elapsed(), exit=True, file=2)
        except (
            RuntimeError
        ) as error:  # no thread to be had: the next round ends this one, should it hang
            log.warning("no-hard-limit", reason=str(error))
        settings = config.settings
        self.around = cluster.resolve_cluster(
            config.nodes, settings, known
        )  # may take a while; the plugins run meanwhile
        self._me, self._open = self.around.me, frozenset[Test]()
        self._asked: set[Test] = set()
        self.tests = frozenset(
            {*config.tests, *(node_test(peer.node.name) for peer in self.around.peers)}
        )
        self._asker = peers.Asker(
            self._selector,
            self.around.peers,
            node_id,
            settings,
            config.keys,
            digest=digest(config.tests),
        )
        self._asker.clock, self._asker.own_incarnation = clock.now, own_incarnation
        self._asker.heard = self._greeted
        # Our own daemon, as a peer would call it: only from an address of ours that is a node's are we let in.
        here = self.around.my_addresses
        mirror = [cluster.Peer(self._me, here)] if here else []
        as_listed = settings._replace(listen=tuple(map(str, here)))
        self._mirror = peers.Asker(self._selector, mirror, "", as_listed, config.keys)

    def observe(self, wanted: Observe) -> Observation:
        """Run every test, ask about those that fail or are open, and judge; the last answer is waited for until ANSWERS_BY."""
        self._open = wanted.open
        self._start_greeting(wanted.incidents)
        for test in list(self._results):
            self._ask(test)
        while (self._running or self._asker.greeting) and self._loop(OWN_RESULTS_BY):
            pass
        for test in self.tests - self._results.keys():
            self._result(test, _NOT_RUN)
        while (self._asker.pending or self._asker.greeting) and self._loop(ANSWERS_BY):
            pass
        if self._running:
            self._end_plugins()
        if not self.around.listed and self._asker.echo:
            self._me = self._asker.echo
        judgements = {
            test: self._judge(test)
            for test in sorted(self.tests, key=lambda test: (test.host == names.NODE, test))
        }
        contacts = tuple(self._asker.contacts.values())
        return Observation(self._me, judgements, contacts, frozenset(self._asked))

    def greet(self, wanted: Greet) -> Sequence[Contact]:
        """Greet all peers again; return what has come of that in this round."""
        self._start_greeting(wanted.incidents)
        while self._asker.greeting and self._loop(ANSWERS_BY):
            pass
        return tuple(self._asker.contacts.values())

    def rehearse(self, wanted: Rehearse) -> tuple[Rehearsal, ...]:
        """Ask our own daemon, and one peer, about a passing test each: what failed last, else by chance."""
        passing = {}
        for test in self._config.tests:
            if self._results[test].outcome is Outcome.OK and test not in self._open:
                passing[str(test)] = test
        if not passing:
            return ()
        own_test = peer_test = _by_chance(list(passing.values()))
        failed_peer = ""
        for failure in wanted.failures:
            if failure.test not in passing:
                continue
            if failure.peer:
                peer_test, failed_peer = passing[failure.test], failure.peer
            else:
                own_test = passing[failure.test]
        questions = [(self._mirror, own_test, self._me)]
        reached = self._reached(peer_test)
        if reached:
            failed = [node for node in reached if node.name == failed_peer]
            questions.append((self._asker, peer_test, _by_chance(failed or reached)))
        for asker, test, node in questions:
            asker.forget(test)
            asker.ask(test, node)
        while (self._mirror.pending or self._asker.pending) and self._loop(ANSWERS_BY):
            pass
        rehearsals: list[Rehearsal] = []
        for asker, test, node in questions:
            peer = "" if asker is self._mirror else node.name
            answers = [answer for answer in asker.answers(test) if answer.reason != peers.IS_BUSY]
            rehearsals.extend(Rehearsal(test, peer, answer) for answer in answers)
        return tuple(rehearsals)

    def _reached(self, test: Test) -> list[Node]:
        """Return the peers that were greeted and have TEST."""
        statements = [
            (contact.node, contact.statement) for contact in self._asker.contacts.values()
        ]
        return [
            node for node, said in statements if said and (said.tests is None or test in said.tests)
        ]

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
        self._asker.greet(
            known.__contains__, [incident.ids for incident in incidents if incident.is_open]
        )

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
        for key, _ in self._selector.select(
            min([left, *(pause for pause in pauses if pause is not None)])
        ):
            key.data()
        self._asker.tick()
        self._mirror.tick()
        return True

    def _greeted(self, contact: Contact) -> None:
        test = node_test(contact.node.name)
        self._result(
            test,
            result.of_contact(contact, self._node_id, self._clock.elapsed() - self._greeting_since),
        )

    def _result(self, test: Test, result: Result) -> None:
        if test in self._results:
            return
        self._results[test] = result
        log.debug(
            "test-ran",
            test=str(test),
            result=result.outcome.value,
            seconds=result.duration,
            text=result.text,
        )
        self._ask(test)

    def _ask(self, test: Test) -> None:
        if self._ask_all or verdict.must_ask(self._own(test), incident_open=test in self._open):
            self._asked.add(test)
            self._asker.ask(test)

    def _own(self, test: Test) -> Answer:
        return Answer(self._me, self._node_id, self._results[test])

    def _judge(self, test: Test) -> Judgement:
        quorum = self._config.settings.quorum
        return verdict.decide(
            self._own(test), self._asker.answers(test), quorum, incident_open=test in self._open
        )


def _by_chance(things: Sequence[_Thing]) -> _Thing:
    return things[int.from_bytes(os.urandom(4), "big") % len(things)]


def greet_all(
    config: Configuration, node_id: str, own_incarnation: Run
) -> tuple[cluster.Cluster, list[tuple[Contact, float]]]:
    """Greet every peer once; return the nodes as seen from here, and what came of each with the seconds it took.

    The times in it are those of the wall clock.
    """
    around = cluster.resolve_cluster(config.nodes, config.settings, {})
    found: dict[Node, tuple[Contact, float]] = {}
    with selectors.DefaultSelector() as selector:
        asker = peers.Asker(
            selector,
            around.peers,
            node_id,
            config.settings,
            config.keys,
            digest=digest(config.tests),
        )
        asker.own_incarnation = own_incarnation

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
