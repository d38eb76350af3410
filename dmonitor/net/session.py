"""One peer, as the caller sees it: the states of its session, and what moves it between them.

A session connects, lets the peer greet, then lets its `exchange` ask and listen. Nothing here
waits, and nothing raises because of a peer: a failed peer is a value with a reason.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable

from dmonitor.base import log
from dmonitor.config.cluster import Peer
from dmonitor.core.model import Answer, Contact, Test, node_test
from dmonitor.net import protocol
from dmonitor.net.connection import NEVER, Caller, Connection
from dmonitor.net.exchange import Exchange
from dmonitor.net.protocol import Challenge, Greeting, Refusal, Request
from dmonitor.net.statement import Interest


class State(enum.Enum):
    """How far a session is."""

    IDLE = enum.auto()  # nothing was wanted of the peer yet
    CONNECTING = enum.auto()  # a connection to one of its addresses has begun
    GREETING = enum.auto()  # it is connected, and has to greet
    TALKING = enum.auto()  # it has greeted: questions can be sent
    PAUSING = enum.auto()  # the peer could not be greeted; it is called again in a moment
    OVER = enum.auto()  # there is no connection, and the session has a reason for it


class Event(enum.Enum):
    """What moves a session from one state to another."""

    CALL = enum.auto()  # something is wanted: begin with the first address
    NEXT_ADDRESS = enum.auto()  # the address before has failed
    CONNECTED = enum.auto()  # the socket is connected
    GREETED = enum.auto()  # the peer has said who it is, and it is another node
    PAUSE = enum.auto()  # every address has failed, or the greeting, and there is another try
    END = enum.auto()  # it has failed for good, or it is over


# All that may happen. What is not in this table is a bug.
TRANSITIONS = {
    State.IDLE: {Event.CALL: State.CONNECTING, Event.END: State.OVER},
    State.CONNECTING: {
        Event.NEXT_ADDRESS: State.CONNECTING,
        Event.CONNECTED: State.GREETING,
        Event.PAUSE: State.PAUSING,
        Event.END: State.OVER,
    },
    State.GREETING: {
        Event.NEXT_ADDRESS: State.CONNECTING,
        Event.GREETED: State.TALKING,
        Event.PAUSE: State.PAUSING,
        Event.END: State.OVER,
    },
    # A statement that is overdue makes the session call again, on a new connection.
    State.TALKING: {
        Event.CALL: State.CONNECTING,
        Event.PAUSE: State.PAUSING,
        Event.END: State.OVER,
    },
    State.PAUSING: {Event.CALL: State.CONNECTING, Event.END: State.OVER},
    State.OVER: {Event.CALL: State.CONNECTING},
}


class PeerSession:
    """The session with one peer. `tick` must be called when `deadline` has passed."""

    def __init__(
        self,
        peer: Peer,
        caller: Caller,
        answered: Callable[[Test, Answer], None],
        contacted: Callable[[Contact], None],
        failed: Callable[[Contact], None],
    ) -> None:
        """Begin in state IDLE; tell `answered` each answer, and `contacted` each contact.

        `failed` is told of a greeting that has failed and is tried once more.
        """
        self.node = peer.node
        self.state = State.IDLE
        self.is_this_node = False  # whether this node itself has answered, not a clone of it
        self.connection = Connection(peer, caller, self.ready)
        self._caller = caller
        self._failed = failed
        self._keys: tuple[bytes, ...] = ()  # of this node with the peer
        self._key_fault = ""  # why there is none, although this node has keys
        if caller.keys is not None:
            self._keys = caller.keys.for_peer(peer.node.name)
            self._key_fault = caller.keys.fault(peer.node.name)
        self._is_repeatable = False  # a greeting that fails is tried once more
        self._exchange = Exchange(
            peer.node,
            self.connection,
            caller.clock,
            send=self._send,
            end=self.end,
            answered=answered,
            contacted=contacted,
        )
        self._reason = peer.reason  # why there is no connection
        self._test = node_test(peer.node.name)  # that the peer itself is

    @property
    def awaits_answer(self) -> bool:
        """Whether an answer may still come."""
        return bool(self._exchange.asked)

    @property
    def awaits_statement(self) -> bool:
        """Whether a statement may still come."""
        return self._exchange.wants_statement

    def may_be_asked(self, test: Test) -> bool:
        """Return whether `test` is neither asked already nor the test that the peer itself is."""
        return test not in self._exchange.asked and test != self._test

    def ask(self, test: Test) -> None:
        """Ask for `test`, now or once the peer has greeted."""
        self._exchange.expect_answer(test)
        match self.state:
            case State.IDLE:
                self.connect()
            case State.TALKING:
                self._exchange.send_question(test)
            case State.OVER:
                self._exchange.no_answer(test, self._reason)

    @property
    def peer_id(self) -> str:
        """The id that the peer stated last; empty if it has not greeted."""
        return self._exchange.peer.node_id

    def wake(self) -> None:
        """Have the peer look now, if it is connected. It does not answer."""
        if self.state is State.TALKING:
            log.debug("waking", peer=self.node.name)
            self._send(protocol.write(Request("wake")))

    def forget(self, test: Test) -> None:
        """Expect no answer for `test` any more, so that it can be asked again."""
        self._exchange.asked.pop(test, None)

    def greet(self, interest: Interest, *, twice: bool) -> None:
        """Want a statement, now or once the peer has greeted.

        A peer that could not be talked to is called again. So is one whose last statement is still
        due, because it may be stuck. This node itself makes no statement. With `twice`, a peer
        that could not be greeted is greeted once more, after a pause (R7).
        """
        exchange = self._exchange
        exchange.interest = interest
        if exchange.wants_statement or exchange.peer.node_id == self._caller.node_id:
            return
        exchange.wants_statement = True
        self._is_repeatable = twice
        self.connection.is_last_greeting = False
        if self.state is State.TALKING and not exchange.is_stating:
            exchange.request_statement()
        elif self.state in (State.IDLE, State.OVER, State.TALKING):
            self.connect()

    def deadline(self) -> float:
        """Return when `tick` is due, in uptime; infinity if nothing is awaited."""
        match self.state:
            case State.CONNECTING | State.GREETING | State.PAUSING:
                return self.connection.deadline
            case State.TALKING:
                return self._exchange.deadline()
        return NEVER

    def tick(self, now: float) -> None:
        """Give up what is overdue at `now`, in uptime."""
        if self.deadline() > now:
            return
        match self.state:
            case State.PAUSING:
                self.connect()
            case State.CONNECTING:
                self.connection.time_out()
                self._try_next_address("connection timed out")
            case State.GREETING:
                self.connection.time_out()
                self._try_next_address("connected, but no greeting")
            case State.TALKING if self._exchange.is_statement_overdue and self._may_call_again():
                self.connection.time_out()
                self.end("no statement in time")
            case State.TALKING:
                self._exchange.give_up_overdue(now)

    def connect(self) -> None:
        """Begin with the first address of the peer."""
        self.connection.begin(after_pause=self.state is State.PAUSING)
        self._move(Event.CALL)
        self._connect_to_next(self._reason)

    def _try_next_address(self, reason: str) -> None:
        """Leave the present address, which has failed for `reason`, and try the next one."""
        self._move(Event.NEXT_ADDRESS)
        self._connect_to_next(reason)

    def _connect_to_next(self, reason: str) -> None:
        """Connect to the next address; if there is none, pause, or end the session for `reason`."""
        self._hang_up()
        if not self.connection.has_next:
            if self.connection.can_pause():
                self._move(Event.PAUSE)
                self.connection.pause()
            else:
                self.end(reason)
        elif self._key_fault:
            self.end(self._key_fault)
        else:
            try:
                self.connection.dial()
            except OSError as error:
                self._try_next_address(_text_of(error))

    def ready(self) -> None:
        """Go on, because the socket can be read from or written to."""
        if self.state is State.CONNECTING:
            failure = self.connection.failure()
            if failure:
                self._try_next_address(failure)
                return
            self._move(Event.CONNECTED)
            self.connection.connected()
        self._send(b"")
        try:
            self._receive()
        except OSError as error:
            self._give_up(_text_of(error))
        except protocol.ProtocolError as error:
            self._give_up(f"it does not speak our protocol: {error}")

    def _receive(self) -> None:
        lines = self.connection.receive()
        if lines is None:
            self._give_up(self.connection.why_closed(greeted=self.state is State.TALKING))
            return
        for line in lines:  # each of them may end the session
            if self.state is State.GREETING:
                self._take_greeting(line)
            elif self.state is State.TALKING:
                self._exchange.take_line(self.connection.verify(line))

    def _send(self, lines: bytes) -> None:
        try:
            self.connection.send(lines)
        except OSError as error:
            self._give_up(_text_of(error))

    def _take_greeting(self, line: bytes) -> None:
        """Take a line from a peer that has not said who it is; with keys, believe only a MAC."""
        connection = self.connection
        is_keyless = self._caller.keys is None
        message = connection.read_greeting(line)
        is_authentic = connection.handshake.auth is not None
        match message:
            case Greeting() if is_authentic or is_keyless:
                self._greeted(message)
            case Greeting():
                self._give_up("it has no key, and this node has one")
            case Challenge(nonce) if self._keys and not is_authentic:
                self._send(connection.handshake.hello(self._keys, nonce))
            case Challenge():
                connection.unable = is_keyless
                self.end("it wants a key, and this node has none: see dmonitor key set")
            case Refusal(reason, text) if is_authentic:
                self.end(text or f"it refused to greet: {reason}")
            case Refusal():
                raise protocol.ProtocolError("no dmonitor greeting")

    def _greeted(self, greeting: Greeting) -> None:
        self._exchange.peer = greeting
        if greeting.node_id == self._caller.node_id:
            self._end_with_itself(greeting)
        else:
            log.debug("greeted", peer=self.node.name, name=greeting.name, id=greeting.node_id)
            self._move(Event.GREETED)
            self._exchange.begin()

    def _end_with_itself(self, greeting: Greeting) -> None:
        """End the session, because this node's own id answers: here, or where a copy of it is."""
        reason = "this node itself"
        is_clone = _is_clone(self._caller.own_incarnation(), greeting.incarnation)
        if is_clone:
            reason = "another machine with a copy of this node's id"
        self._exchange.cloned = is_clone
        self.is_this_node = not is_clone
        log.debug("self-detected", peer=self.node.name, name=greeting.name, reason=reason)
        self.end(reason, for_good=True)

    def close(self, reason: str) -> None:
        """Take leave of the peer, and end the session for `reason`."""
        if self.state is State.TALKING:
            with contextlib.suppress(OSError):
                self.connection.send(protocol.write(Request("quit")))
        self.end(reason, for_good=True)

    def _give_up(self, reason: str) -> None:
        """Try the next address of a peer that has not greeted yet; end the session of another."""
        if self.state is State.GREETING:
            self._try_next_address(reason)
        else:
            self.end(reason)

    def end(self, reason: str, *, for_good: bool = False) -> None:
        """End the session for `reason`: nothing that is wanted of the peer will come.

        If the peer could not be greeted, it may be called again before that, unless `for_good`.
        """
        if self.state is State.OVER:
            return
        self._hang_up()
        if not for_good and self._may_call_again():
            self._move(Event.PAUSE)
            self._pause(reason)
            return
        self._move(Event.END)
        self._reason = reason
        self._exchange.fail(reason)

    def _may_call_again(self) -> bool:
        """Return whether a peer that could not be greeted is to be called again.

        It is not if nothing but this node is the reason.
        """
        if self.connection.unable or not self._exchange.wants_statement:
            return False
        return self._is_repeatable or self.connection.can_pause()

    def _pause(self, reason: str) -> None:
        """Call the peer again after a pause; questions to it wait for that.

        If its first greeting has failed for `reason`, the last one begins then.
        """
        if self.connection.can_pause():
            self.connection.pause()
            return
        self._is_repeatable = False
        log.debug("greeting-failed", peer=self.node.name, reason=reason)
        self.connection.pause_before_last_greeting()
        self._failed(self._exchange.failed_contact(reason))

    def _hang_up(self) -> None:
        self.connection.hang_up()
        self._exchange.reset()

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]


def _is_clone(own_incarnation: str | None, incarnation: str) -> bool:
    """Return whether a daemon with this node's own id runs on another machine.

    It does if this node has no daemon, or if both incarnations are known and differ.
    """
    if own_incarnation is None:
        return True
    return bool(own_incarnation and incarnation and own_incarnation != incarnation)


def _text_of(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
