"""Observe for a round: run the tests, greet and ask the peers, rehearse (rules R3, R5, R7, R10).

All of it is one loop, which ends by itself. An observation is a value; what it means is decided by
`verdict` and `round`.
"""

from __future__ import annotations

import faulthandler
import os
import selectors
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from dmonitor.base import clock, log, names
from dmonitor.config import cluster
from dmonitor.config.configuration import Configuration
from dmonitor.config.tests import environment
from dmonitor.core import result, verdict
from dmonitor.core.digest import digest
from dmonitor.core.effects import HARD_LIMIT, Greet, Observation, Observe, Rehearse, RoundClock
from dmonitor.core.incident import surely_open
from dmonitor.core.model import (
    BUSY,
    Answer,
    Contact,
    Incident,
    Judgement,
    Node,
    Outcome,
    Rehearsal,
    RehearsalFailure,
    Result,
    Test,
    node_test,
)
from dmonitor.net.peers import Asker, never_twice

if TYPE_CHECKING:
    from dmonitor.execution import looks, runner

# Seconds from the start of the round (R10). A plugin takes 10 at most, twice if it fails, with 2
# seconds between; an answer takes 25, sendmail 15.
OWN_RESULTS_BY = 30.0
ANSWERS_BY = 45.0
HANDED_OVER_BY = 54.0
WOKEN_HANDED_OVER_BY = 27.0  # a round that only tells: the next one waits for it, but not for long
GREETINGS_BY = 15.0  # seconds from the start of `greet_all`
_LEAST_LIMIT = 5.0  # seconds in which a round ends that slept before it began to observe

_NOT_RUN = Result(
    Outcome.UNKNOWN, "not run in this round: too many slow tests for the setting concurrency"
)
_Choice = TypeVar("_Choice")
OwnIncarnation = Callable[[], str | None]  # of this node's own daemon now; None if it has none


