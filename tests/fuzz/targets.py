"""The targets of the fuzzer: each reader of foreign bytes on port 2929, as a function of the bytes.

A target raises nothing, whatever the bytes are. In `fuzz.py` a fuzzer looks for bytes that break
one; tests/test_fuzz.py plays again what it has found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import selectors
import socket
from collections.abc import Callable, Iterator
from unittest import mock

from dmonitor.config import resolve
from dmonitor.config.cluster import Peer
from dmonitor.config.keyfile import Keys, of_all
from dmonitor.config.settings import Settings
from dmonitor.core.model import Incident, Node, NodeStatus, Outcome, Result, Statement, Test
from dmonitor.net import access, auth, peers, protocol, server

KEY, OTHER_KEY = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2
NONCES = "0" * 32, "1" * 32
NODE, SSH = Node("paris", "paris"), Test("www.example.com", "ssh")
NOW = 1_800_000_000.0


def lines(data: bytes) -> None:
    """Read each line in `data` with each reader of lines."""
    cut = protocol.Lines(protocol.ANSWER_BYTES)
    found: list[bytes] = []
    with contextlib.suppress(protocol.ProtocolError):
        for at in range(0, len(data), 7):
            found += cut.feed(data[at : at + 7])
    for read in (protocol.read_request, protocol.read_greeting, protocol.read_reply):
        for line in found:
            with contextlib.suppress(protocol.ProtocolError):
                read(line)
    who = protocol.Greeting("paris", "0123456789ab")
    replies: tuple[Callable[[], object], ...] = (
        lambda: protocol.read_statement(found, who, NOW),
        lambda: protocol.read_tests(found),
        lambda: protocol.read_incident(found, NOW),
    )
    for each in replies:
        with contextlib.suppress(protocol.ProtocolError):
            each()


def authentication(data: bytes) -> None:
    """Only a line that was signed counts: `data` comes in place of one, or is a change to one."""
    said, auths = auth.write_hello([KEY, OTHER_KEY], NONCES, "paris")
    ours, _ = auth.accept_hello(said[:-1], [OTHER_KEY], NONCES[0])
    right = ours.sign(b"dmonitor 1 name=paris id=0123456789ab\n")[:-1]
    for line, taken in ((said[:-1], None), (right, auths[1])):
        for forged in {data, changed(line, data)} - {line}:
            with contextlib.suppress(auth.Forged):
                if taken is not None:
                    taken.verify(forged)
                    raise AssertionError(f"taken: {forged!r}")
                _, called = auth.accept_hello(forged, [KEY], NONCES[0])
                # With one of its two macs gone or spoilt a hello is still who it says it is.
                assert (
                    forged.startswith(said[: said.index(b" mac=")] + b" ") and called == "paris"
                ), f"met: {forged!r}"
    assert auths[1].verify(right) == b"dmonitor 1 name=paris id=0123456789ab", (
        "what was refused moves nothing"
    )


def changed(line: bytes, by: bytes) -> bytes:
    """Return `line` with one byte replaced: the first two bytes of `by` say where, the rest by what."""
    if len(by) < 3:
        return line
    at = int.from_bytes(by[:2], "big") % len(line)
    return line[:at] + by[2:3] + by[3:] + line[at + 1 :]


class _Facts:
    """A node with one test."""

    def tests(self) -> list[Test]:
        return [SSH]

    def has(self, test: Test, /) -> bool:
        return test == SSH

    def run(self, test: Test, done: Callable[[Test, Result], None], /) -> None:
        assert test == SSH, "nothing foreign runs"
        done(test, Result(Outcome.OK, "seen"))

    def statement(self) -> tuple[Statement, float]:
        return Statement(NodeStatus("paris", "0123456789ab", NOW)), NOW

    def incident(self, _: str, /) -> tuple[Incident | None, float]:
        return None, NOW

    def state_version(self) -> object:
        return None


@dataclasses.dataclass
class _Access(access.Access):
    keys: Keys | None
    admitted: frozenset[str] = frozenset({"192.0.2.1"})
    names: frozenset[str] = frozenset({"paris"})
    greeting = protocol.Greeting("paris", "0123456789ab")

    def judge(self, address: str, decided: Callable[[bool], None]) -> None:
        decided(address in self.admitted)


class _Listener:
    """Accepts one connection that is there already."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        return self.connection, ("192.0.2.1", 4711)


