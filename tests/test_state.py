"""The state: a save comes back whole or not at all, and a state that cannot be written stops no round (R4, R6)."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmonitor.base.errors import StateError
from dmonitor.core import codec, hearsay
from dmonitor.core.effects import NodeMemory, Save
from dmonitor.core.model import (
    Acknowledgement,
    Answer,
    Change,
    Circle,
    Handing,
    Incident,
    Judgement,
    Kind,
    LastLook,
    Node,
    NodeStatus,
    Notification,
    Outcome,
    RefusedAddress,
    Result,
    Silence,
    Test,
    TestState,
    Verdict,
)
from dmonitor.execution import delivery, keeper
from dmonitor.store import database, history, identity, node_clock, state, tables
from dmonitor.store.state import Store

TEST = Test("www.example.com", "http")
NOW = float(int(time.time()))


def open_store(
    directory: Path | str, run_dir: Path | str | None = None, *, read_only: bool = False
) -> Store:
    return Store(str(directory), None if run_dir is None else str(run_dir), read_only=read_only)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[sqlite3.Connection]]:
    """Close all connections that a test opened."""
    connections: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def connect_and_note(*args: Any, **named: Any) -> sqlite3.Connection:
        connections.append(connect(*args, **named))
        return connections[-1]

    monkeypatch.setattr(sqlite3, "connect", connect_and_note)
    yield connections
    for connection in connections:
        connection.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory, for the stand-in."""
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


JUDGED = Judgement(
    Verdict.DOWN,
    2,
    (
        Answer(Node("oslo", "no"), "a" * 24, Result(Outcome.FAIL, "täxt", 0.5)),
        Answer(Node("paris", "fr"), "b" * 24, Result(Outcome.TIMEOUT), 1.5),
        Answer(Node("rome", "rome"), reason="timed out"),
    ),
)


def named(word: str) -> str:
    """Return an id that may be an incident's and that a test calls `word`."""
    return word.ljust(8, "z")


def known(*words: str, **facts: Any) -> Incident:
    ids = tuple(map(named, words))
    return Incident(**{"ids": ids, "test": TEST, "began": NOW - 100.0, "held": NOW - 50.5, **facts})


RICH = known(
    "b",
    "c",
    opening=JUDGED,
    failed=(("fr", NOW - 9.5), ("no", NOW)),
    alert="oslo",
    reminded=2,
    void=True,
)
HEARD = (
    NodeStatus(
        "rome",
        "r" * 24,
        NOW,
        5,
        finished=NOW - 7.0,
        speaks=True,
        stores=False,
        refused=2,
        tests="d" * 16,
    ),
)
OWN = NodeMemory((NOW - 60.0, NOW), NOW + 9.0, 3, True, (*HEARD, NodeStatus("new", "n" * 24, NOW)))


def test_all_comes_back_as_it_was(tmp_path: Path) -> None:
    closed = known(
        "a",
        test=Test("www.example.com", "ssh"),
        closed=NOW - 5.0,
        closing=JUDGED,
        flapping=7,
        recovery="x",
        alert="y",
    )
    look = LastLook(NOW - 3600.0, Result(Outcome.TIMEOUT, "no answer", 10.0), "0123456789abcdef")
    test_states = {
        TEST: TestState(Verdict.DOWN, Outcome.TIMEOUT, NOW, look),
        closed.test: TestState(),
    }
    left = Notification(Kind.ALERT, RICH, "root", NOW, 2)
    said = {
        "rome": (Silence("www.example.com", "http", NOW + 60.0), Silence("www.example.com")),
        "paris": (),
    }
    with open_store(tmp_path) as store:
        assert store.save(
            Save(OWN, test_states, incidents=(RICH, closed), outbox=(left,), silences=said)
        )
        assert store.failed == ""
    with open_store(tmp_path) as store:
        books = store.memory()
        assert (books.node, books.test_states, books.silences, books.outbox) == (
            OWN,
            test_states,
            said,
            [left],
        )
        assert sorted(books.incidents, key=lambda each: each.id) == [closed, RICH]
        assert store.node_memory() == OWN


def test_what_is_handed_over_outlives_a_round_and_an_upgrade(tmp_path: Path) -> None:
    """An earlier version leaves the fields out, and passes over those of a later one."""
    handing = Handing(NOW, ("root",), (("aaaaaaaa", Kind.ALERT),))
    refused = RefusedAddress("root", NOW - 60.0, NOW)
    new: dict[str, Any] = {
        "handing": (handing,),
        "refused_addresses": (refused,),
        "refused_at": NOW,
    }
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN))
        (text,) = store._db.execute("SELECT value FROM memo WHERE key = 'own'").fetchone()
    assert not new.keys() & json.loads(json.loads(text)).keys(), "as an earlier version writes it"
    with open_store(tmp_path) as store:
        assert store.node_memory() == OWN
        store.save(Save(node=OWN._replace(**new)))
    assert open_store(tmp_path).node_memory() == OWN._replace(**new)


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    books = open_store(tmp_path).memory()
    assert (books.node, books.test_states, books.silences, books.outbox, books.incidents) == (
        NodeMemory(),
        {},
        {},
        [],
        [],
    )
    assert list(books.recall(["a"])) == []


_times = st.floats(0, 2e9)
_names = st.sampled_from(("oslo", "rome", "node.example.com", ""))
_circles = st.builds(
    Circle,
    st.sampled_from(("0" * 16, "1" * 16)),
    _times,
    _names,
    _names,
    _names,
    st.integers(0, 99),
    st.booleans(),
    _times,
    st.integers(0, 99),
    _names,
    _names,
)
_incidents = st.builds(
    Incident,
    st.sets(st.integers(0, 2**32), min_size=1, max_size=4).map(lambda ids: tuple(sorted(f"{each:08x}" for each in ids))),
    st.just(TEST),
    _times,
    st.sampled_from((None, JUDGED)),
    st.lists(st.tuples(_names, _times), max_size=3).map(tuple),
    st.none() | _times,
    st.sampled_from((None, JUDGED)),
    st.integers(0, 99),
    _names,
    _names,
    st.integers(0, 99),
    st.booleans(),
    _times,
    st.booleans(),
    overtaken=st.booleans(),
    again=st.integers(0, 99),
    told_at=_times,
    minute=st.integers(0, 10**8),
    seen=_times,
    handing=_times,
    heard_from=st.just(""),  # hearsay that is over is forgotten
    relayed_by=st.just(""),
    acknowledged=st.none() | _times,
    acknowledgement=st.sampled_from(("", "anna: disk")),
    ack=_names,
    silenced=st.sampled_from(("", "on oslo")),
    alert_stated_by=_names,
    recovery_stated_by=_names,
    circles=st.lists(_circles, max_size=2, unique_by=lambda circle: circle.name).map(tuple),
    circle=st.just(""),  # of a view, which is not stored
)  # fmt: skip


@given(_incidents)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
def test_any_incident_comes_back_by_any_of_its_ids(what: Incident) -> None:
    with tempfile.TemporaryDirectory() as directory, open_store(Path(directory)) as store:
        store.save(Save(incidents=(what,)))
        assert all(store.recall([known]) == [what] for known in what.ids)
        assert store.recall([*what.ids, "nobody"]) == [what]


