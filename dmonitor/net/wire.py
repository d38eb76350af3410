"""One end of a conversation of lines, within a selector's loop: what `peers` and `server` have in common.

Nothing here waits. What a line means, and what a failure does, is its owner's business.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable

from dmonitor.net import auth, protocol


class Wire:
    """CONNECTION, whose owner is called, at READY, when what it watches for is there; a line that is read has under LIMIT bytes.

    Once there is a `seal`, each line has one.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        connection: socket.socket,
        limit: int,
        ready: Callable[[], None],
    ) -> None:
        connection.setblocking(False)
        with contextlib.suppress(
            OSError
        ):  # else an answer may wait 40 ms for the last one's acknowledgement
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection, self.unsent = connection, bytearray()
        self.seal: auth.Seal | None = None
        self._selector, self._ready, self._lines = selector, ready, protocol.Lines(limit)

    def say(self, lines: bytes) -> None:
        """Have LINES sent, behind what is still unsent."""
        self.unsent += self.seal.put(lines) if self.seal else lines

    def flush(self) -> None:
        """Send what the socket takes; raise OSError when the other end is gone."""
        with contextlib.suppress(BlockingIOError):
            while self.unsent:
                del self.unsent[: self.connection.send(self.unsent)]

    def hear(self, size: int) -> list[bytes] | None:
        """Return the lines that up to SIZE bytes more complete, as they came; None at the end.

        Raises OSError, and ProtocolError for a line that is too long.
        """
        try:
            data = self.connection.recv(size)
        except BlockingIOError:
            return []
        return self._lines.feed(data) if data else None

    def open(self, line: bytes) -> bytes:
        """Return what LINE, the next of those that were heard, says; raise Forged unless it is as sealed as it must be."""
        return self.seal.take(line) if self.seal else line

    def watch(self, events: int) -> None:
        """Call the owner for EVENTS from now on."""
        watched = self._selector.get_map().get(self.connection)
        if watched is None and events:
            self._selector.register(self.connection, events, self._ready)
        elif watched is not None and not events:
            self._selector.unregister(self.connection)
        elif watched is not None and watched.events != events:
            self._selector.modify(self.connection, events, self._ready)

    def close(self) -> None:
        self.watch(0)
        self.connection.close()
