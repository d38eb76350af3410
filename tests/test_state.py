"""What is stored: it comes back as it was, in one piece or not at all."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmonitor import state, verdict
from dmonitor.incident import Step, advance
from dmonitor.model import Answer, Incident, Kind, Node, Outcome, Result, Standing, Test, Verdict
from dmonitor.state import State, StateError

TEST = Test("www.example.com", "http")


@pytest.fixture(autouse=True)
def close_all(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close whatever a test opened."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **named: opened.append(connect(*args, **named)) or opened[-1])
    yield
    for connection in opened:
        connection.close()


def step(now: float, seen: Outcome, opened: Incident | None = None, test: Test = TEST) -> Step:
    own = Answer(Node("oslo", "oslo"), "a" * 24, Result(seen, "täxt", 0.5))
    peers = [Answer(Node("paris", "fr"), "b" * 24, Result(seen), 1.5), Answer(Node("rome", "rome"), reason="timed out")]
    judged = verdict.decide(own, peers, 2, incident_open=opened is not None)
    return advance(test, Standing(), opened, judged, confirm=1, now=now, fresh_id=state.fresh_id())


def record(store: State, *steps: Step, addresses: tuple[str, ...] = ("root",), now: float = 0.0) -> None:
    store.record(steps, addresses, (), (), now)


def test_an_incident_comes_back_as_it_was(tmp_path: Path) -> None:
    opened = step(1000.5, Outcome.FAIL)
    store = State(tmp_path)
    record(store, opened, now=1000.5)
    again = State(tmp_path)
    assert again.open_incidents() == {TEST: opened.incident}
    assert again.standings() == {TEST: Standing(Verdict.DOWN, Outcome.FAIL, 1000.5, 1)}
    (owed,) = again.outbox()
    assert (owed.kind, owed.incident, owed.address, owed.since, owed.refusals) == (Kind.ALERT, opened.incident, "root", 1000.5, 0)


def test_told_is_told_once_for_each_address(tmp_path: Path) -> None:
    store = State(tmp_path)
    opened = step(0.0, Outcome.FAIL)
    record(store, opened, addresses=("a@x", "b@x"))
    first, second = store.outbox()
    store.told([first], 5.0)
    store.attempt([second])
    assert [(owed.address, owed.refusals) for owed in store.outbox()] == [("b@x", 1)]
    record(store, step(60.0, Outcome.FAIL, opened.incident), addresses=("a@x", "b@x"), now=60.0)
    assert len(store.outbox()) == 1, "a round that changes nothing owes nothing"
    store.owe_untold(("a@x", "b@x", "c@x"), 60.0)
    assert len(store.outbox()) == 1, "it was told to somebody"


def test_recovery_is_owed_where_the_alert_was_told_or_is_owed(tmp_path: Path) -> None:
    store = State(tmp_path)
    opened = step(0.0, Outcome.FAIL)
    record(store, opened, addresses=("a@x",))
    closed = step(60.0, Outcome.OK, opened.incident)
    assert closed.owes is Kind.RECOVERY
    record(store, closed, addresses=("a@x", "b@x"), now=60.0)
    assert [(owed.kind, owed.address) for owed in store.outbox()] == [(Kind.ALERT, "a@x"), (Kind.RECOVERY, "a@x")]
    assert store.open_incidents() == {}


def test_an_incident_nobody_was_told_of_owes_no_recovery(tmp_path: Path) -> None:
    store = State(tmp_path)
    opened = step(0.0, Outcome.FAIL)
    record(store, opened, addresses=())
    record(store, step(60.0, Outcome.OK, opened.incident), addresses=("a@x",), now=60.0)
    assert store.outbox() == []


def test_an_address_that_comes_later_is_told(tmp_path: Path) -> None:
    store = State(tmp_path)
    record(store, step(0.0, Outcome.FAIL), addresses=())
    assert store.outbox() == []
    store.owe_untold((), 60.0)
    store.owe_untold(("a@x",), 60.0)
    store.owe_untold(("a@x",), 120.0)
    assert [(owed.kind, owed.address, owed.since) for owed in store.outbox()] == [(Kind.ALERT, "a@x", 60.0)]


def test_a_removed_test_owes_nothing_and_is_forgotten(tmp_path: Path) -> None:
    store = State(tmp_path)
    opened = step(0.0, Outcome.FAIL)
    record(store, opened)
    assert opened.incident
    store.record((), (), [dataclasses.replace(opened.incident, closed=9.0, removed=True)], [TEST], 9.0)
    assert (store.outbox(), store.open_incidents(), store.standings()) == ([], {}, {})


def test_one_transaction_or_nothing(tmp_path: Path) -> None:
    """The second incident of the same test breaks a constraint: the first must not stay behind, nor its mail."""
    store = State(tmp_path)
    with pytest.raises(StateError):
        record(store, step(0.0, Outcome.FAIL), step(0.0, Outcome.FAIL))
    assert (store.outbox(), store.open_incidents(), store.standings()) == ([], {}, {})
    record(store, step(0.0, Outcome.FAIL))


def test_commits_are_synced(tmp_path: Path) -> None:
    store = State(tmp_path)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_broken_database_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StateError, match=r"state\.db"):
        State(tmp_path)
    assert (tmp_path / "state.db").read_bytes().startswith(b"not a database")


def test_a_newer_database_is_left_alone(tmp_path: Path) -> None:
    with State(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="newer dmonitor"):
        State(tmp_path)


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        State(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []
    with State(tmp_path):
        pass
    reader = State(tmp_path, read_only=True)
    assert reader.open_incidents() == {}
    with pytest.raises(StateError, match="readonly"):
        record(reader, step(0.0, Outcome.FAIL))


def test_node_id_is_made_once(tmp_path: Path) -> None:
    made = state.node_id(tmp_path)
    assert len(made) == 24
    assert state.node_id(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["node-id"]
    assert state.node_id(tmp_path / ".") == made


def test_two_that_make_it_at_once_agree(tmp_path: Path) -> None:
    pipe_out, pipe_in = os.pipe()
    for _ in range(8):
        if os.fork() == 0:
            os.write(pipe_in, state.node_id(tmp_path).encode() + b"\n")
            os._exit(0)
    os.close(pipe_in)
    with open(pipe_out) as answers:
        assert len(set(answers.read().split())) == 1
    for _ in range(8):
        os.wait()


def test_a_strange_node_id_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node-id").write_text("hello world\n")
    with pytest.raises(StateError, match="not a node id"):
        state.node_id(tmp_path)