def test_of_the_incidents_those_that_still_matter_are_read(tmp_path: Path) -> None:
    now, told = open_store(tmp_path).clock.now(), {"alert": "x", "recovery": "x"}
    matter = {
        "open": known("open"),
        "owing": known("owing", closed=now - 90_000.0, alert="x"),
        "lately": known("lately", closed=now - 3500.0, **told),
        "toldlate": known(
            "toldlate", closed=now - 90_000.0, held=now - 3500.0, **told
        ),  # others have to hear of that
    }
    over = (
        known("over", closed=now - 3700.0, held=now - 3700.0, **told),
        known("void", closed=now - 3700.0, held=now - 3700.0, void=True),
        known("removed", closed=now, removed=True),
    )
    with open_store(tmp_path) as store:
        store.save(Save(incidents=(*matter.values(), *over)))
        assert {each.id.rstrip("z"): each for each in store.incidents()} == matter
        assert [
            each.id.rstrip("z") for each in store.recall(map(named, ("over", "void", "removed")))
        ] == ["over", "void", "removed"], "kept for good"


def test_incidents_that_are_united_are_one_row_and_so_is_what_is_owed_for_them(
    tmp_path: Path,
) -> None:
    a, b, c = known("a"), known("b"), known("c")
    owed = [
        Notification(Kind.ALERT, each, "root", NOW, number) for number, each in enumerate((a, b))
    ]
    with open_store(tmp_path) as store:
        store.save(
            Save(incidents=(a, b, c), outbox=(*owed, Notification(Kind.ALERT, b, "other", NOW, 5)))
        )
        united = known("a", "b", "d", began=NOW - 200.0)
        store.save(Save(incidents=(united,)))
        assert sorted(store.incidents(), key=lambda each: each.id) == [united, c]
        assert [store.recall([named(each)]) for each in ("a", "b", "d")] == [[united]] * 3
        left = store.memory().outbox
        assert sorted((each.address, each.incident) for each in left) == [
            ("other", united),
            ("root", united),
        ]
        store.save(Save(settled=tuple(left)))
        assert store.memory().outbox == []


def test_what_is_settled_or_gone_is_forgotten(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        left = [Notification(Kind.ALERT, RICH, address, NOW) for address in ("one", "two")]
        store.save(Save(incidents=(RICH,), test_states={TEST: TestState()}, outbox=tuple(left)))
        store.save(Save(settled=(left[0],), gone=frozenset([TEST])))
        assert (store.memory().outbox, store.memory().test_states) == ([left[1]], {})
        store.save(Save(outbox=(left[1]._replace(refusals=1),)))
        assert [each.refusals for each in store.memory().outbox] == [1]


def test_one_transaction_or_nothing(tmp_path: Path) -> None:
    """A time that is none breaks a constraint: nothing that was saved with it may stay."""
    store = open_store(tmp_path)
    with pytest.raises(StateError):
        store.save(
            Save(
                OWN,
                {TEST: TestState()},
                incidents=(RICH,),
                outbox=(Notification(Kind.ALERT, RICH, "root", None),),  # type: ignore[arg-type]
            )
        )
    with open_store(tmp_path) as again:
        assert (again.memory().node, again.incidents(), again.memory().test_states) == (
            NodeMemory(),
            [],
            {},
        )


def test_commits_are_synced(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_addresses_and_lookups_are_remembered(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.remember(["b@x", "a@x"], {"rome": ["192.0.2.2", "192.0.2.1"]})
        assert store.addresses(["c@x", "a@x"]) == ("a@x", "b@x", "c@x")
        assert store.lookups() == {"rome": ("192.0.2.1", "192.0.2.2")}
        changes = store._db.total_changes
        store.remember(["a@x", "b@x"], {"rome": ["192.0.2.1", "192.0.2.2"]})
        assert store._db.total_changes == changes, "only what is new is written"


# The clock.


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> dict[str, float | str]:
    """What the kernel tells: the id of this boot, the seconds since it, and the wall clock's time."""
    kernel: dict[str, float | str] = {"id": "one", "up": 1000.0, "wall": NOW}
    monkeypatch.setattr(node_clock, "boot_id", lambda: kernel["id"])
    monkeypatch.setattr(time, "clock_gettime", lambda _: kernel["up"])
    monkeypatch.setattr(time, "time", lambda: kernel["wall"])
    return kernel


def test_nobody_can_set_the_clock(tmp_path: Path, boot: dict[str, float]) -> None:
    with open_store(tmp_path) as store:
        assert store.clock.now() == NOW
        store.save(Save(node=OWN))
    boot |= {"up": 1060.0, "wall": NOW - 9_999.0}
    with open_store(tmp_path) as store:
        assert store.clock.now() == NOW + 60.0
        assert store.clock.to_wall() == pytest.approx(-10_059.0)
        silence = store.clock.from_wall(Silence("h", until=NOW - 9_000.0))
        assert silence._replace(until=None) == Silence("h")
        assert silence.until == pytest.approx(NOW + 1059.0, abs=0.01)
        assert store.clock.from_wall(Silence("h")) == Silence("h")
        since = store.clock.from_wall(Silence("h", since=NOW - 10_059.0)).since
        assert since == pytest.approx(NOW, abs=0.01)
        written = store.clock.acknowledged_from_wall(Acknowledgement("h", "", NOW - 10_059.0))
        assert written.written == pytest.approx(NOW, abs=0.01)


@pytest.mark.parametrize(
    ("wall", "now"), [(NOW + 600.0, NOW + 600.0), (0.0, NOW + 9.0)], ids=["on", "back"]
)
def test_it_does_not_go_back_over_a_reboot(
    tmp_path: Path, boot: dict[str, float | str], wall: float, now: float
) -> None:
    """A machine without a battery wakes up in 1970, but it remembers when its last round ended."""
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN))  # finished 9 s after NOW
    boot |= {"id": "two", "up": 5.0, "wall": wall}
    with open_store(tmp_path) as store:
        assert store.clock.now() == pytest.approx(now, abs=0.01)
        store.save(Save(node=OWN))
    boot |= {"up": 6.0, "wall": 0.0}
    with open_store(tmp_path) as store:
        assert store.clock.now() == pytest.approx(now + 1.0, abs=0.01)


YEARS = 20 * 365 * 86400.0
PASSED = Result(Outcome.OK, "fine")


def test_what_a_boot_with_a_wrong_wall_clock_stored_comes_back(
    tmp_path: Path, boot: dict[str, float | str]
) -> None:
    """The wall clock is 20 years ahead at a boot, and is set right a minute later."""
    before, after = known("before", began=NOW, seen=NOW, held=NOW, minute=10), named("after")
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN, incidents=(before,), changes=(Change(TEST, NOW, JUDGED),)))
    boot |= {"id": "two", "up": 5.0, "wall": NOW + YEARS}
    with open_store(tmp_path) as store:
        now = store.clock.now()
        assert now == NOW + YEARS and not store.clock.seconds_ahead()
        minute = 10 + round(YEARS / 60)
        opened = known("after", began=now, seen=now, held=now, minute=minute)
        closed = before._replace(closed=now, held=now, told_at=now, alert="oslo")
        store.save(
            Save(
                node=OWN._replace(begins=(NOW, now), finished=now + 9.0),
                incidents=(closed, opened),
                outbox=(Notification(Kind.ALERT, closed, "root", now),),
                told=(Notification(Kind.ALERT, closed, "ops", now),),
                changes=(Change(TEST, now, JUDGED),),
                test_states={TEST: TestState(Verdict.UP, since=now, look=LastLook(now, PASSED))},
                silences={"rome": (Silence("h", until=now + 50.0),)},
            )
        )
        assert len(store.history.changes()) == 2, "nothing is old because of that"
    boot |= {"up": 65.0, "wall": NOW + 660.0}
    with open_store(tmp_path) as store:
        assert store.clock.now() == NOW + 660.0
        at = NOW + 600.0  # when what was stored since the boot was stored
        memory = store.memory()
        assert memory.node.begins == (NOW, at) and memory.node.finished == at + 9.0
        incidents = {incident.id: incident for incident in memory.incidents}
        assert incidents[before.id] == closed._replace(closed=at, held=at, told_at=at)
        assert incidents[after] == opened._replace(began=at, seen=at, held=at, minute=20)
        (owed,) = memory.outbox
        assert (owed.since, owed.incident) == (at, incidents[before.id])
        assert memory.test_states[TEST] == TestState(
            Verdict.UP, since=at, look=LastLook(at, PASSED)
        )
        assert memory.silences == {"rome": (Silence("h", until=at + 50.0),)}
        assert [change.at for change in store.history.changes()] == [NOW, at]
        assert [handed.at for handed in store.history.handed()] == [at]
    boot |= {"id": "three", "up": 5.0, "wall": NOW + 700.0}
    with open_store(tmp_path, read_only=True) as store:
        assert store.clock.now() == NOW + 700.0


