"""Who is let in at the daemon's port: the addresses of the nodes, and the keys (rule R8).

The address of a caller says which nodes it may be, and its key, if each pair of nodes has one, says
which of these it is.
Names are looked up again when that may help, and nobody waits for it. If nodes.txt or a key can no
longer be used, the last good one stays in force. It also has the greeting, which names this node.
What callers say is no business of this module.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable, Mapping, Sequence

from dmonitor.base import clock, log
from dmonitor.config.cluster import Cluster, Peer, resolve_cluster
from dmonitor.config.keyfile import KEY_FILES, NO_KEY_RISK, Keys, load_keys
from dmonitor.config.nodes import load_nodes
from dmonitor.config.problems import Problem, Problems, log_problems
from dmonitor.config.settings import Settings
from dmonitor.net.protocol import Greeting

_LOOKUP_SECONDS = 300.0  # between two look-ups of the nodes' names because somebody called
# The same, while a name has no address, or if the caller is a stranger: it may be a node whose
# address is new, which would be closed otherwise.
_SOON_LOOKUP_SECONDS = 10.0
_WAITING_LIMIT = 64  # strangers that may wait for a look-up
# Nodes with the same address whose keys are tried for a caller. A daemon has its address for
# itself, so more than one is another name of the same node, or a mistake.
_NAMES_LIMIT = 8
_NODES_FILE = "nodes.txt"
_FILES = (_NODES_FILE, *KEY_FILES)
DIVERTED_REASON = "its name resolves to this node now; its last addresses stay in force"

Version = tuple[int, ...]  # of a file: what stat(2) says of it


class Access:
    """What decides whether a caller is let in, kept up to date within the loop of a selector."""

    cluster: Cluster  # the nodes, as seen from here
    names: frozenset[str]  # of this node
    greeting: Greeting  # of this node's daemon
    admitted: frozenset[str]  # addresses of nodes, this one included
    keys: Keys | None  # of which a caller must show one; None if there is no key
    _names_at: Mapping[str, list[str]] = {}  # the nodes at each address

    def __init__(
        self,
        selector: selectors.BaseSelector,
        directory: str,
        settings: Settings,
        node_id: str,
        incarnation: str,
        last_addresses: Mapping[str, Sequence[str]],
    ) -> None:
        """Read nodes.txt and the keys in `directory`, and wait until the names are looked up.

        `last_addresses` are those of each node when the checker last found its name.
        """
        self._directory = directory
        self._settings = settings
        self._node_id = node_id
        self._incarnation = incarnation
        self._found, self._finder = socket.socketpair()  # a byte for each look-up that has ended
        self._thread: threading.Thread | None = None  # of the look-up under way
        self._again = False  # another look-up was wanted while one was under way
        self._versions: dict[str, Version] = {}  # of the files that were read last
        self._waiting: list[tuple[str, Callable[[bool], None]]] = []
        self.keys = None
        selector.register(self._found, selectors.EVENT_READ, self._looked_up)
        self._changed_files()
        self._read_keys()
        self._problems: list[Problem] = []  # that were found in nodes.txt
        self._use(self._look_up(None, last_addresses))
        self._warn()

    def peer(self, name: str) -> Peer | None:
        """Return the peer `name`; one that is not known may be new, so nodes.txt is looked at."""
        for peer in self.cluster.peers:
            if peer.node.name == name:
                return peer
        self.refresh_if_due()
        return None

    def callers(self, address: str) -> dict[bytes, list[str]]:
        """Return the keys that a caller from `address` may show, each with the nodes that have it.

        A caller is only one of the nodes at its address. So the key of no other node is tried, and
        the work for a hello is bounded.
        """
        if self.keys is None:
            return {}
        return self.keys.callers(self._names_at.get(address, ()))

    def key_fault(self, address: str) -> str:
        """Return why this node has no key for a caller from `address`; empty if it has one."""
        if self.keys is None or self.callers(address):
            return ""
        return self.keys.fault(" or ".join(self._names_at.get(address, ())) or address)

    def judge(self, address: str, decided: Callable[[bool], None]) -> None:
        """Call `decided` with whether `address` is a node's, now or after the look-up under way."""
        is_node = address in self.admitted
        self.refresh_if_due(is_stranger=not is_node)
        if is_node or self._thread is None or len(self._waiting) >= _WAITING_LIMIT:
            decided(is_node)
        else:
            self._waiting.append((address, decided))

    def refresh_if_due(self, *, is_stranger: bool = False) -> None:
        """Read again what has changed; look names up again if the last time is a while ago.

        That is sooner if a name has no address, or if it `is_stranger` who calls.
        """
        is_resolved = all(peer.addresses for peer in self.cluster.peers)
        changed = self._changed_files()
        if not changed.isdisjoint(KEY_FILES):
            self._read_keys()
            self.log_keys()
        interval = _SOON_LOOKUP_SECONDS
        if is_resolved and not is_stranger:
            interval = _LOOKUP_SECONDS
        if _NODES_FILE in changed or clock.uptime() - self._looked > interval:
            self.refresh()

    def refresh(self) -> None:
        """Read nodes.txt again, and look its names up, in a thread."""
        self._looked = clock.uptime()
        if self._thread is not None:
            self._again = True
            return
        self._again = False
        self._thread = threading.Thread(target=self._look_up_in_thread, daemon=True)
        self._thread.start()

    def log_keys(self) -> None:
        """Log how many keys there are, of which a caller needs one; warn of nodes without one."""
        if self.keys is None:
            log.warning("no-key", reason=NO_KEY_RISK)
            return
        names = list(self.cluster.addresses)
        log.info("keys-read", keys=len(self.keys.callers(names)))
        if not self.keys.are_usable:
            return
        for name in names:
            fault = self.keys.fault(name)
            if fault:
                log.warning("no-key", peer=name, reason=fault)

    def _changed_files(self) -> set[str]:
        """Return the files that are other ones than when this was last called."""
        changed = set()
        for name in _FILES:
            version = self._version(name)
            if version != self._versions.get(name):
                changed.add(name)
            if version is None:
                self._versions.pop(name, None)
            else:
                self._versions[name] = version
        return changed

    def _version(self, name: str) -> Version | None:
        with contextlib.suppress(OSError):
            status = os.stat(f"{self._directory}/{name}")
            return (
                status.st_mtime_ns,
                status.st_ino,
                status.st_size,
                status.st_mode,
                status.st_uid,
            )
        return None

    def _read_keys(self) -> None:
        problems = Problems()
        keys = load_keys(self._directory, problems)
        log_problems(problems)
        had_keys = self.keys is not None and self.keys.are_usable
        has_keys = keys is not None and keys.are_usable
        if had_keys and not has_keys:
            log.error(
                "key-kept",
                reason="there is no usable key any more; the last one stays until a restart",
            )
        if has_keys or self.keys is None:
            self.keys = keys

    def _look_up_in_thread(self) -> None:
        try:
            self._next = self._look_up(self.cluster, self.cluster.addresses)
        finally:
            self._finder.send(b".")

    def _look_up(self, before: Cluster | None, last: Mapping[str, Sequence[str]]) -> Cluster:
        """Return the nodes of nodes.txt with their addresses; `last` has the last ones."""
        problems = Problems()
        nodes = load_nodes(self._directory, problems)
        if problems != self._problems:
            log_problems(problems)
        self._problems = problems
        if before and not nodes and problems:
            return before  # an unreadable nodes.txt shuts nobody out
        return resolve_cluster(nodes, self._settings, last)

    def _looked_up(self) -> None:
        """Use what the thread has found, and decide about those who waited for it."""
        self._found.recv(16)
        self._thread = None
        before = self.cluster
        self._use(self._next)
        if _gist(self.cluster) != _gist(before):
            log.info("nodes-read", name=self.greeting.name, peers=len(self.cluster.peers))
            self._warn()
        if self._again:
            self.refresh()
        waiting = self._waiting
        self._waiting = []
        for address, decided in waiting:
            decided(address in self.admitted)

    def _use(self, cluster: Cluster) -> None:
        self._looked = clock.uptime()
        self._next = cluster
        self.cluster = cluster
        self.names = cluster.my_names
        self.greeting = Greeting(cluster.me.name, self._node_id, self._incarnation)
        names_at: dict[str, list[str]] = {}
        for name, addresses in cluster.addresses.items():
            for address in addresses:
                names_at.setdefault(address, []).append(name)
        self.admitted = frozenset(names_at)
        self._names_at = {address: names[:_NAMES_LIMIT] for address, names in names_at.items()}

    def _warn(self) -> None:
        """Log which peers have no address, and which keep an earlier one."""
        for name in self.cluster.diverted:
            log.warning("diverted-peer", peer=name, reason=DIVERTED_REASON)
        for peer in self.cluster.peers:
            if not peer.addresses:
                log.warning("unresolved", peer=peer.node.name, reason=peer.reason)


def _gist(cluster: Cluster) -> object:
    """Return what is worth a line in the log when it changes.

    In which order a resolver names the addresses is not, nor why it names none.
    """
    addresses = {name: frozenset(found) for name, found in cluster.addresses.items()}
    peers = [peer.node for peer in cluster.peers]
    return cluster.me, cluster.my_names, peers, addresses, cluster.diverted
