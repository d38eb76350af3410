"""A question to a time server (RFC 5905, as a client that keeps nothing: SNTP)."""

from __future__ import annotations

import posix
import time

from dmonitor.probe import datagram
from dmonitor.probe.outcome import Deadline, Fail

_REQUEST = 0x23  # version 4, a client
_MODE_OF_SERVER = 4
_BYTES = 48
_NOT_SET = 3  # the leap indicator of a server whose clock is not set
_UNREACHABLE_STRATUM = 16
_SINCE_1970 = 2208988800  # seconds from 1900, where an era begins, to 1970
_ERA = 2**32  # seconds; the next one begins in 2036
_FRACTION = 2**32


class Answer:
    def __init__(self, stratum: int, offset: float) -> None:
        self.stratum = stratum
        self.offset = offset  # of the server's clock from this node's, in seconds


def ask(addresses: list[tuple[int, str]], port: int, deadline: Deadline) -> Answer:
    """Return what the time server says; raise Fail if it has no time."""
    # A server sends this back. As it is random, nobody can forge an answer to a question unseen,
    # and it does not tell what the time of this node is.
    cookie = posix.urandom(8)

    def is_answer(data: bytes) -> bool:
        return len(data) >= _BYTES and data[0] & 7 == _MODE_OF_SERVER and data[24:32] == cookie

    question = bytes([_REQUEST]) + bytes(39) + cookie
    answer = datagram.ask(addresses, port, question, deadline, is_answer)
    now = time.time() - answer.seconds / 2
    data = answer.data
    leap, stratum = data[0] >> 6, data[1]
    if stratum == 0 and data[12:16].isalnum():  # a kiss of death
        raise Fail(f"it answers no question of this node: {data[12:16].decode()}")
    if leap == _NOT_SET or not 0 < stratum < _UNREACHABLE_STRATUM:
        raise Fail("it says that its own clock is not set")
    sent = int.from_bytes(data[40:48], "big")
    if not sent:
        raise Fail("it answers, and does not say what time it is")
    difference = sent / _FRACTION - (now + _SINCE_1970) % _ERA
    return Answer(stratum, (difference + _ERA / 2) % _ERA - _ERA / 2)