def test_the_outcome_of_a_hand_over_is_found_although_its_time_moves(
    tmp_path: Path, boot: dict[str, float | str]
) -> None:
    """It is under way when the wall clock, 20 years ahead at the boot, is set right."""
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN))
    boot |= {"id": "two", "up": 5.0, "wall": NOW + YEARS}
    places = keeper.Places([str(tmp_path)])
    with open_store(tmp_path) as store:
        now = store.clock.now()
        handing = Handing(now, ("root",), (("aaaaaaaa", Kind.ALERT),), state.fresh_id())
        store.save(Save(node=OWN._replace(finished=now, handing=(handing,))))
        file = places.create(handing.known_as, 100)
        os.write(file, b'["root", true, "later"]\n')
        os.close(file)
    boot |= {"up": 65.0, "wall": NOW + 660.0}
    with open_store(tmp_path) as store:
        (moved,) = store.node_memory().handing
        assert store.clock.now() - moved.since == 60.0, "it goes on for a minute, and not for years"
        assert moved.since < handing.since and moved == handing._replace(since=moved.since)
    outcomes = keeper.look_after(places, moved.known_as, moved.addresses)
    assert outcomes == {"root": delivery.Delivery(True, "later")}
    places.forget({moved.known_as})
    assert places.open(handing.known_as) is not None, "it is kept until its outcome is stored"


def test_a_hand_over_of_the_last_version_is_known_by_its_time() -> None:
    written = '{"since":1700000000.25,"addresses":["root"],"notifications":[["aaaaaaaa","alert"]]}'
    handing = codec.read(Handing, written, limit=codec.TIME_LIMIT)
    assert handing.known_as == "1700000000.250000" and not handing.name
    with pytest.raises(ValueError):
        codec.load(Handing, {**json.loads(written), "name": "../../etc/passwd"})


def test_it_comes_back_although_another_boot_came_between(
    tmp_path: Path, boot: dict[str, float | str]
) -> None:
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN))
    for number, wall in enumerate((NOW + YEARS, NOW + YEARS + 90.0), 2):
        boot |= {"id": f"{number}", "up": 5.0, "wall": wall}
        with open_store(tmp_path) as store:
            assert store.clock.now() == wall
            store.save(Save(node=OWN._replace(finished=wall)))
    boot |= {"id": "four", "up": 5.0, "wall": NOW + 300.0}
    with open_store(tmp_path) as store:
        assert store.clock.now() == NOW + 300.0
        assert store.node_memory().finished == pytest.approx(NOW + 300.0)


def test_only_the_time_off_is_taken_back(tmp_path: Path, boot: dict[str, float | str]) -> None:
    """Whoever sets the wall clock back by an hour does not put what happens now before the past."""
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN))  # finished 9 s after NOW
    boot |= {"id": "two", "up": 5.0, "wall": NOW + 609.0}
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN._replace(finished=NOW + 610.0)))
    boot |= {"up": 65.0, "wall": 0.0}
    with open_store(tmp_path) as store:
        assert store.clock.now() == NOW + 669.0, "that is no time of day"
    boot |= {"wall": NOW - 3600.0}
    with open_store(tmp_path) as store:
        assert store.clock.now() == NOW + 9.0 + 60.0
        assert store.node_memory().finished == pytest.approx(NOW + 10.0)
        assert not store.clock.seconds_ahead(), "there is no more to take back"


def test_nothing_is_purged_on_the_first_day_after_a_jump(
    tmp_path: Path, boot: dict[str, float | str]
) -> None:
    """It may be the wall clock that is wrong. After a day it is believed."""
    old = Change(TEST, NOW - 10.0, JUDGED)
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN, changes=(old, old._replace(at=NOW))))
    left = []
    for hours, up in ((0.0, 5.0), (23.0, 82_805.0), (25.0, 90_005.0)):
        boot |= {"id": "two", "up": up, "wall": NOW + YEARS + hours * 3600.0}
        with open_store(tmp_path) as store:
            now = store.clock.now()
            assert now == boot["wall"]
            store.save(Save(node=OWN, changes=(old._replace(at=now),)))
            left.append([change.at - NOW < YEARS for change in store.history.changes()])
    assert left == [[True, True, False], [True, True, False, False], [False, False, False]]


def test_a_clock_ahead_of_the_wall_clock_purges_nothing(
    tmp_path: Path, boot: dict[str, float | str]
) -> None:
    """What a version stored that kept no jumps cannot come back; but it must not look old."""
    old = Change(TEST, NOW - 10.0, JUDGED)
    with open_store(tmp_path) as store:
        store.save(Save(node=OWN, changes=(old, old._replace(at=NOW))))
        store._write(lambda db: tables.write_memos(db, {"clock": ["one", NOW + YEARS - 1000.0]}))
    with open_store(tmp_path) as store:
        now = store.clock.now()
        assert now == NOW + YEARS and store.clock.is_proven
        store.save(Save(changes=(old._replace(at=now),)))
        assert [change.at for change in store.history.changes()] == [NOW - 10.0, NOW, now]


