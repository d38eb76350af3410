"""What this node answers with: the tests it has and what they say now, what it remembers, whom it reaches (rules R3, R7).

The daemon's facts; `server` says who may have them. Nothing here changes anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dmonitor import config, log, protocol, round, state
from dmonitor.model import Incident, Presence, Statement, Test
from dmonitor.runner import MISTAKEN, Done, Runner

_LIST_AGE = 1.0  # seconds for which the list of tests is believed
_Fact = TypeVar("_Fact")


class Witness:
    """What a node called NAME knows whose configuration is in DIRECTORY, and whose state is in STATE, or in RUN.

    Plugins are run by RUNNER.
    """

    def __init__(self, runner: Runner, directory: Path, state: Path, run: Path | None, greeting: protocol.Greeting) -> None:
        self._runner, self._directory, self._state, self._run, self._greeting = runner, directory, state, run, greeting
        self._tests: config.Tests = {}
        self._tests_read = float("-inf")
        self._problems: list[config.Problem] = []

    def tests(self) -> config.Tests:
        """Return the tests that are configured, read again where they were not read a moment ago."""
        if time.monotonic() - self._tests_read > _LIST_AGE:
            problems = config.Problems()
            self._tests = config.load_tests(self._directory, problems)
            if problems != self._problems:
                config.log_problems(problems)
            self._tests_read, self._problems = time.monotonic(), problems
        return self._tests

    def has(self, test: Test, /) -> bool:
        return test in self.tests()

    def run(self, test: Test, done: Done, /) -> None:
        """Run the plugin of TEST."""
        parameters = self.tests().get(test)
        if parameters is None:
            done(test, MISTAKEN)
        else:
            self._runner.submit(test, self._directory / "plugins" / test.plugin, parameters, done)

    def statement(self) -> tuple[Statement, float]:
        """Return what the checker remembers, with the silences as they are now; what is wrong there is the checker's to say."""
        silences, now = list(config.load_silences(self._directory, config.Problems())), time.time()
        name, node_id, tests = self._greeting.name, self._greeting.node_id, protocol.digest(self.tests())

        def read(store: state.State) -> tuple[Statement, float]:
            now, own = store.clock.now(), store.own()
            presence = own.presence(name, node_id, now, tests=tests, stores=not store.failed)
            return round.state_of(own, store.incidents(), [store.from_wall(each) for each in silences], presence, now), now

        alone = Presence(name, node_id, now, tests=tests, stores=False)
        return self._read(read, (round.state_of(round.Own(), [], silences, alone, now), now))

    def incident(self, incident_id: str, /) -> tuple[Incident | None, float]:
        """Return what is known of an incident."""

        def read(store: state.State) -> tuple[Incident | None, float]:
            found = [known for known in store.recall([incident_id]) if not known.removed]
            return (found[0] if found else None), store.clock.now()

        nothing: tuple[Incident | None, float] = None, time.time()
        return self._read(read, nothing)

    def _read(self, read: Callable[[state.State], _Fact], otherwise: _Fact) -> _Fact:
        """Return what READ finds in the checker's state, opened afresh, for it may have been replaced."""
        try:
            with state.State(self._state, self._run, read_only=True) as store:
                return read(store)
        except state.StateError as error:
            log.debug("state-unreadable", reason=str(error))
            return otherwise
