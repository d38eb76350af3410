"""The replies of several lines: whose turn it is to get one, and the making of them (R7, R8).

A statement, a list and an account cost the daemon most, so one caller of each address at a time
gets one. They are made in one thread, one after the other, so that no question waits for that. A
statement and a list are made once a second for all callers, unless the state has changed
meanwhile. Who asks without end gets them more slowly: each address has an allowance of bytes. How a
reply is sent is decided by the conversation.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import threading
from collections import deque
from typing import NamedTuple, Protocol

from dmonitor.base import clock, log
from dmonitor.net import protocol
from dmonitor.net.flights import Facts
from dmonitor.net.protocol import Request

REUSED_SECONDS = 1.0  # for which a statement or a list is given out again
_REUSED = ("greet", "tests")
# What an address gets at once, which is more than a visit of a peer takes, and then in a second.
BURST_BYTES = 4_000_000
BYTES_PER_SECOND = 500_000
_LEAST_BYTES = 16_000  # as which a smaller reply counts


class Recipient(Protocol):
    """A caller that wants a reply of several lines."""

    address: str

    def take_reply(self, lines: bytes, /) -> None:
        """Take the reply; it has no MACs yet, and several callers may share it."""

    def end(self) -> None:
        """Hang up, because the reply could not be made."""


class _Wish(NamedTuple):
    request: Request
    caller: Recipient


class _Allowance(NamedTuple):
    """How many bytes of replies an address may have; less than none if it has had too many."""

    bytes_left: float = BURST_BYTES
    at: float = 0.0  # when there were so many left, in uptime

    def grown(self) -> _Allowance:
        """Return the allowance as it is now."""
        now = clock.uptime()
        grown = self.bytes_left + (now - self.at) * BYTES_PER_SECOND
        return _Allowance(min(float(BURST_BYTES), grown), now)

    def pause(self) -> float:
        """Return the seconds until there are bytes left."""
        return max(0.0, -self.grown().bytes_left / BYTES_PER_SECOND)


class _Made(NamedTuple):
    lines: bytes
    began: float  # when it began to be made, in uptime
    version: object  # of the state then


class _Job:
    """A reply that is being made."""

    def __init__(self, request: Request, callers: list[Recipient], version: object) -> None:
        self.request = request
        self.callers = callers  # who get it
        self.version = version
        self.began = clock.uptime()
        self.lines = b""  # empty until it is made, and if that failed


class Replies:
    """Makes replies for callers, each in its turn, within the loop of a selector."""

    def __init__(self, selector: selectors.BaseSelector, facts: Facts) -> None:
        self._selector = selector
        self._facts = facts
        # By address; the first wish of each is being made or sent, and the others wait for that.
        self._queues: dict[str, deque[_Wish]] = {}
        self._allowances: dict[str, _Allowance] = {}  # by address
        self._held_back: set[str] = set()  # addresses whose turn has to wait for their allowance
        self._waiting: dict[Request, list[Recipient]] = {}  # for the job under way to end
        self._job: _Job | None = None  # the one under way
        # The thread that makes all replies, once there was one to make. A new one for each reply
        # would have the C library keep the memory of several: what one had, the next does not use.
        self._maker: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # for it; None ends it
        self._reusable: dict[Request, _Made] = {}
        self._ended, self._ending = socket.socketpair()  # a byte for each job that has ended

    def want(self, request: Request, caller: Recipient) -> None:
        """Have `caller` take the reply to `request` when it is the turn of its address.

        A caller wants one reply at a time. It has to call `release` when it has sent the reply, and
        when it is gone.
        """
        queue = self._queues.setdefault(caller.address, deque())
        queue.append(_Wish(request, caller))
        if len(queue) == 1:
            self._begin(queue[0])

    def release(self, caller: Recipient) -> None:
        """Give the turn of `caller`, if it has it, to the next caller of the same address."""
        queue = self._queues.get(caller.address)
        if not queue:
            return
        had_turn = queue[0].caller is caller
        left = deque(wish for wish in queue if wish.caller is not caller)
        if not left:
            del self._queues[caller.address]
            self._held_back.discard(caller.address)
        else:
            self._queues[caller.address] = left
        self._forget(caller)
        if left and had_turn:
            self._begin(left[0])

    def pause(self) -> float | None:
        """Return the seconds until `tick` is due; None if there is nothing to do then."""
        pauses = [self._allowances[address].pause() for address in self._held_back]
        return min(pauses, default=None)

    def tick(self) -> None:
        """Give their turns to the addresses that have waited for their allowance."""
        for address in list(self._held_back):
            if not self._allowances[address].pause():
                self._held_back.remove(address)
                self._begin(self._queues[address][0])

    def close(self) -> None:
        """Make nothing more; a reply that is being made is lost."""
        if self._job:
            self._selector.unregister(self._ended)
        self._jobs.put(None)
        self._ended.close()
        self._ending.close()

    def _forget(self, caller: Recipient) -> None:
        """Make nothing for `caller` any more."""
        if self._job and caller in self._job.callers:
            self._job.callers.remove(caller)
        for request, callers in list(self._waiting.items()):
            if caller in callers:
                callers.remove(caller)
            if not callers:
                del self._waiting[request]

    def _begin(self, wish: _Wish) -> None:
        """Begin the turn of an address, unless it has to wait for its allowance."""
        address = wish.caller.address
        if self._allowances.get(address, _Allowance()).pause():
            self._held_back.add(address)
            return
        self._waiting.setdefault(wish.request, []).append(wish.caller)
        self._make_next()

    def _make_next(self) -> None:
        """Begin to make the reply that has waited longest, unless one is being made."""
        while self._waiting and self._job is None:
            request = next(iter(self._waiting))
            callers = self._waiting.pop(request)
            version = self._facts.state_version()
            made = self._reusable.get(request)
            if made and _is_fresh(made, version):
                self._give(made.lines, callers)
            else:
                self._start(_Job(request, callers, version))

    def _start(self, job: _Job) -> None:
        self._job = job
        self._selector.register(self._ended, selectors.EVENT_READ, self._job_ended)
        try:
            self._start_maker()
        except RuntimeError as error:
            log.debug("no-thread", reason=str(error))
            self._make(job)
        else:
            self._jobs.put(job)

    def _start_maker(self) -> None:
        """Have the thread run; raise RuntimeError if it cannot be started."""
        if self._maker is None:
            maker = threading.Thread(target=self._make_all, daemon=True)
            maker.start()
            self._maker = maker

    def _make_all(self) -> None:
        """Make the replies of all jobs; this is what the thread runs."""
        while job := self._jobs.get():
            self._make(job)
            del job  # its reply is not kept until the next one comes

    def _make(self, job: _Job) -> None:
        """Make the reply of `job`, in the thread if there is one."""
        try:
            job.lines = self._lines(job.request)
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise it to
            log.error("reply-failed", request=job.request.word, reason=repr(error))
        with contextlib.suppress(OSError):
            self._ending.send(b".")

    def _lines(self, request: Request) -> bytes:
        match request.word:
            case "greet":
                return self._facts.statement()
            case "tests":
                return protocol.write_tests(self._facts.tests())
        return protocol.write_incident(*self._facts.incident(request.id))

    def _job_ended(self) -> None:
        self._ended.recv(16)
        self._selector.unregister(self._ended)
        job = self._job
        self._job = None
        if job:
            if job.request.word in _REUSED and job.lines:
                self._reusable[job.request] = _Made(job.lines, job.began, job.version)
            self._give(job.lines, job.callers)
            job.callers.clear()  # the thread may hold the job a moment longer
        self._make_next()

    def _give(self, lines: bytes, callers: list[Recipient]) -> None:
        """Give the reply to all `callers`; with nothing to give, end their conversations."""
        for caller in list(callers):
            if not lines:
                caller.end()
                continue
            allowance = self._allowances.get(caller.address, _Allowance()).grown()
            bytes_left = allowance.bytes_left - max(_LEAST_BYTES, len(lines))
            self._allowances[caller.address] = allowance._replace(bytes_left=bytes_left)
            caller.take_reply(lines)


def _is_fresh(made: _Made, version: object) -> bool:
    return clock.uptime() < made.began + REUSED_SECONDS and made.version == version
