"""Answer the peers: who may ask, who waits for which run, what is remembered for how long (rules R3, R8).

The daemon's heart, without its start and its signals. A question is answered by membership in what this node tests
(`witness`); nothing else that a caller sends is run, kept or made part of a path. One run serves all who ask for the
same test while it lasts, and for RESULT_CACHE_SECONDS seconds after. No caller can make another wait: every socket is
non-blocking, every conversation ends by itself, and what one may send or leave unread is limited.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from dmonitor.base import log
from dmonitor.config import resolve
from dmonitor.core.model import Incident, Outcome, Result, Statement, Test
from dmonitor.net import auth, protocol
from dmonitor.net.access import Door
from dmonitor.net.wire import Wire

RESULT_CACHE_SECONDS = 5.0  # seconds for which a result is given out again
CALLERS = 256  # conversations at a time
CALLERS_EACH = 16  # conversations at a time with one address
CONVERSATION_LIMIT = 60.0  # seconds; a round is shorter
HELLO_LIMIT = 5.0  # seconds for who has to show that he has a key
LINES_LIMIT = 50_000  # lines of one conversation
ERRORS_LIMIT = 10  # lines of one conversation that make no sense
_HELPING = 1_000  # bytes of questions that are taken before the next caller's turn
_QUEUE = 4  # tests that may wait or run, as a multiple of those that may run; past that the daemon is busy
_UNREAD_LIMIT = 64_000  # bytes of answers that a caller may leave unread before its questions wait
_NOTE_EVERY = 60.0  # seconds between two log lines about one stranger


class _Caller:
    """One conversation."""

    def __init__(self, wire: Wire, address: str, until: float, nonce: str) -> None:
        self.wire, self.address, self.until = wire, address, until
        self.nonce = nonce  # of a challenge that it has not met yet
        self.unheard: deque[bytes] = deque()  # lines that wait for room, or for the others' turn
        self.lines = self.errors = 0
        self.waiting = 0  # answers that it is still owed
        self.leaving = False  # ends once it has all its answers


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


class Server:
    """Serve the sockets LISTENERS from SELECTOR's loop.

    `tick` must be called at the times that `pause` says. No more than a multiple of CONCURRENCY tests wait or run. Who is
    let in, has to show which key, and is greeted by whom, is said by DOOR.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listeners: Sequence[socket.socket],
        facts: Facts,
        concurrency: int,
        door: Door,
    ) -> None:
        self.selector, self.listeners, self.facts, self.concurrency, self.door = (
            selector,
            listeners,
            facts,
            concurrency,
            door,
        )
        self._callers: dict[_Caller, None] = {}  # in the order they came
        self._flights: dict[Test, set[_Caller]] = {}
        self._memory: dict[
            Test, tuple[Result, float]
        ] = {}  # with when the run ended, in the order they ended
        self._noted: dict[str, float] = {}
        for listener in self.listeners:
            self.selector.register(
                listener, selectors.EVENT_READ, functools.partial(self._accept, listener)
            )

    def pause(self) -> float | None:
        """Return seconds until `tick` is due; None when nobody is there and nothing is remembered."""
        due = [caller.until for caller in self._callers]
        due += [ended + RESULT_CACHE_SECONDS for _, ended in self._memory.values()][:1]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def tick(self) -> None:
        """End what has lasted too long, forget what is too old."""
        now = time.monotonic()
        for caller in [caller for caller in self._callers if caller.until <= now]:
            log.debug("caller-ended", address=caller.address, reason="over its time")
            self._drop(caller)
        for test in [
            test for test, (_, ended) in self._memory.items() if ended + RESULT_CACHE_SECONDS <= now
        ]:
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
                for caller in sorted(self._callers, key=lambda caller: not caller.nonce)[:1]:
                    self._drop(caller)
            return
        address = str(resolve.normal(source[0]))
        self.door.judge(address, functools.partial(self._receive, connection, address))

    def _receive(self, connection: socket.socket, address: str, is_node: bool) -> None:
        if not is_node or self.door.keys == ():
            self._note(address, "no-key" if is_node else "stranger", address=address)
            connection.close()
            return
        nonce = os.urandom(16).hex() if self.door.keys else ""
        until = time.monotonic() + (HELLO_LIMIT if nonce else CONVERSATION_LIMIT)
        wire = Wire(self.selector, connection, protocol.QUESTION_BYTES, lambda: self._serve(caller))
        caller = _Caller(wire, address, until, nonce)
        self._admit(caller)
        self._send(
            caller, protocol.write(protocol.Challenge(nonce) if nonce else self.door.greeting)
        )

    def _admit(self, caller: _Caller) -> None:
        """Count CALLER among those of its kind, and end the oldest of its address, or of who has most, if they are too many.

        Those who have not shown yet that they have a key are a kind of their own, and never cost one who has.
        """
        self._callers.pop(caller, None)
        self._callers[caller] = None
        by_address: dict[str, list[_Caller]] = {}
        for each in self._callers:
            if bool(each.nonce) is bool(caller.nonce):
                by_address.setdefault(each.address, []).append(each)
        mine, crowd = by_address[caller.address], max(by_address.values(), key=len)
        in_all = sum(map(len, by_address.values()))
        if len(mine) > CALLERS_EACH or in_all > CALLERS:
            self._note(
                caller.address,
                "too-many-callers",
                address=caller.address,
                theirs=len(mine),
                in_all=in_all,
            )
            self._drop(mine[0] if len(mine) > CALLERS_EACH else crowd[0])

    def _serve(self, caller: _Caller) -> None:
        self._flush(caller)
        if caller not in self._callers or caller.leaving or len(caller.wire.unsent) > _UNREAD_LIMIT:
            return
        if not caller.unheard:
            self._hear(caller)
        while caller.unheard and not caller.leaving and len(caller.wire.unsent) <= _UNREAD_LIMIT:
            if self._line(caller, caller.unheard.popleft()):
                break
        self._flush(caller)

    def _hear(self, caller: _Caller) -> None:
        """Read some lines of CALLER's."""
        lines: list[bytes] | None = None
        try:
            lines = caller.wire.hear(_HELPING)
        except OSError:
            pass
        except protocol.ProtocolError as error:
            self._refuse(caller, error)
        caller.unheard += lines or ()
        caller.leaving |= lines is None

    def _line(self, caller: _Caller, line: bytes) -> bool:
        """Serve one LINE; say whether that was so much work that it is the others' turn now."""
        caller.lines += 1
        if caller.lines > LINES_LIMIT:
            self._note("lines " + caller.address, "too-many-lines", address=caller.address)
            caller.leaving = True
            return False
        try:
            if caller.nonce:
                self._meet(caller, line)
                return True
            request = protocol.read_request(caller.wire.open(line))
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

    def _meet(self, caller: _Caller, line: bytes) -> None:
        """Hear a hello; to who has no key of ours not a word is said, for who has one we are the node that he calls."""
        caller.wire.seal, called = auth.accept_hello(line, self.door.keys or (), caller.nonce)
        caller.nonce, caller.until = "", time.monotonic() + CONVERSATION_LIMIT
        self._admit(caller)
        if called in self.door.names:
            self._send(caller, protocol.write(self.door.greeting))
        else:
            name = f"this node is {self.door.greeting.name}, and not {called}: see name in dmonitor.conf(5)"
            self._note(
                "misdirected " + caller.address, "misdirected", address=caller.address, name=called
            )
            self._send(caller, protocol.write(protocol.Refusal("misdirected", name)))
            caller.leaving = True

    def _refuse(self, caller: _Caller, error: protocol.ProtocolError) -> None:
        """Say what is wrong with a line of CALLER's; but nothing to who may not be who he has to be."""
        caller.errors += 1
        if isinstance(error, auth.Forged) or caller.nonce:
            self._note(
                "forged " + caller.address,
                "unauthenticated",
                address=caller.address,
                reason=str(error),
            )
            self._drop(caller)
            return
        self._note(
            "error " + caller.address, "malformed-line", address=caller.address, reason=str(error)
        )
        self._send(caller, protocol.write(protocol.Refusal("malformed", str(error))))
        if caller.errors >= ERRORS_LIMIT:
            caller.leaving = True

    def _send(self, caller: _Caller, data: bytes) -> None:
        """Send DATA, behind what is still unsent."""
        is_next = not caller.wire.unsent  # else the loop will say when there is room
        caller.wire.say(data)
        if is_next:
            self._flush(caller)

    def _flush(self, caller: _Caller) -> None:
        """Send what the socket takes; end a conversation that is over."""
        if caller not in self._callers:
            return
        try:
            caller.wire.flush()
        except OSError:
            self._drop(caller)
            return
        if caller.leaving and not caller.wire.unsent and not caller.waiting:
            self._drop(caller)
            return
        self._watch(caller)

    def _watch(self, caller: _Caller) -> None:
        """Wait for what can be used: questions while there is room for answers, and room while there is none."""
        events = 0
        if not caller.leaving and len(caller.wire.unsent) <= _UNREAD_LIMIT:
            events |= selectors.EVENT_READ
        if caller.wire.unsent or (caller.unheard and not caller.leaving):
            events |= selectors.EVENT_WRITE
        caller.wire.watch(events)

    def _drop(self, caller: _Caller) -> None:
        caller.leaving = True  # whatever it has said besides is not heard
        if self._callers.pop(caller, 0) == 0:
            return
        with contextlib.suppress(
            OSError
        ):  # what is left unread would make the close a reset, and that undo our last line
            caller.wire.connection.recv(1 << 16)
        caller.wire.close()

    # Questions.

    def _question(self, caller: _Caller, test: Test) -> None:
        now = time.monotonic()
        if test in self._memory and self._memory[test][1] + RESULT_CACHE_SECONDS > now:
            result, ended = self._memory[test]
            self._send(caller, protocol.write(protocol.Reply(test, result, now - ended)))
            return
        if test in self._flights:
            self._board(caller, test)
        elif not self.facts.has(test):
            self._note(
                "not-configured " + caller.address,
                "not-configured",
                address=caller.address,
                test=str(test),
            )
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
        log.debug(
            "test-ran",
            test=str(test),
            result=result.outcome.value,
            seconds=result.duration,
            text=result.text,
        )
        for caller in waiting:
            caller.waiting -= 1
        self._answer(waiting, test, result)

    def _answer(
        self, callers: Iterable[_Caller], test: Test, result: Result, reason: str = ""
    ) -> None:
        line = protocol.write(protocol.Reply(test, result, 0.0, reason))
        for caller in callers:
            self._send(caller, line)

    def _note(self, subject: str, event: str, **facts: log.Value) -> None:
        """Log what a caller can cause as often as it likes at most once a minute for each SUBJECT."""
        now = time.monotonic()
        if now - self._noted.get(subject, float("-inf")) < _NOTE_EVERY:
            return
        self._noted = {known: at for known, at in self._noted.items() if now - at < _NOTE_EVERY}
        if (
            len(self._noted) < 1000 or event != "stranger"
        ):  # of whom there may be any number, and nobody else goes unsaid
            self._noted[subject] = now
            log.warning(event, **facts)
