#!/usr/bin/env python3
"""A name server on loopback for tests, in a network namespace: fake_dns.py PORT-FILE BEHAVIOUR.

It knows www.example.com and everything in search.test, which have 10.99.0.2, and no other name. BEHAVIOUR is
`good`, `servfail`, `silent`, `deaf` (to the first three questions), `once` (SERVFAIL after the first two),
`partly4` and `partly6` (SERVFAIL for addresses of that version, and none of the other one).
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

ADDRESS = bytes([10, 99, 0, 2])
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
A, AAAA = 1, 28


def name_of(question: bytes) -> str:
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode().lower())
        at += 1 + question[at]
    return ".".join(labels)


def kind_of(question: bytes) -> int:
    return question[question.index(b"\0", 12) + 2]


def answer(question: bytes, code: int, has_addresses: bool = True) -> bytes:
    asked = question[12:]
    asked = asked[: asked.index(b"\0") + 5]
    has_answer = code == NOERROR and kind_of(question) == A and has_addresses
    head = question[:2] + bytes([0x81, 0x80 | code, 0, 1, 0, has_answer, 0, 0, 0, 0])
    record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + ADDRESS
    return head + asked + record * has_answer


def main(ready: str, behaviour: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        Path(ready).write_text("ready")
        count = 0
        while True:
            question, peer = server.recvfrom(2048)
            count += 1
            name = name_of(question)
            is_known = name == "www.example.com" or name.endswith(".search.test")
            code = NOERROR if is_known else NXDOMAIN
            if behaviour == "servfail" or (behaviour == "once" and count > 2):
                code = SERVFAIL
            if kind_of(question) == {"partly4": A, "partly6": AAAA}.get(behaviour):
                code = SERVFAIL
            if behaviour == "silent" or (behaviour == "deaf" and count <= 3):
                continue
            has_addresses = not behaviour.startswith("partly")
            server.sendto(answer(question, code, has_addresses), peer)


if __name__ == "__main__":
    main(*sys.argv[1:])
