"""From the name of a host to its addresses, once for a look.

The resolver of C takes no time-out, so it works in a thread that nobody waits for in vain. It asks
each name server five times, a second each, because a network that loses packets is no host's fault.
"""

from __future__ import annotations

import _socket as socket
import posix

from dmonitor.probe.outcome import Fail, Unknown

_RESOLVER_OPTIONS = b"timeout:1 attempts:5"
# What a name server answers that knows the name, or knows that there is none. Everything else means
# that no name server could tell.
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", -5))
_NO_SUCH_FAMILY = getattr(socket, "EAI_ADDRFAMILY", -9)
_VERSIONS = {socket.AF_INET: 4, socket.AF_INET6: 6}
ADDRESS_LIMIT = 8  # addresses of a host that count


def addresses(host: str, version: int, patience: float) -> list[tuple[int, str]]:
    """Return the families and addresses of `host`, in the order in which to try them.

    A link-local address has its interface, as in fe80::1%2, without which it leads nowhere.
    `version` is 4 or 6 if only such addresses count, and otherwise 0. Raise Fail if there are none,
    and Unknown if that cannot be told within `patience` seconds.
    """
    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(version, socket.AF_UNSPEC)
    if is_address(host):
        return _literal(host, family)
    if not host.isascii():
        raise Unknown("the name is not ASCII; write its form that begins with xn--")
    found = _ask(host, family, patience)
    if isinstance(found, OSError):
        raise _reason(host, version, found)
    return found


def is_address(host: str) -> bool:
    return ":" in host or not host.strip("0123456789.")


def plain(address: str) -> str:
    """Return `address` as the kernel writes it; raise Unknown if it is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, address))
    except OSError:
        raise Unknown(f"{address} is no address") from None


def destination(address: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return `address`, which is one of `addresses`, as a socket wants it."""
    plain_address, _, interface = address.partition("%")
    if not interface:
        return address, port
    return plain_address, port, 0, int(interface)


def _literal(host: str, family: int) -> list[tuple[int, str]]:
    try:
        return _resolve(host, family, socket.AI_NUMERICHOST)
    except OSError as error:
        if error.errno == _NO_SUCH_FAMILY:
            version = _VERSIONS[family]
            raise Unknown(
                f"{host} is no IPv{version} address, which FAMILY={version} wants"
            ) from None
        raise Unknown(f"{host} is no address") from None


def _resolve(host: str, family: int, flags: int = 0) -> list[tuple[int, str]]:
    # As bytes: for a str, Python loads its table of IDNA, which takes as long as all else.
    entries = socket.getaddrinfo(host.encode(), 0, family, socket.SOCK_STREAM, 0, flags)
    found = [(entry[0], _written(entry[4])) for entry in entries if entry[0] in _VERSIONS]
    return list(dict.fromkeys(found))[:ADDRESS_LIMIT]


def _written(found: tuple[object, ...]) -> str:
    """Return the address that the resolver `found`, with the number of its interface."""
    interface = found[3] if len(found) == 4 else 0
    return f"{found[0]}%{interface}" if interface else str(found[0])


def _ask(host: str, family: int, patience: float) -> list[tuple[int, str]] | OSError:
    """Ask the resolver; return its error if it has no address."""
    import _thread

    posix.putenv(b"RES_OPTIONS", _RESOLVER_OPTIONS)
    if "." in host:
        # With a search list, and a wildcard in a domain of it, a name that is gone would lead to
        # another host. Names of one word are this network's own, and need the list.
        posix.putenv(b"LOCALDOMAIN", b"")
    found: list[list[tuple[int, str]] | OSError] = []
    is_done = _thread.allocate_lock()
    is_done.acquire()

    def resolve() -> None:
        try:
            found.append(_resolve(host, family))
        except OSError as error:
            found.append(error)
        is_done.release()

    try:
        _thread.start_new_thread(resolve, ())
    except RuntimeError:
        raise Unknown("this node can start no thread to look the name up") from None
    is_done.acquire(timeout=max(0.0, patience))
    if not found:
        raise Unknown(f"{host} cannot be looked up: no answer from a name server in time")
    return found[0]


def _reason(host: str, version: int, error: OSError) -> Exception:
    kind = f"IPv{version} " if version else ""
    if error.errno in _NO_SUCH_NAME:
        return Fail(
            f"the name {host} does not resolve{' to an ' + kind + 'address' if kind else ''}"
        )
    if error.errno == _NO_SUCH_FAMILY:
        return Fail(f"{host} has no {kind}address")
    return Unknown(f"{host} cannot be looked up: {error.strerror}")
