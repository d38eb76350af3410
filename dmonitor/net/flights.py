"""The tests that run for callers now, and what they have found in the last seconds (rules R3, R8).

One run serves all callers who ask for the same test while it lasts, and for RESULT_CACHE_SECONDS
after its end. A caller may ask only for what this node tests itself. How a test is run, and who
may ask, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from dmonitor.base import clock, log
from dmonitor.core.model import Incident, Outcome, Result, Test
from dmonitor.core.result import event_facts
from dmonitor.net import protocol
from dmonitor.net.limited_log import LimitedLog
from dmonitor.net.protocol import Reply

RESULT_CACHE_SECONDS = 5.0  # for which a result is given out again
_QUEUE = 4  # tests that may wait or run, as a multiple of those that may run; more is "busy"


class Facts(Protocol):
    """What this node knows. Nothing here raises. Times come with the present one on their clock."""

    def tests(self) -> Iterable[Test]:
        """Return the tests that are configured here; any thread may call this."""

    def has(self, test: Test, /) -> bool:
        """Return whether this node can run `test`: a configured one, or that of a peer."""

    def run(self, test: Test, done: Callable[[Test, Result], None], /) -> None:
        """Run `test`; call `done` with its result, now or later."""

    def statement(self) -> bytes:
        """Return the lines of what this node states and knows; any thread may call this."""

    def incident(self, incident_id: str, /) -> tuple[Incident | None, float]:
        """Return the incident with this id, None if it is not known; any thread may call this."""

    def state_version(self) -> object:
        """Return what differs once the state that statements are made of has been written to."""


class Waiter(Protocol):
    """A caller that waits for tests to run."""

    address: str
    waiting: int  # replies that it is still owed

    def send(self, lines: bytes, /) -> None:
        """Send `lines` to the caller."""


class _Remembered(NamedTuple):
    result: Result
    ended: float  # in uptime


class Flights:
    """Runs tests for callers. `tick` must be called at the times that `pause` says."""

    def __init__(self, facts: Facts, concurrency: int, limited_log: LimitedLog) -> None:
        """Run nothing yet; `concurrency` is how many plugins may run at a time."""
        self._facts = facts
        self._limit = _QUEUE * concurrency
        self._log = limited_log
        self._under_way: dict[Test, set[Waiter]] = {}
        self._memory: dict[Test, _Remembered] = {}  # in the order in which the runs ended

    def ask(self, test: Test, caller: Waiter) -> Reply | None:
        """Return the reply to the question of `caller` if there is one at once.

        Else `caller` is told when the test has run: once, however often it has asked.
        """
        now = clock.uptime()
        remembered = self._memory.get(test)
        if remembered and remembered.ended + RESULT_CACHE_SECONDS > now:
            return Reply(test, remembered.result, now - remembered.ended)
        if test in self._under_way:
            self._add_waiter(test, caller)
            return None
        if not self._facts.has(test):
            subject = "not-configured " + caller.address
            self._log.warning(subject, "not-configured", address=caller.address, test=str(test))
            return Reply(test, Result(Outcome.UNKNOWN), 0.0, protocol.NOT_CONFIGURED)
        if len(self._under_way) >= self._limit:
            self._log.warning("busy", "busy", running=len(self._under_way))
            return Reply(test, Result(Outcome.UNKNOWN), 0.0, protocol.BUSY)
        self._under_way[test] = set()
        self._add_waiter(test, caller)
        log.debug("question", address=caller.address, test=str(test))
        self._facts.run(test, self._ended)
        return None

    def pause(self) -> float | None:
        """Return the seconds until `tick` is due; None if nothing is remembered."""
        oldest = next(iter(self._memory.values()), None)
        if oldest is None:
            return None
        return max(0.0, oldest.ended + RESULT_CACHE_SECONDS - clock.uptime())

    def tick(self) -> None:
        """Forget the results that are too old."""
        now = clock.uptime()
        forgotten = []
        for test, remembered in self._memory.items():
            if remembered.ended + RESULT_CACHE_SECONDS > now:
                break
            forgotten.append(test)
        for test in forgotten:
            del self._memory[test]

    def _add_waiter(self, test: Test, caller: Waiter) -> None:
        """Let `caller` wait for the run of `test`: once, however often it asks."""
        if caller not in self._under_way[test]:
            self._under_way[test].add(caller)
            caller.waiting += 1

    def _ended(self, test: Test, result: Result) -> None:
        """Remember the `result` of a run that has ended, and tell all who wait for it."""
        self._memory.pop(test, None)  # so that it is put at the end
        self._memory[test] = _Remembered(result, clock.uptime())
        passengers = self._under_way.pop(test)
        log.debug("test-ran", **event_facts(test, result))
        line = protocol.write(Reply(test, result))
        for caller in passengers:
            caller.waiting -= 1
        for caller in passengers:
            caller.send(line)