class Observer:
    """The eyes of one round: `observe` first, then `greet` and `rehearse`, `close` in the end."""

    def __init__(
        self,
        config: Configuration,
        node_id: str,
        last_addresses: Mapping[str, Sequence[str]],
        clock: RoundClock,
        own_incarnation: OwnIncarnation,
        *,
        ask_all: bool = False,
        greets_only: bool = False,
    ) -> None:
        """Start the plugins of tests that never rest, and look up who the peers are.

        `last_addresses` are those of each node when its name was last found. With `ask_all` the
        peers are asked about passing tests too. With `greets_only` nothing is tested, and nobody is
        asked.

        From now on this process ends at HARD_LIMIT,
        unless faulthandler.cancel_dump_traceback_later is called before.
        """
        self._config = config
        self._node_id = node_id
        self._clock = clock
        self._ask_all = ask_all
        self._greets_only = greets_only
        self._selector = selectors.DefaultSelector()
        self._results: dict[Test, Result] = {}
        self._first_looks: dict[Test, Result] = {}  # those that failed, and were repeated
        self._flakes: dict[Test, Result] = {}  # the first looks that a second one did not confirm
        self._open: frozenset[Test] = frozenset()
        # Those of them that are open by more than the word of one peer.
        self._surely_open: frozenset[Test] = frozenset()
        self._always_slow: frozenset[Test] = frozenset()  # they passed slowly in the last round
        self._resting: frozenset[Test] = frozenset()  # their last results stand
        self._quorum = config.settings.quorum  # the one that holds
        self._owners: Mapping[str, str] = {}  # the line that had a node id for itself
        self._greeting_since = 0.0  # seconds from the start of the round
        self._asked: set[Test] = set()  # about which the peers were asked
        self._runner: runner.Runner | None = None
        self._looks: looks.Looks | None = None
        if not greets_only:
            self._start_plugins()
        _set_hard_limit(max(HARD_LIMIT - clock.elapsed(), _LEAST_LIMIT))
        # This may take a while; the plugins run meanwhile.
        self.around = cluster.resolve_cluster(config.nodes, config.settings, last_addresses)
        self._me = self.around.me
        peer_tests = [node_test(peer.node.name) for peer in self.around.peers]
        self.tests = frozenset([*config.tests, *peer_tests])
        # A node is one of `config.tests` while nodes.txt cannot be read.
        self.tests_digest = digest(test for test in config.tests if test.host != names.NODE)
        self._asker = Asker(
            self._selector,
            self.around.peers,
            node_id,
            config.settings,
            config.keys,
            digest=self.tests_digest,
            clock=clock.now,
            own_incarnation=own_incarnation,
            heard=self._greeted,
            failed=self._greeting_failed,
        )
        self._askers = [self._asker]  # all that talk within this loop

    def _start_plugins(self) -> None:
        """Start what can run plugins, and with it those of the tests that never rest."""
        wanted = []
        may_rest = False
        for test, parameters in self._config.tests.items():
            if parameters is None:
                self._results[test] = result.MISTAKEN
            elif test in self._config.rhythms:
                may_rest = True
            else:
                wanted.append((test, self._config.plugin(test), environment(parameters)))
        if wanted or may_rest:
            from dmonitor.execution import looks, runner

            self._runner = runner.Runner(self._selector, self._config.settings.concurrency)
            self._looks = looks.Looks(
                self._runner,
                failed=self._first_look_failed,
                slow=self._first_look_is_slow,
                again=lambda test: test not in self._surely_open,
                beside=lambda test: test not in self._always_slow,
            )
            self._looks.submit_all(wanted, self._concluded)

    def _start_those_that_may_rest(self) -> None:
        """Start the plugins of the tests that may rest, and do not rest in this round."""
        wanted = []
        for test in self._config.rhythms:
            parameters = self._config.tests.get(test)
            if test not in self._resting and parameters is not None:
                wanted.append((test, self._config.plugin(test), environment(parameters)))
        if self._looks and wanted:
            self._looks.submit_all(wanted, self._concluded)

    def observe(self, wanted: Observe) -> Observation:
        """Run every test that does not rest, ask the peers for those that fail or are open; judge.

        The last answer is waited for until ANSWERS_BY. A test that fails or is slower than usual,
        and a peer that cannot be greeted, are looked at twice unless they have an open incident. An
        incident that is the word of one peer spares a failure no second look. A first look that
        failed stands if there is no time for a second one. With `greets_only` there is no
        judgement.
        """
        self._open = wanted.open
        self._surely_open = surely_open(wanted.incidents)
        self._always_slow = wanted.slow
        self._resting = wanted.resting
        self._owners = wanted.owners
        if self._greets_only:
            contacts = self.greet(Greet(wanted.incidents))
            return Observation(self._own_node(), {}, contacts, frozenset())
        self._start_those_that_may_rest()
        self._start_greeting(
            wanted.incidents, twice=lambda node: node_test(node.name) not in self._surely_open
        )
        looked_at = self.tests - self._resting
        for test in self._open & looked_at:
            self._ask(test)  # whatever is seen here, so nobody has to wait for that
        for test in list(self._results):
            if self._must_ask(test):
                self._ask(test)
        while self._awaits_results() and self._turn(OWN_RESULTS_BY):
            pass
        if self._looks:
            self._looks.stand()
        for test in looked_at - self._results.keys():
            self._concluded(test, self._first_looks.get(test, _NOT_RUN))
        while self._awaits_answers() and self._turn(ANSWERS_BY):
            pass
        self._end_plugins()  # before any mail: `execution/runner` says why
        self._me = self._own_node()
        contacts = tuple(self._asker.contacts.values())
        self._quorum = verdict.quorum_that_holds(
            wanted.quorum, wanted.stated_quorums, contacts, wanted.sites
        )
        judgements = {test: self._judge(test) for test in sorted(looked_at, key=_in_order)}
        return Observation(self._me, judgements, contacts, frozenset(self._asked), self._flakes)

    def _own_node(self) -> Node:
        """Return this node's line of nodes.txt: it may be the one at which its daemon answers."""
        if self._asker.own_line and not self.around.listed:
            return self._asker.own_line
        return self._me

    def _awaits_results(self) -> bool:
        """Return whether a result of this node's own may still come."""
        return bool(self._running) or self._asker.greeting

    def _awaits_answers(self) -> bool:
        """Return whether an answer or a statement of a peer may still come."""
        return self._asker.pending or self._asker.greeting

    def greet(self, wanted: Greet) -> Sequence[Contact]:
        """Greet all peers again; return what came of each greeting in this round."""
        self._start_greeting(wanted.incidents)
        while self._asker.greeting and self._turn(ANSWERS_BY):
            pass
        return tuple(self._asker.contacts.values())

    def wake(self, node_ids: Collection[str]) -> None:
        """Wake the peers with these ids, if they are connected."""
        self._asker.wake(node_ids)

    def rehearse(self, wanted: Rehearse) -> tuple[Rehearsal, ...]:
        """Ask this node's own daemon, and one peer, for a passing test each (rule R7).

        What failed in the last rehearsal is asked again; else chance chooses. Return the answers,
        except that a node is busy.
        """
        passing = self._passing()
        if not passing:
            return ()
        own_test, peer_test, failed_peer = choose_tests(passing, wanted.failures)
        own_daemon = _own_daemon(self._selector, self._config, self.around)
        self._askers.append(own_daemon)
        _ask_anew(own_daemon, own_test, self._me)
        node = self._rehearsing_peer(peer_test, failed_peer)
        if node:
            _ask_anew(self._asker, peer_test, node)
        while (own_daemon.pending or self._asker.pending) and self._turn(ANSWERS_BY):
            pass
        rehearsals = _rehearsals("", own_test, own_daemon)
        if node:
            rehearsals += _rehearsals(node.name, peer_test, self._asker)
        return tuple(rehearsals)

    def _rehearsing_peer(self, test: Test, failed_peer: str) -> Node | None:
        """Return the peer to ask for `test`: the one that failed last, or else any that has it."""
        nodes = []
        for contact in self._asker.contacts.values():
            statement = contact.statement
            if statement and (statement.tests is None or test in statement.tests):
                if contact.node.name == failed_peer:
                    return contact.node
                nodes.append(contact.node)
        if not nodes:
            return None
        return _by_chance(nodes)

    def _passing(self) -> dict[str, Test]:
        """Return the tests to rehearse with, by name: they pass here and have no open incident.

        Those that may rest are none: each answer is a look, and they are to be looked at seldom.
        """
        passing = {}
        for test in self._config.tests:
            if test in self._config.rhythms:
                continue
            if self._results[test].outcome is Outcome.OK and test not in self._open:
                passing[str(test)] = test
        return passing

    def close(self) -> None:
        """End all that still runs, plugins too."""
        self._end_plugins()
        for asker in self._askers:
            asker.close()
        self._selector.close()

    @property
    def _running(self) -> int:
        """How many tests run, or wait for a look."""
        if self._looks is None:
            return 0
        return self._looks.pending

    def _end_plugins(self) -> None:
        runner, self._runner, self._looks = self._runner, None, None
        if runner:
            runner.close()

    def _start_greeting(
        self, incidents: Sequence[Incident], *, twice: Callable[[Node], bool] = never_twice
    ) -> None:
        self._greeting_since = self._clock.elapsed()
        known: set[str] = set()
        open_ids = []
        for incident in incidents:
            known.update(incident.ids)
            if incident.is_open:
                open_ids.append(incident.ids)
        self._asker.greet(known.__contains__, open_ids, twice=twice)

    def _turn(self, deadline: float) -> bool:
        """Do what is ready, or wait for something; return whether there is time left.

        `deadline` is in seconds from the start of the round.
        """
        left = deadline - self._clock.elapsed()
        if left <= 0:
            return False
        timed: list[Asker | looks.Looks] = [*self._askers]
        if self._looks:
            timed.append(self._looks)
        pauses = [left, clock.LONGEST_WAIT]
        for each in timed:
            pause = each.pause()
            if pause is not None:
                pauses.append(pause)
        ready = self._selector.select(min(pauses))
        # What became overdue in a sleep is given up before the lines that came before it are read.
        for each in timed:
            each.tick()
        for key, _ in ready:
            key.data()
        return True

    def _greeted(self, contact: Contact) -> None:
        """Take what came of greeting a peer: it is this node's result for the peer's test."""
        test = node_test(contact.node.name)
        last = self._result_of(contact)
        self._concluded(test, result.of_two_looks(self._first_looks.get(test), last))

    def _greeting_failed(self, contact: Contact) -> None:
        """Take a greeting that failed, and is repeated: it is a first look at the peer's test."""
        self._first_look_failed(node_test(contact.node.name), self._result_of(contact))

    def _result_of(self, contact: Contact) -> Result:
        seconds = self._clock.elapsed() - self._greeting_since
        return result.of_contact(contact, self._node_id, seconds)

    def _first_look_failed(self, test: Test, first: Result) -> None:
        """Ask the peers about `test` while it is looked at again (rule R3)."""
        if test in self._results:
            return
        self._first_looks[test] = first
        log.debug("first-look-failed", **result.event_facts(test, first))
        self._ask(test)

    def _first_look_is_slow(self, test: Test) -> None:
        """Ask the peers about `test` while it is looked at beside its first look (rule R3)."""
        log.debug("first-look-slow", test=str(test))
        self._ask(test)

    def _concluded(self, test: Test, own_result: Result) -> None:
        """Take this node's own result for `test`, after one look or two; the first one counts."""
        if test in self._results or self._greets_only:
            return
        self._results[test] = own_result
        if test in self._first_looks and own_result.outcome is Outcome.OK:
            self._flakes[test] = self._first_looks[test]
        log.debug("test-ran", **result.event_facts(test, own_result))
        if self._must_ask(test):
            self._ask(test)
        elif test not in self._first_looks:
            self._unask(test)

    def _must_ask(self, test: Test) -> bool:
        """Return whether `test` does not pass here, or has an open incident (rule R3)."""
        is_open = test in self._open
        return self._ask_all or verdict.must_ask(self._own_answer(test), incident_open=is_open)

    def _ask(self, test: Test) -> None:
        self._asker.ask(test)
        self._asked.add(test)

    def _unask(self, test: Test) -> None:
        """Wait for no answer about `test`, which was only slow; none of them counts."""
        if test in self._asked:
            self._asked.discard(test)
            self._asker.forget(test)

    def _own_answer(self, test: Test) -> Answer:
        return Answer(self._me, self._node_id, self._results[test])

    def _judge(self, test: Test) -> Judgement:
        own_answer = self._own_answer(test)
        answers = self._asker.answers(test)
        is_open = test in self._open
        return verdict.decide(
            own_answer, answers, self._quorum, incident_open=is_open, owners=self._owners
        )


