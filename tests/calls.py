"""Calls to a daemon's port, as tests make them: some bytes, or a conversation after the greeting."""

from __future__ import annotations

import contextlib
import random
import secrets
import socket

from dmonitor.net import auth, protocol

Target = tuple[str, int]

# Below those that Linux gives by itself (net.ipv4.ip_local_port_range).
_PORTS = range(20000, 32000)
_candidates = iter(random.SystemRandom().sample(_PORTS, len(_PORTS)))


def connect(target: Target, source: str = "") -> socket.socket:
    """Connect to `target`, from the address `source` unless that is empty."""
    return socket.create_connection(target, 15, (source, 0) if source else None)


def raw(target: Target, said: bytes, source: str = "") -> bytes:
    """Send `said` and nothing more; return all that the daemon sends."""
    with connect(target, source) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        heard = b""
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(1 << 16):
                heard += data
        return heard


class Conversation:
    """A peer's conversation with the node `name`, after the greeting; with `key`, with MACs."""

    def __init__(self, target: Target, name: str, key: bytes = b"", source: str = "") -> None:
        self._socket = connect(target, source)
        self._file = self._socket.makefile("rb")
        self._auth: auth.LineAuth | None = None
        first = protocol.read_greeting(self._file.readline()[:-1])
        if isinstance(first, protocol.Challenge):
            hello, (self._auth,) = auth.write_hello(
                [key], (first.nonce, secrets.token_hex(16)), name
            )
            self._socket.sendall(hello)
            first = protocol.read_greeting(self.read())
        assert isinstance(first, protocol.Greeting), first
        assert bool(key) is (self._auth is not None), (
            "a daemon with a key wants it, and no other daemon does"
        )
        self.greeting = first

    def say(self, lines: bytes) -> None:
        self._socket.sendall(self._auth.sign(lines) if self._auth else lines)

    def read(self) -> bytes:
        """Return the next line, without its end and its MAC; nothing at the end."""
        line = self._file.readline()[:-1]
        return self._auth.verify(line) if self._auth and line else line

    def pass_over(self) -> int:
        """Read what has come, and forget it; return how many bytes that were, 0 at the end."""
        return len(self._file.read1(1 << 16))

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    """Return a TCP port that is free at every address, and that this process has not had before.

    Linux gives no such port to a connection, nor to a socket that is bound to port 0. One of those
    could take it between this moment and that in which the test binds it.
    """
    for candidate in _candidates:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", candidate))
            return candidate
    raise OSError("no free port")