def daemon(data: bytes) -> None:
    """A caller sends `data` to a daemon without a key, and to one with a key.

    The daemon runs its own test or nothing, and ends the conversation.
    """
    for keys in (None, of_all(KEY)):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with (
            selectors.DefaultSelector() as selector,
            ours,
            theirs,
            mock.patch("os.urandom", lambda _: bytes.fromhex(NONCES[0])),
        ):
            made = server.Server(selector, [], _Facts(), 5, _Access(keys), lambda: None)
            made._accept(_Listener(ours))  # type: ignore[arg-type] # has only what the server calls
            asked = signed(data, (KEY,)) if keys else data
            is_busy = functools.partial(_is_busy, made, selector)
            heard = _play(selector, theirs, asked, is_busy)
            said = b"".join(heard)
            assert not made._conversations and not selector.get_map()
            if keys and b"name=" in said:
                assert b" mac=" in said, "nothing is told to who has no key"
            made.close()


def _is_busy(made: server.Server, selector: selectors.BaseSelector) -> bool:
    """Return whether anybody talks, or a reply is still made, maybe for a caller that is gone."""
    return bool(made._conversations or selector.get_map())


def signed(data: bytes, keys: tuple[bytes, ...]) -> bytes:
    """Return `data` after a right hello, each line with its MAC, if it begins with '!'.

    Return it as it is if it does not. A fuzzer cannot make a MAC.
    """
    if not data.startswith(b"!"):
        return data
    said, (ours,) = auth.write_hello(keys, NONCES, "paris")
    return said + b"".join(ours.sign(line + b"\n") for line in data[1:].split(b"\n"))


class _Connected(socket.socket):
    """A socket that is connected, wherever it is told to go."""

    def connect(self, _: object) -> None: ...


def caller(data: bytes) -> None:
    """A peer sends `data` to a caller without a key, and to one with a key, which ask and greet.

    The caller gets an answer, or has a reason why there is none.
    """
    for keys in (None, of_all(KEY)):
        one, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours = _Connected(fileno=one.detach())
        made = auth.LineAuth(KEY, NONCES, "paris", auth.ANSWER, auth.QUESTION)
        patches = (
            mock.patch("os.urandom", lambda _: bytes.fromhex(NONCES[1])),
            mock.patch("socket.socket", return_value=ours),
        )
        with selectors.DefaultSelector() as selector, ours, theirs, patches[0], patches[1]:
            peer = Peer(NODE, (resolve.parse_address("192.0.2.1"),))
            asker = peers.Asker(selector, [peer], "own0own0", Settings(), keys)
            asker.ask(SSH)
            asker.greet(lambda _: False, [("unheard0",)])
            is_signed = keys and data.startswith(b"!")
            said = (
                protocol.write(protocol.Challenge(NONCES[0])) + made.sign(data[1:])
                if is_signed
                else data
            )
            for _ in _play(selector, theirs, said, lambda: asker.pending or asker.greeting):  # noqa: B023
                pass
            (answer,) = asker.answers(SSH)
            assert answer.result or answer.reason
            if keys and not is_signed:
                assert answer.result is None, "nobody can say anything without the key"
            asker.close()
            assert not selector.get_map()


def _play(
    selector: selectors.BaseSelector,
    theirs: socket.socket,
    saying: bytes,
    going_on: Callable[[], object],
) -> Iterator[bytes]:
    """Send `saying` on `theirs` and close that half; yield what comes back while it is `going_on`."""
    is_over = False
    for _ in range(100_000):
        with contextlib.suppress(OSError):
            saying = saying[theirs.send(saying) :] if saying else b""
            if not saying and not is_over:
                is_over = True
                theirs.shutdown(socket.SHUT_WR)
        for key, _ in selector.select(0):
            key.data()
        with contextlib.suppress(OSError):
            if data := theirs.recv(1 << 20):
                yield data
        if not going_on():
            return
    raise AssertionError("it does not end")


TARGETS = {target.__name__: target for target in (lines, authentication, daemon, caller)}
