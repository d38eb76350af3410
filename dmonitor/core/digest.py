"""Make digests by which nodes see whether they have the same tests, nodes and addresses.

Pure: text in, hexadecimal digits out. What a different digest means is for `health` to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from dmonitor.core.model import Node


def digest(things: Iterable[object]) -> str:
    """Return 16 hexadecimal digits that depend on `things`, and not on their order."""
    lines = sorted(f"{thing}\n" for thing in things)
    text = "".join(lines)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_nodes(nodes: Iterable[Node]) -> str:
    """Return the digest of the lines of nodes.txt."""
    return digest(f"{node.name} {node.site}" for node in nodes)
