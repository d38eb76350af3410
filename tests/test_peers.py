"""Asking peers: each kind of bad peer is a value with a reason, in time, and costs no other its answer."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dmonitor import peers, protocol, resolve
from dmonitor.cluster import Peer
from dmonitor.model import Answer, Node, Outcome, Result, Test
from dmonitor.protocol import Greeting, Reply

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
        self.peers.append(Peer(Node(name, name), (resolve.normal(address),)))
        if behaviour:
            listener = socket.create_server((address, self.port))
            self._listeners.append(listener)
            threading.Thread(target=self._serve, args=(listener, behaviour), daemon=True).start()

    def _serve(self, listener: socket.socket, behaviour: Behaviour) -> None:
        try:
            connection, source = listener.accept()
            self.sources.append(source[0])
            with connection:
                connection.settimeout(10)
                behaviour(connection)
        except OSError:
            pass

    def close(self) -> None:
        self.over.set()
        for listener in self._listeners:
            listener.close()


@pytest.fixture
def fakes(port: int) -> Iterator[Fakes]:
    made = Fakes(port)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "GREETING_LIMIT", 0.6)
    monkeypatch.setattr(peers, "ANSWER_LIMIT", 1.0)
    monkeypatch.setattr(peers, "CONNECT_LIMIT", 0.6)


def greet(connection: socket.socket, node_id: str = "0123456789ab") -> None:
    connection.sendall(protocol.write(Greeting("fake", node_id)))


def good(node_id: str = "0123456789ab", outcome: Outcome = Outcome.FAIL, reason: str = "") -> Behaviour:
    def behave(connection: socket.socket) -> None:
        greet(connection, node_id)
        lines = protocol.Lines(1000)
        while data := connection.recv(4096):
            for line in lines.feed(data):
                question = protocol.read_request(line)
                if isinstance(question, protocol.Question):
                    connection.sendall(protocol.write(Reply(question.test, Result(outcome, "seen", 0.5), 1.0, reason)))

    return behave


def ask(fakes: Fakes, *tests: Test, own_id: str = "own-id", listen: tuple[str, ...] = ()) -> tuple[dict[str, Answer], float]:
    """Ask about TESTS; return what each peer answers for the first of them, and the seconds it took."""
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        asker = peers.Asker(selector, fakes.peers, own_id, listen, fakes.port)
        for test in tests:
            asker.ask(test)
        while asker.pending:
            assert time.monotonic() - began < 8
            for key, _ in selector.select(asker.pause()):
                key.data()
            asker.tick()
        asker.close()
        assert not selector.get_map(), "nothing stays registered"
        for test in tests:
            assert len(asker.answers(test)) == len(fakes.peers)
        return {answer.node.name: answer for answer in asker.answers(tests[0])}, time.monotonic() - began


def test_a_good_peer(fakes: Fakes) -> None:
    fakes.add("paris", good())
    answers, took = ask(fakes, SSH, HTTP)
    assert answers["paris"] == Answer(Node("paris", "paris"), "0123456789ab", Result(Outcome.FAIL, "seen", 0.5), 1.0)
    assert took < 0.5


def drip(connection: socket.socket) -> None:
    for byte in b"dmonitor 1 name=fake id=0123456789ab ":
        connection.sendall(bytes([byte]))
        time.sleep(0.1)


def no_answer(connection: socket.socket) -> None:
    greet(connection)
    time.sleep(3)


def drop_after_questions(connection: socket.socket) -> None:
    greet(connection)
    asked = b""
    while asked.count(b"\n") < 2:  # what is left unread would make the close a reset
        asked += connection.recv(100)


def garbage_answer(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    connection.sendall(b"\xff\x00garbage\n")
    time.sleep(3)


def flood(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    while True:
        connection.sendall(b"x" * 65536)


def wrong_test(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    connection.sendall(protocol.write(Reply(Test("other", "test"), Result(Outcome.FAIL))))
    time.sleep(3)


def refuses(connection: socket.socket) -> None:
    greet(connection)
    connection.recv(100)
    connection.sendall(b"error malformed text=do not understand\n")
    time.sleep(3)


BAD = {
    "refused": (None, "connection refused"),
    "silent": (lambda connection: time.sleep(3), "connected, but no greeting"),
    "hangs-up": (lambda connection: None, "it closed the connection; is our address in its nodes.txt?"),
    "drips": (drip, "connected, but no greeting"),
    "other-service": (lambda connection: connection.sendall(b"220 mail ESMTP\r\n"), "no dmonitor greeting"),
    "version-2": (
        lambda connection: connection.sendall(b"dmonitor 2 name=x id=0123456789ab\n"),
        "protocol version 2, and we speak 1",
    ),
    "no-answer": (no_answer, "no answer in time"),
    "drops": (drop_after_questions, "it closed the connection"),
    "garbage": (garbage_answer, "it does not speak our protocol"),
    "floods": (flood, "it does not speak our protocol: a line of over 4000 bytes"),
    "wrong-test": (wrong_test, "no answer in time"),
    "refuses": (refuses, "it refused a question: malformed"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_peer_is_a_value_and_costs_nothing_else(name: str, fakes: Fakes) -> None:
    behaviour, reason = BAD[name]
    fakes.add(name, behaviour)  # type: ignore[arg-type]
    fakes.add("good", good())
    answers, took = ask(fakes, SSH, HTTP)
    assert answers[name].result is None and reason in answers[name].reason
    assert answers["good"].result == Result(Outcome.FAIL, "seen", 0.5)
    assert took < 2.5


def test_all_are_asked_at_the_same_time(fakes: Fakes) -> None:
    for number in range(6):
        fakes.add(f"silent{number}", no_answer)
    _, took = ask(fakes, SSH)
    assert took < 1.8


def test_this_node_itself_is_no_peer(fakes: Fakes) -> None:
    fakes.add("echo", good("own-0123456789".replace("-", "")))
    answers, _ = ask(fakes, SSH, own_id="own0123456789")
    assert answers["echo"].result is None and answers["echo"].reason == "it is this node itself, or has a copy of its id"
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
    fakes.peers.append(Peer(peer.node, (resolve.normal("127.0.0.40"), *peer.addresses)))
    answers, _ = ask(fakes, SSH)
    assert answers["two-addresses"].result


def test_questions_come_from_the_listen_address(fakes: Fakes) -> None:
    fakes.add("good", good())
    ask(fakes, SSH, listen=("127.0.0.39",))
    assert fakes.sources == ["127.0.0.39"]


def test_a_name_that_does_not_resolve_says_so(fakes: Fakes) -> None:
    fakes.peers.append(Peer(Node("gone", "gone"), (), "its name does not resolve: Name or service not known"))
    fakes.add("good", good())
    answers, took = ask(fakes, SSH)
    assert answers["gone"].reason == "its name does not resolve: Name or service not known"
    assert answers["good"].result and took < 0.5


def test_a_thousand_questions_on_one_connection(fakes: Fakes) -> None:
    fakes.add("good", good())
    answers, _ = ask(fakes, *(Test(f"host{number}", "ssh") for number in range(1000)))
    assert answers["good"].result


def test_a_family_that_the_kernel_lacks_costs_only_its_address(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ipv6.disable=1, a socket for an IPv6 address cannot even be made."""
    fakes.add("both", good())
    peer = fakes.peers.pop()
    fakes.peers.append(Peer(peer.node, (resolve.normal("::1"), *peer.addresses)))
    fakes.peers.append(Peer(Node("only6", "only6"), (resolve.normal("::1"),)))
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
        asker = peers.Asker(selector, fakes.peers, "own-id", (), fakes.port)
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
