"""Name servers that fail, each in its own way, for the matrix and the lab; they ask a name server that works.

    python3 -B bad_names.py GOOD COUNTS

GOOD is the address of the name server that works. All of 10.48.0.0/12 has to be local here. The second number of an address
is the kind of the name server that answers there, and the others say whose questions these are:

    10.51.x.y  loses 30 % of the questions       10.53.x.y  never answers
    10.52.x.y  answers the first question of     10.54.x.y  answers SERVFAIL
               each type, and then SERVFAIL

At every other address, such as 10.50.x.y, it works. COUNTS is a file with how many questions of each kind were spoilt, as JSON.
"""

from __future__ import annotations

import collections
import json
import random
import select
import socket
import struct
import sys
import time
from pathlib import Path

NETWORK = "10.48.0.0/12"
WORKING, LOSSY, FIRST_ONLY, DEAD, FAILING = 50, 51, 52, 53, 54
LOSS = 0.3
_IP_PKTINFO = 8  # of Linux; Python has no name for it before 3.14
_PKTINFO = struct.Struct("@i4s4s")
_SERVFAIL, _RESPONSE = 2, 0x8180
_FORGET_SECONDS = 30.0


def address(kind: int, run: int = 1) -> str:
    return f"10.{kind}.{run // 256}.{run % 256}"


class NameServer:
    def __init__(self, good: str, counts: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._socket.bind(("", 53))
        self._upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._upstream.connect((good, 53))
        self._dice = random.Random()
        self._seen: set[tuple[bytes, bytes]] = set()
        self._waiting: dict[int, tuple[bytes, bytes, tuple[str, int], float]] = {}
        self._number = 0
        self._counts = counts
        self._spoilt: collections.Counter[int] = collections.Counter()

    def serve(self) -> None:
        """Answer questions. Never return."""
        while True:
            ready = select.select([self._socket, self._upstream], [], [])[0]
            if self._upstream in ready:
                self._pass_answer()
            if self._socket in ready:
                self._take_question()

    def _take_question(self) -> None:
        question, ancillary, _, client = self._socket.recvmsg(4096, 128)
        local = next(_PKTINFO.unpack(data)[2] for _, kind, data in ancillary if kind == _IP_PKTINFO)
        kind = local[1]
        fails = kind == FAILING or (kind == FIRST_ONLY and self._is_repeated(local, question))
        if kind == DEAD or (kind == LOSSY and self._dice.random() < LOSS):
            self._count(kind)
        elif fails:
            self._count(kind)
            head = (
                question[:2] + struct.pack(">H", _RESPONSE | _SERVFAIL) + question[4:6] + bytes(6)
            )
            self._answer(local, client, head + question[12 : _end_of_name(question) + 4])
        else:
            self._number = (self._number + 1) % 65536
            self._waiting[self._number] = (local, question[:2], client, time.monotonic())
            self._upstream.send(self._number.to_bytes(2, "big") + question[2:])

    def _is_repeated(self, local: bytes, question: bytes) -> bool:
        """Return whether a question of this type was answered at `local`, whatever its name."""
        end = _end_of_name(question)
        key = (local, question[end : end + 2])
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _pass_answer(self) -> None:
        try:
            answer = self._upstream.recv(65535)
        except ConnectionRefusedError:  # it is not up yet
            return
        waiting = self._waiting.pop(int.from_bytes(answer[:2], "big"), None)
        if waiting and time.monotonic() - waiting[3] < _FORGET_SECONDS:
            local, number, client, _ = waiting
            self._answer(local, client, number + answer[2:])

    def _answer(self, local: bytes, client: tuple[str, int], answer: bytes) -> None:
        info = _PKTINFO.pack(0, local, bytes(4))
        self._socket.sendmsg([answer], [(socket.IPPROTO_IP, _IP_PKTINFO, info)], 0, client)

    def _count(self, kind: int) -> None:
        self._spoilt[kind] += 1
        draft = f"{self._counts}.new"
        with open(draft, "w") as file:
            json.dump(self._spoilt, file)
        Path(draft).rename(self._counts)


def _end_of_name(question: bytes) -> int:
    end = 12
    while end < len(question) and question[end]:
        end += 1 + question[end]
    return end + 1


if __name__ == "__main__":
    NameServer(sys.argv[1], sys.argv[2]).serve()
