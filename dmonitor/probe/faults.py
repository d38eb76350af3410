"""Whose fault is it that an address could not be reached: the host's, or this node's own?

The same error may be either. A host refuses a connection, and so does this node's own firewall.
The kernel knows the difference: it tells who sent the ICMP message that an error comes from, and
whether a packet left this node.
"""

from __future__ import annotations

import _socket as socket
import errno
import posix

from dmonitor.probe.lookup import destination
from dmonitor.probe.outcome import Fail, Unknown, Unreachable

# From linux/in.h, linux/in6.h, linux/errqueue.h and linux/tcp.h.
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_MSG_ERRQUEUE = 0x2000
_BY_ICMP = (2, 3)  # sock_extended_err.ee_origin
_TCP_INFO_RETRANSMITS = 2  # where tcpi_retransmits is, a byte: how often the first one was repeated
_TCP_INFO_RETRANS = 36  # where tcpi_retrans is: segments that were sent again and left this node
_TCP_INFO_TOTAL_RETRANS = 100  # and tcpi_total_retrans: those that were handed on to be sent
# ICMP codes with which the kernel says of a neighbour that it does not answer: the host is off.
_NEIGHBOUR_IS_SILENT = {socket.AF_INET: 1, socket.AF_INET6: 3}
_ICMP_LEVELS = {
    socket.AF_INET: (socket.IPPROTO_IP, _IP_RECVERR),
    socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_RECVERR),
}
_DISCARD_PORT = 9  # any port would do: no packet is sent

# The host, or the network between, says no.
_HOSTS = (
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EPROTO,
)
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT, errno.ENETDOWN, errno.EINVAL)
_OWN = {
    errno.EPERM: "this node's own firewall, or a full table of connections, keeps packets back",
    errno.EACCES: "this node's own firewall or routes forbid it",
    errno.EADDRNOTAVAIL: "this node has no port or address left to ask from",
    errno.EAGAIN: "this node has no port or address left to ask from",
}
_KEPT_BACK = _OWN[errno.EPERM]


def open_socket(family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Return a socket that does not block and keeps the origin of errors for `fault`.

    Raise Unreachable if this node has no IP of that version.
    """
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        raise Unreachable(f"this node has no way to it: {_text(error.errno)}") from None
    sock.setblocking(False)
    want_origins(sock)
    return sock


def want_origins(sock: socket.socket) -> None:
    """Have the kernel keep the origin of errors for `fault`."""
    level, option = _ICMP_LEVELS[sock.family]
    sock.setsockopt(level, option, 1)


def fault(sock: socket.socket, address: str, error: OSError) -> Fail | Unknown:
    """Return whose fault `error` is, which came of sending to `address` by `sock`."""
    number = error.errno or 0
    sender = _icmp_sender(sock)
    plain, percent, interface = address.partition("%")
    if sender == plain:
        return Fail(_text(number))
    if sender and _source(sock.family, sender + percent + interface) == sender:
        return Unknown(f"this node's own firewall forbids it: {_text(number)}")
    if sender:
        return Fail(f"{_text(number)}, says {sender}")
    if number in _HOSTS:
        return Fail(_text(number))
    if number in _NO_WAY:
        if has_way(sock.family, address):
            return Fail(_text(number))
        return Unreachable(f"this node has no way to it: {_text(number)}")
    return Unknown(_OWN.get(number) or f"this node: {_text(number)}")


def was_kept_back(sock: socket.socket) -> bool:
    """Return whether this node let none of the repeated packets of a connection out.

    The kernel counts how often it was to repeat a packet, how often it handed one on for that, and
    those that left. While it waits for a neighbour that has fallen silent it hands none on, and
    counts the earlier ones as lost: so only if it handed one on each time was it a firewall.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    left = _number(info, _TCP_INFO_RETRANS)
    handed_on = _number(info, _TCP_INFO_TOTAL_RETRANS)
    return left == 0 and 0 < handed_on == info[_TCP_INFO_RETRANSMITS]


def _number(info: bytes, place: int) -> int:
    return int.from_bytes(info[place : place + 4], "little")


def kept_back() -> Unknown:
    """Return the fault of a connection of which nothing left this node."""
    return Unknown(_KEPT_BACK)


def has_way(family: int, address: str) -> bool:
    """Return whether this node has a route to `address`; nothing is sent."""
    return _source(family, address) is not None


def _source(family: int, address: str) -> str | None:
    """Return the address that this node would send from; None if it has no route."""
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(destination(address, _DISCARD_PORT))
            return str(sock.getsockname()[0])
        finally:
            sock.close()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EADDRNOTAVAIL):
            return ""  # no port left: that says nothing of the route
        return None


def _icmp_sender(sock: socket.socket) -> str:
    """Return who sent the ICMP message that the last error came of; "" if it came of none.

    What the kernel says of a neighbour that is silent does not count as one.
    """
    try:
        _, messages, _, _ = sock.recvmsg(512, 512, _MSG_ERRQUEUE)
    except OSError:
        return ""
    for level, option, data in messages:
        if (level, option) == _ICMP_LEVELS[sock.family] and data[4] in _BY_ICMP:
            if data[6] != _NEIGHBOUR_IS_SILENT[sock.family]:
                return _offender(sock.family, data)
    return ""


def _offender(family: int, data: bytes) -> str:
    """Return the address behind a sock_extended_err, which is 16 bytes long."""
    if family == socket.AF_INET:
        return socket.inet_ntop(family, data[20:24])
    return socket.inet_ntop(family, data[24:40])


def _text(number: int) -> str:
    return posix.strerror(number)[:1].lower() + posix.strerror(number)[1:]
