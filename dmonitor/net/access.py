"""Who is let in at the daemon's port: the addresses of the nodes, and the keys (rule R8); and who greets them there.

Names are looked up again when that may help, without anybody waiting for it. What was good last stays, where what is there now
cannot be used. Who comes is `server`'s business.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

from dmonitor.base import log
from dmonitor.config import cluster, keyfile
from dmonitor.config.nodes import load_nodes
from dmonitor.config.problems import Problems, log_problems
from dmonitor.config.settings import Settings
from dmonitor.net import protocol

_LOOK_EVERY = 300.0  # seconds between two looks at the nodes' names because somebody came
_LOOK_EVERY_UNRESOLVED = 10.0  # the same, while a name has no address
_WAITING = 64  # strangers that may wait for a look
_FILES = ("nodes.txt", *keyfile.KEY_FILES)


class Door:
    """The addresses `admitted`, the `names` of this node, and the `keys` of which a caller must show one.

    `around` has the nodes. They are those of DIRECTORY, looked up from within SELECTOR's loop. `greeting` is who answers here:
    the node NODE_ID, as they call it, in its run RUN.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        directory: str,
        settings: Settings,
        node_id: str,
        run: str,
    ) -> None:
        self._directory, self._settings, self._node_id, self._run = (
            directory,
            settings,
            node_id,
            run,
        )
        self._found, self._finder = socket.socketpair()
        self._thread: threading.Thread | None = None
        self._versions: dict[str, tuple[int, ...]] = {}
        self._again = False  # somebody wanted a look while one was under way
        self._waiting: list[tuple[str, Callable[[bool], None]]] = []
        self.keys: keyfile.Keys = None
        selector.register(self._found, selectors.EVENT_READ, self._arrived)
        self._changed()
        self._read_keys()
        self._next = self._look_around(None)
        self._admit()

    def peer(self, name: str) -> cluster.Peer | None:
        """Return the peer NAME; one that is asked for and not known may be new."""
        found = next((peer for peer in self.around.peers if peer.node.name == name), None)
        if not found:
            self.knock()
        return found

    def judge(self, address: str, then: Callable[[bool], None]) -> None:
        """Call THEN with whether ADDRESS is a node's; one that is none waits for the look that is under way, or due."""
        self.knock()
        if address in self.admitted or not self._thread or len(self._waiting) >= _WAITING:
            then(address in self.admitted)
        else:
            self._waiting.append((address, then))

    def knock(self) -> None:
        """Note that somebody came: look again if a file has changed, or the last look was a while ago."""
        resolved = all(peer.addresses for peer in self.around.peers)
        changed = self._changed()
        if not changed.isdisjoint(keyfile.KEY_FILES):
            self._read_keys()
            self.note_keys()
        if "nodes.txt" in changed or time.monotonic() - self._looked > (
            _LOOK_EVERY if resolved else _LOOK_EVERY_UNRESOLVED
        ):
            self.look()

    def _changed(self) -> set[str]:
        """Return which files are others than when this was last asked."""
        before, self._versions = self._versions, {}
        for name in _FILES:
            with contextlib.suppress(OSError):
                status = os.stat(f"{self._directory}/{name}")
                self._versions[name] = (
                    status.st_mtime_ns,
                    status.st_ino,
                    status.st_size,
                    status.st_mode,
                    status.st_uid,
                )
        return {name for name in _FILES if before.get(name) != self._versions.get(name)}

    def _read_keys(self) -> None:
        problems = Problems()
        keys = keyfile.load_keys(self._directory, problems)
        log_problems(problems)
        if self.keys and not keys:
            log.error(
                "key-kept",
                reason="there is no key that can be used any more; the last one stays until a restart",
            )
        self.keys = keys if keys or self.keys is None else self.keys

    def note_keys(self) -> None:
        """Log whether anybody needs a key."""
        if self.keys is None:
            log.warning("no-key", reason=keyfile.NO_KEY_RISK)
        else:
            log.info("keys-read", keys=len(self.keys))

    def look(self) -> None:
        """Read nodes.txt and look its names up, in a thread of its own."""
        self._looked = time.monotonic()
        self._again = self._thread is not None
        if not self._again:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        try:
            self._next = self._look_around(self.around)
        finally:
            self._finder.send(b".")

    def _look_around(self, before: cluster.Cluster | None) -> cluster.Cluster:
        problems = Problems()
        nodes = load_nodes(self._directory, problems)
        log_problems(problems)
        if before and not nodes and problems:
            return before  # an unreadable nodes.txt shuts nobody out
        return cluster.resolve_cluster(nodes, self._settings, before.addresses if before else {})

    def _arrived(self) -> None:
        self._found.recv(16)
        self._thread = None
        self._admit()
        log.info("nodes-read", name=self.greeting.name, peers=len(self.around.peers))
        if self._again:
            self.look()
        waiting, self._waiting = self._waiting, []
        for address, then in waiting:
            then(address in self.admitted)

    def _admit(self) -> None:
        self._looked = time.monotonic()
        self.around = self._next
        self.names = self.around.my_names
        self.greeting = protocol.Greeting(self.around.me.name, self._node_id, self._run)
        self.admitted = frozenset(
            address for addresses in self.around.addresses.values() for address in addresses
        )
        for peer in self.around.peers:
            if not peer.addresses:
                log.warning("unresolved", peer=peer.node.name, reason=peer.reason)