def _set_hard_limit(seconds: float) -> None:
    """End this process in `seconds`, whatever hangs, in C code too; cron mails the traceback.

    That is a thread, so the runner must have forked before.
    """
    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    except RuntimeError as error:
        # There is no thread to be had: if this round hangs, the next round ends it.
        log.warning("no-hard-limit", reason=str(error))


def _own_daemon(
    selector: selectors.BaseSelector, config: Configuration, around: cluster.Cluster
) -> Asker:
    """Return what asks this node's own daemon, as a peer would.

    The daemon lets us in only from an address that is in our line of nodes.txt.
    """
    daemons = []
    if around.my_addresses:
        daemons.append(cluster.Peer(around.me, around.my_addresses))
    as_listed = config.settings._replace(listen=tuple(map(str, around.my_addresses)))
    return Asker(selector, daemons, "", as_listed, config.keys)


def _in_order(test: Test) -> tuple[bool, Test]:
    """Return what tests are sorted by: those of nodes come last."""
    return test.host == names.NODE, test


def choose_tests(
    passing: Mapping[str, Test], failures: Sequence[RehearsalFailure]
) -> tuple[Test, Test, str]:
    """Return the test for this node's own daemon, that for a peer, and the peer that failed.

    A test that failed in an earlier rehearsal, and passes here, comes first. Chance chooses between
    several, so that each is asked again although another one goes on failing. The peer is empty if
    none failed.
    """
    own_test = peer_test = _by_chance(list(passing.values()))
    failed_peer = ""
    again = [failure for failure in failures if failure.test in passing]
    of_own_daemon = [failure for failure in again if not failure.peer]
    of_peers = [failure for failure in again if failure.peer]
    if of_own_daemon:
        own_test = passing[_by_chance(of_own_daemon).test]
    if of_peers:
        failure = _by_chance(of_peers)
        peer_test, failed_peer = passing[failure.test], failure.peer
    return own_test, peer_test, failed_peer