# Read only.


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        open_store(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []
    with open_store(tmp_path) as store:
        store.save(Save(incidents=(RICH,)))
    reader = open_store(tmp_path, read_only=True)
    assert reader.incidents() == [RICH]
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]


def test_it_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(Save(incidents=(RICH,)))
        assert open_store(tmp_path, read_only=True).incidents() == [RICH]


def test_peek(tmp_path: Path, run: Path) -> None:
    made_up, nothing, never = state.peek(str(tmp_path), str(run))
    assert never == NodeMemory()
    assert (
        len(made_up) == 16
        and nothing == []
        and [path.name for path in tmp_path.iterdir()] == ["run"]
    )
    node_id = identity.make(str(tmp_path))
    with open_store(tmp_path, run) as store:
        store.save(Save(incidents=(RICH,)))
    assert state.peek(str(tmp_path), str(run))[:2] == (node_id, [RICH])


# What fails.


def test_a_broken_database_is_kept_under_another_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(
        "dmonitor.base.log.error",
        lambda event, **facts: logged.append(f"{event} {facts['kept_as']}"),
    )
    garbage = b"not a database at all" * 1000
    (tmp_path / "state.db").write_bytes(garbage)
    with open_store(tmp_path) as store:
        assert store.failed == "" and store.save(Save(node=OWN))
    (kept,) = tmp_path.glob("state.db.broken-*")
    assert kept.read_bytes() == garbage
    assert logged == [f"database-broken {kept}"]
    assert (
        capsys.readouterr()
        .err.rstrip()
        .endswith(
            f"{tmp_path}/state.db is broken (file is not a database); it is kept as {kept.name}, and a new one is begun"
        )
    )
    assert open_store(tmp_path).node_memory() == OWN


def test_a_database_that_turns_out_to_be_broken_later_stops_nothing(
    tmp_path: Path, run: Path
) -> None:
    """It opens, because its first page is sound."""
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))
    with (tmp_path / "state.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096 * 20)
    with open_store(tmp_path, run) as store:
        assert store.memory().node in (OWN, NodeMemory())
        store.save(Save(node=OWN))
    with open_store(tmp_path, run) as store:
        assert store.node_memory() == OWN


@pytest.mark.parametrize("version", [3, 4])
def test_an_outbox_by_number_is_read_and_taken_over(tmp_path: Path, version: int) -> None:
    """A reader may come before the first round of the new version, which converts it once."""
    a, b = known("a"), known("b")
    owed = [Notification(Kind.ALERT, each, "root", NOW, 3) for each in (a, b)]
    with open_store(tmp_path) as store:
        store.save(Save(OWN, incidents=(a, b), outbox=tuple(owed)))
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        rows = db.execute(
            "SELECT known.incident, kind, address, since, refusals"
            " FROM outbox JOIN known ON id = outbox.incident"
        ).fetchall()
        db.executescript(f"DROP TABLE outbox; {database._OUTBOX_BY_NUMBER}")
        if version == 3:
            db.executescript("DROP TABLE change; DROP TABLE handed")
        db.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", [*rows, (99, "x", "y", 1, 0)])
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    with open_store(tmp_path, read_only=True) as store:
        assert store.memory().outbox == owed and "outbox with incident ''" in store.unusable
    for _ in range(2):
        with open_store(tmp_path) as store:
            assert store.memory().outbox == owed and store.incidents() == [a, b]
            assert database.schema_version(store._db) == database.SCHEMA_VERSION
            assert store.history.handed() == []
    with open_store(tmp_path) as store:
        store.save(Save(settled=tuple(owed)))
        assert store.memory().outbox == []


def test_a_long_outbox_is_taken_over_in_one_statement_that_may_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a limit of its own: one that is broken off would count as a broken database."""
    path = str(tmp_path / "old.db")
    rows = [(1, "alert", f"user{number}@example.com", NOW, 0) for number in range(30_000)]
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in database._statements(database._MADE_BY[4]):
            db.execute(statement)
        db.execute("INSERT INTO incident VALUES (1, 1, NULL, '')")
        db.execute("INSERT INTO known VALUES ('a', 1)")
        db.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", rows)
        db.execute("PRAGMA user_version = 4")
        db.commit()
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.0)
    counting = "SELECT count(*) FROM outbox WHERE incident = 'a'"
    with contextlib.closing(database.connect(path)) as store:
        database.prepare(store)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            store.execute(f"{counting} AND address NOT IN (SELECT address || '' FROM outbox)")
        monkeypatch.undo()
        assert store.execute(counting).fetchone() == (len(rows),)
        assert database.schema_version(store) == database.SCHEMA_VERSION


def test_a_database_of_another_version_is_left_alone(tmp_path: Path) -> None:
    with open_store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="another dmonitor"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if "broken" in path.name] == []


def fill(store: Store) -> None:
    """Leave no room for another page in the database that `store` writes."""
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")


MUCH = tuple(known(f"i{number}", opening=JUDGED) for number in range(50))


def ids(store: Store) -> set[str]:
    return {each.id.rstrip("z") for each in store.incidents()}


def test_a_full_disk_is_stood_in_for_until_there_is_room(tmp_path: Path, run: Path) -> None:
    with open_store(tmp_path, run) as store:
        assert store.save(Save(OWN, incidents=(RICH,)))
        fill(store)
        assert not store.save(Save(incidents=MUCH)), "it says so"
        assert store.failed == f"{tmp_path}/state.db: database or disk is full"
        assert not store.save(Save(incidents=(known("later"),)))
        assert (
            ids(store) == {"b", "later", *(each.id.rstrip("z") for each in MUCH)}
            and store.node_memory() == OWN
        )
    assert ids(open_store(tmp_path, read_only=True)) == {"b"}
    with open_store(tmp_path, run) as store:
        assert store.failed == "" and list(run.iterdir()) == [], "and is stored again"
        assert ids(store) == {"b", "later", *(each.id.rstrip("z") for each in MUCH)}
    assert "later" in ids(open_store(tmp_path))


@pytest.fixture
def no_state(tmp_path: Path) -> Path:
    """A state directory in which nobody can open the database, not even root."""
    (tmp_path / "lib" / "state.db").mkdir(parents=True)
    return tmp_path / "lib"


def test_a_directory_that_cannot_be_written_is_stood_in_for(no_state: Path, run: Path) -> None:
    with open_store(no_state, run) as store:
        assert store.failed == (
            f"{no_state}/state.db: {no_state}/state.db is not a regular file: move it away"
        )
        assert not store.save(Save(OWN, incidents=(RICH,)))
    with open_store(no_state, run) as store:
        assert store.failed and store.incidents() == [RICH] and store.node_memory() == OWN, (
            "told is told once"
        )
    (no_state / "state.db").rmdir()
    with open_store(no_state, run) as store:
        assert store.failed == "" and store.incidents() == [RICH] and list(run.iterdir()) == []
        assert store.save(Save(incidents=(known("x"),)))
    with open_store(no_state, run) as store:
        assert ids(store) == {"b", "x"}


def test_what_was_written_before_is_in_what_stands_in(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state can be read, but not written."""
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))
    connect = database.connect
    monkeypatch.setattr(
        database,
        "connect",
        lambda path, how="": connect(
            path, how if "/run/" in path or "mem" in path or how else "mode=ro"
        ),
    )
    with open_store(tmp_path, run) as store:
        assert not store.save(Save(incidents=(known("x"),))) and "readonly" in store.failed
        assert ids(store) == {"b", "x"} and store.node_memory() == OWN
    with open_store(tmp_path, run) as store:
        assert "readonly" in store.failed and ids(store) == {"b", "x"}


