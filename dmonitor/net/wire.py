"""One end of a connection that carries lines, within the loop of a selector.

A session and a conversation each have one. Nothing here waits. What a line means, and what a
failure leads to, is decided by the owner.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable

from dmonitor.net import protocol
from dmonitor.net.auth import LineAuth


def _nothing() -> None:
    """Do nothing, in the place of an owner that is gone."""


class Wire:
    """A connection, what is still to be sent on it, and the line that has not come whole yet."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        connection: socket.socket,
        limit: int,
        ready: Callable[[], None],
    ) -> None:
        """Take over `connection`; call `ready` when an event has come that is watched for.

        `limit` is in bytes, of a line that is received.
        """
        connection.setblocking(False)
        # Without this, a line may wait 40 ms until the one before is acknowledged.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.unsent = bytearray()
        self.auth: LineAuth | None = None  # once it is there, each line has a MAC
        self._selector = selector
        self._owners_ready = ready
        self._is_open = True
        self._lines = protocol.Lines(limit)

    def queue(self, lines: bytes) -> None:
        """Put `lines` after what is still unsent; `flush` sends them."""
        if self.auth:
            lines = self.auth.sign(lines)
        self.unsent += lines

    def flush(self) -> None:
        """Send as much as the socket takes; raise OSError if the other end is gone."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                sent = self.connection.send(self.unsent)
                del self.unsent[:sent]

    def receive(self, size: int) -> list[bytes] | None:
        """Read up to `size` bytes; return the lines that they complete, None at the end.

        The lines still have their MACs. Raise OSError if the other end is gone, and ProtocolError
        for a line that is too long.
        """
        try:
            data = self.connection.recv(size)
        except BlockingIOError:
            return []
        if not data:
            return None
        return self._lines.feed(data)

    def verify(self, line: bytes) -> bytes:
        """Return `line`, the next one received, without its MAC; raise Forged if that is wrong."""
        if self.auth:
            return self.auth.verify(line)
        return line

    def watch(self, events: int) -> None:
        """Call `ready` for `events`, a selectors mask, from now on; 0 ends that."""
        key = self._selector.get_map().get(self.connection)
        if key is None:
            if events:
                self._selector.register(self.connection, events, self._ready)
        elif not events:
            self._selector.unregister(self.connection)
        elif key.events != events:
            self._selector.modify(self.connection, events, self._ready)

    def _ready(self) -> None:
        """Call the owner, unless the connection was closed since the selector saw the event."""
        if self._is_open:
            self._owners_ready()

    def close(self) -> None:
        """Close the connection; what is unsent is lost.

        The owner is let go, or else both would keep what they hold until the garbage collector
        looks for cycles. It counts objects, and one of these may be a reply of half a megabyte.
        """
        self._is_open = False
        self.watch(0)
        self.connection.close()
        self.unsent.clear()
        self._owners_ready = _nothing
