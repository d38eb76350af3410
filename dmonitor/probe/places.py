"""Where a URL leads: to which host and port, and to what kind of address."""

from __future__ import annotations

import _socket as socket

PUBLIC = "public"
INTERNAL = "internal"  # loopback, link-local, private or shared
ODD = "odd"  # for no host on the internet
_PORTS = {"http": 80, "https": 443}

_IPV4_KINDS = (
    ("10.0.0.0", 8, INTERNAL),
    ("100.64.0.0", 10, INTERNAL),
    ("127.0.0.0", 8, INTERNAL),
    ("169.254.0.0", 16, INTERNAL),
    ("172.16.0.0", 12, INTERNAL),
    ("192.168.0.0", 16, INTERNAL),
    ("0.0.0.0", 8, ODD),
    ("192.0.0.0", 24, ODD),
    ("198.18.0.0", 15, ODD),
    ("224.0.0.0", 3, ODD),
    ("0.0.0.0", 0, PUBLIC),
)
_IPV6_KINDS = (
    ("::1", 128, INTERNAL),
    ("fc00::", 7, INTERNAL),
    ("fe80::", 10, INTERNAL),
    ("2001::", 32, ODD),  # Teredo, and 6to4: another address is inside
    ("2002::", 16, ODD),
    ("2000::", 3, PUBLIC),
    ("::", 0, ODD),
)
# An IPv4 address, behind this network's translator (NAT64).
_TRANSLATED = ("64:ff9b::", 96)


class Place:
    """The parts of a URL that say where it leads."""

    def __init__(self, scheme: str, login: str, host: str, port: int) -> None:
        self.scheme = scheme  # http or https
        self.login = login  # USER:PASSWORD, as the URL has it
        self.host = host
        self.port = port

    def origin(self) -> tuple[str, str, int]:
        """Return what two URLs have in common that lead to the same server."""
        return self.scheme, self.host.lower().rstrip("."), self.port


def parse(url: str) -> Place:
    """Return where `url` leads; raise ValueError, with a reason that goes on after "it leads"."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _PORTS:
        raise ValueError(f"to {url.partition(':')[0]}:, which is not http")
    scheme = scheme.lower()
    for end in "/?#":
        rest = rest.partition(end)[0]
    login, _, authority = rest.rpartition("@")
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        host = host.replace("%25", "%", 1)
        port = port.removeprefix(":")
    else:
        host, _, port = authority.partition(":")
    if not host:
        raise ValueError("to no host")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise ValueError(f"to port {port}")
    return Place(scheme, login, host, int(port or _PORTS[scheme]))


def kind(address: str) -> str:
    """Return the kind of `address`, which is as the resolver writes it: PUBLIC, INTERNAL or ODD."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address.partition("%")[0])
    if family == socket.AF_INET6 and _is_in(packed, *_TRANSLATED):
        return kind(socket.inet_ntop(socket.AF_INET, packed[-4:]))
    kinds = _IPV6_KINDS if family == socket.AF_INET6 else _IPV4_KINDS
    return next(name for network, bits, name in kinds if _is_in(packed, network, bits))


def _is_in(packed: bytes, network: str, bits: int) -> bool:
    """Return whether an address is in a network, whose first `bits` bits count."""
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    shift = len(packed) * 8 - bits
    first = int.from_bytes(socket.inet_pton(family, network), "big")
    return int.from_bytes(packed, "big") >> shift == first >> shift