@pytest.mark.parametrize("crashed", [False, True])
def test_a_full_disk_is_read_all_the_same(tmp_path: Path, run: Path, crashed: bool) -> None:
    """Even for reading, sqlite needs room for state.db-shm; without it the state is not taken for empty."""
    if crashed:
        with open_store(tmp_path, run) as dying:
            dying.save(Save(OWN, incidents=(RICH,)))
            kept = {
                name: (tmp_path / name).read_bytes()
                for name in ("state.db", "state.db-wal", "state.db-shm")
            }
        for name, content in kept.items():  # as a kill -9 leaves them
            (tmp_path / name).write_bytes(content)
        assert (tmp_path / "state.db-wal").stat().st_size
        (tmp_path / "state.db-shm").unlink()
    else:
        with open_store(tmp_path, run) as store:
            store.save(Save(OWN, incidents=(RICH,)))
    (tmp_path / "state.db-shm").symlink_to("nowhere")  # sqlite follows no link
    with open_store(tmp_path, run) as store:
        assert store.failed and ids(store) == {"b"} and store.node_memory() == OWN
        assert not store.save(Save(incidents=(known("x"),)))
    (tmp_path / "state.db-shm").unlink()
    with open_store(tmp_path, run) as store:
        assert store.failed == "" and ids(store) == {"b", "x"}


def away(tmp_path: Path) -> contextlib.AbstractContextManager[None]:
    """Make the state unreadable for the time of a block."""

    @contextlib.contextmanager
    def gone() -> Iterator[None]:
        (tmp_path / "state.db").rename(tmp_path / "away")
        (tmp_path / "state.db").mkdir()
        yield
        (tmp_path / "state.db").rmdir()
        (tmp_path / "away").rename(tmp_path / "state.db")

    return gone()


def test_what_is_left_to_tell_is_taken_back_from_what_stood_in(tmp_path: Path, run: Path) -> None:
    """Meanwhile one address took its mail, and one refused it."""
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(known("a"),)))
    left = Notification(Kind.ALERT, known("b", alert="oslo"), "two", NOW, 1)
    with away(tmp_path), open_store(tmp_path, run) as store:
        told = Notification(Kind.ALERT, left.incident, "one", NOW)
        assert not store.save(
            Save(OWN, incidents=(left.incident,), outbox=(left,), told=(told,), changes=(CHANGE,))
        )
        handed = store.history.handed()
        assert [each.address for each in handed] == ["one"]
    with open_store(tmp_path, run) as store:
        assert ids(store) == {"a", "b"} and store.memory().outbox == [left] and not store.failed
        assert store.history.handed() == handed and store.history.changes() == [CHANGE], (
            "and what was done meanwhile is known"
        )


@pytest.mark.parametrize("step", ["backup", "rename", "open_checked"])
def test_who_is_killed_while_it_makes_what_stands_in_forgets_nothing(
    tmp_path: Path, run: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    class Dying:
        def backup(self, copy: sqlite3.Connection) -> None:
            copy.execute("CREATE TABLE memo (key, value)")
            copy.commit()
            die()

    with monkeypatch.context() as patched, away(tmp_path):
        match step:
            case "backup":
                write_copy: Any = database.write_copy
                patched.setattr(database, "write_copy", lambda _, path: write_copy(Dying(), path))
            case "rename":
                patched.setattr(os, "rename", die)
            case _:
                patched.setattr(database, "open_checked", die)
        with pytest.raises(Killed):
            open_store(tmp_path, run)
        patched.undo()
    with open_store(tmp_path, run) as store:
        assert ids(store) == {"b"} and store.node_memory() == OWN and not store.failed


def test_a_disk_that_dies_in_the_middle_of_a_round(tmp_path: Path, run: Path) -> None:
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))

        class Dead:
            def execute(self, *_: object) -> None:
                raise sqlite3.OperationalError("disk I/O error")

            backup = execute

            def close(self) -> None:
                pass

        store._db = Dead()  # type: ignore[assignment] # has only what the store calls
        assert not store.save(Save(incidents=(known("x"),))) and "disk I/O" in store.failed
        assert {"b", "x"} == ids(store)


@pytest.mark.parametrize(
    ("damage", "left_ids", "left_owed", "named"),
    [
        ("UPDATE memo SET value = '[[1' WHERE key = 'own'", {"b"}, ["two"], "memo with key 'own'"),
        ("UPDATE memo SET value = '7'", {"b"}, ["two"], "3 rows"),
        ("UPDATE memo SET value = x'ff'", {"b"}, ["two"], "3 rows"),
        ("UPDATE memo SET value = printf('%.*c', 9999, '[')", {"b"}, ["two"], "3 rows"),
        ("UPDATE incident SET value = '{}'", set(), [], "incident with number 1: improper {}"),
        ("UPDATE incident SET value = 'x'", set(), [], "incident with number 1: Expecting value"),
        ("DELETE FROM incident", set(), [], "outbox with incident 'bzzz"),
        ("UPDATE outbox SET address = 'a' || char(10)", {"b"}, [], r"improper 'a\\n'"),
        ("UPDATE standing SET host = '-o'", {"b"}, ["two"], "host '-o'"),
        ("UPDATE standing SET since = 'never'", {"b"}, ["two"], "no number: 'never'"),
    ],
)
def test_a_value_that_makes_no_sense_costs_its_row(
    tmp_path: Path,
    damage: str,
    left_ids: set[str],
    left_owed: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    left = Notification(Kind.ALERT, RICH, "two", NOW, 1)
    with open_store(tmp_path) as store:
        store.save(Save(OWN, {TEST: TestState()}, incidents=(RICH,), outbox=(left,)))
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db, db:
        assert db.execute(damage).rowcount
    with open_store(tmp_path, read_only=True) as store:
        assert ids(store) == left_ids, "who only reads leaves it out as well"
    capsys.readouterr()
    with open_store(tmp_path) as store:
        assert not store.failed and ids(store) == left_ids
        assert [owed.address for owed in store.memory().outbox] == left_owed
        assert store.save(Save(OWN, incidents=(known("x", test=Test("x.example.com", "http")),)))
    said = capsys.readouterr().err
    assert f"{tmp_path}/state.db: left out and forgotten: " in said and named in said
    with open_store(tmp_path) as store:
        assert ids(store) == {"x", *left_ids} and store.node_memory() == OWN
    assert "left out" not in capsys.readouterr().err, "it is said once"
    assert not list(tmp_path.glob("state.db.broken-*"))


def test_what_stood_in_for_a_state_that_could_not_be_read_does_not_replace_it(
    tmp_path: Path, run: Path
) -> None:
    """The stand-in began empty; the contents of the state count again as soon as it can be read."""
    of_a, of_x = Test("a.example.com", "http"), Test("x.example.com", "http")
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(known("a", test=of_a), known("b", "c"))))
    (tmp_path / "state.db").rename(tmp_path / "away")
    (tmp_path / "state.db").mkdir()
    with open_store(tmp_path, run) as store:
        store.save(Save(incidents=(known("b", alert="x"), known("x", test=of_x))))
    (tmp_path / "state.db").rmdir()
    (tmp_path / "away").rename(tmp_path / "state.db")
    with open_store(tmp_path, run) as store:
        assert ids(store) == {"a", "b", "x"}
        (met,) = store.recall([named("c")])
        assert (met.ids, met.alert) == (known("b", "c").ids, "x")


