"""Asking peers: a bad peer is a value with a reason, in time, and costs no other peer its answer."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import re
import selectors
import socket
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from calls import Conversation, raw
from local_nodes import wait_until

from dmonitor import observer
from dmonitor.base import clock
from dmonitor.config import resolve
from dmonitor.config.cluster import Peer
from dmonitor.config.keyfile import Keys, KeySet, of_all
from dmonitor.config.settings import Settings
from dmonitor.core import digest
from dmonitor.core.model import (
    Answer,
    Contact,
    Incident,
    Judgement,
    Node,
    NodeStatus,
    Outcome,
    Result,
    Silence,
    Statement,
    Test,
    Verdict,
    node_test,
)
from dmonitor.net import (
    access,
    connection,
    conversation,
    exchange,
    peers,
    protocol,
    replies,
    server,
    session,
    wire,
)
from dmonitor.net.protocol import Greeting, Reply
from dmonitor.net.session import Event, State

SSH, HTTP = Test("www.example.com", "ssh"), Test("www.example.com", "http")
ADDRESSES = [f"127.0.0.{number}" for number in range(41, 50)]
Behaviour = Callable[[socket.socket], None]


class Fakes:
    """Peers that behave as told, each on an address of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.peers: list[Peer] = []
        self.sources: list[str] = []
        self.over = threading.Event()
        self._listeners: list[socket.socket] = []

    def add(self, name: str, behaviour: Behaviour | None, address: str = "") -> None:
        """Add a peer; without a behaviour nothing listens at its address."""
        address = address or ADDRESSES[len(self.peers)]
        self.peers.append(Peer(Node(name, name), (resolve.parse_address(address),)))
        if behaviour:
            listener = socket.create_server((address, self.port))
            self._listeners.append(listener)
            threading.Thread(target=self._serve, args=(listener, behaviour), daemon=True).start()

    def _serve(self, listener: socket.socket, behaviour: Behaviour) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, source = listener.accept()
                self.sources.append(source[0])
                connection.settimeout(10)
                threading.Thread(
                    target=self._talk, args=(connection, behaviour), daemon=True
                ).start()

    def _talk(self, connection: socket.socket, behaviour: Behaviour) -> None:
        with connection, contextlib.suppress(OSError):
            behaviour(connection)

    def close(self) -> None:
        self.over.set()
        for listener in self._listeners:
            listener.close()


@pytest.fixture
def fakes(port: int) -> Iterator[Fakes]:
    made = Fakes(port)
    yield made
    made.close()


@pytest.fixture
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests in which a limit is waited for; the others have the product's own, for machines that are busy."""
    monkeypatch.setattr(connection, "GREETING_SECONDS", 1.5)
    monkeypatch.setattr(exchange, "STATEMENT_SECONDS", 1.5)
    monkeypatch.setattr(exchange, "ANSWER_SECONDS", 2.5)


waits = pytest.mark.usefixtures("short_limits")


def stated(asker: peers.Asker) -> dict[str, Statement]:
    return {
        contact.node_id: contact.statement
        for contact in asker.contacts.values()
        if contact.statement
    }


def greet(connection: socket.socket, node_id: str = "0123456789ab") -> None:
    connection.sendall(protocol.write(Greeting("fake", node_id)))


def good(
    node_id: str = "0123456789ab", outcome: Outcome = Outcome.FAIL, reason: str = ""
) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        greet(connection, node_id)
        lines = protocol.Lines(1000)
        while data := connection.recv(4096):
            for line in lines.feed(data):
                question = protocol.read_request(line)
                if isinstance(question, protocol.Question):
                    connection.sendall(
                        protocol.write(
                            Reply(question.test, Result(outcome, "seen", 0.5), 1.0, reason)
                        )
                    )

    return behave


def ask(
    fakes: Fakes, *tests: Test, own_id: str = "own-id", listen: tuple[str, ...] = ()
) -> tuple[dict[str, Answer], float]:
    """Ask for `tests`; return each peer's answer for the first of them, and the seconds it took."""
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        asker = peers.Asker(
            selector, fakes.peers, own_id, Settings(listen=listen, port=fakes.port), None
        )
        for test in tests:
            asker.ask(test)
        while asker.pending:
            assert time.monotonic() - began < 15
            for key, _ in selector.select(asker.pause()):
                key.data()
            asker.tick()
        asker.close()
        assert not selector.get_map(), "nothing stays registered"
        for test in tests:
            assert len(asker.answers(test)) == len(fakes.peers)
        return {
            answer.node.name: answer for answer in asker.answers(tests[0])
        }, time.monotonic() - began


def test_a_good_peer(fakes: Fakes) -> None:
    fakes.add("paris", good())
    answers, took = ask(fakes, SSH, HTTP)
    assert answers["paris"] == Answer(
        Node("paris", "paris"), "0123456789ab", Result(Outcome.FAIL, "seen", 0.5), 1.0
    )
    assert took < 4


def drip(connection: socket.socket) -> None:
    for byte in b"dmonitor 1 name=fake id=0123456789ab ":
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def no_answer(connection: socket.socket) -> None:
    greet(connection)
    time.sleep(8)


def drop_after_questions(connection: socket.socket) -> None:
    greet(connection)
    asked = b""
    while asked.count(b"\n") < 2:  # what is left unread would make the close a reset
        asked += connection.recv(100)


