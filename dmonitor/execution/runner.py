"""Run plugins, many at a time, each under its limit, and leave nothing of them behind (rule R1, promise 6).

Checker and daemon share it, and nothing else starts plugins. The plugins are not children of the program but of
its *supervisor*, a process forked from it early on:

    program  --run-->  supervisor  --posix_spawn-->  plugins, each a session of its own
             <-result-

The supervisor is a child subreaper: whatever a plugin starts, in however many sessions, ends up as the supervisor's
child once its parent dies, and is killed there. When the program dies, by kill -9 too, the supervisor sees the end
of its socket, kills everything and exits. When the supervisor dies, the program, a subreaper as well, does that.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping

from dmonitor.base import log
from dmonitor.core.model import Outcome, Result, Test
from dmonitor.execution import processes, supervisor

PLUGIN_LIMIT = 10.0  # seconds a plugin may run

_EARLY = 1.0  # seconds; a supervisor that dies sooner, several times in a row, cannot live here
_EARLY_DEATHS = 3

_LOST = Result(Outcome.UNKNOWN, "the process that runs the plugins was killed")

Done = Callable[[Test, Result], None]


class Runner:
    """The program's end: hands tests to the supervisor, and their results to whoever asked, from within SELECTOR's loop.

    Each key of SELECTOR has as its data what to call when it is ready. Not for use with threads.
    """

    def __init__(
        self, selector: selectors.BaseSelector, concurrency: int, limit: float = PLUGIN_LIMIT
    ) -> None:
        self._selector = selector
        self._concurrency = concurrency
        self._limit = limit
        self._waiting: dict[int, tuple[Test, Done]] = {}
        self._number = 0
        self._early_deaths = 0
        processes.become_subreaper()
        self._start()

    def _start(self) -> None:
        self._started = time.monotonic()
        self._socket, theirs = socket.socketpair()
        self._warden = os.fork()
        if self._warden == 0:
            supervisor.main(theirs, self._concurrency, self._limit)
        theirs.close()
        self._rest = b""
        self._selector.register(self._socket, selectors.EVENT_READ, self._results)

    @property
    def pending(self) -> int:
        """How many tests were submitted whose result is not there yet."""
        return len(self._waiting)

    def submit(self, test: Test, plugin: str, parameters: Mapping[str, str], done: Done) -> None:
        """Run TEST, with PARAMETERS in its environment; DONE is called with its result later, from the loop."""
        self.submit_all([(test, plugin, parameters)], done)

    def submit_all(self, wanted: Iterable[tuple[Test, str, Mapping[str, str]]], done: Done) -> None:
        """Run many: each with its test, plugin and parameters."""
        lines = []
        for test, plugin, parameters in wanted:
            self._number += 1
            self._waiting[self._number] = (test, done)
            fields = [
                str(self._number),
                plugin,
                test.host,
                *(f"{key}={value}" for key, value in parameters.items()),
            ]
            lines.append("\0".join(fields) + "\n")
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # `_results` will find the supervisor dead
            self._socket.sendall("".join(lines).encode("utf-8", "surrogateescape"))

    def _results(self) -> None:
        """Take in what is there, without waiting."""
        alive = True
        lines: list[bytes] = []
        try:
            while data := self._socket.recv(1 << 16, socket.MSG_DONTWAIT):
                *more, self._rest = (self._rest + data).split(b"\n")
                lines += more
            alive = False
        except BlockingIOError:
            pass
        except ConnectionResetError:
            alive = False
        for line in lines:
            number, outcome, duration, text = line.decode().split("\0")
            test, done = self._waiting.pop(int(number))
            done(test, Result(Outcome[outcome], text, float(duration)))
        if not alive:
            self._replace()

    def _replace(self) -> None:
        """Clear up after a supervisor that was killed: its plugins die, their tests are UNKNOWN, another one starts."""
        log.error("supervisor-lost", tests=self.pending)
        self._early_deaths = (
            self._early_deaths + 1 if time.monotonic() - self._started < _EARLY else 0
        )
        if self._early_deaths >= _EARLY_DEATHS:
            raise OSError(0, "the process that runs the plugins keeps dying")
        self._selector.unregister(self._socket)
        self._socket.close()
        self._bury()
        lost, self._waiting = self._waiting, {}
        self._start()
        for test, done in lost.values():
            done(test, _LOST)

    def _bury(self) -> None:
        processes.reap(self._warden, 0)
        processes.kill_all(lambda pid: processes.mark_of(pid) is not None)

    def close(self) -> None:
        """End all that still runs; return when it is gone."""
        self._selector.unregister(self._socket)
        self._socket.close()
        if not processes.reap(self._warden, processes.REAP_LIMIT + 0.5):
            os.kill(self._warden, signal.SIGKILL)
            self._bury()
