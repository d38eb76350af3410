"""The seal of a line: a MAC that says who may have written it, to whom, in which conversation, and as its which line (rule R8).

Pure. HMAC-SHA256 with the key that all nodes share; dmonitor-protocol(7) has the bytes, test vectors, and the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dmonitor.base import names
from dmonitor.net.protocol import ProtocolError

QUESTION, ANSWER = b"question", b"answer"  # labels: no line of one side is ever one of the other
KEYS = 2  # at most, under which a caller says hello
_SEALED = rb"(.*) mac=([0-9a-f]{64})"
_HELLO = rb"(hello (\S{1,255}) ([0-9a-f]{32}))((?: mac=[0-9a-f]{64}){1,%d})" % KEYS


class Forged(ProtocolError):
    """A line whose seal is missing, or is not that of this place in this conversation."""


class Seal:
    """One side's seals in a conversation of those who have KEY: it writes lines with label WRITES, and takes those with READS.

    RESPONDER is the node that was called, by the name that the caller knows it by; the nonces are those of daemon and caller.
    """

    def __init__(
        self, key: bytes, nonces: tuple[str, str], responder: str, writes: bytes, reads: bytes
    ) -> None:
        self._key, self._conversation = key, "\n".join((*nonces, responder)).encode()
        self._writes, self._reads = writes, reads
        self._written = self._taken = 0

    def put(self, text: bytes) -> bytes:
        """Return the lines of TEXT, each with its seal: the next ones that this side writes."""
        sealed = []
        for line in text.split(b"\n")[:-1]:
            sealed.append(b"%b mac=%b\n" % (line, self._mac(self._writes, self._written, line)))
            self._written += 1
        return b"".join(sealed)

    def take(self, line: bytes) -> bytes:
        """Return the next LINE of the other side without its seal; raise Forged unless it is right."""
        import hmac  # it takes its time, and only who has a key needs it

        found = re.fullmatch(_SEALED, line)
        if not found or not hmac.compare_digest(
            found[2], self._mac(self._reads, self._taken, found[1])
        ):
            raise Forged("a line without the right mac")
        self._taken += 1
        return found[1]

    def _mac(self, label: bytes, number: int, line: bytes) -> bytes:
        import hmac

        text = b"dmonitor 1\n%b\n%b\n%d\n%b" % (label, self._conversation, number, line)
        return hmac.digest(self._key, text, "sha256").hex().encode()


def hello(
    keys: Sequence[bytes], nonces: tuple[str, str], responder: str
) -> tuple[bytes, list[Seal]]:
    """Return the caller's first line, sealed with each of KEYS, and the seal for each, of which the daemon chooses one."""
    seals = [Seal(key, nonces, responder, QUESTION, ANSWER) for key in keys]
    line = f"hello {responder} {nonces[1]}".encode()
    return line + b"".join(
        each.put(line + b"\n").removeprefix(line).rstrip() for each in seals
    ) + b"\n", seals


def accept_hello(line: bytes, keys: Sequence[bytes], nonce: str) -> tuple[Seal, str]:
    """Return the seal under which LINE says hello to the daemon that said NONCE, and whom it calls; else raise Forged."""
    if found := re.fullmatch(_HELLO, line):
        responder = found[2].decode("ascii", "replace")
        for key in keys if names.is_node(responder) else ():
            for mac in found[4].split():
                seal = Seal(key, (nonce, found[3].decode()), responder, ANSWER, QUESTION)
                try:
                    seal.take(found[1] + b" " + mac)
                except Forged:
                    continue
                return seal, responder
    raise Forged("no hello with a key of ours")
