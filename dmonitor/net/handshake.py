"""The first lines of a connection, on the caller's side: challenge, hello and greeting (rule R8).

Pure, except for the random nonce. It believes a greeting only if the MAC is right. What follows
from a greeting, and from its absence, is decided by the session.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dmonitor.net import auth, protocol


class Handshake:
    """What is needed to authenticate one connection until the peer has greeted."""

    def __init__(self, called: str) -> None:
        """Begin a connection with the node that nodes.txt here lists as `called`."""
        self.auth: auth.LineAuth | None = None  # that of the key which the peer has chosen
        self._called = called
        self._candidates: list[auth.LineAuth] = []  # one for each key in the hello

    @property
    def hello_written(self) -> bool:
        """Whether the hello was written, so that each line of the peer's needs a MAC."""
        return bool(self._candidates)

    def hello(self, keys: Sequence[bytes], nonce: str) -> bytes:
        """Return the hello for a challenge with `nonce`."""
        nonces = (nonce, os.urandom(16).hex())
        line, self._candidates = auth.write_hello(keys, nonces, self._called)
        return line

    def read(self, line: bytes) -> protocol.Greeting | protocol.Challenge | protocol.Refusal:
        """Return what the peer says in `line`; raise ProtocolError if it makes no sense.

        That is Forged if the hello was written, and `line` has no right MAC.
        """
        if self._candidates:
            line = self._verify(line)
        return protocol.read_greeting(line)

    def _verify(self, line: bytes) -> bytes:
        for candidate in self._candidates:
            try:
                verified = candidate.verify(line)
            except auth.Forged:
                continue
            self.auth = candidate
            return verified
        raise auth.Forged("a greeting without the right mac")
