"""Which line of nodes.txt is this machine, who are the peers, and at which addresses they are.

It looks names up and recognises; it talks to nobody. Recognition by address only saves a question: what keeps a
node from agreeing with itself is the node id (rule R2).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config import resolve
from dmonitor.config.settings import Settings
from dmonitor.core.model import Node, unlisted

LOOKUP_LIMIT = 4.0  # seconds that all names together may take to resolve


class Peer(NamedTuple):
    """A node that is not this one; without addresses, `reason` says why."""

    node: Node
    addresses: tuple[resolve.Address, ...]
    reason: str = ""


class Cluster(NamedTuple):
    """The nodes as seen from here; `me` is our own line, or a stand-in named like the host where we are not `listed`."""

    me: Node
    peers: tuple[Peer, ...]
    listed: bool
    found: Mapping[str, tuple[str, ...]]  # the addresses of every node, ours included, by name
    names: frozenset[str]  # of all our own lines, or that of the stand-in
    here: tuple[resolve.Address, ...]  # those of our own line at which this machine listens


def look_around(
    nodes: Sequence[Node], settings: Settings, known: Mapping[str, Sequence[str]]
) -> Cluster:
    """Resolve NODES and tell our own lines, the first of which names us, from those of peers.

    With a loopback address in the setting `listen`, several nodes share this machine, and only that tells them apart. The line of
    the setting `name` is ours, and names us. A node whose name does not resolve now keeps the addresses KNOWN from before.
    """
    found = resolve.look_up_all((node.name for node in nodes), LOOKUP_LIMIT)
    for name, (addresses, _) in found.items():
        if not addresses and known.get(name):
            found[name] = tuple(map(resolve.normal, known[name])), ""
    bound = [resolve.normal(address) for address in settings.listen]
    shared = any(address.is_loopback for address in bound)
    hostname = settings.name or socket.gethostname()

    def is_ours(address: resolve.Address) -> bool:
        return address in bound or (not shared and (address.is_loopback or resolve.is_own(address)))

    def is_mine(node: Node) -> bool:
        return node.name == hostname or any(map(is_ours, found[node.name][0]))

    own = sorted(filter(is_mine, nodes), key=lambda node: node.name != settings.name)
    peers = []
    for node in nodes:
        addresses, reason = found[node.name]
        if node not in own:
            peers.append(
                Peer(node, addresses, f"its name does not resolve: {reason}" if reason else "")
            )
    me = own[0] if own else unlisted(hostname if names.is_node(hostname) else "localhost", nodes)
    everywhere = not bound or any(address.is_unspecified for address in bound)
    here = (
        tuple(
            each for each in found[me.name][0] if (is_ours(each) if everywhere else each in bound)
        )
        if own
        else ()
    )
    where = {name: tuple(map(str, addresses)) for name, (addresses, _) in found.items()}
    return Cluster(
        me, tuple(peers), bool(own), where, frozenset(node.name for node in own or [me]), here
    )
