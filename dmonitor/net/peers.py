"""Ask the peers what they see and what they know: one connection to each, many questions on it (rules R3, R7, R10).

A failed peer is a value, an Answer without a result and with the reason; nothing here raises for it. All peers
are asked at the same time, each against deadlines of its own, so that no peer delays another's answer. What the
answers mean is `verdict`'s business, and what the statements mean is `incident`'s and `speaking`'s.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import functools
import itertools
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator

from dmonitor.base import log
from dmonitor.config import resolve
from dmonitor.config.cluster import Peer
from dmonitor.config.config import Keys, Settings
from dmonitor.core.model import Answer, Contact, Incident, Node, Result, Statement, Test, node_test
from dmonitor.net import auth, protocol
from dmonitor.net.wire import Wire

GREETING_LIMIT = 5.0  # seconds for a peer's greeting, shared by its addresses; again from `greet` to its whole statement
STATEMENT_LIMIT = 8_000_000  # bytes of a statement, in which a line counts for _LINE at least
_INQUIRIES = 100  # for one statement: the evidence is for people, and nobody reads more of it
IS_BUSY = "it is busy"
_LINE = 100
_AGAIN = 1.0  # seconds before a peer that could not be greeted is tried again
ANSWER_LIMIT = 15.0  # seconds from the question, or from the greeting if that came later
# What keeps this node from connecting, and says nothing of the peer.
_OURS = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EACCES, errno.EPERM),
    *(errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.ENETDOWN),
}


class _Stage(enum.Enum):
    IDLE = enum.auto()
    PAUSING = enum.auto()
    CONNECTING = enum.auto()
    GREETING = enum.auto()
    TALKING = enum.auto()
    OVER = enum.auto()


class _Peer:
    """One line of nodes.txt that is not ours, and how far we are with it."""

    def __init__(self, peer: Peer) -> None:
        self.node, self.found = peer.node, peer.addresses
        self.stage = _Stage.IDLE
        self.addresses: list[resolve.Address] = []  # that are still to be tried
        self.wire: Wire | None = None
        self.seals: list[auth.Seal] = []  # one for each key, until it has greeted with one of them
        self.unable = True  # nothing but our own fault has kept us from it
        self.by = 0.0  # until when it must have greeted
        self.deadline = 0.0  # the same for the present address
        self.name = self.node_id = self.run = ""  # as it states them
        self.cloned = False  # another machine with our own id
        self.reason = peer.reason  # why it is OVER
        self.asked: dict[Test, float] = {}  # until when an answer counts
        self.greet_by = 0.0  # until when its statement counts; 0 when none is wanted
        self.awaited: list[protocol.Request] = []  # whose replies of several lines have not ended
        self.reply: list[bytes] = []  # the first of them, as far as it has come
        self.began = 0.0  # when it began to come, on the caller's clock
        self.size = 0  # of the whole statement so far
        self.statement: Statement | None = None  # as far as it has come
        self.incidents: dict[str, Incident] = {}  # its incidents, by their smallest ids


class Asker:
    """Ask PEERS, from within SELECTOR's loop; `tick` must be called at the times that `pause` says.

    The setting `listen` gives the source addresses of questions: nodes that share a machine need them. With KEYS, only who has
    one of them is heard. DIGEST is that of our tests, where it matters who has others. The times in `contacts`, what came of
    greeting each, are on CLOCK; `heard` is told of every one.
    `own_incarnation` gives that of our own daemon, None if there is none.
    `visiting`: of a statement only the standing matters, and a peer that cannot be greeted is tried again while there is time,
    for its daemon may just be starting.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        peers: Iterable[Peer],
        own_id: str,
        settings: Settings,
        keys: Keys,
        *,
        digest: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.selector, self.own_id, self.settings, self.keys, self.digest = (
            selector,
            own_id,
            settings,
            keys,
            digest,
        )
        self.clock, self.visiting = clock, False
        self.own_incarnation: Callable[[], str | None] = lambda: ""
        self.heard: Callable[[Contact], None] = lambda _: None
        self.contacts: dict[Node, Contact] = {}
        self.echo: Node | None = None  # the line of nodes.txt at which our own id answered
        self._peers = list(map(_Peer, peers))
        self._is_known: Callable[[str], bool] = lambda _: True
        self._open: list[tuple[str, ...]] = []
        self._answers: dict[Test, dict[Node, Answer]] = {}

    def ask(self, test: Test, *only: Node) -> None:
        """Ask every peer about TEST, or ONLY some, each once; none about itself."""
        answers = self._answers.setdefault(test, {})
        wanted = [
            peer
            for peer in self._peers
            if (not only or peer.node in only)
            and test not in peer.asked
            and peer.node not in answers
            if test != node_test(peer.node.name)
        ]
        for peer in wanted:
            peer.asked[test] = time.monotonic() + ANSWER_LIMIT
        for peer in wanted:
            match peer.stage:
                case _Stage.IDLE:
                    self._connect(peer)
                case _Stage.TALKING:
                    self._put(peer, test)
                case _Stage.OVER:
                    self._no_answer(peer, test, peer.reason)

    def forget(self, test: Test) -> None:
        """Let TEST be asked again."""
        self._answers.pop(test, None)
        for peer in self._peers:
            peer.asked.pop(test, None)

    def greet(self, is_known: Callable[[str], bool], open_ids: Iterable[tuple[str, ...]]) -> None:
        """Have every peer make a statement, with the evidence for incidents of which no id IS_KNOWN.

        What it knows of those OPEN_IDS that it does not list is asked, too. A peer that could not be talked to is
        tried again; so is one whose last statement is still due, for it may be stuck.
        """
        self._is_known, self._open = is_known, list(open_ids)
        for peer in self._peers:
            if peer.greet_by or peer.node_id == self.own_id:
                continue
            peer.greet_by = float("inf")
            match peer.stage:
                case _Stage.TALKING if not peer.awaited:
                    self._put_greet(peer)
                case _Stage.IDLE | _Stage.OVER | _Stage.TALKING:
                    self._connect(peer)

    def answers(self, test: Test) -> list[Answer]:
        """Return what is known of TEST so far, an Answer for each peer that has given one or never will."""
        return list(self._answers.get(test, {}).values())

    @property
    def pending(self) -> bool:
        """Whether an answer may still come."""
        return any(peer.asked for peer in self._peers)

    @property
    def greeting(self) -> bool:
        """Whether a statement may still come."""
        return any(peer.greet_by for peer in self._peers)

    def pause(self) -> float | None:
        """Return seconds until `tick` is due; None when nothing is awaited."""
        due = [until for peer in self._peers for until, _ in self._deadlines(peer)]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def tick(self) -> None:
        """Give up what is over its deadline."""
        now = time.monotonic()
        for give_up in [
            give_up
            for peer in self._peers
            for until, give_up in self._deadlines(peer)
            if until <= now
        ]:
            give_up()

    def _deadlines(self, peer: _Peer) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yield until when what is due from PEER is waited for, and what is done then."""
        match peer.stage:
            case _Stage.PAUSING:
                yield peer.deadline, functools.partial(self._connect, peer)
            case _Stage.CONNECTING:
                yield (
                    peer.deadline,
                    functools.partial(self._next_address, peer, "connection timed out"),
                )
            case _Stage.GREETING:
                yield (
                    peer.deadline,
                    functools.partial(self._give_up, peer, "connected, but no greeting"),
                )
            case _Stage.TALKING:
                for test, until in itertools.islice(
                    peer.asked.items(), 1
                ):  # the others were asked later
                    yield until, functools.partial(self._no_answer, peer, test, "no answer in time")
                if peer.greet_by:
                    yield (
                        peer.greet_by,
                        functools.partial(self._no_statement, peer, "no statement in time"),
                    )

    def close(self, reason: str = "the round is over") -> None:
        """End every conversation; what has not been answered is not answered for REASON."""
        for peer in self._peers:
            if peer.stage is _Stage.TALKING and peer.wire:
                peer.wire.say(protocol.write(protocol.Request("quit")))
                with contextlib.suppress(OSError):
                    peer.wire.flush()
            self._end(peer, reason)

    def _connect(self, peer: _Peer) -> None:
        """Begin with the first of the peer's addresses."""
        peer.by = peer.by if peer.stage is _Stage.PAUSING else time.monotonic() + GREETING_LIMIT
        peer.stage, peer.addresses, peer.unable = _Stage.IDLE, list(peer.found), True
        self._next_address(peer, peer.reason)

    def _next_address(self, peer: _Peer, reason: str) -> None:
        """Try the peer's next address; without any left it is over, for REASON."""
        self._hang_up(peer)
        now = time.monotonic()
        if not peer.addresses and self.visiting and not peer.unable and now + _AGAIN < peer.by:
            peer.stage, peer.deadline = _Stage.PAUSING, now + _AGAIN
            return
        if not peer.addresses:
            self._end(peer, reason)
            return
        if self.keys == ():
            self._end(peer, "this node's key cannot be used: see dmonitor-check -t")
            return
        address = peer.addresses.pop(0)
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        peer.stage = _Stage.CONNECTING
        peer.deadline = now + (peer.by - now) / (1 + len(peer.addresses))
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
            peer.wire = wire = Wire(
                self.selector, connection, protocol.ANSWER_BYTES, lambda: self._ready(peer)
            )
            for source in map(resolve.normal, self.settings.listen):
                if source.version == address.version and not source.is_unspecified:
                    connection.bind((str(source), 0))
                    break
            connection.connect((str(address), self.settings.port))
        except BlockingIOError:
            pass
        except OSError as error:
            peer.unable &= error.errno in _OURS
            self._next_address(peer, _strerror(error))
            return
        peer.unable = False
        wire.watch(selectors.EVENT_WRITE)

    def _ready(self, peer: _Peer) -> None:
        """Go on with a peer that can be read from, or written to."""
        if peer.wire is None:
            return
        if peer.stage is _Stage.CONNECTING:
            if failed := peer.wire.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._next_address(peer, os.strerror(failed).lower())
                return
            peer.stage = _Stage.GREETING
        self._flush(peer)
        try:
            lines = peer.wire.hear(1 << 16) if peer.wire else []
            if lines is None:
                hint = (
                    "is its key the same as ours?"
                    if peer.seals
                    else "is our address in its nodes.txt?"
                )
                self._give_up(
                    peer,
                    "it closed the connection"
                    + (f"; {hint}" if peer.stage is _Stage.GREETING else ""),
                )
            for line in lines or ():
                if peer.stage is _Stage.GREETING:
                    self._greeting(peer, line)
                elif peer.wire and peer.stage is _Stage.TALKING:
                    self._line(peer, peer.wire.open(line))
        except OSError as error:
            self._give_up(peer, _strerror(error))
        except protocol.ProtocolError as error:
            self._give_up(peer, f"it does not speak our protocol: {error}")

    def _greeting(self, peer: _Peer, line: bytes) -> None:
        """Take what a peer says before it is known who it is: with keys, only what is sealed with one of them."""
        wire = peer.wire
        if wire is None:
            return
        for each in peer.seals:
            with contextlib.suppress(auth.Forged):
                line, wire.seal = each.take(line), each
        if peer.seals and not wire.seal:
            raise auth.Forged("a greeting without the right mac")
        match protocol.read_greeting(line):
            case protocol.Refusal(reason, text) if wire.seal:
                self._end(peer, text or f"it refused to greet: {reason}")
            case protocol.Greeting() as greeting if self.keys is None or wire.seal:
                self._greeted(peer, greeting)
            case protocol.Challenge(nonce) if self.keys and not wire.seal:
                said, peer.seals = auth.hello(
                    self.keys, (nonce, os.urandom(16).hex()), peer.node.name
                )
                wire.say(said)
                self._flush(peer)
            case protocol.Challenge():
                peer.unable = self.keys is None
                self._end(peer, "it wants a key, and this node has none: see dmonitor key set")
            case protocol.Refusal():
                raise protocol.ProtocolError("no dmonitor greeting")
            case _:
                self._give_up(peer, "it has no key, and this node has one")

    def _line(self, peer: _Peer, line: bytes) -> None:
        if peer.awaited and not line.lstrip().startswith((b"answer ", b"error ")):
            self._stated(peer, line)
        else:
            self._answered(peer, protocol.read_reply(line))

    def _greeted(self, peer: _Peer, greeting: protocol.Greeting) -> None:
        peer.name, peer.node_id, peer.run = greeting.name, greeting.node_id, greeting.incarnation
        if greeting.node_id == self.own_id:
            own = self.own_incarnation()
            peer.cloned = own is None or bool(
                own and greeting.incarnation and own != greeting.incarnation
            )
            reason = (
                "another machine with a copy of this node's id"
                if peer.cloned
                else "this node itself"
            )
            log.debug("self-detected", peer=peer.node.name, name=greeting.name, reason=reason)
            self.echo = self.echo if peer.cloned else peer.node
            self._end(peer, reason)
            return
        log.debug("greeted", peer=peer.node.name, name=greeting.name, id=greeting.node_id)
        peer.stage = _Stage.TALKING
        if peer.greet_by:
            self._put_greet(peer)
        for test in list(peer.asked):
            if peer.stage is _Stage.TALKING:  # the one before may have found it gone
                self._put(peer, test)

    def _put(self, peer: _Peer, test: Test) -> None:
        peer.asked[test] = time.monotonic() + ANSWER_LIMIT
        log.debug("question", peer=peer.node.name, test=str(test))
        self._say(peer, [protocol.Question(test)])

    def _put_greet(self, peer: _Peer) -> None:
        peer.greet_by = time.monotonic() + GREETING_LIMIT
        peer.awaited, peer.size = [protocol.Request("greet")], 0
        self._say(peer, peer.awaited)

    def _say(self, peer: _Peer, requests: Iterable[protocol.Question | protocol.Request]) -> None:
        if peer.wire:
            peer.wire.say(b"".join(map(protocol.write, requests)))
        self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        """Send what the socket takes; the rest when it takes more."""
        if peer.wire is None:
            return
        try:
            peer.wire.flush()
        except OSError as error:
            self._give_up(peer, _strerror(error))
            return
        peer.wire.watch(selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.wire.unsent else 0))

    def _stated(self, peer: _Peer, line: bytes) -> None:
        """Take a LINE of the reply that is awaited first; one that comes too late is only counted."""
        peer.size += max(len(line), _LINE)
        if peer.size > STATEMENT_LIMIT:
            self._end(peer, "its statement has no end")
        elif line.strip().partition(b" ")[0] != b"end":
            if not peer.reply:
                peer.began = self.clock()
            if peer.greet_by and self.visiting:
                peer.reply = [line] if line.lstrip().startswith(b"standing ") else peer.reply
            elif peer.greet_by:
                peer.reply.append(line)
        else:
            request, lines, peer.reply = peer.awaited.pop(0), peer.reply, []
            if peer.greet_by:
                self._replied(peer, request, lines)

    def _replied(self, peer: _Peer, request: protocol.Request, lines: list[bytes]) -> None:
        if request.word == "greet":
            peer.statement = protocol.read_statement(
                lines, protocol.Greeting(peer.name, peer.node_id), peer.began
            )
            peer.incidents = {incident.id: incident for incident in peer.statement.incidents}
            listed = {known for incident in peer.statement.incidents for known in incident.ids}
            unknown = [
                incident.id
                for incident in peer.incidents.values()
                if not any(map(self._is_known, incident.ids))
            ]
            missing = [min(ids) for ids in self._open if listed.isdisjoint(ids)]
            peer.awaited += [
                protocol.Request("incident", known) for known in (*missing, *unknown)[:_INQUIRIES]
            ]
            differs = self.digest and peer.statement.status.tests != self.digest
            peer.awaited += [protocol.Request("tests")] if differs else []
            self._say(peer, peer.awaited)
        elif request.word == "tests" and peer.statement:
            peer.statement = peer.statement._replace(tests=protocol.read_tests(lines))
        elif incident := protocol.read_incident(lines, peer.began):
            peer.incidents[incident.id] = incident
        if not peer.awaited and peer.statement:
            statement = peer.statement._replace(incidents=tuple(peer.incidents.values()))
            peer.greet_by = 0.0
            self._contact(Contact(peer.node, peer.node_id, peer.run, statement))

    def _no_statement(self, peer: _Peer, reason: str) -> None:
        """Want no statement of PEER's any more, if one was wanted."""
        wanted = bool(peer.greet_by)
        peer.greet_by, peer.reply, peer.statement, peer.incidents = 0.0, [], None, {}
        if wanted:
            log.debug("not-greeted", peer=peer.node.name, reason=reason)
            before = self.contacts.get(peer.node)
            said = before.statement if before else None  # what it stated in this round still stands
            self._contact(
                Contact(peer.node, peer.node_id, peer.run, said, reason, peer.unable, peer.cloned)
            )

    def _contact(self, contact: Contact) -> None:
        self.contacts[contact.node] = contact
        self.heard(contact)

    def _answered(self, peer: _Peer, reply: protocol.Reply | protocol.Refusal) -> None:
        if isinstance(reply, protocol.Refusal):
            log.warning(
                "question-refused", peer=peer.node.name, reason=reply.reason, text=reply.text
            )
            if not peer.awaited:
                self._end(peer, f"it refused a question: {reply.reason} ({reply.text})")
            else:  # an older one, which cannot state anything
                del peer.awaited[0]
                peer.unable = True
                self._no_statement(peer, f"it refused to: {reply.reason}")
        elif reply.test not in peer.asked:
            log.debug("unexpected-answer", peer=peer.node.name, test=str(reply.test))
        elif reply.reason == protocol.BUSY:
            self._no_answer(peer, reply.test, IS_BUSY)
        else:
            lacks = (
                f"it has no such test ({reply.reason})"
                if reply.reason == protocol.NOT_CONFIGURED
                else reply.reason
            )
            text = reply.result.text or lacks
            result = Result(reply.result.outcome, text, reply.result.duration)
            self._answer(peer, Answer(peer.node, peer.node_id, result, reply.age), reply.test)

    def _no_answer(self, peer: _Peer, test: Test, reason: str) -> None:
        self._answer(peer, Answer(peer.node, peer.node_id, reason=reason), test)

    def _answer(self, peer: _Peer, answer: Answer, test: Test) -> None:
        peer.asked.pop(test, None)
        self._answers.setdefault(test, {})[peer.node] = answer

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
        self._no_statement(peer, reason)
        for test in list(peer.asked):
            self._no_answer(peer, test, reason)

    def _hang_up(self, peer: _Peer) -> None:
        if peer.wire is not None:
            peer.wire.close()
        peer.wire, peer.seals, peer.awaited, peer.reply = None, [], [], []


def _strerror(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
