"""Look at tests up to twice, because one failing look proves little (rules R1, R10).

A test that fails is run again a moment after its first look has ended, and fails only if both looks
do. If the first look takes long, the second one does not wait for its end: it begins beside it, and
the first of the two that passes is the result. One failing look is enough while the test has an
open incident: it proves nothing new. First looks go before second looks if plugins have to wait.
Checker and daemon share this module; `runner` starts the plugins. What a result means, and who is
told of it, is decided elsewhere.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Mapping

from dmonitor.base import clock
from dmonitor.core import result
from dmonitor.core.model import Outcome, Result, Test
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
        self.deadline = deadline  # from which a look that failed stands
        self.under_way = 1  # looks that have not ended; the first one may wait for room
        self.due = _NEVER  # when one more look is due
        self.first: Result | None = None  # the first look, if it failed
        self.failed: Result | None = None  # the last look that failed
        self.failed_at = -_NEVER  # when that look ended
        self.unknown: Result | None = None  # a look that was UNKNOWN


def _ignore(test: Test) -> None:
    """Do nothing about a first look that takes long."""


def _ignore_result(test: Test, first: Result) -> None:
    """Do nothing about a first look that failed."""


def _always(test: Test) -> bool:
    """Have every test looked at again."""
    return True


def _due_of(case: _Case) -> float:
    return case.due


class Looks:
    """Tests that are looked at. `tick` must be called at the times that `pause` says.

    Times are those of `clock`.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        failed: Callable[[Test, Result], None] = _ignore_result,
        slow: Callable[[Test], None] = _ignore,
        again: Callable[[Test], bool] = _always,
        beside: Callable[[Test], bool] = _always,
        limit: float = _NEVER,
    ) -> None:
        """Look at nothing yet.

        `failed` is told at once of each first look that failed, `slow` of each that takes so long
        that the test is looked at beside it. `again` returns whether a test is to be looked at
        again if it fails, and `beside` whether it is if it is only slow. A look that failed stands
        as the result if no other one has ended `limit` seconds after the test was submitted.
        """
        self._runner = runner
        self._failed = failed
        self._slow = slow
        self._again = again
        self._beside = beside
        self._limit = limit
        # Those that have no result yet, in the order in which they were submitted.
        self._cases: dict[Test, _Case] = {}
        # Those of which one more look is due, in the order of that. Some may have a result already.
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
        self._runner.submit_all(tests, self._first_ended, self._first_is_slow)

    def pause(self) -> float | None:
        """Return the seconds until `tick` is due; None if nothing is due before a plugin ends."""
        wake_at = self._next_deadline()
        if self._paused and self._runner.has_room:
            wake_at = min(wake_at, self._paused[0].due)
        if wake_at == _NEVER:
            return None
        return max(0.0, wake_at - clock.uptime())

    def tick(self) -> None:
        """Begin the looks that are due; conclude each test whose time is over."""
        now = clock.uptime()
        for case in list(self._failed_before(now)):
            self._stand(case)
        while self._paused and self._paused[0].due <= now and self._runner.has_room:
            case = self._paused.popleft()
            if self._is_open(case):
                case.due = _NEVER
                case.under_way += 1
                self._runner.submit(case.test, case.plugin, case.parameters, self._second_ended)

    def stand(self) -> None:
        """Let each look that failed stand as the result, because there is no more time."""
        for case in list(self._cases.values()):
            self._stand(case)

    def _next_deadline(self) -> float:
        """Return when the first of the tests that failed once has to be concluded."""
        if self._limit < _NEVER:
            for case in self._cases.values():
                if case.failed:
                    return case.deadline
        return _NEVER

    def _failed_before(self, now: float) -> Iterable[_Case]:
        """Return the tests that failed once, and whose time is over."""
        if self._limit < _NEVER:
            for case in self._cases.values():
                if case.deadline > now:
                    break
                if case.failed:
                    yield case

    def _is_open(self, case: _Case) -> bool:
        """Return whether `case` has no result yet; its test may be submitted again since."""
        return self._cases.get(case.test) is case

    def _first_is_slow(self, test: Test) -> None:
        """Look at `test` beside its first look, which takes long."""
        if self._again(test) and self._beside(test):
            self._look_at(self._cases[test], clock.uptime())
            self._slow(test)

    def _first_ended(self, test: Test, first: Result) -> None:
        case = self._cases[test]
        case.under_way -= 1
        if first.outcome in result.FAILING:
            if not self._again(test):
                self._conclude(case, first)
                return
            case.first = first
            self._failed(test, first)
        self._look_ended(case, first)

    def _second_ended(self, test: Test, second: Result) -> None:
        case = self._cases[test]
        case.under_way -= 1
        self._look_ended(case, second)

    def _look_ended(self, case: _Case, ended: Result) -> None:
        """Take the result of a look, and conclude if no other look at the test decides.

        Two looks that failed at the same moment are one sample of it, so one more is due then.
        """
        now = clock.uptime()
        if ended.outcome is Outcome.OK:
            self._conclude(case, result.of_two_looks(case.first, ended))
            return
        is_second_moment = now >= case.failed_at + result.SECOND_LOOK_PAUSE
        is_confirmed = case.failed is not None and is_second_moment
        if ended.outcome is Outcome.UNKNOWN:
            case.unknown = ended
        else:
            case.failed = ended
            case.failed_at = now
        if case.under_way:
            return
        if case.unknown:
            self._conclude(case, result.of_two_looks(case.failed, case.unknown))
        elif is_confirmed:
            self._conclude(case, ended)
        else:
            self._look_at(case, now + result.SECOND_LOOK_PAUSE)

    def _look_at(self, case: _Case, due: float) -> None:
        """Have the test looked at once more at `due`, and not at the time that was said before."""
        if case.due < _NEVER:
            self._paused.remove(case)
        case.due = due
        bisect.insort(self._paused, case, key=_due_of)

    def _stand(self, case: _Case) -> None:
        if case.failed:
            self._conclude(case, case.failed)

    def _conclude(self, case: _Case, concluded: Result) -> None:
        """Give the result of a test; end the looks at it that nobody waits for any more."""
        del self._cases[case.test]
        if case.under_way:
            self._runner.cancel(case.test)
        case.done(case.test, concluded)
