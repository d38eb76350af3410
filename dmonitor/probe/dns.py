"""A question to a name server, and its answer (RFC 1035).

The answer is read once, from its beginning to its end, and no pointer in it is followed.
"""

from __future__ import annotations

import _socket as socket
import posix

from dmonitor.probe import connection, datagram
from dmonitor.probe.outcome import Deadline, Fail, Unknown

A, NS, AAAA = 1, 2, 28  # types of records
_IN = (1).to_bytes(2, "big")
_FAMILIES = {A: socket.AF_INET, AAAA: socket.AF_INET6}
_ADDRESS_BYTES = {A: 4, AAAA: 16}
_CODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
_HEADER_BYTES = 12
_RECORD_BYTES = 10  # of type, class, time to live and length
_IS_ANSWER, _IS_TRUNCATED = 0x80, 0x02  # in byte 2
_RECURSION_DESIRED = 0x01
# EDNS: an answer of up to 1,232 bytes fits into a datagram.
_EDNS = bytes([0, 0, 41]) + (1232).to_bytes(2, "big") + bytes(6)


class Answer:
    """The code and the addresses of an answer."""

    def __init__(self, code: str, addresses: list[str]) -> None:
        self.code = code
        self.addresses = addresses


def ask(
    servers: list[tuple[int, str]], port: int, name: str, kind: int, deadline: Deadline
) -> Answer:
    """Return what the name server says of the records of `name` of that kind.

    Raise Fail if it does not answer, or with nonsense, and Unknown if this node is at fault.
    """
    identifier = posix.urandom(2)
    asked = _encoded(name) + kind.to_bytes(2, "big") + _IN
    counts = bytes([0, 1, 0, 0, 0, 0, 0, 1])
    question = identifier + bytes([_RECURSION_DESIRED, 0]) + counts + asked + _EDNS

    def is_answer(message: bytes) -> bool:
        return message[:2] == identifier and message[2:3] >= bytes([_IS_ANSWER])

    answer = datagram.ask(servers, port, question, deadline, is_answer)
    message = answer.data
    if len(message) >= _HEADER_BYTES and message[2] & _IS_TRUNCATED:
        with connection.connect([answer.target], port, deadline) as stream:
            stream.send(len(question).to_bytes(2, "big") + question)
            message = stream.exactly(int.from_bytes(stream.exactly(2), "big"))
        if not is_answer(message):
            raise Fail("it answers by TCP, and not what it was asked")
    try:
        return _decoded(message, asked)
    except IndexError:
        raise Fail("its answer ends too early") from None


def _encoded(name: str) -> bytes:
    """Return `name` as in a message."""
    if not name.isascii():
        raise Unknown(f"NAME={name} is not ASCII; write its form that begins with xn--")
    parts = name.rstrip(".").encode().split(b".") if name.strip(".") else []
    if not all(0 < len(part) < 64 for part in parts) or len(name) > 253:
        raise Unknown(f"NAME={name} is no name")
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _decoded(message: bytes, asked: bytes) -> Answer:
    """Raise IndexError if the message ends too early."""
    if len(message) < _HEADER_BYTES:
        raise IndexError
    number = message[3] & 15
    code = _CODES[number] if number < len(_CODES) else f"error {number}"
    questions, records = (int.from_bytes(message[at : at + 2], "big") for at in (4, 6))
    offset = _HEADER_BYTES
    if questions:
        question = message[offset : offset + len(asked)]
        if questions != 1 or question.lower() != asked.lower():
            raise Fail("it answers another question than it was asked")
        offset += len(asked)
    elif code == "NOERROR":
        raise Fail("it answers, and does not say what")
    addresses = []
    for _ in range(records):
        offset = _behind_name(message, offset)
        kind = int.from_bytes(message[offset : offset + 2], "big")
        length = message[offset + 8] << 8 | message[offset + 9]
        offset += _RECORD_BYTES
        if offset + length > len(message):
            raise IndexError
        if length == _ADDRESS_BYTES.get(kind):
            data = message[offset : offset + length]
            addresses.append(socket.inet_ntop(_FAMILIES[kind], data))
        offset += length
    return Answer(code, addresses)


def _behind_name(message: bytes, offset: int) -> int:
    """Return where a name that begins at `offset` has ended."""
    while length := message[offset]:
        if length >= 0xC0:  # a pointer, which is the end
            return offset + 2
        if length >= 0x40:
            raise Fail("there is a name in its answer that is none")
        offset += 1 + length
    return offset + 1
