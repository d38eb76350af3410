"""What another program of the user dmonitor put into the state directory: it is escaped, left out, or refused in time.

A plugin is that user. So every place of the state is given what nobody should have written there, and
every command that reads it is run: in a child, because what hangs in C code cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import io
import json
import os
import signal
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmonitor import check, command
from dmonitor.base import cli, user
from dmonitor.base.errors import StateError
from dmonitor.core import mail
from dmonitor.core.effects import NodeMemory, Save
from dmonitor.core.model import (
    Answer,
    Change,
    Flake,
    Incident,
    Judgement,
    Kind,
    Node,
    NodeStatus,
    Notification,
    Outcome,
    RehearsalFailure,
    Result,
    Silence,
    Test,
    TestState,
    Trouble,
    Verdict,
)
from dmonitor.store import database, identity, lock, place, state
from dmonitor.store.state import Store

# Turns colours on, twice; turns the direction of writing; takes no room; makes a line; and is no UTF-8 for a file.
EVIL = "\x1b[31m\x9b31m\u202e\u200b\u2028\nSubject: x\udcff"
# One of these is in what is written if EVIL was met: it is escaped, or its row is named.
SIGNS = ("\\x1b", "\\u001b", "left out and forgotten", "part of the history cannot be read")
TEST = Test("www.example.com", "http")
VERBS = (
    ("status",),
    ("status", "--json"),
    ("why", str(TEST)),
    ("why", str(TEST), "--json"),
    ("history",),
    ("history", "--json"),
    ("silences",),
    ("silence", str(TEST), "off"),
    ("page", "-"),
    ("metrics", "-"),
)
SECONDS = 20.0  # in which a child must have ended


class Installation:
    """A configuration, and a state with something in each of its places."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "etc"
        self.state = directory / "lib"
        self.run_dir = directory / "run"
        for path in (self.state, self.run_dir, self.config / "hosts.d" / TEST.host):
            path.mkdir(parents=True)
        (self.config / "hosts.d" / TEST.host / TEST.name).touch()
        (self.config / "alert.d").mkdir()
        (self.config / "alert.d" / "root").touch()
        (self.config / "plugins").mkdir()
        plugin = self.config / "plugins" / "check_http"
        plugin.write_text("#!/bin/sh\necho OK\n")
        plugin.chmod(0o755)
        settings = "name = oslo\nsendmail = /bin/true\nlisten = 127.0.0.1\nquorum = 1\n"
        (self.config / "dmonitor.conf").write_text(settings)
        (self.config / "nodes.txt").write_text("oslo\n")
        (self.state / "node-id").write_text("o" * 24 + "\n")
        self.fill()

    def fill(self) -> None:
        now = time.time()
        answers = (
            Answer(Node("oslo", "no"), "o" * 24, Result(Outcome.FAIL, "refused", 0.5)),
            Answer(Node("rome", "it"), "r" * 24, reason="timed out"),
        )
        judged = Judgement(Verdict.DOWN, 2, answers)
        incident = Incident(
            ("a" * 16,), TEST, now - 100, judged, (("no", now),), alert="oslo", recovery=""
        )
        ended = incident._replace(
            ids=("b" * 16,), closed=now - 50, closing=judged, recovery="rome", flapping=8
        )
        status = NodeStatus("rome", "r" * 24, now, nodes="d" * 16, troubles=("drift",))
        memory = NodeMemory(
            (now - 60,),
            now,
            speaks=True,
            heard=(status,),
            name="oslo",
            nodes="e" * 16,
            addresses="f" * 16,
            troubles=(Trouble("no-peers", "there is none", now - 900, now),),
            rehearsal_failures=(RehearsalFailure("a/b", "rome", 3, "it cannot tell"),),
            no_daemon="refused",
            reach=(("rome", ("oslo",)),),
            own_node_names=("oslo",),
            stated_settings=(("rome", 2, 1),),
            flakes=(Flake(TEST, 3, now, "once"),),
            slow=(TEST,),
            known_ids=(("rome", "r" * 24), ("www", "")),
        )
        owed = Notification(Kind.ALERT, incident, "root", now)
        with self.store() as store:
            store.remember(["root"], {"rome": ["192.0.2.1"]})
            store.save(
                Save(
                    memory,
                    {TEST: TestState(Verdict.DOWN, Outcome.FAIL, now - 100)},
                    incidents=(incident, ended),
                    outbox=(owed,),
                    told=(owed,),
                    changes=(Change(TEST, now - 100, judged),),
                    silences={"rome": (Silence("mail.example.com", "ssh", now + 3600),)},
                )
            )

    def store(self) -> Store:
        return Store(str(self.state), str(self.run_dir))

    def database(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(self.state / "state.db", isolation_level=None))

    def options(self) -> list[str]:
        return [
            *("--config", str(self.config)),
            *("--state", str(self.state)),
            *("--run", str(self.run_dir)),
        ]

    def open_and_close(self) -> int:
        with self.store():
            return 0

    def command(self, *words: str) -> tuple[str, int]:
        """Return what the program dmonitor prints, and its exit status."""
        return captured(lambda: command.main([*self.options(), *words]))

    def commands(self) -> list[tuple[str, int]]:
        """Run everything that reads the state, and then a round; return outputs and exit statuses."""
        ran = []
        for verb in VERBS:
            ran.append(self.command(*verb))
        output, status = captured(lambda: check.main([*self.options(), "--check-config"]))
        assert status == os.EX_CONFIG, "this node has no peers"
        ran.append((output, 0))
        ran.append(captured(lambda: check.main([*self.options(), "--once", "--verbose"])))
        return ran


