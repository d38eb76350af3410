"""Ask a node one question, as its peers do, with whatever keys."""

from __future__ import annotations

import selectors
import time

from dmonitor.config import resolve
from dmonitor.config.cluster import Peer
from dmonitor.config.keyfile import Keys
from dmonitor.config.settings import Settings
from dmonitor.core.model import Answer, Node, Test
from dmonitor.net import peers


def ask(test: Test, name: str, target: str, *, source: str, port: int, keys: Keys | None) -> Answer:
    """Return what the node `name` at the address `target` answers about `test`, asked from `source`."""
    with selectors.DefaultSelector() as selector:
        peer = Peer(Node(name, name), (resolve.parse_address(target),))
        settings = Settings(listen=(source,), port=port)
        asker = peers.Asker(selector, [peer], "own0own0", settings, keys)
        asker.ask(test)
        deadline = time.monotonic() + 10
        while asker.pending and time.monotonic() < deadline:
            for ready, _ in selector.select(asker.pause()):
                ready.data()
            asker.tick()
        (found,) = asker.answers(test)
        asker.close()
    return found
