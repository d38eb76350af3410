"""What the daemon's node knows: how much memory it takes to say it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmonitor.core.effects import NodeMemory, Save
from dmonitor.core.model import Incident, Test, TestState
from dmonitor.core.result import MISTAKEN
from dmonitor.facts import NodeFacts
from dmonitor.net import protocol
from dmonitor.net.protocol import Greeting
from dmonitor.store import state

INCIDENTS = 6_000  # more than a statement holds
OPEN = Test("www.example.com", "open")
OVER = Test("www.example.com", "over")


class FakeAccess:
    greeting = Greeting("oslo", "0123456789ab")


@pytest.fixture
def node(tmp_path: Path) -> NodeFacts:
    """Return a node that knows many incidents, of which the last one is open."""
    nothing: Any = None
    access: Any = FakeAccess()
    (tmp_path / "hosts.d").mkdir()
    with state.Store(str(tmp_path)) as store:
        now = store.clock.now()
        over = Incident((), OVER, now - 100, closed=now - 50)
        incidents = [over._replace(ids=(f"{number:08}",)) for number in range(INCIDENTS)]
        incidents.append(Incident(("aaaaaaaa",), OPEN, now))
        store.save(Save(NodeMemory(finished=now), incidents=tuple(incidents)))
    return NodeFacts(nothing, nothing, str(tmp_path), str(tmp_path), None, nothing, access)


def test_a_test_that_cannot_be_read_any_more_is_still_one_of_its_tests(
    node: NodeFacts, tmp_path: Path
) -> None:
    """The checker says the same, from the same memory: who speaks depends on who has a test."""
    with state.Store(str(tmp_path)) as store:
        store.save(Save(test_states={OPEN: TestState(), OVER: TestState()}))
    (tmp_path / "hosts.d").rmdir()
    assert node.tests() == {OPEN: None, OVER: None} and node.has(OPEN)
    answers: list[Any] = []
    node.run(OPEN, lambda test, result: answers.append(result))
    assert answers == [MISTAKEN]


def peak(call: Callable[[], object]) -> int:
    """Return how many bytes of Python's were in use at most while `call` ran, more than before."""
    call()  # so that what is made once is there
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_statement_takes_no_more_memory_than_its_lines(node: NodeFacts) -> None:
    """How many incidents a node knows is decided by its peers."""
    lines = node.statement().splitlines()
    size = sum(map(len, lines))
    assert protocol.STATED_BYTES * 0.9 < size <= protocol.STATED_BYTES + len(b"end")
    assert b'"aaaaaaaa"' in lines[1] and len(lines) < INCIDENTS  # the most urgent comes first
    assert peak(node.statement) < 6 * protocol.STATED_BYTES


def test_a_question_takes_no_memory_for_what_is_known(
    node: NodeFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmonitor.facts._VIEW_SECONDS", -1.0)
    assert not node._is_looked_at_again(OPEN) and node._is_looked_at_again(OVER)
    assert peak(lambda: node._is_looked_at_again(OPEN)) < 200_000
