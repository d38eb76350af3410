"""Digests by which nodes see whether they have the same tests, nodes and addresses.

Pure: text in, hexadecimal digits out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from dmonitor.core.model import Node


def digest(things: Iterable[object]) -> str:
    """Return 16 hexadecimal digits that are the same only for the same THINGS, in whatever order."""
    return str(
        hashlib.sha256("".join(sorted(f"{thing}\n" for thing in things)).encode()).hexdigest()
    )[:16]


def digest_nodes(nodes: Iterable[Node]) -> str:
    """Return the digest of the lines of nodes.txt."""
    return digest(f"{node.name} {node.site}" for node in nodes)
