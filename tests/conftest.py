"""Fixtures that several test files use."""

from __future__ import annotations

import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import calls
import pytest
from hypothesis import HealthCheck, settings
from local_nodes import LocalNode, Place
from patches import watched

# A machine that is busy with something else is slow, and that is no fault of a test.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
# For `tests/run --quick`. Of few examples too many may be too large by chance.
settings.register_profile(
    "quick",
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mix the tests, always in the same way, if xdist hands them out.

    It hands out many at once. In the order of the files, one worker gets most of those that wait. The cases of
    one function stay together, because some of them share a costly fixture. Those of the simulator share none,
    and take seconds each: together, they would keep one worker at work for minutes after the others.
    """

    def place(item: pytest.Item) -> int:
        is_simulation = item.path.parent.name == "simulation"
        name = item.nodeid if is_simulation else item.nodeid.partition("[")[0]
        return zlib.crc32(name.encode())

    if hasattr(config, "workerinput"):
        items.sort(key=place)


@pytest.fixture
def place() -> Iterator[Place]:
    """Return a directory that all users may read, with the programs in it."""
    with tempfile.TemporaryDirectory(prefix="dmonitor-test.") as directory:
        yield Place(Path(directory))


@pytest.fixture
def port() -> int:
    """Return a free TCP port that nobody gets by chance before a test listens there."""
    return calls.free_port()


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


@pytest.fixture(autouse=True)
def patches_are_read(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that has patched something which nobody has read since then.

    What a fixture patches serves several tests, and need not be read by each of them.
    """
    older = set(threading.enumerate())
    for name in request.fixturenames:
        if name != "patches_are_read":
            request.getfixturevalue(name)
    with watched(older) as watch:
        yield
    unread = watch.unread()
    assert not unread, "what is patched here is used nowhere, so the test shows nothing"
