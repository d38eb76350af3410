"""ICMP echo: are the addresses of a host alive?

Each look has a random payload, so that no answer to another program's packet is taken for one to
ours, and no answer of another host.
"""

from __future__ import annotations

import _socket as socket
import errno
import posix
import select

from dmonitor.base import clock
from dmonitor.probe import faults
from dmonitor.probe.lookup import destination
from dmonitor.probe.outcome import Deadline, Fail, Unknown, Unreachable, verdict

_SEND_AT = (0.0, 1.0, 2.5)  # seconds, as a host may wake a neighbour first, or lose a packet
_PATIENCE = 4.8  # seconds in all
_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_COOKIE_BYTES = 16
_HEADER_BYTES = 8  # of an echo
_TOOL_BYTES = 10_000  # of output of ping
_FPING = "/usr/bin/fping"


class _NoRight(Exception):
    """This user may not send ICMP by itself."""


class _Target:
    """One address, and the socket that asks it."""

    def __init__(self, family: int, address: str) -> None:
        self.family = family
        self.address = address
        self.cookie = posix.urandom(_COOKIE_BYTES)
        self.socket = _open(family)
        self.fault: Fail | Unknown | None = None
        self.is_pending = True  # nothing was heard since the last request

    def send(self, sequence: int) -> None:
        head = bytes([_REQUEST[self.family], 0, 0, 0]) + self.cookie[:2] + bytes([0, sequence])
        packet = head + self.cookie
        packet = packet[:2] + _checksum(packet) + packet[4:]
        self.is_pending = True
        try:
            # A raw socket that is not connected hears of the errors of all other pings, too.
            self.socket.connect(destination(self.address, 0))
            self.socket.send(packet)
        except OSError as error:
            self._fail(error)

    def is_answered(self) -> bool:
        """Take what has arrived; return whether it is the answer."""
        try:
            packet, sender = self.socket.recvfrom(2048)
        except BlockingIOError:
            return False
        except OSError as error:
            self._fail(error)
            return False
        if self.family == socket.AF_INET and self.socket.type == socket.SOCK_RAW:
            packet = packet[(packet[0] & 15) * 4 :]
        is_reply = packet[:1] == bytes([_REPLY[self.family]])
        is_ours = packet[_HEADER_BYTES:] == self.cookie
        return is_reply and is_ours and sender[0].partition("%")[0] == self._plain()

    def _fail(self, error: OSError) -> None:
        self.fault = faults.fault(self.socket, self.address, error)
        self.is_pending = False

    def _plain(self) -> str:
        return self.address.partition("%")[0]


def echo(addresses: list[tuple[int, str]], deadline: Deadline) -> float:
    """Return the seconds until the first of `addresses` answered."""
    try:
        return _echo(addresses, deadline)
    except _NoRight:
        return _echo_by_tool([address for _, address in addresses], deadline)


def _echo(addresses: list[tuple[int, str]], deadline: Deadline) -> float:
    targets: list[_Target] = []
    found: list[Fail | Unknown] = []
    for family, address in addresses:
        try:
            targets.append(_Target(family, address))
        except Unreachable as error:  # this node has no IP of that version
            found.append(error)
    if not targets:
        raise verdict(found) or Fail("no answer")
    begin = clock.uptime()
    end = min(deadline.end, begin + _PATIENCE)
    for sequence, offset in enumerate(_SEND_AT):
        sent_at = max(begin + offset, clock.uptime())
        for target in targets:
            target.send(sequence)
        is_last = sequence + 1 == len(_SEND_AT)
        until = end if is_last else min(end, begin + _SEND_AT[sequence + 1])
        if _wait(targets, until, is_last):
            return clock.uptime() - sent_at
    found.extend(target.fault or Fail("no answer") for target in targets)
    raise verdict(found) or Fail("no answer")


def _wait(targets: list[_Target], until: float, is_last: bool) -> bool:
    """Wait until an address has answered; return whether one has by `until`.

    After the last request there is nothing to wait for once each address has an error.
    """
    sockets = {target.socket: target for target in targets}
    while True:
        pause = until - clock.uptime()
        if pause <= 0 or (is_last and not any(target.is_pending for target in targets)):
            return False
        ready, _, _ = select.select(list(sockets), [], [], pause)
        for sock in ready:
            if sockets[sock].is_answered():
                return True


def _open(family: int) -> socket.socket:
    """Return a socket for echoes: one that needs no privilege, or else a raw one."""
    try:
        return faults.open_socket(family, socket.SOCK_DGRAM, _PROTOCOL[family])
    except PermissionError:
        pass
    try:
        return faults.open_socket(family, socket.SOCK_RAW, _PROTOCOL[family])
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES):
            raise
        raise _NoRight from None


def _echo_by_tool(addresses: list[str], deadline: Deadline) -> float:
    """Let fping or ping ask, which the system gives the right. The package needs neither.

    A person's own round does, and so does an operator's line for cron, if
    net.ipv4.ping_group_range keeps this user from sending. Debian gives the right to fping for
    sure; its ping may count on that range.
    """
    from dmonitor.probe import tool

    has_fping = posix.access(_FPING, posix.X_OK)

    begin = clock.uptime()
    seconds = max(1, int(min(deadline.left(), _PATIENCE) / len(addresses)))
    found: list[Fail | Unknown] = []
    for address in addresses:
        command = ["ping", "-n", "-c", "1", "-w", str(seconds), address]
        if has_fping:
            command = [_FPING, "-r2", "-t1000", address]
        ended = tool.run(command, "iputils-ping", clock.uptime() + seconds + 2, b"", _TOOL_BYTES)
        if ended.status == 0:
            _, is_said, rest = ended.output.decode("ascii", "replace").partition("time=")
            number = rest.partition(" ")[0]
            if is_said and number.replace(".", "").isdigit():
                return float(number) / 1000
            return clock.uptime() - begin
        errors = ended.errors.decode("utf-8", "replace").strip().partition("\n")[0]
        if "etwork is unreachable" in errors:
            found.append(Unreachable(f"this node has no way to it: {errors}"))
        elif ended.status == 1 and "not permitted" not in errors:
            found.append(Fail("no answer"))
        else:
            found.append(Unknown(errors or f"ping ended with status {ended.status}"))
    raise verdict(found) or Fail("no answer")


def _checksum(packet: bytes) -> bytes:
    total = 0
    for index in range(0, len(packet), 2):
        total += packet[index] << 8 | packet[index + 1]
    total = (total >> 16) + (total & 0xFFFF)
    total += total >> 16
    return (~total & 0xFFFF).to_bytes(2, "big")
