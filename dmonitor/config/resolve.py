"""Names of nodes to addresses, with a limit.

getaddrinfo takes no time-out, so each name has a thread of its own that nobody waits for; one name that does not
resolve, or hangs, hurts no other. No reverse look-up is ever made.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Collection, Iterable

ADDRESSES = 16  # of one name that count

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Found = tuple[tuple[Address, ...], str]  # a name's addresses; why there is none


def normal(address: str) -> Address:
    """Return ADDRESS without scope id, an IPv4 address in IPv6 clothes as IPv4; ValueError if it is none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        return ip.ipv4_mapped
    return ip


def is_own(address: Address) -> bool:
    """Say whether ADDRESS is this machine's: then, and only then, it is what we would reach it from.

    No packet is sent. Binding to it would not do, for net.ipv4.ip_nonlocal_bind lets that succeed everywhere.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), 9))
        return normal(probe.getsockname()[0]) == address
    return False


def look_up(name: str) -> Found:
    """Resolve NAME, for as long as that takes, to its addresses; without any, the second value says why."""
    with contextlib.suppress(ValueError):
        return (normal(name),), ""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return (), getattr(error, "strerror", None) or str(error)
    return tuple(dict.fromkeys(normal(str(entry[4][0])) for entry in found))[:ADDRESSES], ""


def look_up_all(names: Iterable[str], patience: float) -> dict[str, Found]:
    """Look NAMES up at the same time; one that has not answered within PATIENCE seconds has no address."""
    every = set(names)
    literal = {name: look_up(name) for name in every if _is_literal(name)}
    return literal | (
        _ask_resolver(every - literal.keys(), patience) if len(literal) < len(every) else {}
    )


def _ask_resolver(names: Collection[str], patience: float) -> dict[str, Found]:
    import queue
    import threading

    found: dict[str, Found] = dict.fromkeys(
        names, ((), f"no answer from the resolver within {patience:g} s")
    )
    answers: queue.SimpleQueue[tuple[str, Found]] = queue.SimpleQueue()
    for name in names:
        threading.Thread(
            target=lambda name: answers.put((name, look_up(name))), args=(name,), daemon=True
        ).start()
    deadline = time.monotonic() + patience
    with contextlib.suppress(queue.Empty):
        for _ in names:
            name, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            found[name] = answer
    return found


def _is_literal(name: str) -> bool:
    try:
        normal(name)
    except ValueError:
        return False
    return True
