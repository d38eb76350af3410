"""One caller, as the daemon sees it: reads its lines, and sends it replies (rules R3, R8).

Nothing that a caller sends is run, kept, or made part of a path. A wake has no content. No caller
can make another wait: nothing here blocks, a few lines are served at a time, a long reply is sent
in slices, and what a caller may send or leave unread is limited. Who is let in is decided by
`access`, how many by `server`, and when a long reply is made by `replies`.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from dmonitor.base import clock, log
from dmonitor.net import auth, protocol
from dmonitor.net.access import Access
from dmonitor.net.flights import Flights
from dmonitor.net.limited_log import LimitedLog
from dmonitor.net.protocol import ProtocolError, Question, Refusal, Request
from dmonitor.net.replies import Replies
from dmonitor.net.wire import Wire

CONVERSATION_SECONDS = 60.0  # from the greeting; a round is shorter
HELLO_SECONDS = 5.0  # for a caller to show that it has a key
LINES_LIMIT = 50_000  # lines of one conversation
ERRORS_LIMIT = 10  # lines of one conversation that make no sense
UNREAD_BYTES = 64_000  # of replies that a caller may leave unread before its questions wait
REQUESTS_LIMIT = 128  # replies of several lines that a caller is owed before its lines wait
# For a caller to take a reply of several lines. No caller of dmonitor waits longer for a statement.
REPLY_SECONDS = 5.0
_READ_BYTES = 1_000  # of lines that are read before another caller has its turn
_SLICE_BYTES = 16_000  # of a reply that are signed and sent before another caller has its turn
_NEVER = float("inf")


class Shared(NamedTuple):
    """What all conversations of a daemon share."""

    selector: selectors.BaseSelector
    access: Access
    flights: Flights
    replies: Replies
    wake: Callable[[], None]  # wakes a round of this node that stays
    limited_log: LimitedLog
    authenticated: Callable[[Conversation], None]  # called when a caller has said hello
    ended: Callable[[Conversation], None]  # called when a conversation is over


class Conversation:
    """One caller: what it has said that is not served yet, and what it is owed."""

    def __init__(self, shared: Shared, connection: socket.socket, address: str, nonce: str) -> None:
        """Take over `connection`; with a `nonce`, the caller has to say hello first."""
        self.wire = Wire(shared.selector, connection, protocol.QUESTION_BYTES, self.serve)
        self.address = address
        self.caller = ""  # the node that the caller is, by its key; empty before its hello
        self._deadline = clock.uptime() + CONVERSATION_SECONDS
        if nonce:
            self._deadline = clock.uptime() + HELLO_SECONDS
        self.waiting = 0  # replies that it is still owed
        self._nonce = nonce  # of the challenge, until the caller has said hello
        self._shared = shared
        self._unserved: deque[bytes] = deque()  # lines that wait for room, or for their turn
        self._requests: deque[Request] = deque()  # whose replies of several lines are not sent yet
        self._reply: bytes | None = None  # to the first of the requests, once it is made
        self._queued = 0  # bytes of the reply that are sent, or will be next
        self._reply_deadline = _NEVER  # for the caller to take the reply
        self._lines = 0
        self._errors = 0
        self._leaving = False  # nothing more is read; it ends once the caller has all replies
        self._is_over = False

    @property
    def owes_hello(self) -> bool:
        """Whether the caller has still to show that it has a key."""
        return bool(self._nonce)

    @property
    def deadline(self) -> float:
        """When the conversation has to end, in uptime."""
        return min(self._deadline, self._reply_deadline)

    def open(self) -> None:
        """Send the challenge, or without a key the greeting."""
        if self._nonce:
            self.send(protocol.write(protocol.Challenge(self._nonce)))
        else:
            self.send(protocol.write(self._shared.access.greeting))

    def serve(self) -> None:
        """Go on, because the socket can be read from or written to."""
        self._flush()
        if not self._may_serve():
            return
        if not self._unserved:
            self._read()
        while self._unserved and self._may_serve():
            if self._serve_line(self._unserved.popleft()):
                break
        self._flush()

    def _may_serve(self) -> bool:
        has_room = len(self.wire.unsent) <= UNREAD_BYTES and len(self._requests) < REQUESTS_LIMIT
        return has_room and not self._leaving

    def _read(self) -> None:
        try:
            lines = self.wire.receive(_READ_BYTES)
        except OSError:
            lines = None
        except ProtocolError as error:
            self._refuse(error)
            lines = None
        if lines is None:
            self._leaving = True
        else:
            self._unserved.extend(lines)

    def _serve_line(self, line: bytes) -> bool:
        """Serve one line; return whether that was so much work that others have their turn now."""
        self._lines += 1
        if self._lines > LINES_LIMIT:
            self._warn("lines", "too-many-lines")
            self._leaving = True
            return False
        try:
            if self._nonce:
                self._take_hello(line)
                return True
            request = protocol.read_request(self.wire.verify(line))
        except ProtocolError as error:
            self._refuse(error)
            return False
        if isinstance(request, Question):
            self._answer(request)
            return False
        return self._serve_request(request)

    def _serve_request(self, request: Request) -> bool:
        match request.word:
            case "wake":
                log.debug("woken", address=self.address, peer=self.caller or None)
                self._shared.wake()
                return True
            case "quit":
                self._leaving = True
            case _:
                self._want(request)
        return False

    def _want(self, request: Request) -> None:
        """Want the reply of several lines to `request`, after those that are wanted already."""
        self.waiting += 1
        self._requests.append(request)
        if len(self._requests) == 1:
            self._shared.replies.want(request, self)

    def take_reply(self, lines: bytes) -> None:
        """Send `lines`, the reply to the first of the requests, as the caller takes them."""
        self._reply = lines
        self._queued = 0
        self._reply_deadline = clock.uptime() + REPLY_SECONDS
        self._watch()

    def _queue_slice(self, reply: bytes) -> None:
        """Queue the next lines of `reply`; if it is sent, let the next one be made."""
        if self._queued < len(reply):
            end = reply.rfind(b"\n", self._queued, self._queued + _SLICE_BYTES)
            if end < 0:
                end = reply.index(b"\n", self._queued)
            self.wire.queue(reply[self._queued : end + 1])
            self._queued = end + 1
            return
        self._reply = None
        self._reply_deadline = _NEVER
        self.waiting -= 1
        self._requests.popleft()
        self._shared.replies.release(self)
        if self._requests:
            self._shared.replies.want(self._requests[0], self)

    def _answer(self, question: Question) -> None:
        reply = self._shared.flights.ask(question.test, self)
        if reply is not None:
            self.send(protocol.write(reply))

    def _take_hello(self, line: bytes) -> None:
        """Greet a caller that has a key, if it calls this node; raise Forged if it has none.

        Only the keys of the nodes at its address are tried, so no node calls as another.
        """
        access = self._shared.access
        callers = access.callers(self.address)
        if not callers:
            raise auth.Forged(access.key_fault(self.address))
        self.wire.auth, called = auth.accept_hello(line, list(callers), self._nonce)
        self.caller = ",".join(callers[self.wire.auth.key])
        self._nonce = ""
        self._deadline = clock.uptime() + CONVERSATION_SECONDS
        self._shared.authenticated(self)
        if called in access.names:
            self.send(protocol.write(access.greeting))
            return
        self._warn("misdirected", "misdirected", name=called)
        name = access.greeting.name
        text = f"this node is {name}, and not {called}: see name in dmonitor.conf(5)"
        self.send(protocol.write(Refusal("misdirected", text)))
        self._leaving = True

    def _refuse(self, error: ProtocolError) -> None:
        """Tell the caller what is wrong with its line; an impostor is told nothing."""
        self._errors += 1
        if isinstance(error, auth.Forged) or self._nonce:
            self._warn("forged", "unauthenticated", reason=str(error))
            self.end()
            return
        self._warn("error", "malformed-line", reason=str(error))
        self.send(protocol.write(Refusal("malformed", str(error))))
        if self._errors >= ERRORS_LIMIT:
            self._leaving = True

    def _warn(self, kind: str, event: str, **facts: str) -> None:
        subject = f"{kind} {self.address}"
        self._shared.limited_log.warning(
            subject, event, address=self.address, peer=self.caller or None, **facts
        )

    def send(self, lines: bytes) -> None:
        """Send `lines`, after what is still unsent."""
        is_next = not self.wire.unsent  # if not, the loop says when there is room
        self.wire.queue(lines)
        if is_next:
            self._flush()

    def _flush(self) -> None:
        """Send what the socket takes; end a conversation that the caller has left.

        A slice of a reply is sent at a time, so that what comes between its lines never waits long.
        """
        if self._is_over:
            return
        try:
            self.wire.flush()
            if self._reply is not None and not self.wire.unsent:
                self._queue_slice(self._reply)
                self.wire.flush()
        except OSError:
            self.end()
            return
        if self._leaving and not self.wire.unsent and not self.waiting:
            self.end()
        else:
            self._watch()

    def _watch(self) -> None:
        """Wait for lines while there is room for replies, and for room while there is none."""
        events = 0
        if self._may_serve():
            events |= selectors.EVENT_READ
        is_sending = self.wire.unsent or self._reply is not None
        if is_sending or (self._unserved and self._may_serve()):
            events |= selectors.EVENT_WRITE
        self.wire.watch(events)

    def end(self) -> None:
        """Close the connection; a line that is not served yet is not served any more."""
        self._leaving = True
        if self._is_over:
            return
        self._is_over = True
        self._reply = None
        self._shared.ended(self)
        self._shared.replies.release(self)
        # Unread bytes would make the close a reset, which takes our last line from the caller.
        with contextlib.suppress(OSError):
            self.wire.connection.recv(1 << 16)
        self.wire.close()
