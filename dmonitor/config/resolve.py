"""Look up the addresses of names, within a limit of time.

getaddrinfo takes no time-out. Each name therefore has a thread of its own that nobody waits for,
and a name that does not resolve, or hangs, hurts no other. An address is never turned back into a
name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Collection, Iterable
from typing import NamedTuple

from dmonitor.base import clock

_RESOLV_CONF = "/etc/resolv.conf"
_SEARCH_LIMIT = 6  # domains of a search list that count
ADDRESS_LIMIT = 16  # addresses of one name that count
_DISCARD_PORT = 9  # any port would do: no packet is sent

# The resolver has no search list then. With a wildcard in a domain of that list, a node whose name
# is gone would be another machine. It is set before any thread reads it.
os.environ["LOCALDOMAIN"] = ""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Lookup(NamedTuple):
    """What a look-up of a name found."""

    addresses: tuple[Address, ...]
    reason: str  # why there is no address; "" if there is one


def parse_address(text: str) -> Address:
    """Return the address that `text` stands for; raise ValueError if it is none.

    The scope id is left out. An IPv4 address that is mapped into IPv6 becomes an IPv4 address.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def is_local(address: Address) -> bool:
    """Return whether `address` belongs to this machine: it then reaches it from this same address.

    No packet is sent. To bind to the address would prove nothing, because net.ipv4.ip_nonlocal_bind
    may let that succeed for any address.
    """
    family = socket.AF_INET6
    if address.version == 4:
        family = socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((str(address), _DISCARD_PORT))
        return parse_address(probe.getsockname()[0]) == address
    return False


def look_up(name: str) -> Lookup:
    """Look `name` up, for as long as that takes; an address is its own result."""
    with contextlib.suppress(ValueError):
        return Lookup((parse_address(name),), "")
    lookup = _ask_for(name)
    if not lookup.addresses and "." not in name:
        for domain in _search_list():
            found = _ask_for(f"{name}.{domain}")
            if found.addresses:
                return found
    return lookup


def _ask_for(name: str) -> Lookup:
    """Ask the resolver for `name`, as it stands."""
    try:
        entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Lookup((), getattr(error, "strerror", None) or str(error))
    addresses = [parse_address(str(entry[4][0])) for entry in entries]
    distinct = dict.fromkeys(addresses)
    return Lookup(tuple(distinct)[:ADDRESS_LIMIT], "")


def _search_list() -> list[str]:
    """Return the domains in which a name of one word may be found."""
    domains: list[str] = []
    with (
        contextlib.suppress(OSError),
        open(_RESOLV_CONF, encoding="utf-8", errors="replace") as file,
    ):
        for line in file:
            keyword, *values = line.split() or [""]
            if keyword in ("search", "domain"):
                domains = values[:_SEARCH_LIMIT]
    return domains


def look_up_all(names: Iterable[str], patience: float) -> dict[str, Lookup]:
    """Look `names` up at the same time.

    A name without an answer after `patience` seconds has no address. No thread is started for an
    address.
    """
    found: dict[str, Lookup] = {}
    unresolved: set[str] = set()
    for name in names:
        if is_address(name):
            found[name] = look_up(name)
        else:
            unresolved.add(name)
    if unresolved:
        found.update(_ask_resolver(unresolved, patience))
    return found


def _ask_resolver(names: Collection[str], patience: float) -> dict[str, Lookup]:
    import queue
    import threading

    answers: queue.SimpleQueue[tuple[str, Lookup]] = queue.SimpleQueue()

    def answer(name: str) -> None:
        answers.put((name, look_up(name)))

    no_answer = Lookup((), f"no answer from the resolver within {patience:g} s")
    found = dict.fromkeys(names, no_answer)
    for name in names:
        threading.Thread(target=answer, args=(name,), daemon=True).start()
    deadline = clock.uptime() + patience
    with contextlib.suppress(queue.Empty):
        for _ in names:
            time_left = max(0.0, deadline - clock.uptime())
            name, lookup = answers.get(timeout=time_left)
            found[name] = lookup
    return found


def is_address(name: str) -> bool:
    """Return whether `name` is an address, and no host name."""
    try:
        parse_address(name)
    except ValueError:
        return False
    return True
