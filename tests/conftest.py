"""Fixtures that several test files use."""

from __future__ import annotations

import contextlib
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_nodes import LocalNode, Place


@pytest.fixture
def place() -> Iterator[Place]:
    """Return a directory that all users may read, with the programs in it."""
    with tempfile.TemporaryDirectory(prefix="dmonitor-test.") as directory:
        yield Place(Path(directory))


@pytest.fixture
def port() -> int:
    """Return a free TCP port that no outgoing connection gets by chance before a test listens there."""
    for candidate in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", candidate))
            return candidate
    raise OSError("no free port")


@pytest.fixture
def three(place: Place, port: int) -> list[LocalNode]:
    """Return three nodes that list each other and share a key; the first has an address to mail."""
    addresses = ["127.0.0.31", "127.0.0.32", "127.0.0.33"]
    nodes = [LocalNode(place, address, addresses, port=port) for address in addresses]
    nodes[0].mail()
    for node in nodes:
        node.key("k" * 32)
    return nodes


@pytest.fixture(autouse=True)
def show_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log to stderr, because pytest shows that if a test fails."""
    monkeypatch.setattr("dmonitor.base.log._to_stderr", True)
