"""Ask the peers what they see: one connection to each in a round, many questions on it (rules R3, R10).

A failed peer is a value, an Answer without a result and with the reason; nothing here raises for it. All peers
are asked at the same time, each against deadlines of its own, so that no peer delays another's answer. What the
answers mean is `verdict`'s business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import selectors
import socket
import time
from collections.abc import Sequence

from dmonitor import log, protocol, resolve
from dmonitor.cluster import Peer
from dmonitor.model import Answer, Node, Result, Test

CONNECT_LIMIT = 3.0  # seconds, for each address of a peer
GREETING_LIMIT = 5.0  # seconds from the connection to the peer's greeting
ANSWER_LIMIT = 15.0  # seconds from the question, or from the greeting if that came later


class _Stage(enum.Enum):
    IDLE = enum.auto()
    CONNECTING = enum.auto()
    GREETING = enum.auto()
    TALKING = enum.auto()
    OVER = enum.auto()


@dataclasses.dataclass(eq=False, slots=True)
class _Peer:
    """One line of nodes.txt that is not ours, and how far we are with it."""

    node: Node
    stage: _Stage = _Stage.IDLE
    addresses: list[resolve.Address] = dataclasses.field(default_factory=list)
    connection: socket.socket | None = None
    deadline: float = 0.0  # of the stage before TALKING
    lines: protocol.Lines = dataclasses.field(default_factory=lambda: protocol.Lines(protocol.ANSWER_LIMIT))
    unsent: bytes = b""
    node_id: str = ""
    reason: str = ""  # why it is OVER
    asked: dict[Test, float] = dataclasses.field(default_factory=dict)  # until when an answer counts


class Asker:
    """Ask PEERS, from within SELECTOR's loop; `tick` must be called at the times that `pause` says.

    LISTEN gives the source addresses of questions, as strings: nodes that share a machine need them.
    """

    def __init__(
        self, selector: selectors.BaseSelector, peers: Sequence[Peer], own_id: str, listen: Sequence[str], port: int
    ) -> None:
        self._selector = selector
        self._peers = [_Peer(peer.node, addresses=list(peer.addresses), reason=peer.reason) for peer in peers]
        self._own_id = own_id
        self._sources = [resolve.normal(address) for address in listen]
        self._port = port
        self._answers: dict[Test, dict[Node, Answer]] = {}
        self.echo: Node | None = None  # the line of nodes.txt at which our own id answered

    def ask(self, test: Test) -> None:
        """Ask every peer about TEST, once."""
        if test in self._answers:
            return
        self._answers[test] = {}
        for peer in self._peers:
            peer.asked[test] = time.monotonic() + ANSWER_LIMIT
            match peer.stage:
                case _Stage.IDLE:
                    self._next_address(peer, peer.reason)
                case _Stage.TALKING:
                    self._put(peer, test)
                case _Stage.OVER:
                    self._no_answer(peer, test, peer.reason)

    def answers(self, test: Test) -> list[Answer]:
        """Return what is known of TEST so far, an Answer for each peer that has given one or never will."""
        return list(self._answers.get(test, {}).values())

    @property
    def pending(self) -> bool:
        """Whether an answer may still come."""
        return any(peer.asked for peer in self._peers)

    def pause(self) -> float | None:
        """Return seconds until `tick` is due; None when nothing is awaited."""
        due = [peer.deadline for peer in self._peers if peer.stage not in (_Stage.IDLE, _Stage.TALKING, _Stage.OVER)]
        due += [min(peer.asked.values()) for peer in self._peers if peer.stage is _Stage.TALKING and peer.asked]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def tick(self) -> None:
        """Give up what is over its deadline."""
        now = time.monotonic()
        for peer in self._peers:
            match peer.stage:
                case _Stage.CONNECTING if now >= peer.deadline:
                    self._next_address(peer, "connection timed out")
                case _Stage.GREETING if now >= peer.deadline:
                    self._give_up(peer, "connected, but no greeting")
                case _Stage.TALKING:
                    for test in [test for test, until in peer.asked.items() if now >= until]:
                        self._no_answer(peer, test, "no answer in time")

    def close(self, reason: str = "the round is over") -> None:
        """End every conversation; what has not been answered is not answered for REASON."""
        for peer in self._peers:
            if peer.stage is _Stage.TALKING and peer.connection and not peer.unsent:
                with contextlib.suppress(OSError):
                    peer.connection.send(protocol.write(protocol.Quit()))
            self._end(peer, reason)

    def _next_address(self, peer: _Peer, reason: str) -> None:
        """Try the peer's next address; without any left it is over, for REASON."""
        self._hang_up(peer)
        if not peer.addresses:
            self._end(peer, reason)
            return
        address = peer.addresses.pop(0)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        peer.stage = _Stage.CONNECTING
        peer.lines = protocol.Lines(protocol.ANSWER_LIMIT)
        peer.deadline = time.monotonic() + CONNECT_LIMIT
        try:
            peer.connection = connection = socket.socket(family, socket.SOCK_STREAM)
            connection.setblocking(False)
            for source in self._sources:
                if source.version == address.version and not source.is_unspecified:
                    connection.bind((str(source), 0))
                    break
            connection.connect((str(address), self._port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._next_address(peer, _strerror(error))
            return
        self._selector.register(connection, selectors.EVENT_WRITE, lambda: self._connected(peer))

    def _connected(self, peer: _Peer) -> None:
        if peer.connection is None:
            return
        failed = peer.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self._next_address(peer, os.strerror(failed).lower())
            return
        peer.stage = _Stage.GREETING
        peer.deadline = time.monotonic() + GREETING_LIMIT
        self._selector.modify(peer.connection, selectors.EVENT_READ, lambda: self._readable(peer))

    def _readable(self, peer: _Peer) -> None:
        self._flush(peer)
        if peer.connection is None:
            return
        try:
            data = peer.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            self._give_up(peer, _strerror(error))
            return
        if not data:
            hint = "; is our address in its nodes.txt?" if peer.stage is _Stage.GREETING else ""
            self._give_up(peer, "it closed the connection" + hint)
            return
        try:
            for line in peer.lines.feed(data):
                if peer.stage is _Stage.GREETING:
                    self._greeted(peer, protocol.read_greeting(line))
                elif peer.stage is _Stage.TALKING:
                    self._answered(peer, protocol.read_reply(line))
        except protocol.ProtocolError as error:
            self._give_up(peer, f"it does not speak our protocol: {error}")

    def _greeted(self, peer: _Peer, greeting: protocol.Greeting) -> None:
        peer.node_id = greeting.node_id
        if greeting.node_id == self._own_id:
            reason = "it is this node itself, or has a copy of its id"
            log.warning("own-id", peer=peer.node.name, name=greeting.name, reason=reason)
            self.echo = peer.node
            self._end(peer, reason)
            return
        log.debug("greeted", peer=peer.node.name, name=greeting.name, id=greeting.node_id)
        peer.stage = _Stage.TALKING
        for test in list(peer.asked):
            if peer.stage is _Stage.TALKING:  # the one before may have found it gone
                self._put(peer, test)

    def _put(self, peer: _Peer, test: Test) -> None:
        peer.asked[test] = time.monotonic() + ANSWER_LIMIT
        peer.unsent += protocol.write(protocol.Question(test))
        log.debug("question", peer=peer.node.name, test=str(test))
        self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        """Send what the socket takes; the rest when it takes more."""
        if not peer.unsent or peer.connection is None:
            return
        try:
            peer.unsent = peer.unsent[peer.connection.send(peer.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(peer, _strerror(error))
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.unsent else 0)
        if self._selector.get_key(peer.connection).events != events:
            self._selector.modify(peer.connection, events, lambda: self._readable(peer))

    def _answered(self, peer: _Peer, reply: protocol.Reply | protocol.Refusal) -> None:
        if isinstance(reply, protocol.Refusal):
            log.warning("question-refused", peer=peer.node.name, reason=reply.reason, text=reply.text)
            self._end(peer, f"it refused a question: {reply.reason}")
        elif reply.test not in peer.asked:
            log.debug("unasked", peer=peer.node.name, test=str(reply.test))
        elif reply.reason == protocol.BUSY:
            self._no_answer(peer, reply.test, "it is busy")
        else:
            lacks = f"it has no such test ({reply.reason})" if reply.reason == protocol.NOT_CONFIGURED else reply.reason
            text = reply.result.text or lacks
            result = Result(reply.result.outcome, text, reply.result.duration)
            self._answer(peer, Answer(peer.node, peer.node_id, result, reply.age), reply.test)

    def _no_answer(self, peer: _Peer, test: Test, reason: str) -> None:
        self._answer(peer, Answer(peer.node, peer.node_id, reason=reason), test)

    def _answer(self, peer: _Peer, answer: Answer, test: Test) -> None:
        peer.asked.pop(test, None)
        self._answers[test][peer.node] = answer

    def _give_up(self, peer: _Peer, reason: str) -> None:
        """Try the next address of a peer that has not greeted yet; one that has is over."""
        if peer.stage is _Stage.GREETING:
            self._next_address(peer, reason)
        else:
            self._end(peer, reason)

    def _end(self, peer: _Peer, reason: str) -> None:
        if peer.stage is _Stage.OVER:
            return
        self._hang_up(peer)
        peer.stage = _Stage.OVER
        peer.reason = reason
        for test in list(peer.asked):
            self._no_answer(peer, test, reason)

    def _hang_up(self, peer: _Peer) -> None:
        if peer.connection is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(peer.connection)
            peer.connection.close()
            peer.connection = None


def _strerror(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
