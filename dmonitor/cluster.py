"""Which line of nodes.txt is this machine, who are the peers, and at which addresses they are.

It looks names up and recognises; it talks to nobody. Recognition by address only saves a question: what keeps a
node from agreeing with itself is the node id (rule R2).
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterable, Mapping, Sequence

from dmonitor import names, resolve
from dmonitor.model import Node

PATIENCE = 4.0  # seconds that all names together may take to resolve


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A node that is not this one; without addresses, `reason` says why."""

    node: Node
    addresses: tuple[resolve.Address, ...]
    reason: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes as seen from here; `me` is our own line, or a stand-in named like the host where we are not `listed`."""

    me: Node
    peers: tuple[Peer, ...]
    listed: bool
    found: Mapping[str, tuple[resolve.Address, ...]]  # the addresses of every node, ours included, by name


def stand_in() -> Node:
    """Return a node named like this host, for one that is in no nodes.txt."""
    name = socket.gethostname()
    return Node(name, name) if names.is_node(name) else Node("localhost", "localhost")


def look_around(nodes: Sequence[Node], listen: Iterable[str], before: Cluster | None = None) -> Cluster:
    """Resolve NODES and tell our own lines, the first of which names us, from those of peers.

    With a loopback address in LISTEN, several nodes share this machine, and only LISTEN tells them apart. A node
    whose name does not resolve now keeps the addresses it had BEFORE.
    """
    found = resolve.look_up_all((node.name for node in nodes), PATIENCE)
    for name, addresses in before.found.items() if before else ():
        if name in found and not found[name][0]:
            found[name] = addresses, ""
    bound = [resolve.normal(address) for address in listen]
    shared = any(address.is_loopback for address in bound)

    def is_mine(address: resolve.Address) -> bool:
        return address in bound or (not shared and (address.is_loopback or resolve.is_own(address)))

    own: list[Node] = []
    peers = []
    for node in nodes:
        addresses, reason = found[node.name]
        if any(map(is_mine, addresses)):
            own.append(node)
        else:
            peers.append(Peer(node, addresses, f"its name does not resolve: {reason}" if reason else ""))
    return Cluster(
        own[0] if own else stand_in(), tuple(peers), bool(own), {name: addresses for name, (addresses, _) in found.items()}
    )