def captured(program: Callable[[], int]) -> tuple[str, int]:
    """Return what a program writes to both streams, and its exit status."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        status = program()
    return raw.getvalue().decode(), status


def in_child(job: Callable[[], object]) -> Any:
    """Return what `job` returns in a child, as JSON; raise AssertionError if it takes too long."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            answer = json.dumps(job())
        except BaseException as error:  # noqa: BLE001 - the parent must hear of it
            answer = json.dumps(f"{type(error).__name__}: {error}")
        os.write(writer, answer.encode()[:60000])
        os._exit(0)
    os.close(writer)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    with open(reader, "rb") as pipe:
        answer = pipe.read().decode()
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.waitpid(child, 0)
    assert answer, f"it did not end in {SECONDS:.0f} s"
    return json.loads(answer)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setattr(user, "become", lambda *_: None)
    monkeypatch.setattr("dmonitor.base.log._to_stderr", False)
    yield Installation(tmp_path)


# Texts.


def leaves(data: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every text in JSON's own types, keys too."""
    if isinstance(data, str):
        yield path
    elif isinstance(data, list):
        for index, item in enumerate(data):
            yield from leaves(item, (*path, index))
    elif isinstance(data, dict):
        for key, item in data.items():
            yield from leaves(item, (*path, key))


def planted(data: Any, path: tuple[Any, ...]) -> Any:
    """Return `data` with EVIL in the place of the text at `path`."""
    if not path:
        return EVIL
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = planted(copy[path[0]], path[1:])
    return copy


def texts_of(db: sqlite3.Connection) -> Iterator[tuple[str, str, object, object]]:
    """Yield a table, a column, where in its JSON, and a value for it, for every text."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        for column, kind in db.execute(f"SELECT name, type FROM pragma_table_info('{table}')"):
            if kind != "TEXT":
                continue
            yield table, column, "", EVIL.encode("utf-8", "surrogateescape")
            for (value,) in db.execute(f"SELECT {column} FROM {table}"):
                with contextlib.suppress(ValueError):
                    data = json.loads(value)
                    nested = isinstance(data, str)
                    if nested:
                        data = json.loads(data)
                    for path in leaves(data):
                        evil = json.dumps(planted(data, path))
                        evil = json.dumps(evil) if nested else evil
                        yield table, f"{column} {value}", path, evil


def plant(installed: Installation, table: str, where: str, value: object) -> None:
    column, _, before = where.partition(" ")
    with installed.database() as db:
        db.execute("PRAGMA foreign_keys = OFF")
        if isinstance(value, bytes):
            first = f"{column} = (SELECT min({column}) FROM {table})"
            changed = f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE {first}"
            rows = db.execute(changed, (value,)).rowcount
        else:
            changed = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
            rows = db.execute(changed, (value, before)).rowcount
    assert rows, f"{table}.{where} is reached"


# Only compared with something, or looked up, or a part of a trouble that the next round finds anew.
UNSHOWN = [
    ("memo", (0,)),  # the boot of the clock
    ("memo", ("rome", 0)),  # an address
    ("memo", ("rehearsal_failures", 0, "test")),
    ("memo", ("rehearsal_failures", 0, "peer")),
    ("memo", ("rehearsal_failures", 0, "text")),
    ("memo", ("no_daemon",)),
]


def test_no_text_in_the_state_reaches_a_terminal_raw_nor_ends_anything(
    installed: Installation,
) -> None:
    with installed.database() as db:
        places = list(texts_of(db))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(places) > 80
    sound = (installed.state / "state.db").read_bytes()
    unseen = []
    for table, where, path, value in places:
        for suffix in ("-wal", "-shm"):
            (installed.state / f"state.db{suffix}").unlink(missing_ok=True)
        (installed.state / "state.db").write_bytes(sound)
        if table == "memo" and where == "key":
            continue  # of a memo that nobody asks for
        plant(installed, table, where, value)
        ran = []
        for verb in VERBS:
            ran.append(installed.command(*verb))
        ran.append(captured(installed.open_and_close))  # as a round does
        for output, status in ran:
            shown = output.replace("\n", "")
            assert shown.isprintable(), (table, where, ascii(shown))
            assert status == 0, (table, where, output)
        everything = "".join(output for output, _ in ran)
        if not any(sign in everything for sign in SIGNS):
            unseen.append((table, path))
    assert unseen == UNSHOWN


def test_a_known_id_that_is_none_spoils_no_incident(installed: Installation) -> None:
    with installed.database() as db:
        assert db.execute("UPDATE known SET id = ? WHERE id LIKE 'a%'", (EVIL[:-1],)).rowcount
        assert db.execute("INSERT INTO known VALUES (?, 1)", ("a" * 16,)).rowcount
    with installed.store() as store:
        (incident,) = store.recall(["a" * 16])
        store.save(Save(incidents=(incident._replace(void=True),)))
        assert store.recall(["a" * 16]) == [incident._replace(void=True)]


# What is no text, and what is no table.

ODD = (
    *(None, 1e400, 2**63 - 1, "NaN", "x", b"\xff\x00", "[" * 5000, '"\\ud800"'),
    *("[]", "{}", "null", "7", '"{}"', '{"ids":[]}'),
)


def test_no_value_of_another_kind_ends_anything(installed: Installation) -> None:
    """Not in any column of any table, whatever the type of the column."""
    with installed.database() as db:
        columns = db.execute(
            "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
            " WHERE m.type = 'table'"
        ).fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(columns) == 27
    sound = (installed.state / "state.db").read_bytes()
    written = 0
    for table, column in columns:
        for value in ODD:
            for suffix in ("-wal", "-shm"):
                (installed.state / f"state.db{suffix}").unlink(missing_ok=True)
            (installed.state / "state.db").write_bytes(sound)
            with installed.database() as db, contextlib.suppress(sqlite3.Error):
                written += db.execute(
                    f"UPDATE OR REPLACE {table} SET {column} = ?", (value,)
                ).rowcount
            context = table, column, repr(value)[:40]
            for verb in (("history", "--json"), ("page", "-")):
                output, status = installed.command(*verb)
                assert status == 0, (context, output[-300:])
                assert "Traceback" not in output, context
            with installed.store() as store:
                assert store.failed == "", context
                assert store.save(Save(store.node_memory(), {TEST: TestState()})), context
                store.history.changes()
    assert written > 300


@pytest.mark.parametrize(
    "script",
    [
        "DROP TABLE standing; CREATE VIEW standing AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        " SELECT 'www.example.com' host, 'http' name, 'UP' verdict, 'OK' own, i since FROM n",
        "CREATE TRIGGER t AFTER INSERT ON memo BEGIN DELETE FROM incident; END",
        "DROP TABLE standing; CREATE TABLE standing (host, name, verdict, own, since, downs)",
        "CREATE TABLE other (x)",
        "DROP INDEX living",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 3",
    ],
)
def test_no_table_that_dmonitor_did_not_make_is_read(
    installed: Installation, script: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with installed.database() as db:
        db.executescript(script)
    ran = in_child(installed.commands)
    not_ours = f"{installed.state}/state.db: its tables are not those that dmonitor makes"
    for output, status in ran[:7]:
        assert (status, output.count("\n")) == (os.EX_TEMPFAIL, 1) and not_ours in output
    output, status = ran[-1]
    assert status == 0 and "is broken (its tables are not those" in output, "the round begins anew"
    assert len(list(installed.state.glob("state.db.broken-????????T??????"))) == 1
    assert [status for _, status in in_child(installed.commands)] == [0] * len(ran)


# Something else in the place of a file.

FILES = (
    *("state.db", "state.db-wal", "state.db-shm", "state.db-journal", "node-id", "place"),
    *("check.lock", "dmonitord.lock", "wake"),
)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = (fifo, link_to_device, Path.mkdir)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_nobody_waits_for_what_is_no_file(
    installed: Installation, name: str, make: Callable[[Path], None]
) -> None:
    path = installed.state / name
    for suffix in ("-wal", "-shm"):
        (installed.state / f"state.db{suffix}").unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    ran = in_child(installed.commands)
    says = f"{path} is not a regular file: move it away"
    for output, status in ran[: len(VERBS)]:
        if name.startswith("state.db") and status:
            assert status == os.EX_TEMPFAIL and says in output
        else:
            assert status == 0, output
    output, status = ran[-1]  # the round
    if name in ("node-id", "check.lock"):
        assert status == os.EX_TEMPFAIL and says in output
    else:
        assert status == 0, output
        assert (says in output) == name.startswith("state.db"), "it goes on with what stands in"
    with contextlib.suppress(OSError):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert {status for _, status in in_child(installed.commands)} == {0}, "and is well again"


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["state.db", "state.db-wal", "state.db.new"])
def test_what_is_no_file_in_the_run_directory_keeps_nobody_from_the_state(
    installed: Installation, name: str, make: Callable[[Path], None]
) -> None:
    make(installed.run_dir / name)
    assert {status for _, status in in_child(installed.commands)} == {0}


@pytest.mark.parametrize("make", [fifo, link_to_device])
def test_what_is_in_the_place_of_a_draft_or_a_pidfile_is_replaced_or_left(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    def leave_a_place() -> float:
        make(tmp_path / "place.new")
        return place.write(str(tmp_path), 4.0)

    def make_an_id() -> str:
        make(tmp_path / f".node-id.{os.getpid()}")
        return identity.make(str(tmp_path))

    def release_a_lock() -> bool:
        held = lock.Lock(str(tmp_path), "dmonitord")
        held.take()
        held.write_holder()
        Path(held.pidfile).unlink()
        make(Path(held.pidfile))
        held.release()
        return lock.holder(str(tmp_path), "dmonitord") is None

    assert in_child(leave_a_place) == 4.0
    assert in_child(make_an_id) == identity.read(str(tmp_path))
    assert in_child(release_a_lock)


def test_a_command_that_hangs_in_c_code_ends(tmp_path: Path) -> None:
    """Nothing else can end it: sqlite opens a FIFO again when a signal has interrupted that."""
    os.mkfifo(tmp_path / "state.db")

    def hang() -> None:
        with cli.time_limit(0.5, "unable to use the state", "it took too long"):
            sqlite3.connect(f"file:{tmp_path}/state.db?mode=ro", uri=True).execute("SELECT 1")

    child = os.fork()
    if not child:
        os.dup2(os.open(tmp_path / "said", os.O_WRONLY | os.O_CREAT), 2)
        hang()
        os._exit(0)
    deadline = time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == os.EX_TEMPFAIL


# Mail.


def test_a_line_feed_makes_no_header_and_ends_no_round() -> None:
    evil = EVIL[:-1]
    judged = Judgement(
        Verdict.DOWN,
        2,
        (
            Answer(Node(evil, evil), "o" * 24, Result(Outcome.FAIL, f"{evil}\0")),
            Answer(Node("b", "b")),
        ),
    )
    incident = Incident((evil,), Test(evil, evil), 1.7e9, judged, alert=evil)
    for address in ("root", f"a{evil}@b{evil}"):
        owed = [Notification(Kind.ALERT, incident, address, 1.7e9)]
        content = mail.compose(owed, sender=f"d{evil}", node=evil, now=1.7e9 + 60)
        message = email.message_from_bytes(content, policy=email.policy.default)
        assert sorted(message) == sorted(set(message)) and "\\x1b[31m" in message["Subject"]
        assert all(line.isprintable() for line in message.get_content().split("\n"))
        text, facts = mail.compose_facts(owed, node=evil, now=1.7e9 + 60)
        assert all(line.isprintable() for line in text.decode().split("\n"))
        assert all(fact.isprintable() for fact in facts.values()), "one line for each incident"


def make_endless(path: Path, name: str) -> None:
    """Make the b-tree of the table `incident`, or of the index `change_at`, as good as endless.

    It has 15 levels of pages, and all cells of a page point to the same page below. The schema
    stays as it is, and the file grows by some 150 kB.
    """
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DELETE FROM memo WHERE key = 'forgotten'")  # so that old history is looked for
    (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    payload = {
        "change_at": b"\x04\x07\x0f\x0f" + struct.pack(">d", 1.5) + b"xy",
        "incident": b"\x05\x00\x08\x08\x13{}{",
    }[name]
    is_table = name == "incident"
    data = bytearray(path.read_bytes())

    def page(*, child: int = 0, last: int = 0) -> bytearray:
        cell = bytes([len(payload)]) + (b"\x01" if is_table else b"") + payload
        if child:
            cell = struct.pack(">I", child) + (b"\x01" if is_table else cell)
        head = 12 if child else 8
        count = (size - head) // (len(cell) + 2)
        if not child:
            count = count * 6 // 10  # room for new rows
        made = bytearray(size)
        at = size
        for number in range(count):
            at -= len(cell)
            made[at : at + len(cell)] = cell
            struct.pack_into(">H", made, head + 2 * number, at)
        kind = (5 if child else 13) if is_table else (2 if child else 10)
        struct.pack_into(">BHHHB", made, 0, kind, 0, count, at, 0)
        if child:
            struct.pack_into(">I", made, 8, last or child)
        return made

    data += page()
    for _ in range(14):
        data += page(child=len(data) // size)
    top = len(data) // size
    data += page()
    data[(root - 1) * size : root * size] = page(child=top, last=top + 1)
    struct.pack_into(">I", data, 28, len(data) // size)
    data[92:96] = data[24:28]
    path.write_bytes(data)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each statement take no more than half a second of processor time."""
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
def test_an_endless_history_costs_only_itself(tmp_path: Path) -> None:
    """Each later round hung in it until its end, stored nothing and mailed nothing."""
    changed = Change(TEST, time.time() - 60.0, Judgement(Verdict.UP, 2, ()))
    with state.Store(str(tmp_path)) as store:
        store.save(Save(changes=(changed,)))
    make_endless(tmp_path / "state.db", "change_at")
    began = time.process_time()
    known = Incident(("0a0a0a0a",), TEST, 100.0)
    with state.Store(str(tmp_path)) as store:
        assert store.save(Save(incidents=(known,), changes=(changed._replace(at=time.time()),)))
        assert store.recall(known.ids) == [known]
        assert len(store.history.changes()) == 1, "it is begun anew"
    assert 0.5 < time.process_time() - began < 5.0, "it was read, and broken off"


@pytest.mark.usefixtures("impatient")
def test_an_endless_table_does_not_hang_its_reader(tmp_path: Path) -> None:
    """The daemon, which does not check the tables first, answered nobody any more."""
    with state.Store(str(tmp_path)) as store:
        store.save(Save(incidents=(Incident(("0a0a0a0a",), TEST, 100.0),)))
    make_endless(tmp_path / "state.db", "incident")
    began = time.process_time()
    with pytest.raises(StateError, match="interrupted"):
        state.read(
            str(tmp_path), None, lambda store: store.recall(["0b0b0b0b"]) or store.incidents()
        )
    assert 0.5 < time.process_time() - began < 5.0
