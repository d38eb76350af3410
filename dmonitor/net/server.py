"""The daemon's port: accepts callers, lets in those that may come, and limits how many there are.

Rule R8: a stranger's connection is closed before a byte is read or sent. One conversation for each
caller does the rest; `flights` runs what callers ask for, and `replies` makes long replies. The
start of the daemon, its signals and its loop are in `dmonitord`.
"""

from __future__ import annotations

import errno
import functools
import os
import selectors
import socket
from collections.abc import Callable, Sequence

from dmonitor.base import clock, log
from dmonitor.config import resolve
from dmonitor.net.access import Access
from dmonitor.net.conversation import Conversation, Shared
from dmonitor.net.flights import Facts, Flights
from dmonitor.net.limited_log import LimitedLog
from dmonitor.net.replies import Replies

CALLERS = 256  # conversations at a time
CALLERS_EACH = 16  # conversations at a time with one address
# Errors of accept() that a conversation less may cure.
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """Serves `listeners` within the loop of a selector. `tick` must be called when `pause` says."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listeners: Sequence[socket.socket],
        facts: Facts,
        concurrency: int,
        access: Access,
        wake: Callable[[], None],
    ) -> None:
        """Listen from now on; `concurrency` is how many plugins may run at a time.

        `wake` is called when a peer wants a round of this node that stays to look now.
        """
        self.access = access
        self._selector = selector
        self._listeners = listeners
        self._log = LimitedLog()
        self._flights = Flights(facts, concurrency, self._log)
        self._replies = Replies(selector, facts)
        self._shared = Shared(
            selector,
            access,
            self._flights,
            self._replies,
            wake,
            self._log,
            self._admit,
            self._ended,
        )
        # In the order in which they began; a caller that has said hello has begun again.
        self._conversations: dict[Conversation, None] = {}
        for listener in listeners:
            ready = functools.partial(self._accept, listener)
            selector.register(listener, selectors.EVENT_READ, ready)

    def pause(self) -> float | None:
        """Return the seconds until `tick` is due; None if there is nothing to do then."""
        pauses = []
        if self._conversations:
            deadline = min(conversation.deadline for conversation in self._conversations)
            pauses.append(max(0.0, deadline - clock.uptime()))
        for until_due in (self._flights.pause(), self._replies.pause()):
            if until_due is not None:
                pauses.append(until_due)
        return min(pauses, default=None)

    def tick(self) -> None:
        """End the conversations that last too long; do what else is due."""
        now = clock.uptime()
        for conversation in list(self._conversations):
            if conversation.deadline <= now:
                log.debug("caller-ended", address=conversation.address, reason="over its time")
                conversation.end()
        self._flights.tick()
        self._replies.tick()

    def close(self) -> None:
        """End all conversations, and close the listeners."""
        for conversation in list(self._conversations):
            conversation.end()
        self._replies.close()
        for listener in self._listeners:
            self._selector.unregister(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, source = listener.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._log.warning("descriptors", "no-descriptor", reason=error.strerror)
                self._make_room()
            return
        address = str(resolve.parse_address(source[0]))
        self.access.judge(address, functools.partial(self._receive, connection, address))

    def _make_room(self) -> None:
        """End the oldest conversation of those that owe a hello; if there is none, the oldest."""
        for conversation in self._conversations:
            if conversation.owes_hello:
                conversation.end()
                return
        oldest = next(iter(self._conversations), None)
        if oldest:
            oldest.end()

    def _receive(self, connection: socket.socket, address: str, is_node: bool) -> None:
        """Begin a conversation with the caller at `address`; close a stranger's connection."""
        if not is_node:
            self._log.warning(address, "stranger", address=address)
            connection.close()
            return
        keys = self.access.keys
        if keys is not None and not keys.are_usable:
            self._log.warning(address, "no-key", address=address)
            connection.close()
            return
        nonce = ""
        if keys is not None:
            nonce = os.urandom(16).hex()
        conversation = Conversation(self._shared, connection, address, nonce)
        self._admit(conversation)
        conversation.open()

    def _admit(self, conversation: Conversation) -> None:
        """Count a conversation as the newest of its kind; end another one if they are too many.

        That is the oldest of the same address, if that has too many, or else the oldest of the
        address that has most. Callers that owe a hello are a kind of their own: they never cost a
        caller that has a key its conversation.
        """
        self._conversations.pop(conversation, None)
        self._conversations[conversation] = None
        by_address = self._by_address(owes_hello=conversation.owes_hello)
        same_address = by_address[conversation.address]
        count = sum(map(len, by_address.values()))
        if len(same_address) <= CALLERS_EACH and count <= CALLERS:
            return
        address = conversation.address
        self._log.warning(
            address, "too-many-callers", address=address, theirs=len(same_address), in_all=count
        )
        if len(same_address) > CALLERS_EACH:
            same_address[0].end()
        else:
            max(by_address.values(), key=len)[0].end()

    def _by_address(self, *, owes_hello: bool) -> dict[str, list[Conversation]]:
        """Return the conversations of one kind by the addresses of the callers, oldest first."""
        by_address: dict[str, list[Conversation]] = {}
        for conversation in self._conversations:
            if conversation.owes_hello is owes_hello:
                by_address.setdefault(conversation.address, []).append(conversation)
        return by_address

    def _ended(self, conversation: Conversation) -> None:
        del self._conversations[conversation]