@pytest.mark.parametrize("with_run", [False, True])
def test_without_a_run_directory_it_goes_on_in_memory(
    no_state: Path, tmp_path: Path, with_run: bool
) -> None:
    with open_store(no_state, tmp_path / "missing" if with_run else None) as store:
        assert store.failed and not store.save(Save(OWN, incidents=(RICH,)))
        assert store.incidents() == [RICH] and store.node_memory() == OWN
    assert [path.name for path in tmp_path.iterdir()] == ["lib"]


def test_a_full_run_directory_is_stood_in_for_by_memory(no_state: Path, run: Path) -> None:
    with open_store(no_state, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))
        fill(store)
        assert not store.save(Save(incidents=MUCH))
        assert (
            ids(store) == {"b", *(each.id.rstrip("z") for each in MUCH)}
            and store.node_memory() == OWN
        )


def test_a_reader_prefers_what_stands_in_and_says_that_nothing_is_stored(
    tmp_path: Path, run: Path
) -> None:
    """The daemon states it in its greeting: a node that cannot store comes last in the order (R5)."""
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))
        fill(store)
        store.save(Save(incidents=MUCH))
    reader = open_store(tmp_path, run, read_only=True)
    assert ids(reader) == {"b", *(each.id.rstrip("z") for each in MUCH)}
    assert reader.failed
    assert len(state.peek(str(tmp_path), str(run))[1]) == 51


def test_peek_finds_what_stands_in_where_there_never_was_a_state(
    tmp_path: Path, run: Path, no_state: Path
) -> None:
    with open_store(no_state, run) as store:
        store.save(Save(incidents=(RICH,)))
    (no_state / "state.db").rmdir()
    assert state.peek(str(no_state), str(run))[1] == [RICH]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE incident SET value = '{}'", {"a"}),
        ("UPDATE outbox SET kind = 'nonsense'", {"a", "b"}),
        ("UPDATE memo SET value = 'nonsense' WHERE key = 'partial'", {"a", "b"}),
    ],
)
def test_a_stand_in_that_makes_no_sense_costs_nothing_else(
    tmp_path: Path, run: Path, damage: str, found: set[str]
) -> None:
    """The stand-in began empty, and sqlite finds it sound. No later round fails because of it."""
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(known("a"),)))
    with away(tmp_path), open_store(tmp_path, run) as store:
        told = known("b", alert="oslo")
        owed = Notification(Kind.ALERT, told, "one", NOW)
        assert not store.save(Save(OWN, incidents=(told,), outbox=(owed,)))
    with contextlib.closing(sqlite3.connect(run / "state.db")) as stand_in, stand_in:
        stand_in.execute(damage)
    with open_store(tmp_path, run) as store:
        assert ids(store) == found and store.failed == "" and list(run.iterdir()) == []


def test_a_hand_over_that_makes_no_sense_costs_only_itself(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        told = [Notification(kind, known("a"), "one", NOW) for kind in (Kind.ALERT, Kind.RECOVERY)]
        store.save(Save(OWN, incidents=(known("a"),), told=tuple(told)))
        store._db.execute("UPDATE handed SET kind = 'nonsense' WHERE kind = 'alert'")
        assert [handed.kind for handed in store.history.handed()] == [Kind.RECOVERY]
        assert "nonsense" in store.history.broken


def test_a_full_disk_without_a_temporary_directory_is_read_all_the_same(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one file system holds everything but the run directory, /tmp is full as well."""
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [f"{tmp_path}/nowhere"])
    (tmp_path / "state.db-shm").symlink_to("nowhere")  # sqlite follows no link
    with open_store(tmp_path, run) as store:
        assert store.failed and ids(store) == {"b"} and store.node_memory() == OWN
    with open_store(tmp_path) as store:
        assert store.failed and ids(store) == set(), "in memory, which begins empty"


def test_a_broken_stand_in_costs_nothing_else(tmp_path: Path, run: Path) -> None:
    """An empty one must not take the state's place, round after round."""
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,)))
    (run / "state.db").write_bytes(b"not a database at all" * 1000)
    with open_store(tmp_path, run) as store:
        assert store.incidents() == [RICH] and store.node_memory() == OWN
        assert store.failed == "" and store.save(Save(incidents=(known("x"),)))
    with open_store(tmp_path, run) as store:
        assert ids(store) == {"b", "x"}


# The node's id.


def test_node_id_is_made_once(tmp_path: Path) -> None:
    made = identity.make(str(tmp_path))
    assert len(made) == 24
    assert identity.make(str(tmp_path)) == made
    assert [path.name for path in tmp_path.iterdir()] == ["node-id"]
    assert identity.make(str(tmp_path / ".")) == made


def test_two_that_make_it_at_once_agree(tmp_path: Path) -> None:
    pipe_out, pipe_in = os.pipe()
    for _ in range(8):
        if os.fork() == 0:
            os.write(pipe_in, identity.make(str(tmp_path)).encode() + b"\n")
            os._exit(0)
    os.close(pipe_in)
    with open(pipe_out) as answers:
        assert len(set(answers.read().split())) == 1
    for _ in range(8):
        os.wait()


def test_an_empty_node_id_is_none_and_is_filled_once(tmp_path: Path) -> None:
    """A full disk or a power cut leaves one, and each round would end for good."""
    (tmp_path / "node-id").touch()
    assert identity.read(str(tmp_path)) is None
    test_two_that_make_it_at_once_agree(tmp_path)
    assert len(identity.make(str(tmp_path))) == 24
    assert [path.name for path in tmp_path.iterdir()] == ["node-id"]


def open_store_on_full_disk(full: pytest.MonkeyPatch, directory: Path, run: Path) -> Store:
    """Open a store whose database in `directory` cannot be written for want of room."""
    real = database.prepare

    def prepare(db: database.Connection) -> None:
        if database._path_of(db) == f"{directory}/state.db":
            raise sqlite3.OperationalError("database or disk is full")
        real(db)

    full.setattr(database, "prepare", prepare)
    return open_store(directory, run)


