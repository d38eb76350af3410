"""A client of an MQTT broker (version 3.1.1) that wants one message of a topic."""

from __future__ import annotations

import posix

from dmonitor.probe.outcome import Fail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dmonitor.probe.connection import Connection

_CONNECT, _CONNACK, _PUBLISH, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x82, 0x90
_DISCONNECT = bytes([0xE0, 0])
_KIND = 0xF0  # the bits that say what a packet is; the others say how it is passed on
_LEVEL = b"\4"  # version 3.1.1
_FORGET, _HAS_PASSWORD, _HAS_USER = 0x02, 0x40, 0x80
_KEEP_ALIVE = b"\0\x3c"  # seconds
_REFUSALS = {
    1: "it does not speak this version of MQTT",
    2: "it takes no client of this name",
    3: "it is not ready",
    4: "USER or PASSWORD is wrong",
    5: "it does not let this client in",
}
_NOT_ALLOWED = b"\x80"
_MOST_LENGTH_BYTES = 4
_SHOWN_BYTES = 400  # of a message


def log_in(connection: Connection, user: str, password: str) -> None:
    """Raise Fail if the broker does not take this client."""
    flags = _FORGET | (_HAS_USER if user else 0) | (_HAS_PASSWORD if password else 0)
    # A broker ends an older connection of a client with the same name.
    name = "dmonitor" + posix.urandom(6).hex()
    given = [text for text in (name, user, password) if text]
    head = _text("MQTT") + _LEVEL + bytes([flags]) + _KEEP_ALIVE
    _send(connection, _CONNECT, head + b"".join(map(_text, given)))
    kind, answer = _receive(connection)
    if kind != _CONNACK or len(answer) != 2:
        raise _nonsense()
    if answer[1]:
        raise Fail(_REFUSALS.get(answer[1], f"it refuses with code {answer[1]}"))


def message(connection: Connection, topic: str) -> bytes:
    """Return the beginning of the next message of `topic`."""
    _send(connection, _SUBSCRIBE, b"\0\1" + _text(topic) + b"\0")
    kind, said = _receive(connection)
    if kind == _SUBACK:  # a broker may pass a message on before it says that
        if said[2:] == _NOT_ALLOWED:
            raise Fail(f"it does not let this client read {topic}")
        kind, said = _receive(connection)
    begin = 2 + int.from_bytes(said[:2], "big")  # behind the name of the topic
    if kind != _PUBLISH or len(said) < begin:
        raise _nonsense()
    connection.say_goodbye(_DISCONNECT)
    return said[begin:][:_SHOWN_BYTES]


def _send(connection: Connection, kind: int, content: bytes) -> None:
    length, encoded = len(content), b""
    while length >= 0x80:
        encoded += bytes([length & 0x7F | 0x80])
        length >>= 7
    connection.send(bytes([kind]) + encoded + bytes([length]) + content)


def _receive(connection: Connection) -> tuple[int, bytes]:
    """Return what kind of packet comes next, and what it has."""
    kind = connection.exactly(1)[0] & _KIND
    length = 0
    for index in range(_MOST_LENGTH_BYTES):
        byte = connection.exactly(1)[0]
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return kind, connection.exactly(length)
    raise _nonsense()


def _nonsense() -> Fail:
    return Fail("what it says is not MQTT")


def _text(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(2, "big") + data