def garbage_answer(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    connection.sendall(b"\xff\x00garbage\n")
    time.sleep(8)


def flood(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    while True:
        connection.sendall(b"x" * 65536)


def wrong_test(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    connection.sendall(protocol.write(Reply(Test("other", "test"), Result(Outcome.FAIL))))
    time.sleep(8)


def refuses(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    connection.sendall(b"error malformed text=do not understand\n")
    time.sleep(8)


BAD = {
    "refused": (None, "connection refused"),
    "silent": (lambda connection: time.sleep(8), "connected, but no greeting"),
    "hangs-up": (
        lambda connection: None,
        "it closed the connection; is our address in its nodes.txt?",
    ),
    "drips": (drip, "connected, but no greeting"),
    "other-service": (
        lambda connection: connection.sendall(b"220 mail ESMTP\r\n"),
        "no dmonitor greeting",
    ),
    "version-2": (
        lambda connection: connection.sendall(b"dmonitor 2 name=x id=0123456789ab\n"),
        "protocol version 2, and we speak 1",
    ),
    "no-answer": (no_answer, "no answer in time"),
    "drops": (drop_after_questions, "it closed the connection"),
    "garbage": (garbage_answer, "it does not speak our protocol"),
    "floods": (flood, "it does not speak our protocol: a line of over 1000000 bytes"),
    "wrong-test": (wrong_test, "no answer in time"),
    "refuses": (refuses, "it refused a question: malformed"),
}


@waits
@pytest.mark.parametrize("name", BAD)
def test_a_bad_peer_is_a_value_and_costs_nothing_else(name: str, fakes: Fakes) -> None:
    behaviour, reason = BAD[name]
    fakes.add(name, behaviour)
    fakes.add("good", good())
    answers, took = ask(fakes, SSH, HTTP)
    assert answers[name].result is None and reason in answers[name].reason
    assert answers["good"].result == Result(Outcome.FAIL, "seen", 0.5)
    assert took < 6


@waits
def test_all_are_asked_at_the_same_time(fakes: Fakes) -> None:
    for number in range(6):
        fakes.add(f"silent{number}", no_answer)
    _, took = ask(fakes, SSH)
    assert took < 10, "not one after the other, which takes 15 s"


def test_this_node_itself_is_no_peer(fakes: Fakes) -> None:
    fakes.add("echo", good("own-0123456789".replace("-", "")))
    answers, _ = ask(fakes, SSH, own_id="own0123456789")
    assert answers["echo"].result is None and answers["echo"].reason == "this node itself"
    assert answers["echo"].node_id == "own0123456789"


def test_busy_is_no_answer(fakes: Fakes) -> None:
    fakes.add("busy", good(outcome=Outcome.UNKNOWN, reason="busy"))
    fakes.add("lacks", good(outcome=Outcome.UNKNOWN, reason="not-configured"))
    answers, _ = ask(fakes, SSH)
    assert answers["busy"].result is None and answers["busy"].reason == "it is busy"
    assert answers["lacks"].result and answers["lacks"].result.outcome is Outcome.UNKNOWN


def test_the_next_address_is_tried(fakes: Fakes) -> None:
    fakes.add("two-addresses", good())
    peer = fakes.peers.pop()
    fakes.peers.append(Peer(peer.node, (resolve.parse_address("127.0.0.40"), *peer.addresses)))
    answers, _ = ask(fakes, SSH)
    assert answers["two-addresses"].result


def test_questions_come_from_the_listen_address(fakes: Fakes) -> None:
    fakes.add("good", good())
    ask(fakes, SSH, listen=("127.0.0.39",))
    assert fakes.sources == ["127.0.0.39"]


def test_a_name_that_does_not_resolve_says_so(fakes: Fakes) -> None:
    fakes.peers.append(
        Peer(Node("gone", "gone"), (), "its name does not resolve: Name or service not known")
    )
    fakes.add("good", good())
    answers, took = ask(fakes, SSH)
    assert answers["gone"].reason == "its name does not resolve: Name or service not known"
    assert answers["good"].result and took < 4


def test_a_thousand_questions_on_one_connection(fakes: Fakes) -> None:
    fakes.add("good", good())
    answers, _ = ask(fakes, *(Test(f"host{number}", "ssh") for number in range(1000)))
    assert answers["good"].result


def test_a_family_that_the_kernel_lacks_costs_only_its_address(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ipv6.disable=1, a socket for an IPv6 address cannot even be made."""
    fakes.add("both", good())
    peer = fakes.peers.pop()
    fakes.peers.append(Peer(peer.node, (resolve.parse_address("::1"), *peer.addresses)))
    fakes.peers.append(Peer(Node("only6", "only6"), (resolve.parse_address("::1"),)))
    real = socket.socket

    def without_ipv6(family: int = -1, *arguments: int, **named: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *arguments, **named)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    answers, _ = ask(fakes, SSH)
    assert answers["both"].result
    assert answers["only6"].reason == "address family not supported by protocol"


def test_the_next_address_is_tried_after_one_without_a_greeting(fakes: Fakes) -> None:
    """A peer that hangs up at the address it does not know us from may know the other."""
    fakes.add("deaf", lambda connection: None)
    fakes.add("good", good())
    deaf, fine = fakes.peers.pop(0), fakes.peers.pop(0)
    fakes.peers.append(Peer(fine.node, (*deaf.addresses, *fine.addresses)))
    answers, _ = ask(fakes, SSH)
    assert answers["good"].result


def test_a_peer_that_resets_while_it_is_asked_more(fakes: Fakes) -> None:
    """Its readiness is reported in the same turn of the loop in which a question finds it gone."""
    fakes.add("resets", drop_after_questions)
    with selectors.DefaultSelector() as selector:
        asker = peers.Asker(selector, fakes.peers, "own-id", Settings(port=fakes.port), None)
        asker.ask(SSH)
        deadline = time.monotonic() + 5
        asked = 0
        while asker.pending:
            assert time.monotonic() < deadline
            ready = selector.select(asker.pause())
            for number in range(50 if asked < 2000 else 0):
                asker.ask(Test("host", f"t{asked + number}"))
            asked += 50
            for key, _ in ready:
                key.data()
            asker.tick()
        asker.close()


# The table of states.


def test_every_state_has_its_row_and_every_event_its_use() -> None:
    assert session.TRANSITIONS.keys() == set(State)
    events = [event for row in session.TRANSITIONS.values() for event in row]
    assert set(events) == set(Event)


def test_every_state_is_reached_and_every_session_can_end_and_begin_again() -> None:
    def after(state: State) -> set[State]:
        """Return the states that can follow `state`, sooner or later."""
        reached: set[State] = set()
        left = [state]
        while left:
            for following in session.TRANSITIONS[left.pop()].values():
                if following not in reached:
                    reached.add(following)
                    left.append(following)
        return reached

    assert after(State.IDLE) == set(State) - {State.IDLE}
    for state, row in session.TRANSITIONS.items():
        assert (row.get(Event.END) is State.OVER) is (state is not State.OVER)
        assert State.TALKING in after(state)


def test_only_a_greeting_makes_a_session_talk() -> None:
    for state, row in session.TRANSITIONS.items():
        for event, following in row.items():
            assert (following is State.TALKING) is (event is Event.GREETED)
            if event is Event.GREETED:
                assert state is State.GREETING


def test_a_session_goes_through_the_table(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is IDLE until something is wanted, and OVER once it has no connection."""
    fakes.add("paris", good())
    with Talk(fakes) as talk:
        (only,) = talk.asker._sessions
        seen = [only.state]
        move = only._move

        def watched(event: Event) -> None:
            move(event)
            seen.append(only.state)

        monkeypatch.setattr(only, "_move", watched)
        talk.asker.ask(SSH)
        talk.run(lambda: talk.asker.pending)
        talk.asker.close()
    assert seen == [State.IDLE, State.CONNECTING, State.GREETING, State.TALKING, State.OVER]


# Statements.

NOW = 1_800_000_000.0
PARIS = "0123456789ab"
MINE, THEIRS, CLOSED = (word * 3 for word in ("mine", "theirs", "closed"))
EVIDENCE = (
    Answer(Node("rome", "it"), "0r0m0e0r0m0e", Result(Outcome.FAIL, "refused", 0.5), 1.0),
    Answer(Node("oslo", "no"), reason="silent"),
)
INCIDENTS = {
    MINE: Incident((MINE,), SSH, NOW - 30, alert="rome"),
    THEIRS: Incident(
        (THEIRS, "theirs" + THEIRS), HTTP, NOW - 60, Judgement(Verdict.DOWN, 2, EVIDENCE)
    ),
    CLOSED: Incident((CLOSED,), SSH, NOW - 900, closed=NOW - 600, void=True),
}
STATEMENT = Statement(
    NodeStatus("paris", PARIS, NOW, 2, NOW - 23, True, tests=digest.digest([SSH])),
    (NodeStatus("rome", "0r0m0e0r0m0e", NOW - 20, finished=NOW - 30, refused=2),),
    (Silence("db"), Silence("www", "ssh", NOW + 60)),
    (INCIDENTS[MINE], INCIDENTS[THEIRS]._replace(opening=None)),
)
DIGEST = STATEMENT.status.tests


class Knows:
    """A peer with something to say, which remembers what it was asked."""

    def __init__(self, statement: Statement = STATEMENT) -> None:
        self.statement = statement
        self.asked: list[str] = []
        self.conversations = 0

    def __call__(self, connection: socket.socket) -> None:
        self.conversations += 1
        connection.sendall(protocol.write(Greeting("paris", PARIS)))
        lines = protocol.Lines(1000)
        while data := connection.recv(4096):
            for line in lines.feed(data):
                self.asked.append(line.decode())
                if line == b"quit":
                    return
                connection.sendall(self.reply(protocol.read_request(line)))

    def reply(self, request: protocol.Question | protocol.Request) -> bytes:
        match request:
            case protocol.Request("greet"):
                return protocol.write_statement(self.statement, NOW)
            case protocol.Request("tests"):
                return protocol.write_tests([SSH])
            case protocol.Request("incident", incident_id):
                return protocol.write_incident(INCIDENTS.get(incident_id), NOW)
            case protocol.Question(test):
                return protocol.write(Reply(test, Result(Outcome.FAIL, "seen")))
        return b""


@dataclasses.dataclass
class Talk:
    """An asker and its loop."""

    fakes: Fakes
    digest: str = DIGEST
    keys: Keys | None = None
    heard: Callable[[Contact], None] = lambda _: None
    own_incarnation: Callable[[], str | None] = str
    failed: Callable[[Contact], None] = lambda _: None
    status_only: bool = False

    def __enter__(self) -> Talk:
        self.selector = selectors.DefaultSelector()
        settings = Settings(port=self.fakes.port)
        self.asker = peers.Asker(
            self.selector,
            self.fakes.peers,
            "own0own0",
            settings,
            self.keys,
            digest=self.digest,
            clock=lambda: NOW,
            own_incarnation=self.own_incarnation,
            heard=self.heard,
            failed=self.failed,
            status_only=self.status_only,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.asker.close()
        assert not self.asker.greeting and not self.asker.pending
        assert not self.selector.get_map()
        self.selector.close()

    def run(self, going_on: Callable[[], bool]) -> float:
        began = time.monotonic()
        while going_on():
            assert time.monotonic() - began < 15
            for key, _ in self.selector.select(self.asker.pause()):
                key.data()
            self.asker.tick()
        return time.monotonic() - began

    def greet(
        self,
        known: tuple[str, ...] = (MINE, THEIRS),
        mine: tuple[tuple[str, ...], ...] = (),
        *,
        twice: bool = False,
    ) -> Statement | None:
        """Greet all peers; return what the one that calls itself paris states."""
        self.asker.greet(known.__contains__, mine, twice=lambda _: twice)
        self.run(lambda: self.asker.greeting)
        return stated(self.asker).get(PARIS)


@pytest.fixture
def paris(fakes: Fakes) -> Knows:
    knows = Knows()
    fakes.add("127.0.0.41", knows)
    return knows


def test_a_statement(fakes: Fakes, paris: Knows) -> None:
    with Talk(fakes) as talk:
        assert talk.greet() == STATEMENT
        assert list(stated(talk.asker)) == [PARIS]
    assert paris.asked[:1] == ["greet"]


def test_evidence_is_asked_for_what_is_not_known(fakes: Fakes, paris: Knows) -> None:
    with Talk(fakes) as talk:
        assert talk.greet(known=("theirs" + THEIRS,)) == STATEMENT
        assert paris.asked == ["greet", f"incident {MINE}"]
        stated = talk.greet(known=(MINE,))
        assert stated and stated.incidents == (INCIDENTS[MINE], INCIDENTS[THEIRS])


def test_a_mass_incident_is_heard_with_some_of_its_evidence(fakes: Fakes, paris: Knows) -> None:
    """A statement has to be whole in time; who saw what is only for people."""
    many = tuple(
        INCIDENTS[MINE]._replace(ids=(f"{number:08}",), opening=None) for number in range(2500)
    )
    paris.statement = STATEMENT._replace(incidents=many)
    with Talk(fakes) as talk:
        stated = talk.greet()
        assert stated and stated.incidents == many
        assert len(paris.asked) == 1 + 50


def test_an_open_incident_that_the_peer_does_not_list_is_asked_for(
    fakes: Fakes, paris: Knows
) -> None:
    with Talk(fakes) as talk:
        stated = talk.greet(mine=((CLOSED, "x" + CLOSED), ("unheard0",), ("theirs" + THEIRS,)))
        assert paris.asked == ["greet", f"incident {CLOSED}", "incident unheard0"]
        assert stated and stated.incidents == (*STATEMENT.incidents, INCIDENTS[CLOSED])


def test_tests_are_asked_for_where_they_differ(fakes: Fakes, paris: Knows) -> None:
    with Talk(fakes, digest.digest([])) as talk:
        assert talk.greet() == STATEMENT._replace(tests=frozenset([SSH]))
        assert paris.asked == ["greet", "tests"]


def test_greeted_again_on_the_same_connection_between_questions(fakes: Fakes, paris: Knows) -> None:
    with Talk(fakes) as talk:
        talk.asker.ask(SSH)
        assert talk.greet() == STATEMENT
        paris.statement = STATEMENT._replace(incidents=())
        talk.asker.ask(HTTP)
        assert talk.greet() == paris.statement
        talk.run(lambda: talk.asker.pending)
        assert all(talk.asker.answers(test)[0].result for test in (SSH, HTTP))
        assert paris.conversations == 1


def test_greeted_again_after_a_lost_connection(fakes: Fakes, paris: Knows) -> None:
    first = True

    def loses_the_first(connection: socket.socket) -> None:
        nonlocal first
        if first:
            first = False
            greet(connection, PARIS)
            connection.recv(5)
        else:
            paris(connection)

    fakes.peers.clear()
    fakes.add("127.0.0.42", loses_the_first, "127.0.0.42")
    with Talk(fakes) as talk:
        talk.asker.ask(HTTP)
        assert talk.greet() is None
        assert talk.asker.answers(HTTP)[0].reason
        assert talk.greet() == STATEMENT
        talk.asker.ask(SSH)
        talk.run(lambda: talk.asker.pending)
        assert talk.asker.answers(SSH)[0].result


def test_a_failed_greeting_leaves_the_one_before(
    fakes: Fakes, paris: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Talk(fakes) as talk:
        assert talk.greet() == STATEMENT
        monkeypatch.setattr(paris, "reply", lambda request: b"heard nothing\nend\n")
        assert talk.greet() == STATEMENT
        (contact,) = talk.asker.contacts.values()
        assert "makes no sense" in contact.reason, "the second one has failed"
        assert not talk.asker.pending


@waits
def test_a_slow_statement_costs_no_answer(
    fakes: Fakes, paris: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greeted again, it gets another connection, and what is still owed is asked there."""
    reply = paris.reply
    slow = True

    def late(request: protocol.Request) -> bytes:
        if getattr(request, "word", "") == "greet" and slow:
            return b"standing\n"
        time.sleep(0.2 if isinstance(request, protocol.Question) else 0)
        return reply(request)

    monkeypatch.setattr(paris, "reply", late)
    with Talk(fakes) as talk:
        talk.asker.ask(SSH)
        talk.asker.greet(bool, ())
        assert 1.4 < talk.run(lambda: talk.asker.greeting) < 2.3
        talk.run(lambda: talk.asker.pending)
        assert talk.asker.answers(SSH)[0].result and not stated(talk.asker)
        slow = False
        talk.asker.ask(HTTP)
        assert talk.greet() == STATEMENT
        talk.run(lambda: talk.asker.pending)
        assert talk.asker.answers(HTTP)[0].result and paris.conversations == 2


@waits
def test_a_late_statement_is_passed_over_and_the_next_is_not(
    fakes: Fakes, paris: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = paris.reply
    delay = 2.0

    def late(request: protocol.Request) -> bytes:
        time.sleep(delay)
        return reply(request)

    monkeypatch.setattr(paris, "reply", late)
    with Talk(fakes) as talk:
        assert talk.greet() is None
        delay = 0.0
        talk.asker.ask(SSH)
        talk.run(lambda: talk.asker.pending)
        assert not stated(talk.asker) and talk.asker.answers(SSH)[0].result
        assert talk.greet() == STATEMENT and paris.conversations == 1


@pytest.mark.parametrize(
    "line", [b"silence db\n", b"\n", b"silence db text=" + b"x" * 3900 + b"\n"]
)
def test_an_endless_statement_is_ended(line: bytes, fakes: Fakes) -> None:
    def endless(connection: socket.socket) -> None:
        greet(connection)
        connection.sendall(b"standing\n")
        while True:
            connection.sendall(line * 100)

    fakes.add("endless", endless)
    fakes.add("good", good("g00dg00d"))
    with Talk(fakes) as talk:
        talk.asker.ask(SSH)
        talk.greet()
        talk.run(lambda: talk.asker.pending)
        answers = {answer.node.name: answer for answer in talk.asker.answers(SSH)}
        assert answers["endless"].reason == "it sends more than 16000000 bytes"
        assert contacts(talk)["endless"].reason == "it states more than 1000000 bytes"
        assert answers["good"].result and not stated(talk.asker)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (b"silence db\n" * 10_001, "it states more than 1000000 bytes"),
        (b"fat " + b"x" * 100_000 + b"\n", "it states a line of over 100000 bytes"),
        (
            b'heard {"name":"rome","node_id":"0r0m0e0r0m0e","at":1}\n' * 1001,
            "its statement makes no sense: too many lines: heard",
        ),
        (b"silence {}\n", "its statement makes no sense: silence: "),
        (b"\x00\xff\n", ""),
    ],
)
def test_a_statement_that_cannot_be_taken_costs_only_itself(
    lines: bytes, reason: str, fakes: Fakes, paris: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is passed over up to its end, while the questions of the same conversation are answered."""
    reply = paris.reply
    spoilt = True

    def spoil(request: protocol.Question | protocol.Request) -> bytes:
        stated = reply(request)
        if spoilt and getattr(request, "word", "") == "greet":
            middle = stated.index(b"\n") + 1
            answer = protocol.write(Reply(SSH, Result(Outcome.FAIL, "seen")))
            return stated[:middle] + lines + answer + lines + stated[middle:]
        return reply(request)

    monkeypatch.setattr(paris, "reply", spoil)
    with Talk(fakes) as talk:
        talk.asker.ask(SSH)
        said = talk.greet()
        talk.asker.ask(HTTP)
        talk.run(lambda: talk.asker.pending)
        assert [talk.asker.answers(test)[0].result is not None for test in (SSH, HTTP)] == [
            True
        ] * 2
        (contact,) = contacts(talk).values()
        assert (said is None) is bool(reason) and contact.reason.startswith(reason)
        spoilt = False
        assert talk.greet() == STATEMENT and paris.conversations == 1


def test_too_many_accounts_cost_only_evidence(
    fakes: Fakes, paris: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that knows nothing yet hears of every incident, with as much evidence as it has room for."""
    ids = [f"{number:08}" for number in range(30)]
    many = tuple(INCIDENTS[THEIRS]._replace(ids=(known,), opening=None) for known in ids)
    fat = Judgement(Verdict.DOWN, 2, EVIDENCE * 40)
    monkeypatch.setattr(protocol, "STATEMENT_BYTES", 200_000)
    for stated in many:
        monkeypatch.setitem(INCIDENTS, stated.id, stated._replace(opening=fat))
    paris.statement = STATEMENT._replace(incidents=many)
    with Talk(fakes) as talk:
        said = talk.greet(known=())
        assert said and [incident.id for incident in said.incidents] == ids
        has_evidence = [incident.opening is not None for incident in said.incidents]
        size = len(protocol.write_incident(INCIDENTS[ids[0]], NOW))
        assert sum(has_evidence) == protocol.STATEMENT_BYTES // size
        assert 10 < sum(has_evidence) < 30 and all(has_evidence[:10])


def answers_first(*others: Test) -> Behaviour:
    """Answer for `others` before the first question about HTTP is answered."""

    def behave(connection: socket.socket) -> None:
        greet(connection)
        lines = protocol.Lines(1000)
        while data := connection.recv(4096):
            for line in lines.feed(data):
                if protocol.read_request(line) == protocol.Question(HTTP):
                    for test in (*others, HTTP):
                        connection.sendall(protocol.write(Reply(test, Result(Outcome.OK))))

    return behave


MANY = [Test("many.example.com", f"t{number}") for number in range(exchange.UNASKED_LIMIT + 1)]


def test_a_peer_that_answers_what_nobody_asked_is_hung_up_on(fakes: Fakes) -> None:
    fakes.add("liar", answers_first(*MANY))
    fakes.add("odd", answers_first(*MANY[1:]))
    answers, _ = ask(fakes, HTTP)
    assert answers["liar"].reason == "it sends more than 300 answers that nobody asked for"
    assert answers["odd"].result


def test_answers_that_come_too_late_were_asked_for(fakes: Fakes) -> None:
    fakes.add("slow", answers_first(*MANY))
    with Talk(fakes) as talk:
        for test in MANY:
            talk.asker.ask(test)
        (only,) = talk.asker._sessions
        talk.run(lambda: only.state is not State.TALKING)
        for test in MANY:
            talk.asker.forget(test)
        talk.asker.ask(HTTP)
        talk.run(lambda: talk.asker.pending)
        assert talk.asker.answers(HTTP)[0].result


def test_an_older_peer_refuses_to_be_greeted_and_still_answers(
    fakes: Fakes, paris: Knows, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = paris.reply
    error = protocol.write(protocol.Refusal("malformed", "unknown word greet"))
    monkeypatch.setattr(
        paris,
        "reply",
        lambda request: error if getattr(request, "word", "") == "greet" else reply(request),
    )
    with Talk(fakes) as talk:
        talk.asker.ask(SSH)
        assert talk.greet() is None
        talk.run(lambda: talk.asker.pending)
        assert talk.asker.answers(SSH)[0].result


@waits
@pytest.mark.parametrize("name", BAD)
def test_a_bad_peer_has_no_statement_and_costs_no_other_its_own(
    name: str, fakes: Fakes, paris: Knows
) -> None:
    fakes.add(name, BAD[name][0])
    with Talk(fakes) as talk:
        for _ in range(2):
            talk.asker.ask(SSH)
            assert talk.greet() == STATEMENT
            assert list(stated(talk.asker)) == [PARIS]


def test_this_node_itself_and_a_name_without_an_address_have_no_statement(fakes: Fakes) -> None:
    fakes.add("echo", good("own0own0"))
    fakes.peers.append(Peer(Node("gone", "gone"), (), "its name does not resolve"))
    with Talk(fakes) as talk:
        for _ in range(3):
            talk.greet()
        assert not stated(talk.asker) and talk.asker.own_line == Node("echo", "echo")
        assert len(fakes.sources) == 1, "it is called once"


def test_this_node_is_recognised_when_it_is_only_asked(fakes: Fakes) -> None:
    """It is recognised by its id, and the first of its lines counts, whichever answers first."""
    fakes.add("rome", good())
    fakes.add("echo", good("own0own0"))
    fakes.add("again", good("own0own0"))
    with Talk(fakes) as talk:
        talk.asker.ask(SSH)
        talk.run(lambda: talk.asker.pending)
        assert talk.asker.own_line == Node("echo", "echo") and not talk.asker.contacts


# The asker and the server.


class FakeFacts:
    def __init__(self, statement: Statement = STATEMENT) -> None:
        self.stated = statement
        self.version = 0
        self.made: list[str] = []  # the replies of several lines
        self.slow = threading.Event()  # a reply is made only while this is set
        self.slow.set()
        self.wakes = 0

    def tests(self) -> list[Test]:
        self.made.append("tests")
        return [SSH]

    def has(self, test: Test, /) -> bool:
        return test == SSH

    def run(self, test: Test, done: Callable[[Test, Result], None], /) -> None:
        done(test, Result(Outcome.FAIL, "seen"))

    def statement(self) -> bytes:
        self.made.append("greet")
        assert self.slow.wait(10)
        return protocol.write_statement(self.stated, NOW)

    def incident(self, incident_id: str, /) -> tuple[Incident | None, float]:
        self.made.append("incident")
        assert self.slow.wait(10)
        return INCIDENTS.get(incident_id), NOW

    def state_version(self) -> object:
        return self.version

    def wake(self) -> None:
        self.wakes += 1


@dataclasses.dataclass
class FakeAccess(access.Access):
    admitted: frozenset[str] = frozenset({"127.0.0.1", *ADDRESSES})
    names: frozenset[str] = frozenset({"paris"})
    keys: Keys | None = None
    greeting = Greeting("paris", PARIS)

    def judge(self, address: str, decided: Callable[[bool], None]) -> None:
        decided(address in self.admitted)


@pytest.fixture
def daemon(fakes: Fakes) -> Iterator[tuple[server.Server, FakeFacts, selectors.BaseSelector]]:
    """A server with one test, at the first address of the fakes."""
    fakes.add("paris", None)
    listener = socket.create_server((ADDRESSES[0], fakes.port))
    listener.setblocking(False)
    selector, facts = selectors.DefaultSelector(), FakeFacts()
    made = server.Server(selector, [listener], facts, 5, FakeAccess(), facts.wake)
    yield made, facts, selector
    made.close()
    selector.close()


Daemon = tuple[server.Server, FakeFacts, selectors.BaseSelector]


def test_asker_and_server(fakes: Fakes, daemon: Daemon) -> None:
    made, _, selector = daemon
    with Talk(fakes, digest.digest([])) as talk:
        talk.asker.ask(SSH)
        talk.asker.greet([MINE].__contains__, [(CLOSED,), ("unheard0",)])

        def serve() -> bool:
            for key, _ in selector.select(0.01):
                key.data()
            made.tick()
            return talk.asker.greeting or talk.asker.pending

        while serve():
            for key, _ in talk.selector.select(0.01):
                key.data()
            talk.asker.tick()
        incidents = tuple(INCIDENTS.values())
        assert stated(talk.asker) == {
            PARIS: STATEMENT._replace(incidents=incidents, tests=frozenset([SSH]))
        }
        assert talk.asker.answers(SSH)[0].result == Result(Outcome.FAIL, "seen")


def test_large_statements_wait_until_they_are_read(fakes: Fakes, daemon: Daemon) -> None:
    """Whoever asks for eight at once and reads none gets them one after the other, and all of them in the end.

    Its question waits for none of them.
    """
    made, facts, selector = daemon
    many = tuple(Incident((f"{number:012}",), SSH, NOW) for number in range(5000))
    facts.stated = STATEMENT._replace(incidents=many)
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((ADDRESSES[0], fakes.port))
        caller.sendall(b"greet\n" * 8 + b"test www.example.com/ssh\nquit\n")
        caller.setblocking(False)
        for _ in range(500):
            for key, _ in selector.select(0):
                key.data()
        (held,) = made._conversations
        assert len(held.wire.unsent) <= 32_000
        data = bytearray()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for key, _ in selector.select(0.001):
                key.data()
            with contextlib.suppress(BlockingIOError):
                got = caller.recv(1 << 20)
                data += got
                if not got:
                    break
        assert (
            data.count(b"\nend\n") == 8
            and data.endswith(b"\nend\n")
            and data.count(b" text=seen\n", 0, data.index(b"\nend\n")) == 1
            and not made._conversations
        )


class Crowd:
    """Callers of a daemon, and the loop that serves them."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self.server, self.facts, self.selector = daemon
        self.target = (ADDRESSES[0], port)
        self.callers: list[socket.socket] = []

    def join(self, source: str) -> socket.socket:
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.bind((source, 0))
        caller.connect(self.target)
        caller.setblocking(False)
        self.callers.append(caller)
        return caller

    def serve(self, until: Callable[[], object], seconds: float = 10.0) -> None:
        """Serve the callers until a condition holds."""
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, "it did not come true in time"
            for key, _ in self.selector.select(0.001):
                key.data()
            self.server.tick()

    def serve_request(self, caller: socket.socket) -> None:
        """Serve until the daemon has read the request of `caller`."""
        name = caller.getsockname()

        def is_owed() -> bool:
            owed = [held.wire.connection for held in self.server._conversations if held.waiting]
            names = []
            for each in owed:
                with contextlib.suppress(OSError):  # it is gone
                    names.append(each.getpeername())
            return name in names

        self.serve(is_owed)

    def hear(self, caller: socket.socket, what: bytes, seconds: float = 10.0) -> bytes:
        """Serve until `caller` has read `what`; return all that it has read."""
        heard = bytearray()

        def is_heard() -> bool:
            with contextlib.suppress(BlockingIOError):
                heard.extend(caller.recv(1 << 20))
            return what in heard

        self.serve(is_heard, seconds)
        return bytes(heard)

    def hear_all(self, caller: socket.socket) -> bytes:
        """Serve until `caller` has read nothing for a while; return all that it has read."""
        heard = bytearray()
        quiet = 0

        def is_quiet() -> bool:
            nonlocal quiet
            before = len(heard)
            with contextlib.suppress(BlockingIOError):
                heard.extend(caller.recv(1 << 20))
            quiet = quiet + 1 if len(heard) == before else 0
            return quiet > 300

        self.serve(is_quiet, 60.0)
        return bytes(heard)


@pytest.fixture
def crowd(fakes: Fakes, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    """A daemon whose statement is larger than the buffers of the sockets to it."""
    for listener in daemon[0]._listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    monkeypatch.setattr(clock, "uptime", lambda: NOW)  # so that nothing grows old by itself
    made = Crowd(daemon, fakes.port)
    many = tuple(Incident((f"{number:012}",), SSH, NOW) for number in range(3_000))
    made.facts.stated = STATEMENT._replace(incidents=many)
    yield made
    made.facts.slow.set()
    for caller in made.callers:
        caller.close()


LAST = b'"ids":["000000002999"]'


def test_a_statement_is_made_once_a_second_for_all(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made again when the state was written to, however young it is."""
    callers = [crowd.join(address) for address in ADDRESSES[1:7]]
    for caller in callers:
        caller.send(b"greet\ntests\n")
    for caller in callers:
        assert LAST in crowd.hear(caller, b"end\nhas www.example.com/ssh\nend\n")
    assert crowd.facts.made == ["greet", "tests"]
    crowd.facts.version += 1
    callers[0].send(b"greet\n")
    crowd.hear(callers[0], b"\nend\n")
    assert crowd.facts.made == ["greet", "tests", "greet"]
    monkeypatch.setattr(clock, "uptime", lambda: NOW + replies.REUSED_SECONDS)
    callers[0].send(b"greet\n")
    crowd.hear(callers[0], b"\nend\n")
    assert crowd.facts.made == ["greet", "tests", "greet", "greet"]


def test_a_conversation_that_has_ended_keeps_no_reply(crowd: Crowd) -> None:
    """Who comes, reads nothing and is hung up on, again and again, would fill the memory."""
    deaf = crowd.join(ADDRESSES[1])
    deaf.send(b"greet\n")
    crowd.serve(lambda: any(held.wire.unsent for held in crowd.server._conversations))
    (held,) = crowd.server._conversations
    assert held._reply and len(held._reply) > 100_000
    gone = weakref.ref(held)
    gc.disable()  # it counts objects, not bytes
    try:
        held.end()
        del held
        assert gone() is None
    finally:
        gc.enable()


def test_all_long_replies_are_made_in_one_thread(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread would have an arena of the C library's, and each arena keeps what it once had."""
    made_in = set()
    tests = crowd.facts.tests

    def noted() -> list[Test]:
        made_in.add(threading.current_thread())
        return tests()

    monkeypatch.setattr(crowd.facts, "tests", noted)
    caller = crowd.join(ADDRESSES[1])
    for _ in range(3):
        crowd.facts.version += 1
        caller.send(b"tests\n")
        crowd.hear(caller, b"end\n")
    assert crowd.facts.made == ["tests"] * 3
    assert len(made_in) == 1 and threading.main_thread() not in made_in


@pytest.mark.parametrize("request_line", [b"greet\n", b"tests\n", b"incident 0123456789ab\n"])
def test_an_address_gets_one_reply_at_a_time(request_line: bytes, crowd: Crowd) -> None:
    """One that does not read has its address wait, and nobody else; nothing is made for it meanwhile."""
    deaf = crowd.join(ADDRESSES[1])
    deaf.send(b"greet\n")
    crowd.serve(lambda: crowd.facts.made == ["greet"])
    crowd.serve(lambda: any(held.wire.unsent for held in crowd.server._conversations))
    attackers = [crowd.join(ADDRESSES[1]) for _ in range(15)]
    for attacker in attackers:
        attacker.send(request_line * 100)
    honest = crowd.join(ADDRESSES[2])
    honest.send(b"test www.example.com/ssh\nincident 0123456789ab\ngreet\n")
    heard = crowd.hear(honest, LAST)
    assert b" text=seen" in heard[: heard.index(b"\nend\n")]
    attackers[1].send(request_line * 1000)
    crowd.serve(lambda: sum(held.waiting for held in crowd.server._conversations) >= 1529)
    turns = iter(range(100))
    crowd.serve(lambda: next(turns) == 99)
    most = max(held.waiting for held in crowd.server._conversations)
    assert most == conversation.REQUESTS_LIMIT == 128
    assert crowd.facts.made == ["greet", "incident"]
    unsent = sum(len(held.wire.unsent) for held in crowd.server._conversations)
    assert 0 < unsent <= 32_000
    for attacker in attackers:
        with pytest.raises(BlockingIOError):
            while b"end" not in attacker.recv(1 << 16):
                pass
    attackers[0].send(b"test www.example.com/ssh\n")
    crowd.hear(attackers[0], b" text=seen\n")


def test_who_asks_without_end_gets_replies_more_slowly(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address has an allowance of bytes, and each other one has its own."""
    greedy = crowd.join(ADDRESSES[1])
    greedy.send(b"greet\n" * 100)
    heard = crowd.hear_all(greedy)
    size = len(heard) // heard.count(LAST)
    assert replies.BURST_BYTES <= len(heard) < replies.BURST_BYTES + 2 * size
    honest = crowd.join(ADDRESSES[2])
    honest.send(b"greet\n")
    assert LAST in crowd.hear(honest, b"\nend\n")
    pause = crowd.server.pause()
    assert pause is not None and 0 < pause <= size / replies.BYTES_PER_SECOND
    now = NOW + pause + 0.01
    monkeypatch.setattr(clock, "uptime", lambda: now)
    assert crowd.hear_all(greedy).count(LAST) == 1
    assert crowd.server._replies._held_back == {ADDRESSES[1]}
    monkeypatch.setattr(clock, "uptime", lambda: NOW + 10_000.0)
    crowd.serve(lambda: not crowd.server._conversations)
    assert not crowd.server._replies._held_back and crowd.server.pause() is None


def test_who_does_not_take_a_reply_loses_its_conversation_and_its_address_goes_on(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = crowd.join(ADDRESSES[1])
    deaf.send(b"greet\n")
    crowd.serve(lambda: any(held.wire.unsent for held in crowd.server._conversations))
    second = crowd.join(ADDRESSES[1])
    second.send(b"tests\n")
    crowd.serve(lambda: sum(held.waiting for held in crowd.server._conversations) == 2)
    assert "tests" not in crowd.facts.made
    pause = crowd.server.pause()
    assert pause is not None and 0 < pause <= conversation.REPLY_SECONDS
    monkeypatch.setattr(clock, "uptime", lambda: NOW + conversation.REPLY_SECONDS)
    crowd.hear(second, b"has www.example.com/ssh\nend\n")
    (held,) = crowd.server._conversations
    assert held.waiting == 0


def test_callers_that_ask_and_leave_cost_others_no_turn(crowd: Crowd) -> None:
    """Their address is one of those that wait, however many of them there are."""
    crowd.facts.slow.clear()
    first = crowd.join(ADDRESSES[1])
    first.send(b"incident 0123456789ab\n")
    crowd.serve(lambda: crowd.facts.made == ["incident"])
    for number in range(40):
        gone = crowd.join(ADDRESSES[3])
        gone.send(b"incident 0123456789%02d\n" % number)
        crowd.serve_request(gone)
        gone.close()
    honest = crowd.join(ADDRESSES[2])
    honest.send(b"tests\n")
    crowd.serve_request(honest)
    crowd.facts.slow.set()
    crowd.hear(honest, b"has www.example.com/ssh\nend\n")
    assert crowd.facts.made[:3] == ["incident", "incident", "tests"]
    crowd.serve(lambda: len(crowd.server._conversations) == 2)
    assert len(crowd.facts.made) <= 3 + server.CALLERS_EACH


def test_a_question_is_answered_while_a_statement_is_made(crowd: Crowd) -> None:
    crowd.facts.slow.clear()
    caller = crowd.join(ADDRESSES[1])
    caller.send(b"greet\ntest www.example.com/ssh\n")
    assert b"end" not in crowd.hear(caller, b" text=seen\n")
    crowd.facts.slow.set()
    assert LAST in crowd.hear(caller, b"\nend\n")


def test_a_reply_is_made_where_no_thread_can_be_started(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    caller = crowd.join(ADDRESSES[1])
    caller.send(b"greet\ntests\n")
    assert LAST in crowd.hear(caller, b"has www.example.com/ssh\nend\n")


def test_a_reply_that_cannot_be_made_ends_the_conversation_alone(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowd.facts, "statement", lambda: 1 / 0)
    caller = crowd.join(ADDRESSES[1])
    other = crowd.join(ADDRESSES[1])
    caller.send(b"greet\n")
    crowd.serve(lambda: len(crowd.server._conversations) == 1)
    other.send(b"tests\n")
    crowd.hear(other, b"has www.example.com/ssh\nend\n")


# What came of greeting.


def contacts(talk: Talk) -> dict[str, Contact]:
    return {contact.node.name: contact for contact in talk.asker.contacts.values()}


@waits
def test_a_contact_says_why_there_is_no_statement(fakes: Fakes, paris: Knows) -> None:
    fakes.add("refused", None)
    fakes.add("silent", lambda connection: time.sleep(8))
    fakes.add("greets-only", no_answer)
    fakes.peers.append(Peer(Node("gone", "gone"), (), "its name does not resolve"))
    heard: list[Contact] = []
    with Talk(fakes, heard=heard.append) as talk:
        talk.greet()
        found = contacts(talk)
        talk.greet()
    assert {
        name: (each.reason, each.unable, each.statement is not None) for name, each in found.items()
    } == {
        "127.0.0.41": ("", False, True),
        "refused": ("connection refused", False, False),
        "silent": ("connected, but no greeting", False, False),
        "greets-only": ("no statement in time", False, False),
        "gone": ("its name does not resolve", True, False),
    }
    assert len(heard) == 10, "each time"


def test_what_keeps_this_node_from_calling_is_no_fault_of_the_peers(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_socket(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    fakes.add("paris", good())
    with Talk(fakes) as talk:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", no_socket)
            talk.greet()
        (contact,) = contacts(talk).values()
    assert contact.unable and contact.reason == "too many open files"


def test_what_was_stated_in_this_round_stands(fakes: Fakes) -> None:
    fakes.add("127.0.0.41", Knows())
    with Talk(fakes) as talk:
        assert talk.greet()
        (only,) = talk.asker._sessions
        only.end("it died")
        only.connection.addresses = (resolve.parse_address(ADDRESSES[-1]),)
        talk.greet()
        (contact,) = contacts(talk).values()
        assert contact.statement and contact.reason == "connection refused"


@pytest.mark.parametrize(
    ("own", "theirs", "cloned"),
    [
        ("aaaaaaaa", "aaaaaaaa", False),
        ("aaaaaaaa", "bbbbbbbb", True),
        (None, "bbbbbbbb", True),
        ("", "bbbbbbbb", False),
        ("aaaaaaaa", "", False),
    ],
)
def test_our_own_id_from_another_machine_is_a_clone(
    fakes: Fakes, own: str | None, theirs: str, cloned: bool
) -> None:
    """`run` tells this machine's daemon from that of one which has a copy of our state."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(protocol.write(Greeting("fake", "own0own0", theirs)))
        connection.recv(100)

    fakes.add("echo", behave)
    with Talk(fakes, own_incarnation=lambda: own) as talk:
        talk.greet()
        (contact,) = contacts(talk).values()
        assert (contact.node_id, contact.incarnation, contact.cloned, contact.statement) == (
            "own0own0",
            theirs,
            cloned,
            None,
        )
        assert (talk.asker.own_line is None) is cloned, "its line is not ours"


def test_nobody_is_asked_about_itself(fakes: Fakes) -> None:
    fakes.add("paris", good())
    fakes.add("rome", good("ba9876543210"))
    with Talk(fakes) as talk:
        talk.asker.ask(node_test("rome"))
        talk.run(lambda: talk.asker.pending)
        assert [each.node.name for each in talk.asker.answers(node_test("rome"))] == ["paris"]


def test_one_alone_may_be_asked(fakes: Fakes) -> None:
    fakes.add("paris", good())
    fakes.add("rome", good("ba9876543210"))
    with Talk(fakes) as talk:
        talk.asker.ask(SSH, Node("rome", "rome"))
        talk.run(lambda: talk.asker.pending)
        assert [each.node.name for each in talk.asker.answers(SSH)] == ["rome"]


def test_all_addresses_of_a_peer_share_the_time(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two never greet, the third does. If each had all of it, that took 12 s."""
    monkeypatch.setattr(connection, "GREETING_SECONDS", 6.0)
    for _ in range(2):
        fakes.add("silent", lambda connection: time.sleep(8))
    fakes.add("good", good())
    addresses = tuple(address for peer in fakes.peers for address in peer.addresses)
    fakes.peers[:] = [Peer(Node("paris", "paris"), addresses)]
    answers, took = ask(fakes, SSH)
    assert answers["paris"].result and took < 8


@pytest.fixture
def quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greet again after a short pause, and for a short time."""
    monkeypatch.setattr(connection, "GREETING_SECONDS", 2.0)
    monkeypatch.setattr(exchange, "STATEMENT_SECONDS", 2.0)
    monkeypatch.setattr(connection, "SECOND_LOOK_PAUSE", 0.2)
    monkeypatch.setattr(connection, "LAST_GREETING_SECONDS", 2.0)
    monkeypatch.setattr(connection, "RETRY_SECONDS", 0.2)


greets_again = pytest.mark.usefixtures("quick_again")


@greets_again
def test_the_second_greeting_tries_again_while_there_is_time(fakes: Fakes) -> None:
    """A daemon that is just started again is not gone; the first failure is told at once."""
    fakes.peers.append(Peer(Node("paris", "paris"), (resolve.parse_address(ADDRESSES[0]),)))
    failed: list[tuple[float, Contact]] = []
    heard: list[Contact] = []
    began = time.monotonic()
    threading.Timer(0.9, lambda: fakes.add("127.0.0.41", Knows(), ADDRESSES[0])).start()
    with Talk(
        fakes,
        failed=lambda contact: failed.append((time.monotonic() - began, contact)),
        heard=heard.append,
    ) as talk:
        talk.asker.ask(SSH)
        assert talk.greet(twice=True)
        assert talk.run(lambda: talk.asker.pending) < 5, "the question waits for the greeting"
        assert [answer.result is not None for answer in talk.asker.answers(SSH)] == [True]
    ((at, first),) = failed
    assert at < 0.8 and (first.node.name, first.reason) == ("paris", "connection refused")
    assert [bool(contact.statement) for contact in heard] == [True]
    assert talk.asker.failures == {first.node: first}


@greets_again
def test_a_peer_that_is_gone_is_greeted_twice_and_then_given_up(fakes: Fakes) -> None:
    fakes.add("paris", None)
    failed: list[Contact] = []
    with Talk(fakes, failed=failed.append) as talk:
        talk.asker.ask(SSH)
        began = time.monotonic()
        talk.greet(twice=True)
        assert 1.5 < time.monotonic() - began < 6
        assert contacts(talk)["paris"].reason == "connection refused"
        assert [answer.reason for answer in talk.asker.answers(SSH)] == ["connection refused"]
        assert len(failed) == 1
        began = time.monotonic()
        talk.greet()
        assert time.monotonic() - began < 1.5, "a later greeting of the round is one alone"
        assert len(failed) == 1


def test_what_is_tried_again_is_not_tried_ever_faster(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address never greets, and the other refuses at once, so that time is left."""
    monkeypatch.setattr(connection, "GREETING_SECONDS", 2.4)
    calls: list[float] = []

    def behave(connection: socket.socket) -> None:
        calls.append(time.monotonic())
        time.sleep(8)

    fakes.add("silent", behave)
    addresses = (*fakes.peers[0].addresses, resolve.parse_address(ADDRESSES[-1]))
    fakes.peers[:] = [Peer(Node("paris", "paris"), addresses)]
    with Talk(fakes) as talk:
        talk.greet()
        assert contacts(talk)["paris"].reason == "connection refused"
    assert len(calls) == 2


@greets_again
def test_a_statement_that_does_not_come_is_asked_for_again(fakes: Fakes) -> None:
    """On a new connection, and with the questions that are still open."""
    calls: list[socket.socket] = []
    knows = Knows()

    def behave(connection: socket.socket) -> None:
        calls.append(connection)
        if len(calls) > 1:
            knows(connection)
        else:
            greet(connection, PARIS)
            time.sleep(8)

    fakes.add("127.0.0.41", behave)
    failed: list[Contact] = []
    with Talk(fakes, failed=failed.append) as talk:
        talk.asker.ask(SSH)
        assert talk.greet(twice=True)
        talk.run(lambda: talk.asker.pending)
        assert [answer.result is not None for answer in talk.asker.answers(SSH)] == [True]
    assert len(calls) == 2
    assert [contact.reason for contact in failed] == ["no statement in time"]


@greets_again
def test_the_second_greeting_tries_a_new_connection_at_each_step(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection on which nothing comes is left for another one, as long as there is time."""
    monkeypatch.setattr(connection, "GREETING_SECONDS", 0.3)
    monkeypatch.setattr(connection, "LAST_STEP_SECONDS", 0.3)
    monkeypatch.setattr(connection, "LAST_GREETING_SECONDS", 8.0)
    knows = Knows()
    calls: list[float] = []

    def behave(connection: socket.socket) -> None:
        calls.append(time.monotonic())
        if len(calls) == 4:
            knows(connection)
            return
        if len(calls) == 3:
            greet(connection, PARIS)  # and states nothing
        time.sleep(8)

    fakes.add("127.0.0.41", behave)
    failed: list[Contact] = []
    heard: list[Contact] = []
    with Talk(fakes, failed=failed.append, heard=heard.append) as talk:
        assert talk.greet(twice=True)
    assert [contact.reason for contact in failed] == ["connected, but no greeting"]
    assert [bool(contact.statement) for contact in heard] == [True]
    assert len(calls) == 4
    assert calls[3] - calls[0] < 7


def test_what_only_this_node_lacks_is_not_tried_again(fakes: Fakes) -> None:
    fakes.peers.append(Peer(Node("paris", "paris"), (), "no address"))
    failed: list[Contact] = []
    with Talk(fakes, failed=failed.append) as talk:
        began = time.monotonic()
        talk.greet(twice=True)
        assert time.monotonic() - began < 2, "the pause before a second look"
        assert contacts(talk)["paris"].unable and failed == []


def test_a_connection_that_is_not_made_soon_is_begun_anew(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packets of a new one follow each other sooner than those that an old one repeats."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.2)
    usual = socket.socket.connect
    dialled: list[float] = []

    def lose_two(self: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == ADDRESSES[0]:
            dialled.append(time.monotonic())
            if len(dialled) < 3:
                address = ("127.0.0.1", full.getsockname()[1])
        usual(self, address)

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        waiting = []
        for _ in range(2):  # its queue is full: more connections to it are never made
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting[-1].connect(full.getsockname())
        fakes.add("127.0.0.41", Knows(), ADDRESSES[0])
        monkeypatch.setattr(socket.socket, "connect", lose_two)
        with Talk(fakes) as talk:
            assert talk.greet(), "within one greeting"
        for each in waiting:
            each.close()
    assert len(dialled) == 3
    assert dialled[2] - dialled[0] < 4


def test_who_visits_keeps_the_standing_alone(fakes: Fakes) -> None:
    """Whatever a peer states besides; it is a daemon that visits, and its memory is small."""

    def behave(connection: socket.socket) -> None:
        greet(connection)
        connection.recv(100)
        line = (
            b'incident {"ids":["0a0a0a0a"],"test":{"host":"a","name":"b"},"began":7}'
            + b" " * 5000
            + b"\n"
        )
        standing = b'standing {"name":"paris","node_id":"0123456789ab","at":0,"finished":9}\n'
        connection.sendall(line * 200 + standing + line * 200 + b"end\n")

    fakes.add("127.0.0.41", behave)
    with Talk(fakes, digest="", status_only=True) as talk:
        said = talk.greet()
        assert said and said.incidents == () and said.status.finished < said.status.at


# With a key.

KEY, OLD = b"0123456789abcdef0123456789abcdef", b"fedcba9876543210fedcba9876543210"


def converse(
    fakes: Fakes,
    daemon: Daemon,
    caller: Keys | None,
    called: Keys | None,
    names: tuple[str, ...] = ("paris",),
) -> tuple[Answer, Statement | None, Contact]:
    """Ask and greet a daemon with the keys `called`, as a caller with the keys `caller`; ask again."""
    made, _, selector = daemon
    made.access.keys, made.access.names = called, frozenset(names)
    with Talk(fakes, "", caller) as talk:
        talk.asker.ask(SSH)
        talk.asker.greet(bool, ())
        deadline = time.monotonic() + 5
        has_asked_again = False
        while talk.asker.greeting or talk.asker.pending or not has_asked_again:
            assert time.monotonic() < deadline
            for each in (selector, talk.selector):
                for key, _ in each.select(0.01):
                    key.data()
            made.tick()
            talk.asker.tick()
            if not talk.asker.greeting and not has_asked_again:
                has_asked_again = True
                talk.asker.ask(HTTP)
        answered = bool(talk.asker.answers(SSH)[0].result)
        later = [bool(answer.result) for answer in talk.asker.answers(HTTP)]
        assert later == [answered], "a conversation goes on behind the statement"
        (answer,), (contact,) = talk.asker.answers(SSH), talk.asker.contacts.values()
        return answer, contact.statement, contact


@pytest.mark.parametrize(
    ("caller", "called"),
    [
        (of_all(KEY), of_all(KEY)),
        (of_all(KEY, OLD), of_all(OLD)),
        (of_all(OLD), of_all(KEY, OLD)),
        (of_all(KEY, OLD), of_all(OLD, KEY)),
        (of_all(KEY, OLD), of_all(KEY, OLD)),
    ],
)
def test_with_a_key_in_common(
    caller: Keys | None, called: Keys | None, fakes: Fakes, daemon: Daemon
) -> None:
    answer, statement, _ = converse(fakes, daemon, caller, called)
    assert answer.result == Result(Outcome.FAIL, "seen") and statement == STATEMENT


@pytest.mark.parametrize(
    ("caller", "called", "reason", "unable"),
    [
        (of_all(KEY), of_all(OLD), "it closed the connection; is its key the same as ours?", False),
        (of_all(KEY), None, "it has no key, and this node has one", False),
        (None, of_all(KEY), "it wants a key, and this node has none: see dmonitor key set", True),
        (Keys(()), of_all(KEY), "this node's key cannot be used: see dmonitor-check -t", True),
        (
            Keys((KeySet(KEY, {"rome": KEY}),)),
            of_all(KEY),
            "no line for paris in key: see key in dmonitor.conf(5)",
            True,
        ),
        (Keys(()), None, "this node's key cannot be used: see dmonitor-check -t", True),
        (
            of_all(KEY),
            Keys(()),
            "it closed the connection; is our address in its nodes.txt?",
            False,
        ),
    ],
)
def test_without_a_key_in_common(
    caller: Keys | None,
    called: Keys | None,
    reason: str,
    unable: bool,
    fakes: Fakes,
    daemon: Daemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[Test] = []
    run = FakeFacts.run

    def run_and_note(facts: FakeFacts, test: Test, done: Callable[[Test, Result], None]) -> None:
        ran.append(test)
        run(facts, test, done)

    monkeypatch.setattr(FakeFacts, "run", run_and_note)
    answer, statement, contact = converse(fakes, daemon, caller, called)
    assert (answer.result, answer.reason, statement, contact.unable, ran) == (
        None,
        reason,
        None,
        unable,
        [],
    )
    assert converse(fakes, daemon, of_all(KEY), of_all(KEY))[0].result and ran, (
        "with one it would have run"
    )


def test_a_node_that_is_called_by_anothers_name_refuses(fakes: Fakes, daemon: Daemon) -> None:
    """Whoever leads a caller to another node than it means gets nothing that could be taken for an answer of the one it means."""
    answer, statement, _ = converse(
        fakes, daemon, of_all(KEY), of_all(KEY), names=("rome", "rome.example.com")
    )
    assert answer.result is None and statement is None
    assert answer.reason == "this node is paris, and not paris: see name in dmonitor.conf(5)"
    assert converse(fakes, daemon, of_all(KEY), of_all(KEY), names=("rome", "paris"))[0].result


class Between:
    """Somebody between caller and daemon who records what both say, and may change it."""

    def __init__(
        self,
        target: tuple[str, int],
        change: Callable[[str, int, bytes], list[bytes]] = lambda _, __, line: [line],
    ) -> None:
        self.target, self.change = target, change
        self.said: list[tuple[str, bytes]] = []

    def __call__(self, connection: socket.socket) -> None:
        with socket.create_connection(self.target, 5) as onward:
            numbers = {">": 0, "<": 0}
            rest = {">": b"", "<": b""}
            with selectors.DefaultSelector() as selector:
                selector.register(connection, selectors.EVENT_READ, (">", connection, onward))
                selector.register(onward, selectors.EVENT_READ, ("<", onward, connection))
                while True:
                    for key, _ in selector.select(5):
                        mark, source, to = key.data
                        data = source.recv(1 << 16)
                        if not data:
                            return
                        *lines, rest[mark] = (rest[mark] + data).split(b"\n")
                        for line in lines:
                            self.said.append((mark, line))
                            for each in self.change(mark, numbers[mark], line):
                                to.sendall(each + b"\n")
                            numbers[mark] += 1


@pytest.fixture
def keyed(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[tuple[str, int], FakeFacts, list[Test], dict[str, list[str]]]]:
    """A daemon with a key, at the last address, served by a thread; what it ran, and what it logged."""
    listener = socket.create_server((ADDRESSES[8], fakes.port))
    listener.setblocking(False)
    selector, facts = selectors.DefaultSelector(), FakeFacts()
    ran: list[Test] = []
    noted: dict[str, list[str]] = {}

    def run(test: Test, done: Callable[[Test, Result], None]) -> None:
        ran.append(test)
        done(test, Result(Outcome.FAIL, "seen"))

    monkeypatch.setattr(facts, "run", run)
    made = server.Server(selector, [listener], facts, 5, FakeAccess(keys=of_all(KEY)), facts.wake)

    def note(_: str, event: str, **told: object) -> None:
        noted.setdefault(event, []).append(str(told.get("reason")))

    monkeypatch.setattr(made._log, "warning", note)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            for key, _ in selector.select(0.02):
                key.data()
            made.tick()

    thread = threading.Thread(target=serve)
    thread.start()
    yield (ADDRESSES[8], fakes.port), facts, ran, noted
    wait_until(lambda: not made._conversations)
    over.set()
    thread.join()
    made.close()
    selector.close()


Keyed = tuple[tuple[str, int], FakeFacts, list[Test], dict[str, list[str]]]


def talk_through(
    fakes: Fakes, between: Behaviour, name: str = "paris"
) -> tuple[Answer, Statement | None]:
    """Ask and greet the node `name`, by way of `between`."""
    fakes.peers.clear()
    fakes.add(name, between, ADDRESSES[len(fakes._listeners)])
    with Talk(fakes, "", of_all(KEY)) as talk:
        talk.asker.ask(SSH)
        talk.asker.greet(bool, ())
        talk.run(lambda: talk.asker.greeting or talk.asker.pending)
        (answer,), (contact,) = talk.asker.answers(SSH), talk.asker.contacts.values()
        return answer, contact.statement


def flip(line: bytes, at: int = 9) -> bytes:
    changed = bytearray(line)
    changed[at % len(line)] ^= 1
    return bytes(changed)


CHANGES: dict[str, Callable[[str, int, bytes], list[bytes]]] = {
    "a bit of the challenge": lambda mark, number, line: [
        flip(line, -1) if (mark, number) == ("<", 0) else line
    ],
    "a bit of the hello": lambda mark, number, line: [
        flip(line) if (mark, number) == (">", 0) else line
    ],
    "a bit of the greeting": lambda mark, number, line: [
        flip(line, 20) if (mark, number) == ("<", 1) else line
    ],
    "a bit of each question": lambda mark, number, line: [
        flip(line) if mark == ">" and number else line
    ],
    "a bit of each answer": lambda mark, number, line: [
        flip(line) if mark == "<" and number > 1 else line
    ],
    "no mac on a question": lambda mark, number, line: [
        line.rpartition(b" mac=")[0] if mark == ">" and number else line
    ],
    "no mac on an answer": lambda mark, number, line: [
        line.rpartition(b" mac=")[0] if mark == "<" and number > 1 else line
    ],
    "a longer question": lambda mark, number, line: [
        line + b"x" if mark == ">" and number else line
    ],
    "one line more": lambda mark, number, line: (
        [b"greet", line] if mark == ">" and number == 1 else [line]
    ),
    "a question twice": lambda mark, number, line: (
        [line, line] if mark == ">" and number == 1 else [line]
    ),
    "without the first question": lambda mark, number, line: (
        [] if mark == ">" and number == 1 else [line]
    ),
    "a line of an answer twice": lambda mark, number, line: (
        [line, line] if mark == "<" and number == 2 else [line]
    ),
    "without a line of an answer": lambda mark, number, line: (
        [] if mark == "<" and number == 2 else [line]
    ),
    "an open greeting in place of the challenge": lambda mark, number, line: (
        [b"dmonitor 1 name=paris id=0123456789ab"] if (mark, number) == ("<", 0) else [line]
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_on_the_way_is_refused(name: str, fakes: Fakes, keyed: Keyed) -> None:
    target, _, ran, _ = keyed
    answer, statement = talk_through(fakes, Between(target))
    assert answer.result and statement == STATEMENT, "it only passes on what was said"
    ran.clear()
    answer, statement = talk_through(fakes, Between(target, CHANGES[name]))
    assert not (answer.result and statement), "one of the two is missing, or both"
    assert answer.result in (None, Result(Outcome.FAIL, "seen")) and statement in (None, STATEMENT)
    assert set(ran) <= {SSH}
    answer, statement = talk_through(fakes, Between(target))
    assert answer.result and statement == STATEMENT, "and the daemon goes on"


def test_a_recorded_session_is_replayed_reflected_and_relayed(fakes: Fakes, keyed: Keyed) -> None:
    target, _, ran, noted = keyed
    between = Between(target)
    answer, _ = talk_through(fakes, between)
    assert answer.result and ran == [SSH]
    asked = b"".join(line + b"\n" for mark, line in between.said if mark == ">")
    told = b"".join(line + b"\n" for mark, line in between.said if mark == "<")
    for said in (
        asked,
        asked * 2,
        asked[:-20],
        asked[40:],
        told,
        told + asked,
        asked.replace(b"hello", b"HELLO"),
    ):
        assert heard_only_a_challenge(raw(target, said))
    assert ran == [SSH], "nothing of it ran"
    assert len(noted["unauthenticated"]) == 7

    # To the caller: what the daemon said then, and what the caller says itself.
    def recorded(connection: socket.socket) -> None:
        connection.sendall(told)
        while connection.recv(4096):
            pass

    def mirror(connection: socket.socket) -> None:
        connection.sendall(protocol.write(protocol.Challenge("0" * 32)))
        while data := connection.recv(4096):
            connection.sendall(data)

    for behaviour in (recorded, mirror):
        answer, statement = talk_through(fakes, behaviour)
        assert answer.result is None and statement is None
        assert answer.reason.startswith(
            "it does not speak our protocol: a greeting without the right mac"
        )
    # Whoever sits at rome's address asks paris what rome should say.
    answer, statement = talk_through(fakes, Between(target), name="rome")
    assert (
        answer.result is None
        and statement is None
        and answer.reason.startswith("this node is paris, and not rome")
    )
    assert ran == [SSH]


def heard_only_a_challenge(heard: bytes) -> bool:
    return re.fullmatch(rb"dmonitor 1 nonce=[0-9a-f]{32}\n", heard) is not None


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"test www.example.com/ssh\n",
        b"greet\n" * 50,
        b"x" * 5000,
        b"\xff\n",
        b"hello paris " + b"0" * 32 + b" mac=" + b"0" * 64 + b"\n",
    ],
    ids=["nothing", "a question", "greet", "a long line", "garbage", "a false hello"],
)
def test_who_has_no_key_learns_a_version_and_a_nonce(said: bytes, keyed: Keyed) -> None:
    target, _, ran, _ = keyed
    first, second = raw(target, said), raw(target, said)
    assert heard_only_a_challenge(first) and heard_only_a_challenge(second) and first != second
    assert ran == []


def test_who_says_nothing_has_five_seconds(
    fakes: Fakes, keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "HELLO_SECONDS", 0.3)
    began = time.monotonic()
    with socket.create_connection(keyed[0], 5) as connection:
        assert connection.recv(1000).startswith(b"dmonitor 1 nonce=")
        assert connection.recv(1000) == b"" and 0.2 < time.monotonic() - began < 3


def test_one_conversation_has_a_limit_of_lines(
    fakes: Fakes, keyed: Keyed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "LINES_LIMIT", 12)
    with Conversation(keyed[0], "paris", KEY) as caller:
        caller.say(protocol.write(protocol.Question(SSH)) * 20)
        said = list(iter(caller.read, b""))
        assert len(said) == 11 and all(line.startswith(b"answer") for line in said)
    assert keyed[3]["too-many-lines"]


def test_who_has_most_makes_room(
    fakes: Fakes, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many nodes, one that holds all it may pushes out itself, and not the one that has a single conversation."""
    monkeypatch.setattr(server, "CALLERS", 5)
    made, _, selector = daemon

    def connect(source: str) -> socket.socket:
        made_ = socket.create_connection((ADDRESSES[0], fakes.port), 5, (source, 0))
        for key, _ in selector.select(1):
            key.data()
        return made_

    crowd = [
        connect(source)
        for source in (ADDRESSES[1], *[ADDRESSES[2]] * 4, ADDRESSES[3], ADDRESSES[4])
    ]
    held = [caller.address for caller in made._conversations]
    assert held == [ADDRESSES[1], ADDRESSES[2], ADDRESSES[2], ADDRESSES[3], ADDRESSES[4]]
    for each in crowd:
        each.close()


def test_who_has_shown_no_key_costs_nobody_who_has(fakes: Fakes, keyed: Keyed) -> None:
    """Any process on a node can call from its address; that node's checker has its answers all the same."""
    target, _, _, noted = keyed
    with Conversation(target, "paris", KEY) as honest, contextlib.ExitStack() as crowd:
        silent = [
            crowd.enter_context(socket.create_connection(target, 5))
            for _ in range(3 * server.CALLERS_EACH)
        ]
        assert (
            silent[-1].recv(1000).startswith(b"dmonitor 1 nonce=")
            and silent[0].recv(1000)
            and silent[0].recv(1000) == b""
        )
        honest.say(protocol.write(protocol.Question(SSH)))
        assert honest.read().startswith(b"answer www.example.com/ssh FAIL")
    assert noted["too-many-callers"]


@waits
def test_what_is_asked_anew_may_still_be_owed(fakes: Fakes) -> None:
    fakes.add("late", no_answer)
    with Talk(fakes) as talk:
        talk.asker.ask(SSH)
        talk.run(lambda: not fakes.sources)
        talk.asker.forget(SSH)
        assert not talk.asker.pending and talk.asker.answers(SSH) == []
        talk.asker.ask(SSH)
        talk.run(lambda: talk.asker.pending)
        assert talk.asker.answers(SSH)[0].reason == "no answer in time"


def answer_of_before(connection: socket.socket) -> None:
    """Greet, and answer both questions with one write."""
    greet(connection)
    asked = b""
    while asked.count(b"\n") < 2:
        asked += connection.recv(4096)
    replies = [Reply(test, Result(Outcome.FAIL, "of before", 0.5)) for test in (SSH, HTTP)]
    connection.sendall(b"".join(map(protocol.write, replies)))
    connection.recv(1)


@pytest.mark.parametrize("seconds", [0.0, 30.0])
def test_what_came_before_a_sleep_is_no_answer_after_it(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The machine slept past the limit of the answers while they were in the socket."""
    asleep = 0.0
    real = clock.uptime
    monkeypatch.setattr(clock, "uptime", lambda: real() + asleep)
    fakes.add("paris", answer_of_before)
    with selectors.DefaultSelector() as selector:
        asker = peers.Asker(selector, fakes.peers, "own-id", Settings(port=fakes.port), None)
        eyes: Any = types.SimpleNamespace(
            _clock=types.SimpleNamespace(elapsed=clock.Stopwatch().elapsed),
            _selector=selector,
            _askers=[asker],
            _looks=None,
        )
        asker.ask(SSH)
        asker.ask(HTTP)
        (one,) = asker._sessions
        while one.state is not State.TALKING:
            assert observer.Observer._turn(eyes, 60.0)
        with selectors.DefaultSelector() as arrived:
            assert one.connection._wire
            arrived.register(one.connection._wire.connection, selectors.EVENT_READ)
            assert arrived.select(5), "the answers are there"
        asleep = seconds
        assert observer.Observer._turn(eyes, 60.0)
        seen = [answer.text for test in (SSH, HTTP) for answer in asker.answers(test)]
        asker.close()
    assert seen == (["no answer in time"] * 2 if seconds else ["of before"] * 2)


def greet_late(connection: socket.socket) -> None:
    time.sleep(0.3)
    greet(connection)
    connection.recv(1)


def test_an_address_given_up_after_a_sleep_costs_the_next_one_nothing(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event of the old connection is not taken for one of the new connection, which still connects."""
    asleep = 0.0
    real = clock.uptime
    monkeypatch.setattr(clock, "uptime", lambda: real() + asleep)
    fakes.add("paris", greet_late)
    peer = fakes.peers.pop()
    second = resolve.parse_address(ADDRESSES[-1])
    with selectors.DefaultSelector() as selector:
        caller = [peer._replace(addresses=(*peer.addresses, second))]
        asker = peers.Asker(selector, caller, "own-id", Settings(port=fakes.port), None)
        asker.ask(SSH)
        (one,) = asker._sessions
        for key, _ in selector.select(5):
            key.data()
        assert one.state.name == "GREETING"
        ready = selector.select(5)
        assert ready, "the greeting is there"
        asleep = connection.GREETING_SECONDS / 2 + 0.1
        with monkeypatch.context() as patched:
            patched.setattr(connection.Connection, "_dial", lambda *_: None)
            asker.tick()
            assert one.state.name == "CONNECTING", "to the second address"
            for key, _ in ready:
                key.data()
        assert one.state.name == "CONNECTING"
        asker.close()


def test_no_line_waits_for_the_one_before_to_be_acknowledged() -> None:
    """Else one of two answers that are ready together takes 40 ms longer."""
    with (
        selectors.DefaultSelector() as selector,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as connection,
    ):
        wire.Wire(selector, connection, 100, lambda: None)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
