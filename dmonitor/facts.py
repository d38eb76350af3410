"""The facts that this node answers with: its tests, its peers, and what its checker remembers.

The daemon asks here what a caller wants to know (rules R3, R7). Nothing here changes anything. Who
may have the facts is decided by `net.access`.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from dmonitor.base import clock, log, names
from dmonitor.base.errors import StateError
from dmonitor.config.problems import Problem, Problems, log_problems
from dmonitor.config.settings import Settings
from dmonitor.config.silences import holding, load_silences
from dmonitor.config.tests import Tests, environment, hidden_tests, load_tests
from dmonitor.core import digest, effects, result
from dmonitor.core.incident import surely_open
from dmonitor.core.model import Incident, NodeStatus, Test
from dmonitor.execution.looks import Looks
from dmonitor.execution.runner import Done, Runner
from dmonitor.net import protocol
from dmonitor.net.access import Access
from dmonitor.net.peers import Asker
from dmonitor.store import state

_TESTS_SECONDS = 1.0  # for which the list of tests is not read again
# Seconds after which a first look that failed is the answer. A caller waits 25 s for an answer.
_LOOKS_SECONDS = 23.0
_VIEW_SECONDS = 10.0  # for which a state that nobody has written to is not read again
_CHECKER_SECONDS = 180.0  # after which the word of this node's checker on open incidents is too old
_Fact = TypeVar("_Fact")


class _Visit(NamedTuple):
    """A greeting of one peer, because a caller asks for the test that this peer is."""

    asker: Asker
    began: float  # in uptime
    done: Done


class _CheckerView(NamedTuple):
    """What the last round of this node has said of its tests."""

    # Those that have an open incident which is no word of one peer, if that is recent.
    open: frozenset[Test] = frozenset()
    slow: frozenset[Test] = frozenset()  # those that pass slowly, perhaps always


def _checker_view(store: state.Store) -> _CheckerView:
    """Return what the last round has said; if that was not lately, of slow tests only."""
    memory = store.node_memory()
    slow = frozenset(memory.slow)
    if store.clock.now() - memory.finished > _CHECKER_SECONDS:
        return _CheckerView(slow=slow)
    return _CheckerView(surely_open(store.each_incident()), slow)


def last_addresses(state_dir: str, run_dir: str | None) -> dict[str, tuple[str, ...]]:
    """Return the addresses that the checker last found for each node; none if it has no state."""
    with contextlib.suppress(StateError):
        return state.read(state_dir, run_dir, lambda store: store.lookups())
    return {}


class NodeFacts:
    """What a node knows. `tick` must be called at the times that `pause` says."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        runner: Runner,
        directory: str,
        state_dir: str,
        run_dir: str | None,
        settings: Settings,
        access: Access,
    ) -> None:
        """Read the configuration in `directory` and the state in `state_dir` when asked.

        If the state cannot be read there, it may be in `run_dir`. Plugins are run by `runner`, and
        peers are greeted within the loop of `selector`; `access` knows who they are.
        """
        self._selector = selector
        self._looks = Looks(
            runner,
            again=self._is_looked_at_again,
            beside=self._is_looked_at_beside,
            limit=_LOOKS_SECONDS,
        )
        self._directory = directory
        self._state_dir = state_dir
        self._run_dir = run_dir
        self._settings = settings
        self._access = access
        self._visits: dict[Test, _Visit] = {}
        self._tests: Tests = {}
        self._tests_read = float("-inf")  # in uptime
        self._problems: list[Problem] = []  # that were found then
        self._checker_view = _CheckerView()
        self._checker_view_read = float("-inf")  # in uptime
        self._checker_view_version: object = None  # of the state then

    def tests(self) -> Tests:
        """Return the tests that are configured, as they were within the last second."""
        if clock.uptime() - self._tests_read > _TESTS_SECONDS:
            problems = Problems()
            self._tests = load_tests(self._directory, problems)
            if problems.unreadable:
                nothing: tuple[Test, ...] = ()
                remembered = self._read(lambda store: tuple(store.test_states()), nothing)
                hidden = hidden_tests(self._directory, remembered, problems.unreadable)
                self._tests = {**hidden, **self._tests}
            if problems != self._problems:
                log_problems(problems)
            self._tests_read = clock.uptime()
            self._problems = problems
        return self._tests

    def has(self, test: Test, /) -> bool:
        """Return whether `test` is configured here, or is that of a peer."""
        if test.host == names.NODE:
            return self._access.peer(test.name) is not None
        return test in self.tests()

    def run(self, test: Test, done: Done, /) -> None:
        """Look at `test`, and once more if it fails or is slow; then call `done`.

        That is to run its plugin, however seldom rounds do, or to greet the peer whose test it is.
        """
        if test.host == names.NODE:
            self._visit(test, done)
            return
        parameters = self.tests().get(test)
        if parameters is None:
            done(test, result.MISTAKEN)
        else:
            plugin = f"{self._directory}/plugins/{test.plugin}"
            self._looks.submit(test, plugin, environment(parameters), done)

    def _is_looked_at_again(self, test: Test) -> bool:
        """Return whether `test` is looked at again if it fails: it has no open incident here."""
        return test not in self._ask_checker().open

    def _is_looked_at_beside(self, test: Test) -> bool:
        """Return whether `test` is looked at again if it is slow: it was not so here before."""
        return test not in self._ask_checker().slow

    def _ask_checker(self) -> _CheckerView:
        """Return what the last round has said of the tests.

        A question waits for this, so the state is read again only if it was written to.
        """
        version = self.state_version()
        is_old = clock.uptime() - self._checker_view_read > _VIEW_SECONDS
        if is_old or version != self._checker_view_version:
            self._checker_view = self._read(_checker_view, _CheckerView())
            self._checker_view_read = clock.uptime()
            self._checker_view_version = version
        return self._checker_view

    def _visit(self, test: Test, done: Done) -> None:
        visited = []
        peer = self._access.peer(test.name)
        if peer:
            visited.append(peer)
        asker = Asker(
            self._selector,
            visited,
            self._access.greeting.node_id,
            self._settings,
            self._access.keys,
            own_incarnation=lambda: self._access.greeting.incarnation,
            status_only=True,
        )
        self._visits[test] = _Visit(asker, clock.uptime(), done)
        asker.greet(lambda _: True, (), twice=lambda node: self._is_looked_at_again(test))

    def pause(self) -> float | None:
        """Return the seconds until `tick` is due; None if there is nothing to do then."""
        pauses = []
        until_looks = self._looks.pause()
        if until_looks is not None:
            pauses.append(until_looks)
        for visit in self._visits.values():
            pause: float | None = 0.0
            if visit.asker.greeting:
                pause = visit.asker.pause()
            if pause is not None:
                pauses.append(pause)
        return min(pauses, default=None)

    def tick(self) -> None:
        """Begin second looks, give up peers that do not greet, report each visit that is over."""
        self._looks.tick()
        for visit in self._visits.values():
            visit.asker.tick()
        for test, visit in list(self._visits.items()):
            if not visit.asker.greeting:
                del self._visits[test]
                self._end_visit(test, visit)

    def _end_visit(self, test: Test, visit: _Visit) -> None:
        (contact,) = visit.asker.contacts.values()
        visit.asker.close()
        node_id = self._access.greeting.node_id
        first = None
        for failure in visit.asker.failures.values():
            first = result.of_contact(failure, node_id)
        last = result.of_contact(contact, node_id, clock.uptime() - visit.began)
        visit.done(test, result.of_two_looks(first, last))

    def statement(self) -> bytes:
        """Return the lines of what this node states.

        It is what the checker remembers, with the silences of now. Problems in their files are not
        logged here, because the checker logs them. The incidents are read one at a time, because
        peers decide how many there are.
        """
        silences = holding(load_silences(self._directory, Problems()), time.time())
        greeting = self._access.greeting
        tests = digest.digest(self.tests())

        def read(store: state.Store) -> bytes:
            now = store.clock.now()
            memory = store.node_memory()
            status = memory.status(
                greeting.name,
                greeting.node_id,
                now,
                tests=tests,
                stores=not store.failed,
                wall=time.time(),
                up=clock.uptime(),
            )
            own_silences = [store.clock.from_wall(silence) for silence in silences]
            statement = effects.statement_of(memory, (), own_silences, status, now)
            incidents = effects.stated_incidents(store.each_incident(), memory.handing)
            return protocol.write_statement(statement, now, incidents)

        now = time.time()
        status = NodeStatus(greeting.name, greeting.node_id, now, tests=tests, stores=False)
        statement = effects.statement_of(effects.NodeMemory(), (), silences, status, now)
        return self._read(read, protocol.write_statement(statement, now))

    def incident(self, incident_id: str, /) -> tuple[Incident | None, float]:
        """Return what is known of an incident, with the time on this node's clock."""

        def read(store: state.Store) -> tuple[Incident | None, float]:
            known = store.recall([incident_id])
            stated = effects.stated_incidents(known, store.node_memory().handing)
            return next(stated, None), store.clock.now()

        nothing: tuple[Incident | None, float] = (None, time.time())
        return self._read(read, nothing)

    def state_version(self) -> object:
        """Return what differs once a round has written to the state."""
        return state.version(self._state_dir, self._run_dir)

    def _read(self, read: Callable[[state.Store], _Fact], otherwise: _Fact) -> _Fact:
        """Return what `read` finds in the checker's state; `otherwise` if it cannot be read.

        The state is opened each time, because the checker may have replaced it.
        """
        try:
            return state.read(self._state_dir, self._run_dir, read)
        except StateError as error:
            log.debug("state-unreadable", reason=str(error))
            return otherwise