def test_an_empty_database_holds_nothing_and_is_begun_anew(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.db").touch()
    with pytest.raises(state.NothingStored, match="is empty: no round has stored anything"):
        open_store(tmp_path, run, read_only=True)
    assert state.peek(str(tmp_path), str(run))[1:] == ([], NodeMemory())
    assert (tmp_path / "state.db").stat().st_size == 0
    with monkeypatch.context() as full, open_store_on_full_disk(full, tmp_path, run) as store:
        assert store.failed
    assert "was empty" not in capsys.readouterr().err, "cron would mail it every minute"
    assert (tmp_path / "state.db").stat().st_size == 0
    with open_store(tmp_path, run) as store:
        assert store.failed == "" and store.save(Save(OWN))
    assert f"{tmp_path}/state.db was empty, and a new one is begun" in capsys.readouterr().err
    with open_store(tmp_path, run) as store:
        assert store.node_memory() == OWN
    assert capsys.readouterr().err == ""


def test_a_strange_node_id_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node-id").write_text("hello world\n")
    with pytest.raises(StateError, match="not a node id"):
        identity.make(str(tmp_path))


@pytest.mark.parametrize("name", ["a b", "50%", "what?mode=ro", "a#b", "a&immutable=1", "//"])
def test_any_directory_is_itself(tmp_path: Path, name: str) -> None:
    """sqlite gets a URI, in which some characters have a meaning."""
    directory = tmp_path / name if name != "//" else tmp_path
    directory.mkdir(exist_ok=True)
    where = f"/{tmp_path}" if name == "//" else str(directory)
    with open_store(where) as store:
        assert store.save(Save(OWN))
    assert (directory / "state.db").exists()
    with open_store(where, read_only=True) as store:
        assert store.node_memory() == OWN


def test_incidents_without_their_evidence(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(Save(OWN, incidents=(RICH,)))
        assert store.incidents() == [RICH] and RICH.opening
        assert list(store.each_incident()) == [RICH._replace(opening=None, closing=None)]


def test_a_broken_history_costs_nothing_but_history(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No round checks it, because it grows large; the round that writes to it begins it anew."""
    many = [CHANGE._replace(at=NOW + number) for number in range(400)]
    with open_store(tmp_path, run) as store:
        store.save(Save(OWN, incidents=(RICH,), changes=tuple(many)))
    broken_pages(tmp_path / "state.db")
    with open_store(tmp_path, run) as store:
        assert not store.failed and ids(store) == {"b"} and store.node_memory() == OWN
        assert store.save(Save(incidents=(known("x"),), changes=(CHANGE,)))
        assert (
            capsys.readouterr().err
            == f"dmonitor: the history in {tmp_path}/state.db is broken ({MALFORMED}); it is lost, and a new one begun\n"
        )
    with open_store(tmp_path, run) as store:
        assert not store.failed and ids(store) == {"b", "x"} and store.history.changes() == [CHANGE]
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


MALFORMED = "database disk image is malformed"


def broken_pages(path: Path) -> None:
    """Overwrite all pages of the changes with garbage."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        pages = [
            number
            for (number,) in db.execute(
                "SELECT pageno FROM dbstat WHERE name = 'change' AND pagetype = 'leaf'"
            )
        ]
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with open(path, "r+b") as file:
        for number in pages:
            file.seek((number - 1) * size)
            file.write(b"\xff" * size)


CHANGE = Change(
    Test("www.example.com", "http"),
    NOW,
    Judgement(
        Verdict.DOWN, 2, (Answer(Node("oslo", "oslo"), "a" * 8, Result(Outcome.FAIL, "refused")),)
    ),
)


def test_a_test_that_changes_all_the_time_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "CHANGES_KEPT", 5)
    with open_store(tmp_path) as store:
        other = CHANGE._replace(test=Test("www.example.com", "ssh"), at=NOW - 1000)
        store.save(Save(changes=(other,)))
        for minute in range(20):
            store.save(Save(changes=(CHANGE._replace(at=NOW + minute),)))
        assert [change.at for change in store.history.changes(CHANGE.test)] == [
            NOW + minute for minute in range(15, 20)
        ]
        assert store.history.changes(other.test) == [other], "and costs no other test"


def test_what_cannot_be_read_of_the_history_costs_no_reader_anything_else(tmp_path: Path) -> None:
    other = CHANGE._replace(test=Test("www.example.com", "ssh"))
    with open_store(tmp_path) as store:
        store.save(Save(OWN, incidents=(RICH,), changes=(CHANGE, other)))
        store._db.execute("UPDATE change SET judgement = '{}' WHERE name = 'http'")
    with open_store(tmp_path, read_only=True) as store:
        assert store.history.latest([CHANGE.test, other.test]) == {other.test: other} and ids(
            store
        ) == {"b"}
        assert store.history.broken.startswith("of www.example.com/http: ")
    broken_pages(tmp_path / "state.db")
    with open_store(tmp_path, read_only=True) as store:
        assert (
            store.history.latest([CHANGE.test]) == {}
            and store.history.changes() == []
            and store.history.handed() == []
            and ids(store) == {"b"}
        )
        assert store.history.broken == MALFORMED


def test_a_round_that_saves_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    """A reader sees one moment of the state, even while a round is still at work."""
    with open_store(tmp_path) as writer:
        writer.save(Save(OWN, incidents=(RICH,)))
        with open_store(tmp_path, read_only=True) as store:
            assert ids(store) == {"b"}
            writer.save(Save(OWN._replace(refused=99), incidents=(known("x"),)))
            assert store.node_memory() == OWN and ids(store) == {"b"}
        with open_store(tmp_path, read_only=True) as store:
            assert store.node_memory().refused == 99 and ids(store) == {"b", "x"}


def test_a_standing_of_no_known_time_stays_one(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(Save(test_states={CHANGE.test: TestState()}))
        store.shift_times(3600.0)
        assert store.memory().test_states[CHANGE.test].since == 0.0


def test_what_a_round_writes_meanwhile_is_read_again(tmp_path: Path, run: Path) -> None:
    """No lock keeps a round from committing meanwhile: a read that is inconsistent does not count."""
    with open_store(tmp_path) as store:
        store.save(Save(OWN, incidents=(RICH,)))
    read: list[set[str]] = []

    def look(store: Store) -> set[str]:
        read.append(ids(store))
        if len(read) == 1:
            with open_store(tmp_path) as writer:
                writer.save(Save(incidents=(known("x"),)))
        if len(read) == 2:
            with open_store(tmp_path) as writer:
                writer.save(Save(incidents=(known("y"),)))
            raise StateError("database disk image is malformed")
        return read[-1]

    assert state.read(str(tmp_path), str(run), look) == {"b", "x", "y"} and read == [
        {"b"},
        {"b", "x"},
        {"b", "x", "y"},
    ]


def test_what_is_broken_for_good_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    tried: list[Store] = []
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(StateError, match="file is not a database"):
        state.read(str(tmp_path), None, tried.append)
    assert not waited and not tried


def test_history_is_kept_for_400_days_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Judgement(
        Verdict.DOWN, 2, (Answer(Node("oslo", "oslo"), "a" * 8, Result(Outcome.FAIL, "refused")),)
    )
    with open_store(str(tmp_path)) as store:
        now = store.clock.now()
        for age, name in ((402, "older"), (401, "older"), (399, "old"), (0, "new")):
            at = now - age * 86400
            test, known = Test("www.example.com", name), f"{age:08d}"
            over = Incident(
                (known,),
                test,
                at - 60,
                judged,
                closed=at,
                closing=judged,
                alert="oslo",
                recovery="oslo",
                held=at,
            )
            monkeypatch.setattr(store.clock, "now", lambda at=at: at)
            assert store.save(
                Save(
                    incidents=(over,),
                    changes=(Change(test, at, judged),),
                    told=(Notification(Kind.ALERT, over, "root", at),),
                )
            )
        changes, incidents, handed = (
            store.history.changes(),
            store.history.past(),
            store.history.handed(),
        )
        assert [change.test.name for change in changes] == ["older", "old", "new"], (
            "what is still so is kept, however old"
        )
        assert changes[0].at == now - 401 * 86400
        assert [each.incident for each in handed] == [f"{399:08d}", "00000000"]
        assert [(each.test.name, bool(each.opening)) for each in incidents] == [
            ("older", False),
            ("older", False),
            ("old", True),
            ("new", True),
        ]
        assert store.recall([f"{401:08d}"])[0].recovery == "oslo", "what was told is known for good"
        assert store.history.changes(("www.example.com", "old")) == [changes[1]]
        assert [
            read(("elsewhere", ""))
            for read in (store.history.changes, store.history.past, store.history.handed)
        ] == [[], [], []]
        assert store.history.latest([changes[2].test]) == {changes[2].test: changes[2]}


def test_the_last_change_of_each_test(tmp_path: Path) -> None:
    answers = (
        *CHANGE.judgement.answers,
        Answer(Node("paris", "paris"), reason="connection refused"),
    )
    last = CHANGE._replace(at=NOW + 1, judgement=Judgement(Verdict.LOCAL, 2, answers))
    with open_store(tmp_path) as store:
        store.save(Save(changes=(CHANGE, last)))
        assert store.history.latest([CHANGE.test, Test("h", "t")]) == {CHANGE.test: last}
        lean = last._replace(judgement=Judgement(Verdict.LOCAL, 2, answers[:1]))
        assert store.history.latest([CHANGE.test], evidence=False) == {CHANGE.test: lean}
        store.shift_times(3600.0)
        assert store.history.latest([CHANGE.test]) == {CHANGE.test: last._replace(at=NOW + 3601)}


def test_hearsay_that_nobody_needs_is_forgotten(tmp_path: Path) -> None:
    """What one peer alone has stated takes no room for good, except what was mailed or is owed."""
    store = open_store(tmp_path)
    now = store.clock.now()
    over = {"closed": now - 9000.0, "held": now - 9000.0, "void": True}
    heard = {"heard_from": "liar", **over}
    memory = NodeMemory(name="me")
    owed = known("owed0000", alert="x", recovery="x", **{**heard, "void": False})
    letter = Notification(Kind.RECOVERY, owed, "a@x", now, 0)
    store.save(
        Save(
            node=memory,
            incidents=(
                known("old00000", **heard),
                known("seen0000", **over),
                known("told0000", alert="me", recovery="me", **{**heard, "void": False}),
                known("open0000", heard_from="liar"),
                owed,
            ),
            outbox=(letter,),
        )
    )
    ids = ["old00000", "seen0000", "told0000", "open0000", "owed0000"]
    assert {each.id for each in store.recall(ids)} == {
        "seen0000",
        "told0000",
        "open0000",
        "owed0000",
    }
    rows = store._db.execute("SELECT id FROM known ORDER BY id").fetchall()
    assert rows == [("open0000",), ("owed0000",), ("seen0000",), ("told0000",)]


def test_hearsay_is_charged_to_the_peer_that_stated_it_here(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    relayed = known("relayed0", heard_from="oslo", relayed_by="liar")
    mine = known("mine0000", heard_from="oslo", test=Test("h", "other"))
    for heard in (relayed, mine, known("fact0000", test=Test("h", "fact"))):
        tables.write_incident(store._db, heard)
    assert tables.read_sources(store._db, 0.0) == {"liar", "oslo"}
    for heard in (relayed, mine):
        peer = hearsay.charged_to(heard)
        assert tables.read_hearsay(store._db, peer) == [heard]


def test_recent_hearsay_is_forgotten_although_its_peer_is_silent(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    now = store.clock.now()
    at = now - hearsay.OVER_SECONDS - 60.0
    heard = known("heard000", heard_from="liar", closed=at, held=at, void=True)
    tables.write_incident(store._db, heard)
    assert store.recall(["heard000"]) == [heard]
    store.save(Save(test_states={}, gone=frozenset({TEST})))
    assert store.recall(["heard000"]), "only the end of a round looks for it"
    store.save(Save(node=NodeMemory(name="me")))
    assert store.recall(["heard000"]) == []


def test_the_log_of_the_database_does_not_stay_large(tmp_path: Path) -> None:
    """Who makes up incidents must not have it keep what the database has already."""
    log = tmp_path / "state.db-wal"
    with Store(str(tmp_path)) as store:
        sizes = []
        for number in range(60):
            many = [Incident((f"{number:04}{each:08}",), TEST, NOW) for each in range(300)]
            store.save(Save(incidents=tuple(many)))
            sizes.append(log.stat().st_size)
    assert max(sizes) > 4_000_000, "it was full, so that it was begun again"
    assert min(sizes[sizes.index(max(sizes)) :]) <= 1_100_000


_LOOK_KEYS = "SELECT key FROM memo WHERE key LIKE 'look %'"


def test_the_last_look_is_forgotten_with_its_test_and_with_its_every(tmp_path: Path) -> None:
    other = Test("www.example.com", "cert:8443")
    look = LastLook(NOW, Result(Outcome.OK, "valid for 60 days", 0.5), "0123456789abcdef")
    seen = {TEST: TestState(look=look), other: TestState(look=look)}
    with open_store(tmp_path) as store:
        store.save(Save(test_states=seen))
        assert store.memory().test_states == seen
        store.shift_times(100.0)
        assert store.memory().test_states[TEST].look == look._replace(at=NOW + 100.0)
        store.shift_times(0.0)
        store.save(Save(gone=frozenset([TEST])))
        assert [key for (key,) in store._db.execute(_LOOK_KEYS)] == [f"look {other}"]
        store.save(Save(test_states={other: TestState()}))
        assert [key for (key,) in store._db.execute(_LOOK_KEYS)] == []
        store.save(Save(test_states={TEST: TestState()}))
        assert store.memory().test_states == {TEST: TestState(), other: TestState()}


@pytest.mark.parametrize("value", ['{"at":1}', "7", '"x"', '{"at":"x","result":{"outcome":"OK"}}'])
def test_a_look_that_makes_no_sense_was_none_and_is_forgotten(tmp_path: Path, value: str) -> None:
    with open_store(tmp_path) as store:
        store.save(Save(test_states={TEST: TestState()}))
        store._db.execute("REPLACE INTO memo VALUES (?, ?)", (f"look {TEST}", value))
    with open_store(tmp_path) as store:
        assert store.memory().test_states == {TEST: TestState()} and store.unusable
    with open_store(tmp_path) as store:
        assert store.memory().test_states == {TEST: TestState()} and not store.unusable
