"""Run plugins, many at a time, each under its limit, and leave nothing behind (R1, promise 6).

Checker and daemon share this module; no other way leads to a plugin. The plugins are not children
of the program but of its *supervisor*, a process that the program forks early on:

    program  --request-->  supervisor  --posix_spawn-->  plugins, each a session of its own
             <--result---

A plugin that takes long is told of while it runs, and a run that nobody waits for is cancelled.

The supervisor is a child subreaper: it becomes the parent of every process of a plugin that loses
its parent, in whatever session that is, and kills it. When the program dies, even by kill -9, the
supervisor sees the end of its socket, kills everything and exits. The program is a subreaper as
well. Whenever a supervisor has ended, in whatever way, the program kills each child that it did not
have before the first supervisor: a plugin can take its mark off, and kill its supervisor. So the
program starts nothing else while it has a runner.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from dmonitor.base import clock, log
from dmonitor.core import result
from dmonitor.core.model import Outcome, Result, Test
from dmonitor.execution import processes, supervisor

PLUGIN_LIMIT = 10.0  # seconds that a plugin may run

_EARLY_DEATH = 1.0  # seconds; a supervisor that dies sooner may be unable to live on this system
_MAX_EARLY_DEATHS = 3  # early deaths in a row after which there is no doubt
_CLOSE_LIMIT = processes.REAP_LIMIT + 0.5  # seconds that the supervisor may take to end everything
_RECEIVE_BYTES = 1 << 16

_LOST = Result(Outcome.UNKNOWN, "the process that runs the plugins was killed")

Done = Callable[[Test, Result], None]
Slow = Callable[[Test], None]


class _Run(NamedTuple):
    """One run of a plugin that has not ended yet."""

    test: Test
    done: Done
    slow: Slow


def _ignore(_: Test) -> None:
    """Do nothing about a plugin that takes long."""


class Runner:
    """The program's end: hands tests to the supervisor, and their results to callbacks.

    The callbacks are called from the loop of the selector. Not for use with threads.
    """

    def __init__(
        self, selector: selectors.BaseSelector, concurrency: int, limit: float = PLUGIN_LIMIT
    ) -> None:
        """Start a supervisor, for `concurrency` plugins at the same time and `limit` seconds each.

        The loop of `selector` must call the data of each key that is ready. Raise OSError if the
        supervisor cannot be started.
        """
        self._selector = selector
        self._concurrency = concurrency
        self._limit = limit
        self._waiting: dict[int, _Run] = {}  # by the number of the request
        self._last_number = 0
        self._early_deaths = 0  # of supervisors, in a row
        # What sendmail left to us in an earlier part of this round, for instance.
        self._others = frozenset(processes.children())
        processes.become_subreaper()
        self._start_supervisor()

    def _start_supervisor(self) -> None:
        self._started = clock.uptime()
        self._socket, supervisors_end = socket.socketpair()
        self._supervisor_pid = os.fork()
        if self._supervisor_pid == 0:
            supervisor.main(supervisors_end, self._concurrency, self._limit, result.SLOW_LOOK)
        supervisors_end.close()
        self._partial = b""  # the beginning of a result
        self._selector.register(self._socket, selectors.EVENT_READ, self._take_results)

    @property
    def pending(self) -> int:
        """Return how many tests were submitted that have no result yet."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Return whether one more plugin would not have to wait for another one to end."""
        return len(self._waiting) < self._concurrency

    def submit(self, test: Test, plugin: str, parameters: Mapping[str, str], done: Done) -> None:
        """Run `plugin` for `test`, with `parameters` in its environment; see `submit_all`."""
        self.submit_all([(test, plugin, parameters)], done)

    def submit_all(
        self,
        wanted: Iterable[tuple[Test, str, Mapping[str, str]]],
        done: Done,
        slow: Slow = _ignore,
    ) -> None:
        """Run many tests, each given with the path of its plugin and its parameters.

        `done` is called with each test and its result later, from the loop. Before that, `slow` is
        called with each test whose plugin has run for result.SLOW_LOOK seconds.
        """
        lines = []
        for test, plugin, parameters in wanted:
            self._last_number += 1
            self._waiting[self._last_number] = _Run(test, done, slow)
            fields = [str(self._last_number), plugin, test.host]
            for key, value in parameters.items():
                fields.append(f"{key}={value}")
            lines.append("\0".join(fields) + "\n")
        self._request(lines)

    def cancel(self, test: Test) -> None:
        """End each run of `test`; nobody is told its result."""
        numbers = [number for number, run in self._waiting.items() if run.test == test]
        for number in numbers:
            del self._waiting[number]
        self._request([f"{number}\n" for number in numbers])

    def _request(self, lines: Iterable[str]) -> None:
        requests = "".join(lines).encode("utf-8", "surrogateescape")
        # A dead supervisor is found, and replaced, by `_take_results`.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(requests)

    def _take_results(self) -> None:
        """Take in the results that are there now; replace a supervisor that has died."""
        lines: list[bytes] = []
        is_alive = True
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                is_alive = False
                break
            *complete, self._partial = (self._partial + data).split(b"\n")
            lines.extend(complete)
        for line in lines:
            self._take_line(*line.decode().split("\0"))
        if not is_alive:
            self._replace_supervisor()

    def _take_line(self, number: str, *ended: str) -> None:
        """Take a line of the supervisor's: a run has ended, or takes long if nothing follows."""
        run = self._waiting.get(int(number))
        if run is None:
            return  # it was cancelled meanwhile
        if not ended:
            run.slow(run.test)
            return
        del self._waiting[int(number)]
        outcome, duration, text = ended
        run.done(run.test, Result(Outcome[outcome], text, float(duration)))

    def _replace_supervisor(self) -> None:
        """Clear up after a supervisor that died, and start another one.

        Its plugins are killed, and the results of all waiting tests are UNKNOWN. Raise OSError if
        supervisors keep dying.
        """
        log.error("supervisor-lost", tests=self.pending)
        if clock.uptime() - self._started < _EARLY_DEATH:
            self._early_deaths += 1
        else:
            self._early_deaths = 0
        if self._early_deaths >= _MAX_EARLY_DEATHS:
            raise OSError(0, "the process that runs the plugins keeps dying")
        self._selector.unregister(self._socket)
        self._socket.close()
        processes.reap_dead(self._supervisor_pid)
        self._kill_strays()
        lost = self._waiting
        self._waiting = {}
        self._start_supervisor()
        for run in lost.values():
            run.done(run.test, _LOST)

    def _kill_strays(self) -> None:
        """Kill what a supervisor that has ended has left to us."""
        processes.kill_all(lambda pid: pid not in self._others)

    def close(self) -> None:
        """End all that still runs; return when it is gone."""
        self._selector.unregister(self._socket)
        self._socket.close()
        # A supervisor that does not end in time is killed with the rest.
        processes.reap(self._supervisor_pid, _CLOSE_LIMIT)
        self._kill_strays()