def _ask_anew(asker: Asker, test: Test, node: Node) -> None:
    asker.forget(test)
    asker.ask(test, node)


def _rehearsals(peer: str, test: Test, asker: Asker) -> list[Rehearsal]:
    """Return what `asker` was answered for `test`; `peer` is empty for this node's own daemon."""
    rehearsals = []
    for answer in asker.answers(test):
        if answer.reason != BUSY:
            rehearsals.append(Rehearsal(test, peer, answer))
    return rehearsals


def _by_chance(choices: Sequence[_Choice]) -> _Choice:
    """Return one of `choices`; the module random would take a millisecond to import."""
    return choices[int.from_bytes(os.urandom(4), "big") % len(choices)]


def greet_all(
    config: Configuration,
    node_id: str,
    own_incarnation: OwnIncarnation,
    *,
    patience: float = GREETINGS_BY,
    waking: bool = False,
) -> tuple[cluster.Cluster, list[tuple[Contact, float]]]:
    """Greet every peer once, within `patience` seconds; with `waking`, wake each of them too.

    Return the nodes as seen from here, and for each peer the contact and the seconds it took. Times
    in the contacts are on the wall clock.
    """
    around = cluster.resolve_cluster(config.nodes, config.settings, {})
    found: dict[Node, tuple[Contact, float]] = {}
    began = clock.uptime()

    def heard(contact: Contact) -> None:
        found[contact.node] = (contact, clock.uptime() - began)
        if waking and contact.statement and contact.statement.status.wakes:
            asker.wake({contact.node_id})

    with selectors.DefaultSelector() as selector:
        asker = Asker(
            selector,
            around.peers,
            node_id,
            config.settings,
            config.keys,
            digest=digest(config.tests),
            own_incarnation=own_incarnation,
            heard=heard,
        )
        asker.greet(lambda _: True, ())
        while asker.greeting:
            left = patience - (clock.uptime() - began)
            if left <= 0:
                break
            pause = asker.pause()
            ready = selector.select(left if pause is None else min(left, pause))
            asker.tick()
            for key, _ in ready:
                key.data()
        asker.close()
    return around, list(found.values())
