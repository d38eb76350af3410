"""A question in a UDP datagram, to every address of a host at once, until one answers.

Each address is asked three times, as a network may lose packets. The sockets are connected, so that
the kernel takes answers from that address and port only, and tells if they are refused.
"""

from __future__ import annotations

import _socket as socket
import select

from dmonitor.base import clock
from dmonitor.probe import faults
from dmonitor.probe.lookup import destination
from dmonitor.probe.outcome import Deadline, Fail, Unknown, Unreachable, verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SEND_AT = (0.0, 0.125, 0.375)  # as parts of the time of the look: 0, 1 and 3 seconds of 8
_MOST_BYTES = 65535  # of a datagram
_MOST_STRAYS = 100  # datagrams that are no answer; a flood must not cost this node a processor


class Answer:
    """What an address said, and how many seconds after the question."""

    def __init__(self, data: bytes, target: tuple[int, str], seconds: float) -> None:
        self.data = data
        self.target = target
        self.seconds = seconds


class _Asked:
    """One address, and the socket that asks it."""

    def __init__(self, target: tuple[int, str], port: int) -> None:
        self.target = target
        self.fault: Fail | Unknown | None = None
        try:
            self.socket = faults.open_socket(target[0], socket.SOCK_DGRAM)
        except Unreachable as error:
            self.fault = error
            return
        try:
            self.socket.connect(destination(target[1], port))
        except OSError as error:
            self.fault = faults.fault(self.socket, target[1], error)

    def send(self, question: bytes) -> None:
        try:
            self.socket.send(question)
        except OSError as error:
            self.fault = faults.fault(self.socket, self.target[1], error)

    def receive(self) -> bytes | None:
        try:
            return self.socket.recv(_MOST_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            self.fault = faults.fault(self.socket, self.target[1], error)
            return None


def ask(
    addresses: list[tuple[int, str]],
    port: int,
    question: bytes,
    deadline: Deadline,
    is_answer: Callable[[bytes], bool],
) -> Answer:
    """Return the first answer to `question`; what `is_answer` does not take for one is ignored.

    Raise Fail or Unknown if none comes.
    """
    asked = [_Asked(target, port) for target in addresses]
    begin, seconds = clock.uptime(), deadline.left()
    strays = 0
    for index in range(len(_SEND_AT)):
        sent_at = clock.uptime()
        for each in _waiting(asked):
            each.send(question)
        is_last = index + 1 == len(_SEND_AT)
        until = deadline.end if is_last else begin + _SEND_AT[index + 1] * seconds
        while waiting := _waiting(asked):
            pause = until - clock.uptime()
            if pause <= 0:
                break
            for sock in select.select(list(waiting.values()), [], [], pause)[0]:
                source = next(each for each in waiting if each.socket is sock)
                data = source.receive()
                if data is not None and is_answer(data):
                    return Answer(data, source.target, clock.uptime() - sent_at)
                strays += data is not None
                if strays > _MOST_STRAYS:
                    raise Fail("it sends one datagram after the other, and none is an answer")
    raise verdict([each.fault or deadline.late() for each in asked]) or deadline.late()


def _waiting(asked: list[_Asked]) -> dict[_Asked, socket.socket]:
    """Return those that nothing is known of yet, with their sockets."""
    return {each: each.socket for each in asked if not each.fault}
