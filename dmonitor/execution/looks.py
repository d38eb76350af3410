"""Look at tests up to twice, because one failing look proves little (rules R1, R10).

A test that fails is run again a moment after its first look has ended, and fails only if both looks
do. One failing look is enough while the test has an open incident: it proves nothing new. First
looks go before second looks if plugins have to wait. Checker and daemon share this
module; `runner` starts the plugins. What a result means, and who is told of it, is decided
elsewhere.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from dmonitor.base import clock
from dmonitor.core import result
from dmonitor.core.model import Result, Test
from dmonitor.execution.runner import Done, Runner

_NEVER = float("inf")


class _Case:
    """One test that is looked at."""

    def __init__(
        self, test: Test, plugin: str, parameters: Mapping[str, str], done: Done, deadline: float
    ) -> None:
        self.test = test
        self.plugin = plugin
        self.parameters = parameters
        self.done = done
        self.deadline = deadline  # from which a first look that failed stands
        self.first: Result | None = None  # the first look, if it failed
        self.due = _NEVER  # when the second look is due


def _ignore(test: Test, first: Result) -> None:
    """Do nothing about a first look that failed."""


def _always(test: Test) -> bool:
    """Have every test that fails looked at again."""
    return True


class Looks:
    """Tests that are looked at. `tick` must be called at the times that `pause` says.

    Times are those of `clock`.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        failed: Callable[[Test, Result], None] = _ignore,
        again: Callable[[Test], bool] = _always,
        limit: float = _NEVER,
    ) -> None:
        """Look at nothing yet.

        `failed` is told at once of each first look that failed; `again` returns whether a test is
        to be looked at again if it fails. The first look stands as the result if the
        second look has not ended `limit` seconds after the test was submitted.
        """
        self._runner = runner
        self._failed = failed
        self._again = again
        self._limit = limit
        # Those that have no result yet, in the order in which they were submitted.
        self._cases: dict[Test, _Case] = {}
        # Those whose second look has not begun, in the order in which it is due.
        self._paused: deque[_Case] = deque()

    @property
    def pending(self) -> int:
        """Return how many tests have no result yet."""
        return len(self._cases)

    def submit(self, test: Test, plugin: str, parameters: Mapping[str, str], done: Done) -> None:
        """Look at `test` with `plugin`, as `submit_all` does."""
        self.submit_all([(test, plugin, parameters)], done)

    def submit_all(self, wanted: Iterable[tuple[Test, str, Mapping[str, str]]], done: Done) -> None:
        """Look at many tests, each given with the path of its plugin and its parameters.

        `done` is called with each test and its result later, from the loop. No test may be among
        them that has no result yet.
        """
        tests = list(wanted)
        deadline = clock.uptime() + self._limit
        for test, plugin, parameters in tests:
            self._cases[test] = _Case(test, plugin, parameters, done, deadline)
        self._runner.submit_all(tests, self._first_ended)

    def pause(self) -> float | None:
        """Return the seconds until `tick` is due; None if nothing is due before a plugin ends."""
        wake_at = self._next_deadline()
        if self._paused and self._runner.has_room:
            wake_at = min(wake_at, self._paused[0].due)
        if wake_at == _NEVER:
            return None
        return max(0.0, wake_at - clock.uptime())

    def tick(self) -> None:
        """Begin the second looks that are due; conclude each test whose time is over."""
        now = clock.uptime()
        for case in list(self._failed_before(now)):
            self._stand(case)
        while self._paused and self._paused[0].due <= now and self._runner.has_room:
            case = self._paused.popleft()
            if self._is_open(case):
                second_ended = functools.partial(self._second_ended, case)
                self._runner.submit(case.test, case.plugin, case.parameters, second_ended)

    def stand(self) -> None:
        """Let each first look that failed stand as the result, because there is no more time."""
        for case in list(self._cases.values()):
            if case.first:
                self._stand(case)

    def _next_deadline(self) -> float:
        """Return when the first of the tests that failed once has to be concluded."""
        if self._limit < _NEVER:
            for case in self._cases.values():
                if case.first:
                    return case.deadline
        return _NEVER

    def _failed_before(self, now: float) -> Iterable[_Case]:
        """Return the tests that failed once, and whose time is over."""
        if self._limit < _NEVER:
            for case in self._cases.values():
                if case.deadline > now:
                    break
                if case.first:
                    yield case

    def _is_open(self, case: _Case) -> bool:
        """Return whether `case` has no result yet; its test may be submitted again since."""
        return self._cases.get(case.test) is case

    def _first_ended(self, test: Test, first: Result) -> None:
        case = self._cases[test]
        if first.outcome not in result.FAILING or not self._again(test):
            self._conclude(case, first)
            return
        case.first = first
        case.due = clock.uptime() + result.SECOND_LOOK_PAUSE
        self._paused.append(case)
        self._failed(test, first)

    def _second_ended(self, case: _Case, test: Test, second: Result) -> None:
        if self._is_open(case):
            self._conclude(case, result.of_two_looks(case.first, second))

    def _stand(self, case: _Case) -> None:
        if case.first:
            self._conclude(case, case.first)

    def _conclude(self, case: _Case, concluded: Result) -> None:
        del self._cases[case.test]
        case.done(case.test, concluded)
