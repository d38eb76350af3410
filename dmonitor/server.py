"""Answer the peers: who may ask, who waits for which run, what is remembered for how long (rules R3, R8).

The daemon's heart, without its start and its signals. A question is answered by membership in what this node tests
(`witness`); nothing else that a caller sends is run, kept or made part of a path. One run serves all who ask for the
same test while it lasts, and for MEMORY seconds after. No caller can make another wait: every socket is
non-blocking, every conversation ends by itself, and what one may send or leave unread is limited.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from dmonitor import log, protocol, resolve
from dmonitor.model import Incident, Outcome, Result, Statement, Test

MEMORY = 5.0  # seconds for which a result is given out again
CALLERS = 256  # conversations at a time
CALLERS_EACH = 16  # conversations at a time with one address
CONVERSATION_LIMIT = 60.0  # seconds; a round is shorter
ERRORS_LIMIT = 10  # lines of one conversation that make no sense
_HELPING = 1_000  # bytes of questions that are taken before the next caller's turn
_QUEUE = 4  # tests that may wait or run, as a multiple of those that may run; past that the daemon is busy
_UNREAD_LIMIT = 64_000  # bytes of answers that a caller may leave unread before its questions wait
_NOTE_EVERY = 60.0  # seconds between two log lines about one stranger


@dataclasses.dataclass(eq=False, slots=True)
class _Caller:
    """One conversation."""

    connection: socket.socket
    address: str
    until: float
    lines: protocol.Lines = dataclasses.field(default_factory=lambda: protocol.Lines(protocol.QUESTION_LIMIT))
    unheard: deque[bytes] = dataclasses.field(default_factory=deque)  # lines that wait for room, or for the others' turn
    unsent: bytearray = dataclasses.field(default_factory=bytearray)
    errors: int = 0
    waiting: int = 0  # answers that it is still owed
    leaving: bool = False  # ends once it has all its answers


class Facts(Protocol):
    """What this node knows; nothing here raises. Times come with `now` on their clock."""

    def tests(self) -> Iterable[Test]:
        """Return the tests that are configured here."""

    def has(self, test: Test, /) -> bool:
        """Say whether this node can run TEST: a configured one, or that of a peer."""

    def run(self, test: Test, done: Callable[[Test, Result], None], /) -> None:
        """Run TEST; DONE is called with its result, now or later."""

    def statement(self) -> tuple[Statement, float]: ...

    def incident(self, incident_id: str, /) -> tuple[Incident | None, float]:
        """Return the incident, None if it is not known."""


@dataclasses.dataclass(eq=False)
class Server:
    """Serve the sockets `listeners` from `selector`'s loop, and greet callers with `greeting`.

    `tick` must be called at the times that `pause` says. No more than a multiple of `concurrency` tests wait or run. The
    addresses of nodes are given by `admit`, and `stranger` is called when another one came.
    """

    selector: selectors.BaseSelector
    listeners: Sequence[socket.socket]
    greeting: protocol.Greeting
    facts: Facts
    concurrency: int
    stranger: Callable[[], None]

    def __post_init__(self) -> None:
        self._admitted: frozenset[str] = frozenset()
        self._callers: dict[_Caller, None] = {}  # in the order they came, which is that of their ends
        self._flights: dict[Test, set[_Caller]] = {}
        self._memory: dict[Test, tuple[Result, float]] = {}  # with when the run ended, in the order they ended
        self._noted: dict[str, float] = {}
        for listener in self.listeners:
            self.selector.register(listener, selectors.EVENT_READ, functools.partial(self._accept, listener))

    def admit(self, addresses: Iterable[str]) -> None:
        """Let in callers from ADDRESSES, in their normal form, and from nowhere else from now on."""
        self._admitted = frozenset(addresses)

    def pause(self) -> float | None:
        """Return seconds until `tick` is due; None when nobody is there and nothing is remembered."""
        due = [caller.until for caller in self._callers][:1]
        due += [ended + MEMORY for _, ended in self._memory.values()][:1]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def tick(self) -> None:
        """End what has lasted too long, forget what is too old."""
        now = time.monotonic()
        for caller in [caller for caller in self._callers if caller.until <= now]:
            log.debug("caller-ended", address=caller.address, reason="over its time")
            self._drop(caller)
        for test in [test for test, (_, ended) in self._memory.items() if ended + MEMORY <= now]:
            del self._memory[test]

    def close(self) -> None:
        for caller in list(self._callers):
            self._drop(caller)
        for listener in self.listeners:
            self.selector.unregister(listener)
            listener.close()

    # Conversations.

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, source = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._note("descriptors", "no-descriptor", reason=error.strerror)
                for caller in list(self._callers)[:1]:
                    self._drop(caller)
            return
        address = str(resolve.normal(source[0]))
        if address not in self._admitted:
            self._note(address, "stranger", address=address)
            self.stranger()
            connection.close()
            return
        mine = [caller for caller in self._callers if caller.address == address]
        if len(mine) >= CALLERS_EACH or len(self._callers) >= CALLERS:
            self._note(address, "too-many-callers", address=address, theirs=len(mine), in_all=len(self._callers))
            self._drop(mine[0] if mine else next(iter(self._callers)))  # the oldest: it has had its time
        connection.setblocking(False)
        caller = _Caller(connection, address, time.monotonic() + CONVERSATION_LIMIT)
        self._callers[caller] = None
        self.selector.register(connection, selectors.EVENT_READ, lambda: self._serve(caller))
        self._send(caller, protocol.write(self.greeting))

    def _serve(self, caller: _Caller) -> None:
        self._flush(caller)
        if caller not in self._callers or caller.leaving or len(caller.unsent) > _UNREAD_LIMIT:
            return
        if not caller.unheard:
            self._hear(caller)
        while caller.unheard and not caller.leaving and len(caller.unsent) <= _UNREAD_LIMIT:
            if self._line(caller, caller.unheard.popleft()):
                break
        self._flush(caller)

    def _hear(self, caller: _Caller) -> None:
        """Read some lines of CALLER's."""
        try:
            data = caller.connection.recv(_HELPING)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        try:
            caller.unheard += caller.lines.feed(data)
        except protocol.ProtocolError as error:
            self._refuse(caller, error)
            caller.leaving = True
        caller.leaving |= not data

    def _line(self, caller: _Caller, line: bytes) -> bool:
        """Serve one LINE; say whether that was so much work that it is the others' turn now."""
        try:
            request = protocol.read_request(line)
        except protocol.ProtocolError as error:
            self._refuse(caller, error)
            return False
        match request:
            case protocol.Request("quit"):
                caller.leaving = True
            case protocol.Question(test):
                self._question(caller, test)
            case protocol.Request("greet"):
                self._send(caller, protocol.write_statement(*self.facts.statement()))
            case protocol.Request("tests"):
                self._send(caller, protocol.write_tests(self.facts.tests()))
            case protocol.Request("incident", incident_id):
                self._send(caller, protocol.write_incident(*self.facts.incident(incident_id)))
        return isinstance(request, protocol.Request) and request.word != "quit"

    def _refuse(self, caller: _Caller, error: protocol.ProtocolError) -> None:
        caller.errors += 1
        self._note("error " + caller.address, "garbage", address=caller.address, reason=str(error))
        self._send(caller, protocol.write(protocol.Refusal("malformed", str(error))))
        if caller.errors >= ERRORS_LIMIT:
            caller.leaving = True

    def _send(self, caller: _Caller, data: bytes) -> None:
        """Send DATA, behind what is still unsent."""
        caller.unsent += data
        if len(caller.unsent) == len(data):  # else the loop will say when there is room
            self._flush(caller)

    def _flush(self, caller: _Caller) -> None:
        """Send what the socket takes; end a conversation that is over."""
        if caller not in self._callers:
            return
        try:
            while caller.unsent:
                del caller.unsent[: caller.connection.send(caller.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(caller)
            return
        if caller.leaving and not caller.unsent and not caller.waiting:
            self._drop(caller)
            return
        self._watch(caller)

    def _watch(self, caller: _Caller) -> None:
        """Wait for what can be used: questions while there is room for answers, and room while there is none."""
        events = 0
        if not caller.leaving and len(caller.unsent) <= _UNREAD_LIMIT:
            events |= selectors.EVENT_READ
        if caller.unsent or (caller.unheard and not caller.leaving):
            events |= selectors.EVENT_WRITE
        registered = self.selector.get_map().get(caller.connection)
        if registered is None and events:
            self.selector.register(caller.connection, events, lambda: self._serve(caller))
        elif registered is not None and not events:
            self.selector.unregister(caller.connection)
        elif registered is not None and registered.events != events:
            self.selector.modify(caller.connection, events, registered.data)

    def _drop(self, caller: _Caller) -> None:
        if self._callers.pop(caller, 0) == 0:
            return
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(caller.connection)
        with contextlib.suppress(OSError):  # what is left unread would make the close a reset, and that undo our last line
            caller.connection.recv(1 << 16)
        caller.connection.close()

    # Questions.

    def _question(self, caller: _Caller, test: Test) -> None:
        now = time.monotonic()
        if test in self._memory and self._memory[test][1] + MEMORY > now:
            result, ended = self._memory[test]
            self._send(caller, protocol.write(protocol.Reply(test, result, now - ended)))
            return
        if test in self._flights:
            self._board(caller, test)
        elif not self.facts.has(test):
            self._note("not-configured " + caller.address, "not-configured", address=caller.address, test=str(test))
            self._answer([caller], test, Result(Outcome.UNKNOWN), protocol.NOT_CONFIGURED)
        elif len(self._flights) >= _QUEUE * self.concurrency:
            self._note("busy", "busy", running=len(self._flights))
            self._answer([caller], test, Result(Outcome.UNKNOWN), protocol.BUSY)
        else:
            self._flights[test] = set()
            self._board(caller, test)
            log.debug("question", address=caller.address, test=str(test))
            self.facts.run(test, self._landed)

    def _board(self, caller: _Caller, test: Test) -> None:
        """Have CALLER wait for the run of TEST, once, however often it asks."""
        if caller not in self._flights[test]:
            self._flights[test].add(caller)
            caller.waiting += 1

    def _landed(self, test: Test, result: Result) -> None:
        self._memory.pop(test, None)
        self._memory[test] = (result, time.monotonic())
        waiting = self._flights.pop(test)
        log.debug("ran", test=str(test), result=result.outcome.value, seconds=result.duration, text=result.text)
        for caller in waiting:
            caller.waiting -= 1
        self._answer(waiting, test, result)

    def _answer(self, callers: Iterable[_Caller], test: Test, result: Result, reason: str = "") -> None:
        line = protocol.write(protocol.Reply(test, result, 0.0, reason))
        for caller in callers:
            self._send(caller, line)

    def _note(self, subject: str, event: str, **facts: log.Value) -> None:
        """Log what a caller can cause as often as it likes at most once a minute for each SUBJECT."""
        now = time.monotonic()
        if now - self._noted.get(subject, float("-inf")) < _NOTE_EVERY:
            return
        self._noted = {known: at for known, at in self._noted.items() if now - at < _NOTE_EVERY}
        if len(self._noted) < 1000:
            self._noted[subject] = now
            log.warning(event, **facts)
