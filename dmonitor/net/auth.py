"""The MAC of a line: who wrote it, to which node, in which conversation, as which line (rule R8).

Pure. It is HMAC-SHA256 with a key that both nodes have. dmonitor-protocol(7) has the bytes, test
vectors, and the reasons.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dmonitor.base import names
from dmonitor.net.protocol import ProtocolError

# Labels: no line of one side is ever a line of the other.
QUESTION = b"question"
ANSWER = b"answer"
KEYS_LIMIT = 2  # keys with which a caller says hello: the present one and the old one

_SIGNED = rb"(.*) mac=([0-9a-f]{64})"
_HELLO = rb"(hello (\S{1,255}) ([0-9a-f]{32}))((?: mac=[0-9a-f]{64}){1,%d})" % KEYS_LIMIT


class Forged(ProtocolError):
    """A line has no MAC, or one that is wrong for this place in this conversation."""


class LineAuth:
    """One side of one authenticated conversation: signs its own lines, verifies the other side's.

    `nonces` are those of daemon and caller, in this order. `responder` is the node that is called,
    by the name that the caller knows it by.
    """

    def __init__(
        self, key: bytes, nonces: tuple[str, str], responder: str, own_label: bytes, label: bytes
    ) -> None:
        self.key = key
        self._conversation = "\n".join((*nonces, responder)).encode()
        self._own_label = own_label  # in the MACs of this side
        self._label = label  # in the MACs of the other side
        self._signed = 0  # lines
        self._verified = 0  # lines

    def sign(self, lines: bytes) -> bytes:
        """Return `lines`, each with its MAC: they are the next lines that this side sends."""
        signed = []
        for line in lines.split(b"\n")[:-1]:
            mac = self._mac(self._own_label, self._signed, line)
            signed.append(b"%b mac=%b\n" % (line, mac))
            self._signed += 1
        return b"".join(signed)

    def verify(self, line: bytes) -> bytes:
        """Return the next line of the other side without its MAC; raise Forged if that is wrong."""
        import hmac  # takes some milliseconds, and only a node with a key needs it

        match = re.fullmatch(_SIGNED, line)
        if not match:
            raise Forged("a line without the right mac")
        expected = self._mac(self._label, self._verified, match[1])
        if not hmac.compare_digest(match[2], expected):
            raise Forged("a line without the right mac")
        self._verified += 1
        return match[1]

    def _mac(self, label: bytes, number: int, line: bytes) -> bytes:
        import hmac

        text = b"dmonitor 1\n%b\n%b\n%d\n%b" % (label, self._conversation, number, line)
        return hmac.digest(self.key, text, "sha256").hex().encode()


def write_hello(
    keys: Sequence[bytes], nonces: tuple[str, str], responder: str
) -> tuple[bytes, list[LineAuth]]:
    """Return the caller's first line, with one MAC for each of `keys`, and the LineAuth of each.

    The daemon chooses one of the keys, and the conversation goes on with the LineAuth of that one.
    """
    hello = f"hello {responder} {nonces[1]}".encode()
    line = hello
    auths = []
    for key in keys:
        auth = LineAuth(key, nonces, responder, QUESTION, ANSWER)
        signed = auth.sign(hello + b"\n")
        line += signed.removeprefix(hello).rstrip()
        auths.append(auth)
    return line + b"\n", auths


def accept_hello(line: bytes, keys: Sequence[bytes], nonce: str) -> tuple[LineAuth, str]:
    """Return the LineAuth of the conversation that `line` begins, and the name that it calls.

    `nonce` is the one in the daemon's challenge. Raise Forged unless `line` is a hello with one of
    `keys`.
    """
    match = re.fullmatch(_HELLO, line)
    if match:
        responder = match[2].decode("ascii", "replace")
        if names.is_node(responder):
            nonces = (nonce, match[3].decode())
            for key in keys:
                for mac in match[4].split():
                    auth = LineAuth(key, nonces, responder, ANSWER, QUESTION)
                    if _is_signed(match[1] + b" " + mac, auth):
                        return auth, responder
    raise Forged("no hello with a key of ours")


def _is_signed(line: bytes, auth: LineAuth) -> bool:
    try:
        auth.verify(line)
    except Forged:
        return False
    return True
