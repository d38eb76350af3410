"""What this node answers with: what its tests say now, whether a peer is there, what it remembers (rules R3, R7).

The daemon's facts; `server` says who may have them. Nothing here changes anything.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import TypeVar

from dmonitor.base import log, names
from dmonitor.base.errors import StateError
from dmonitor.config.problems import Problem, Problems, log_problems
from dmonitor.config.settings import Settings
from dmonitor.config.silences import load_silences
from dmonitor.config.tests import Tests, load_tests
from dmonitor.core import digest, effects, result
from dmonitor.core.model import Incident, NodeStatus, Statement, Test
from dmonitor.execution.runner import Done, Runner
from dmonitor.net import access, peers
from dmonitor.store import state

_LIST_AGE = 1.0  # seconds for which the list of tests is believed
_Fact = TypeVar("_Fact")


class Witness:
    """What a node knows: its configuration is in DIRECTORY, its state in BOOKS or STAND_IN.

    Plugins are run by RUNNER. A peer is the test node/NAME: WHO knows it, and it is greeted from within SELECTOR's loop;
    `tick` must be called at the times that `pause` says.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        runner: Runner,
        directory: str,
        books: str,
        stand_in: str | None,
        settings: Settings,
        who: access.Door,
    ) -> None:
        self.selector, self.runner, self.settings, self.door = selector, runner, settings, who
        self.directory, self.books, self.stand_in = directory, books, stand_in
        self._visits: dict[Test, tuple[peers.Asker, float, Done]] = {}
        self._tests: Tests = {}
        self._tests_read = float("-inf")
        self._problems: list[Problem] = []

    def tests(self) -> Tests:
        """Return the tests that are configured, read again where they were not read a moment ago."""
        if time.monotonic() - self._tests_read > _LIST_AGE:
            problems = Problems()
            self._tests = load_tests(self.directory, problems)
            if problems != self._problems:
                log_problems(problems)
            self._tests_read, self._problems = time.monotonic(), problems
        return self._tests

    def has(self, test: Test, /) -> bool:
        return (
            self.door.peer(test.name) is not None
            if test.host == names.NODE
            else test in self.tests()
        )

    def run(self, test: Test, done: Done, /) -> None:
        """Run the plugin of TEST, or greet the peer that it is."""
        if test.host == names.NODE:
            self._visit(test, done)
            return
        parameters = self.tests().get(test)
        if parameters is None:
            done(test, result.MISTAKEN)
        else:
            self.runner.submit(test, f"{self.directory}/plugins/{test.plugin}", parameters, done)

    def _visit(self, test: Test, done: Done) -> None:
        visited, settings, own_id = (
            self.door.peer(test.name),
            self.settings,
            self.door.greeting.node_id,
        )
        asker = peers.Asker(
            self.selector, [visited] if visited else [], own_id, settings, self.door.keys
        )
        asker.visiting, asker.own_incarnation = True, lambda: self.door.greeting.incarnation
        self._visits[test] = asker, time.monotonic(), done
        asker.greet(lambda _: True, ())

    def pause(self) -> float | None:
        """Return seconds until `tick` is due; None when no peer is being greeted."""
        pauses = (asker.pause() if asker.greeting else 0.0 for asker, _, _ in self._visits.values())
        return min((pause for pause in pauses if pause is not None), default=None)

    def tick(self) -> None:
        """Say what came of greeting peers."""
        for asker, _, _ in self._visits.values():
            asker.tick()
        for test, (asker, began, done) in list(self._visits.items()):
            if not asker.greeting:
                del self._visits[test]
                (contact,) = asker.contacts.values()
                asker.close()
                done(
                    test,
                    result.of_contact(
                        contact, self.door.greeting.node_id, time.monotonic() - began
                    ),
                )

    def statement(self) -> tuple[Statement, float]:
        """Return what the checker remembers, with the silences as they are now; what is wrong there is the checker's to say."""
        silences, now = list(load_silences(self.directory, Problems())), time.time()
        greeting, tests = self.door.greeting, digest.digest(self.tests())

        def read(store: state.Store) -> tuple[Statement, float]:
            now, own = store.clock.now(), store.node_memory()
            status = own.status(
                greeting.name,
                greeting.node_id,
                now,
                tests=tests,
                stores=not store.failed,
                wall=time.time(),
            )
            return effects.statement_of(
                own,
                store.incidents(evidence=False),
                [store.clock.from_wall(each) for each in silences],
                status,
                now,
            ), now

        alone = NodeStatus(greeting.name, greeting.node_id, now, tests=tests, stores=False)
        return self._read(
            read, (effects.statement_of(effects.NodeMemory(), [], silences, alone, now), now)
        )

    def incident(self, incident_id: str, /) -> tuple[Incident | None, float]:
        """Return what is known of an incident."""

        def read(store: state.Store) -> tuple[Incident | None, float]:
            found = [known for known in store.recall([incident_id]) if not known.removed]
            return (found[0] if found else None), store.clock.now()

        nothing: tuple[Incident | None, float] = None, time.time()
        return self._read(read, nothing)

    def _read(self, read: Callable[[state.Store], _Fact], otherwise: _Fact) -> _Fact:
        """Return what READ finds in the checker's state, opened afresh, for it may have been replaced."""
        try:
            return state.read(self.books, self.stand_in, read)
        except StateError as error:
            log.debug("state-unreadable", reason=str(error))
            return otherwise
