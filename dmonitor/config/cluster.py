"""Find out which line of nodes.txt is this machine, who its peers are, and at which addresses.

Names are looked up here, and nobody is talked to. To recognise a line by its address only saves a
question. A node cannot agree with itself, even if its line is not recognised, because votes belong
to node ids (R2). But a look-up that would make a peer this machine is not believed: whoever forges
it would make the peer vanish.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dmonitor.base import names
from dmonitor.config import resolve
from dmonitor.config.settings import Settings
from dmonitor.core.model import Node, unlisted

LOOKUP_LIMIT = 4.0  # seconds that all names together may take to resolve


class Peer(NamedTuple):
    """A node that is not this one."""

    node: Node
    addresses: tuple[resolve.Address, ...]
    reason: str = ""  # why there is no address; "" if there is one


class Cluster(NamedTuple):
    """The nodes as this one sees them."""

    me: Node  # the first line for this machine; if it has none, a stand-in named like the host
    peers: tuple[Peer, ...]
    listed: bool  # whether nodes.txt has a line for this machine
    addresses: Mapping[str, tuple[str, ...]]  # of every node, this one too, by its name
    my_names: frozenset[str]  # of all lines for this machine, or the name of the stand-in
    my_addresses: tuple[resolve.Address, ...]  # those of `me` at which this machine listens
    # The names of peers that resolve to this machine now, and did not before. They have their last
    # addresses in `addresses`.
    diverted: tuple[str, ...] = ()


class _Machine:
    """This machine: its name and its addresses, which tell its lines from those of peers."""

    def __init__(self, settings: Settings) -> None:
        self._set_name = settings.name
        self.name = settings.name or socket.gethostname()
        self._listen = [resolve.parse_address(address) for address in settings.listen]
        # With a loopback address in `listen`, several nodes share this machine. Then only `listen`
        # tells them apart.
        self._is_shared = any(address.is_loopback for address in self._listen)

    def has_address(self, address: resolve.Address) -> bool:
        """Return whether `address` belongs to this node."""
        if address in self._listen:
            return True
        if self._is_shared:
            return False
        return address.is_loopback or resolve.is_local(address)

    def lines_among(self, nodes: Sequence[Node], found: Mapping[str, resolve.Lookup]) -> list[Node]:
        """Return those of `nodes` that are this machine, by what their names were `found` to have.

        These are the line that the setting `name` names, and those with an address of this machine.
        Only if there is none, it is the line with this machine's host name: a host may be called
        what another node's line is called.
        """
        lines = []
        for node in nodes:
            if node.name == self._set_name or self._has_any(found[node.name].addresses):
                lines.append(node)
        return lines or [node for node in nodes if node.name == self.name]

    def _has_any(self, addresses: Sequence[resolve.Address]) -> bool:
        return any(map(self.has_address, addresses))

    def listens_at(self, address: resolve.Address) -> bool:
        """Return whether the daemon of this node can be reached at `address`."""
        if not self._listen or any(bound.is_unspecified for bound in self._listen):
            return self.has_address(address)
        return address in self._listen

    def stand_in(self, nodes: Sequence[Node]) -> Node:
        """Return a node for this machine, which none of `nodes` is."""
        name = self.name
        if not names.is_node(name):
            name = "localhost"
        return unlisted(name, nodes)


def resolve_cluster(
    nodes: Sequence[Node], settings: Settings, known: Mapping[str, Sequence[str]]
) -> Cluster:
    """Look up the names of `nodes`, and tell the lines for this machine from those of peers.

    A node whose name does not resolve now keeps its addresses in `known`, those found before. So
    does a peer whose name is diverted. If the setting `name` names a line, then that one names this
    node, even if other lines are for this machine, too. More than one is a mistake: `my_names` has
    them all, and nobody looks at any of them from here.
    """
    last = _parse_all(known)
    found = _look_up(nodes, last)
    machine = _Machine(settings)
    diverted = _diverted(nodes, found, last, machine)
    for name in diverted:
        found[name] = resolve.Lookup(last[name], "")
    my_lines = machine.lines_among(nodes, found)
    peers: list[Peer] = []
    for node in nodes:
        if node in my_lines:
            continue
        addresses, reason = found[node.name]
        if reason:
            reason = f"its name does not resolve: {reason}"
        peers.append(Peer(node, addresses, reason))
    listed = bool(my_lines)
    my_addresses: tuple[resolve.Address, ...] = ()
    if listed:
        my_lines.sort(key=lambda node: node.name != settings.name)
        my_addresses = tuple(filter(machine.listens_at, found[my_lines[0].name].addresses))
    else:
        my_lines.append(machine.stand_in(nodes))
    return Cluster(
        me=my_lines[0],
        peers=tuple(peers),
        listed=listed,
        addresses={name: tuple(map(str, lookup.addresses)) for name, lookup in found.items()},
        my_names=frozenset(node.name for node in my_lines),
        my_addresses=my_addresses,
        diverted=diverted,
    )


def _parse_all(known: Mapping[str, Sequence[str]]) -> dict[str, tuple[resolve.Address, ...]]:
    """Return the addresses of each name in `known`, without what is no address."""
    parsed = {}
    for name, texts in known.items():
        addresses = []
        for text in texts:
            with contextlib.suppress(ValueError):
                addresses.append(resolve.parse_address(text))
        parsed[name] = tuple(addresses)
    return parsed


def _look_up(
    nodes: Sequence[Node], last: Mapping[str, tuple[resolve.Address, ...]]
) -> dict[str, resolve.Lookup]:
    """Return what a look-up finds for each of `nodes`, or else its `last` addresses."""
    found = resolve.look_up_all([node.name for node in nodes], LOOKUP_LIMIT)
    for name, lookup in found.items():
        if not lookup.addresses and last.get(name):
            found[name] = resolve.Lookup(last[name], "")
    return found


def _diverted(
    nodes: Sequence[Node],
    found: Mapping[str, resolve.Lookup],
    last: Mapping[str, tuple[resolve.Address, ...]],
    machine: _Machine,
) -> tuple[str, ...]:
    """Return the names that resolve to this machine, and were another machine's before.

    A second name of this machine is none of them: it is new, or had an address of this machine
    before, or one that the first name had, too, if the machine has other addresses now. If no other
    line is for this machine, then the name may be its own, and nothing can be told. The line with
    the host name counts here, because it would be this machine's if the others were not diverted.
    """
    my_last: set[resolve.Address] = set()
    is_listed = False
    doubtful = []
    my_lines = machine.lines_among(nodes, found)
    for node in nodes:
        addresses = last.get(node.name, ())
        if node.name != machine.name and node not in my_lines:
            continue
        was_here = not addresses or any(map(machine.has_address, addresses))
        if node.name == machine.name or was_here:
            is_listed = True
            my_last.update(addresses)
        else:
            doubtful.append(node.name)
    if not is_listed:
        return ()
    return tuple(name for name in doubtful if my_last.isdisjoint(last[name]))
