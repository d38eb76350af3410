"""The way to one peer: its addresses in turn, and the socket to one of them.

It connects, sends and receives, and says how much time is left for it. Which address comes next,
and what a line means, is decided by the session. Nothing here waits.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
from collections.abc import Callable
from typing import NamedTuple

from dmonitor.base import clock
from dmonitor.config import resolve
from dmonitor.config.cluster import Peer
from dmonitor.config.keyfile import Keys
from dmonitor.config.settings import Settings
from dmonitor.core.result import SECOND_LOOK_PAUSE
from dmonitor.net import protocol
from dmonitor.net.handshake import Handshake
from dmonitor.net.protocol import Challenge, Greeting, Refusal
from dmonitor.net.wire import Wire

GREETING_SECONDS = 5.0  # to connect and to be greeted, for all addresses of a peer together
# For a second greeting, the statement included: it calls the peer as often as it has time.
LAST_GREETING_SECONDS = 9.0
# In a second greeting, from the connection to the greeting, and from that to the statement.
LAST_STEP_SECONDS = 3.0
# For one connection. Then a new one, whose first packets follow sooner, gets through a bad network
# more likely than the packets that the old one still sends, more and more seldom.
CONNECT_SECONDS = 2.0
# Seconds of a second greeting in which a peer that refuses is called again: its daemon restarts.
REFUSED_SECONDS = 3.0
RETRY_SECONDS = 1.0  # before a peer that refuses is called again in the last greeting
LEAST_TRY_SECONDS = 0.5  # for each address; with less time left, the addresses are not tried again
NEVER = float("inf")  # a deadline
_READ_BYTES = 1 << 16  # at a time
# Errors that keep this node from connecting, and that say nothing about the peer.
_OWN_ERRORS = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
    errno.EACCES,
    errno.EPERM,
    errno.EADDRNOTAVAIL,
    errno.EADDRINUSE,
    errno.EAFNOSUPPORT,
    errno.ENETUNREACH,
    errno.ENETDOWN,
}


class Caller(NamedTuple):
    """This node, as the caller in each of its sessions."""

    selector: selectors.BaseSelector
    node_id: str
    settings: Settings  # the port, and the addresses that questions come from
    keys: Keys | None  # None if there is no key
    clock: Callable[[], float]  # of the times in statements
    own_incarnation: Callable[[], str | None]  # of this node's own daemon; None if it has none


class Connection:
    """The addresses of one peer that are still to be tried, and the socket to the present one."""

    def __init__(self, peer: Peer, caller: Caller, ready: Callable[[], None]) -> None:
        """Connect to nothing yet; `ready` is called when the socket can be used."""
        self.addresses = peer.addresses
        self.deadline = NEVER  # for the present address, or for the end of a pause
        self.unable = True  # nothing but this node itself is why nothing comes of it
        self.handshake = Handshake(peer.node.name)
        self._wire: Wire | None = None
        self._name = peer.node.name
        self._caller = caller
        self._ready = ready
        self._untried: list[resolve.Address] = []
        self._greeting_deadline = NEVER  # for all addresses together
        self._refused_deadline = NEVER  # after which a peer that refuses is not called again
        self._address_deadline = NEVER  # to connect to the present address, and to be greeted
        self.is_last_greeting = False  # the peer is called as often as there is time
        self._has_timed_out = False  # a connection has, and a new one may get through

    @property
    def is_open(self) -> bool:
        """Whether there is a socket, which may still be connecting."""
        return self._wire is not None

    @property
    def has_next(self) -> bool:
        """Whether an address is still to be tried."""
        return bool(self._untried)

    def begin(self, *, after_pause: bool) -> None:
        """Have all addresses tried again, after a pause within the time that is left."""
        if not after_pause:
            self._greeting_deadline = clock.uptime() + GREETING_SECONDS
            self.is_last_greeting = False
        self._untried = list(self.addresses)
        self._has_timed_out = False
        self.unable = True

    def can_pause(self) -> bool:
        """Return whether the addresses may be tried once more, now or a moment later."""
        if self.unable or not (self.is_last_greeting or self._has_timed_out):
            return False
        needed = self._pause_seconds() + LEAST_TRY_SECONDS * len(self.addresses)
        deadline = self._greeting_deadline
        if not self._has_timed_out:
            deadline = min(deadline, self._refused_deadline)
        return clock.uptime() + needed < deadline

    def pause(self) -> None:
        """Set the deadline to the end of a pause, before the addresses are tried once more."""
        self.deadline = clock.uptime() + self._pause_seconds()

    def pause_before_last_greeting(self) -> None:
        """Set the deadline to the end of the pause between two greetings."""
        self.is_last_greeting = True
        self.deadline = clock.uptime() + SECOND_LOOK_PAUSE
        self._greeting_deadline = self.deadline + LAST_GREETING_SECONDS
        self._refused_deadline = self.deadline + REFUSED_SECONDS

    def _pause_seconds(self) -> float:
        if self._has_timed_out:
            return 0.0
        return RETRY_SECONDS

    def time_out(self) -> None:
        """Take note that a step has taken too long, so that a new connection is tried at once."""
        self._has_timed_out = True

    def dial(self) -> None:
        """Begin to connect to the next address; raise OSError if that fails at once."""
        address = self._untried.pop(0)
        now = clock.uptime()
        share = (self._greeting_deadline - now) / (1 + len(self._untried))
        self._address_deadline = now + share
        self.deadline = now + min(share, CONNECT_SECONDS)
        try:
            self._dial(address)
        except OSError as error:
            self.unable = self.unable and error.errno in _OWN_ERRORS
            raise
        self.unable = False

    def _dial(self, address: resolve.Address) -> None:
        settings = self._caller.settings
        family = socket.AF_INET6
        if address.version == 4:
            family = socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        # A line that is too long for its place is passed over by the exchange, with its MAC.
        self._wire = Wire(self._caller.selector, connection, protocol.STATEMENT_BYTES, self._ready)
        source = _source_address(settings, address)
        if source:
            connection.bind((source, 0))
        with contextlib.suppress(BlockingIOError):
            connection.connect((str(address), settings.port))
        self._wire.watch(selectors.EVENT_WRITE)

    def connected(self) -> None:
        """Let the peer greet for as long as there is time for its present address."""
        self._has_timed_out = False
        self.deadline = self._address_deadline
        if self.is_last_greeting:
            self.deadline = self.step_deadline()

    def step_deadline(self) -> float:
        """Return until when a step of the last greeting may last that begins now."""
        return min(clock.uptime() + LAST_STEP_SECONDS, self._greeting_deadline)

    def failure(self) -> str:
        """Return why the socket, which was connecting, has failed; empty if it is connected."""
        if self._wire is None:
            return ""
        number = self._wire.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not number:
            return ""
        return os.strerror(number).lower()

    def send(self, lines: bytes) -> None:
        """Send `lines`, as far as the socket takes them; raise OSError if the peer is gone."""
        if self._wire:
            self._wire.queue(lines)
            self.flush()

    def flush(self) -> None:
        """Send what the socket takes now, and the rest when it takes more; raise OSError."""
        if self._wire is None:
            return
        self._wire.flush()
        events = selectors.EVENT_READ
        if self._wire.unsent:
            events |= selectors.EVENT_WRITE
        self._wire.watch(events)

    def receive(self) -> list[bytes] | None:
        """Return the lines that have come, with their MACs; None if the peer closed.

        Raise OSError if the peer is gone, and ProtocolError for a line that is too long.
        """
        if self._wire is None:
            return []
        return self._wire.receive(_READ_BYTES)

    def read_greeting(self, line: bytes) -> Greeting | Challenge | Refusal:
        """Return what a peer says that has not greeted yet; raise ProtocolError if it is nothing.

        Once `handshake` has an `auth`, each line has a MAC.
        """
        message = self.handshake.read(line)
        if self._wire:
            self._wire.auth = self.handshake.auth
        return message

    def verify(self, line: bytes) -> bytes:
        """Return the next line received, without its MAC; raise Forged if that is wrong."""
        if self._wire is None:
            return line
        return self._wire.verify(line)

    def why_closed(self, *, greeted: bool) -> str:
        """Return why the peer may have closed the connection, having `greeted` or not."""
        reason = "it closed the connection"
        if greeted:
            return reason
        if self.handshake.hello_written:
            return f"{reason}; is its key the same as ours?"
        return f"{reason}; is our address in its nodes.txt?"

    def hang_up(self) -> None:
        """Close the socket, and forget what was said on it."""
        if self._wire:
            self._wire.close()
        self._wire = None
        self.handshake = Handshake(self._name)


def _source_address(settings: Settings, address: resolve.Address) -> str:
    """Return the address that questions to `address` come from; empty if the kernel may choose.

    It is the first of the setting `listen` in the same family: nodes that share a machine need it.
    """
    for source in map(resolve.parse_address, settings.listen):
        if source.version == address.version and not source.is_unspecified:
            return str(source)
    return ""
